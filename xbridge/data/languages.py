"""Languages by the code used everywhere inside xbridge: ISO 639-3, script in ISO 15924, e.g. `deu_Latn`.

A region follows only where two written standards share both (`por_Latn` is European, `por_Latn_BR` Brazilian). The
codes are those of FLORES-200 (NLLB team, 2022) where it has the language. Aliases are the names that a language goes
by elsewhere: ISO 639-1 and 639-3 codes and BCP 47 tags. They read the files of others (`from_tag`) and make error
messages helpful; a config takes codes only, so that one language has one name in a study.
"""

import difflib
from dataclasses import dataclass
from functools import cache

from xbridge.core.errors import ConfigError

UNSPACED_SCRIPTS = frozenset({"Hans", "Hant", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"})
"""Scripts that put no space between words."""


@dataclass(frozen=True)
class Language:
    """One written language: `code` deu_Latn, English `name`, `family` (branch where that tells more), `aliases`."""

    code: str
    name: str
    family: str
    aliases: tuple[str, ...]

    @property
    def script(self) -> str:
        """ISO 15924 script, e.g. `Latn`."""
        return self.code[4:8]

    @property
    def is_spaced(self) -> bool:
        """True where spaces stand between words."""
        return self.script not in UNSPACED_SCRIPTS


_TABLE = """
afr_Latn    | Afrikaans                  | Germanic       | af
amh_Ethi    | Amharic                    | Semitic        | am
arb_Arab    | Arabic (Modern Standard)   | Semitic        | ar ara arb
asm_Beng    | Assamese                   | Indo-Aryan     | as
ast_Latn    | Asturian                   | Romance        | ast
azj_Latn    | Azerbaijani                | Turkic         | az aze
bak_Cyrl    | Bashkir                    | Turkic         | ba
bel_Cyrl    | Belarusian                 | Slavic         | be
ben_Beng    | Bengali                    | Indo-Aryan     | bn
bos_Latn    | Bosnian                    | Slavic         | bs
bre_Latn    | Breton                     | Celtic         | br
bul_Cyrl    | Bulgarian                  | Slavic         | bg
cat_Latn    | Catalan                    | Romance        | ca
ceb_Latn    | Cebuano                    | Austronesian   | ceb
ces_Latn    | Czech                      | Slavic         | cs cze
ckb_Arab    | Central Kurdish            | Iranian        | ckb
cor_Latn    | Cornish                    | Celtic         | kw
cym_Latn    | Welsh                      | Celtic         | cy wel
dan_Latn    | Danish                     | Germanic       | da
deu_Latn    | German                     | Germanic       | de ger
deu_Latn_CH | German (Switzerland)       | Germanic       | de-CH
ell_Grek    | Greek                      | Hellenic       | el gre
eng_Latn    | English                    | Germanic       | en
eng_Latn_GB | English (United Kingdom)   | Germanic       | en-GB
epo_Latn    | Esperanto                  | Constructed    | eo
est_Latn    | Estonian                   | Uralic         | et ekk
eus_Latn    | Basque                     | Basque         | eu baq
fao_Latn    | Faroese                    | Germanic       | fo
fin_Latn    | Finnish                    | Uralic         | fi
fra_Latn    | French                     | Romance        | fr fre
fry_Latn    | West Frisian               | Germanic       | fy
fuv_Latn    | Fulah (Nigerian)           | Atlantic-Congo | ff ful
gaz_Latn    | Oromo (West Central)       | Cushitic       | om orm
gla_Latn    | Scottish Gaelic            | Celtic         | gd
gle_Latn    | Irish                      | Celtic         | ga
glg_Latn    | Galician                   | Romance        | gl
gsw_Latn    | Swiss German               | Germanic       | gsw
guj_Gujr    | Gujarati                   | Indo-Aryan     | gu
hat_Latn    | Haitian Creole             | Creole         | ht
hau_Latn    | Hausa                      | Chadic         | ha
heb_Hebr    | Hebrew                     | Semitic        | he iw
hin_Deva    | Hindi                      | Indo-Aryan     | hi
hrv_Latn    | Croatian                   | Slavic         | hr
hun_Latn    | Hungarian                  | Uralic         | hu
hye_Armn    | Armenian                   | Armenian       | hy arm
ibo_Latn    | Igbo                       | Atlantic-Congo | ig
ilo_Latn    | Ilocano                    | Austronesian   | ilo
ind_Latn    | Indonesian                 | Austronesian   | id in
isl_Latn    | Icelandic                  | Germanic       | is ice
ita_Latn    | Italian                    | Romance        | it
jav_Latn    | Javanese                   | Austronesian   | jv jw
jpn_Jpan    | Japanese                   | Japonic        | ja
kan_Knda    | Kannada                    | Dravidian      | kn
kat_Geor    | Georgian                   | Kartvelian     | ka geo
kaz_Cyrl    | Kazakh                     | Turkic         | kk
khk_Cyrl    | Mongolian (Halh)           | Mongolic       | mn mon
khm_Khmr    | Khmer                      | Austroasiatic  | km
kir_Cyrl    | Kyrgyz                     | Turkic         | ky
kmr_Latn    | Northern Kurdish           | Iranian        | ku kur
kor_Hang    | Korean                     | Koreanic       | ko
lao_Laoo    | Lao                        | Tai-Kadai      | lo
lat_Latn    | Latin                      | Italic         | la
lin_Latn    | Lingala                    | Atlantic-Congo | ln
lit_Latn    | Lithuanian                 | Baltic         | lt
ltz_Latn    | Luxembourgish              | Germanic       | lb
lug_Latn    | Ganda                      | Atlantic-Congo | lg
lvs_Latn    | Latvian                    | Baltic         | lv lav
mal_Mlym    | Malayalam                  | Dravidian      | ml
mar_Deva    | Marathi                    | Indo-Aryan     | mr
mkd_Cyrl    | Macedonian                 | Slavic         | mk mac
mlt_Latn    | Maltese                    | Semitic        | mt
mri_Latn    | Maori                      | Austronesian   | mi mao
mya_Mymr    | Burmese                    | Sino-Tibetan   | my bur
nld_Latn    | Dutch                      | Germanic       | nl dut
nno_Latn    | Norwegian Nynorsk          | Germanic       | nn
nob_Latn    | Norwegian Bokmål           | Germanic       | nb
npi_Deva    | Nepali                     | Indo-Aryan     | ne nep
nso_Latn    | Northern Sotho             | Atlantic-Congo | nso
nya_Latn    | Chichewa                   | Atlantic-Congo | ny
oci_Latn    | Occitan                    | Romance        | oc
ory_Orya    | Odia                       | Indo-Aryan     | or ori
pan_Guru    | Punjabi                    | Indo-Aryan     | pa
pbt_Arab    | Pashto (Southern)          | Iranian        | ps pus
pes_Arab    | Persian (Western)          | Iranian        | fa fas per
plt_Latn    | Malagasy                   | Austronesian   | mg mlg
pol_Latn    | Polish                     | Slavic         | pl
por_Latn    | Portuguese                 | Romance        | pt pt-PT
por_Latn_BR | Portuguese (Brazil)        | Romance        | pt-BR
quy_Latn    | Quechua (Ayacucho)         | Quechuan       | qu que
ron_Latn    | Romanian                   | Romance        | ro rum
rus_Cyrl    | Russian                    | Slavic         | ru
san_Deva    | Sanskrit                   | Indo-Aryan     | sa
sin_Sinh    | Sinhala                    | Indo-Aryan     | si
slk_Latn    | Slovak                     | Slavic         | sk slo
slv_Latn    | Slovenian                  | Slavic         | sl
sna_Latn    | Shona                      | Atlantic-Congo | sn
snd_Arab    | Sindhi                     | Indo-Aryan     | sd
som_Latn    | Somali                     | Cushitic       | so
sot_Latn    | Southern Sotho             | Atlantic-Congo | st
spa_Latn    | Spanish                    | Romance        | es
spa_Latn_419 | Spanish (Latin America)   | Romance        | es-419
als_Latn    | Albanian (Tosk)            | Albanian       | sq sqi alb
srp_Cyrl    | Serbian (Cyrillic)         | Slavic         | sr
srp_Latn    | Serbian (Latin)            | Slavic         | sr-Latn
ssw_Latn    | Swati                      | Atlantic-Congo | ss
sun_Latn    | Sundanese                  | Austronesian   | su
swe_Latn    | Swedish                    | Germanic       | sv
swh_Latn    | Swahili                    | Atlantic-Congo | sw swa
tam_Taml    | Tamil                      | Dravidian      | ta
tat_Cyrl    | Tatar                      | Turkic         | tt
tel_Telu    | Telugu                     | Dravidian      | te
tgk_Cyrl    | Tajik                      | Iranian        | tg
tgl_Latn    | Tagalog                    | Austronesian   | tl fil
tha_Thai    | Thai                       | Tai-Kadai      | th
tir_Ethi    | Tigrinya                   | Semitic        | ti
tsn_Latn    | Tswana                     | Atlantic-Congo | tn
tuk_Latn    | Turkmen                    | Turkic         | tk
tur_Latn    | Turkish                    | Turkic         | tr
uig_Arab    | Uyghur                     | Turkic         | ug
ukr_Cyrl    | Ukrainian                  | Slavic         | uk
urd_Arab    | Urdu                       | Indo-Aryan     | ur
uzn_Latn    | Uzbek                      | Turkic         | uz uzb
vie_Latn    | Vietnamese                 | Austroasiatic  | vi
wol_Latn    | Wolof                      | Atlantic-Congo | wo
xho_Latn    | Xhosa                      | Atlantic-Congo | xh
ydd_Hebr    | Yiddish (Eastern)          | Germanic       | yi yid
yor_Latn    | Yoruba                     | Atlantic-Congo | yo
yue_Hant    | Cantonese                  | Sinitic        | yue zh-HK
zho_Hans    | Chinese (Simplified)       | Sinitic        | zh zh-Hans zh-CN zho chi cmn
zho_Hant    | Chinese (Traditional)      | Sinitic        | zh-Hant zh-TW
zsm_Latn    | Malay (Standard)           | Austronesian   | ms msa may
zul_Latn    | Zulu                       | Atlantic-Congo | zu
"""

_SEVERAL = {"no": ("nob_Latn", "nno_Latn"), "nor": ("nob_Latn", "nno_Latn"), "sr": ("srp_Cyrl", "srp_Latn")}
"""Tags that name more than one code: `from_tag` reads `sr` as BCP 47 does, a message offers both."""


def _parse(row: str) -> Language:
    code, name, family, aliases = (cell.strip() for cell in row.split("|"))
    return Language(code, name, family, tuple(aliases.split()))


LANGUAGES: dict[str, Language] = {row.split("|")[0].strip(): _parse(row) for row in _TABLE.strip().splitlines()}
"""Every known language by code."""


def language(code: str, path: str = "") -> Language:
    """The language of an xbridge code. Any other name raises `ConfigError`, naming `path` and the code meant."""
    found = LANGUAGES.get(code)
    if found is None:
        raise ConfigError(path, f"unknown language {code!r}{_suggestion(code)}")
    return found


def from_tag(tag: str) -> Language | None:
    """The language of a tag in someone else's file (`de`, `de-DE`, `zh_CN`, `deu`, `deu_Latn`), or None.

    An unlisted region is dropped (`de-AT` is `deu_Latn`), an unlisted script is not (`ru-Latn` is None).
    """
    if tag in LANGUAGES:
        return LANGUAGES[tag]
    parts = tag.replace("_", "-").lower().split("-")
    for end in range(len(parts), 0, -1):
        found = _by_alias().get("-".join(parts[:end]))
        if found is not None:
            rest = parts[end:]
            return found if all(_is_region(part) or part == found.script.lower() for part in rest) else None
    return None


@cache
def _by_alias() -> dict[str, Language]:
    table: dict[str, Language] = {}
    for entry in LANGUAGES.values():
        for alias in (entry.code.replace("_", "-"), *entry.aliases):
            table[alias.lower()] = entry
        if len(entry.code) == len("deu_Latn"):
            table.setdefault(entry.code[:3], entry)
    return table


def _is_region(part: str) -> bool:
    return (len(part) == 2 and part.isalpha()) or (len(part) == 3 and part.isdigit())


def _suggestion(code: str) -> str:
    several = _SEVERAL.get(code.lower().replace("_", "-").split("-")[0])
    if several and "-" not in code.replace("_", "-"):
        return "; did you mean " + " or ".join(f"{c} ({LANGUAGES[c].name})" for c in several) + "?"
    meant = from_tag(code)
    if meant is None:
        by_name = {entry.name.casefold(): entry for entry in LANGUAGES.values()}
        meant = by_name.get(code.casefold())
    if meant is None:
        near = difflib.get_close_matches(code, LANGUAGES, n=1, cutoff=0.7)
        meant = LANGUAGES[near[0]] if near else None
    if meant is None:
        return "; codes are ISO 639-3 and script, such as deu_Latn (the list is xbridge/data/languages.py)"
    return f"; did you mean {meant.code} ({meant.name})?"
