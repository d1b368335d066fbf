"""The language table: codes, other people's tags, and what a wrong code is told."""

import re

import pytest

from xbridge.core.errors import ConfigError
from xbridge.data.languages import LANGUAGES, from_tag, language

MBART50 = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX "
    "ro_RO ru_RU si_LK tr_TR vi_VN zh_CN af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN "
    "pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
)
XTREME = (
    "af ar az bg bn de el en es et eu fa fi fr gu he hi ht hu id it ja jv ka kk ko lt ml mr ms my nl pa pl pt qu ro ru "
    "sw ta te th tl tr uk ur vi wo yo zh"
)
XGLUE = "ar bg de el en es fr hi it nl pl pt ru sw th tr ur vi zh"
HOMEASSISTANT = (
    "af ar bg bn bs ca cs cy da de el en en-GB eo es es-419 et eu fa fi fr fy ga gl gsw he hi hr hu hy id is it ja ka "
    "ko lb lt lv mk ml nb ne nl nn pl pt pt-BR ro ru sk sl sq sr sr-Latn sv ta th tr uk ur vi zh-Hans zh-Hant"
)


def test_codes_are_a_language_a_script_and_at_most_a_region():
    assert len(LANGUAGES) >= 100
    for code, entry in LANGUAGES.items():
        assert re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}(_[A-Z]{2}|_\d{3})?", code)
        assert entry.code == code
        assert entry.script == code[4:8]
        assert entry.name
        assert entry.family


@pytest.mark.parametrize("tags", [MBART50, XTREME, XGLUE, HOMEASSISTANT], ids=["mBART-50", "XTREME", "XGLUE", "HA"])
def test_every_language_of_a_collection_is_known_and_they_are_distinct(tags):
    tags = tags.split()
    found = [from_tag(tag) for tag in tags]
    assert [tag for tag, entry in zip(tags, found, strict=True) if entry is None] == []
    assert len({entry.code for entry in found}) == len(tags)


def test_no_alias_names_two_languages():
    aliases = [alias.lower() for entry in LANGUAGES.values() for alias in entry.aliases]
    assert sorted(set(aliases)) == sorted(aliases)


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("de-AT", "deu_Latn"),
        ("zh_CN", "zho_Hans"),
        ("zh-Hant-HK", "zho_Hant"),
        ("sr-Latn-RS", "srp_Latn"),
        ("deu", "deu_Latn"),
        ("EN-us", "eng_Latn"),
        ("pt-BR", "por_Latn_BR"),
        ("ru-Latn", None),
        ("no", None),
        ("", None),
        ("tlh", None),
    ],
)
def test_tags_of_others_are_read_as_bcp47_reads_them(tag, code):
    found = from_tag(tag)
    assert (found.code if found else None) == code


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("no", "did you mean nob_Latn (Norwegian Bokmål) or nno_Latn (Norwegian Nynorsk)?"),
        ("de", "did you mean deu_Latn (German)?"),
        ("zh", "did you mean zho_Hans (Chinese (Simplified))?"),
        ("de_DE", "did you mean deu_Latn (German)?"),
        ("deu_latn", "did you mean deu_Latn (German)?"),
        ("deu_Lat", "did you mean deu_Latn (German)?"),
        ("hungarian", "did you mean hun_Latn (Hungarian)?"),
        ("qq", "codes are ISO 639-3 and script, such as deu_Latn"),
    ],
)
def test_an_unknown_code_is_told_the_code_that_was_meant(code, hint):
    with pytest.raises(ConfigError) as caught:
        language(code, "languages.3")
    assert str(caught.value).startswith(f"languages.3: unknown language {code!r}; {hint}")
    assert "\n" not in str(caught.value)


def test_scripts_without_spaces_are_marked():
    assert not language("zho_Hans").is_spaced
    assert not language("tha_Thai").is_spaced
    assert language("kor_Hang").is_spaced
