"""Is the text in the language that its label says? Asked before the first step; it needs no model and takes seconds.

Scripts: most letters of a side's rows must be in its language's script. Swapped sides of a pair in one script: each row
is scored by its tokens, with the language profiles p and q (token frequencies of other text of the source's and of the
target's language):

    score = sum over the source of log p / q  -  sum over the target of log p / q

It is far above 0 where the sides are as labelled, and far below where they are swapped; a difference in topic between
pair and profiles cancels, for both sides have the pair's topic. A language without other text has the pair's two sides
together as its profile.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbridge.core.errors import UserError
from xbridge.core.runtime import derive_seed
from xbridge.data.languages import LANGUAGES
from xbridge.data.sampling import random_bits
from xbridge.data.token_store import Store
from xbridge.data.tokens import TokenTable
from xbridge.objectives.base import Material
from xbridge.objectives.text import store_of

IntArray = NDArray[Any]
NUM_ROWS = 400  # of a pair or a language that are looked at
NUM_REFERENCE = 4000  # strings that a profile is made of
LEAST_ROWS = 10  # below this nothing is said
MARGIN = 10.0  # nats by which a row must look swapped, or as labelled, to count
SHARE = 0.2  # of the rows that count; on 228 pairs of 23 languages at most 0.016 where nothing is swapped

SCRIPTS = {
    "Arab": ("ARABIC",), "Armn": ("ARMENIAN",), "Beng": ("BENGALI",), "Cyrl": ("CYRILLIC",), "Deva": ("DEVANAGARI",),
    "Ethi": ("ETHIOPIC",), "Geor": ("GEORGIAN",), "Grek": ("GREEK",), "Gujr": ("GUJARATI",), "Guru": ("GURMUKHI",),
    "Hang": ("HANGUL", "CJK"), "Hans": ("CJK",), "Hant": ("CJK",), "Hebr": ("HEBREW",),
    "Jpan": ("HIRAGANA", "KATAKANA", "CJK", "KATAKANA-HIRAGANA"), "Khmr": ("KHMER",), "Knda": ("KANNADA",),
    "Laoo": ("LAO",), "Latn": ("LATIN",), "Mlym": ("MALAYALAM",), "Mymr": ("MYANMAR",), "Orya": ("ORIYA",),
    "Sinh": ("SINHALA",), "Taml": ("TAMIL",), "Telu": ("TELUGU",), "Thai": ("THAI",), "Tibt": ("TIBETAN",),
}  # fmt: skip
"""ISO 15924 code -> the first word of its letters' Unicode names."""


def check_texts(material: Material, parts: Iterable[str]) -> None:
    """`UserError` where the text of a language or a pair that `parts` names is plainly not what the label says."""
    wanted = {language for part in parts for language in part.rpartition("/")[2].split("-")}
    store = store_of(material)
    for (split, language), columns in store.tables.get("mono", {}).items():
        if split == material.split and language in wanted:
            texts = _texts(material.tokenizer, store.tokens, _sample(columns["text"], language))
            _check_script(f"{material.corpus}: {language}", language, texts)
    for (split, source, target), columns in store.tables.get("bitext", {}).items():
        if split == material.split and {source, target} <= wanted:
            _check_pair(material, store, source, target, columns["source"], columns["target"])


def swap_scores(store: Store, split: str, source: str, target: str, rows: IntArray) -> NDArray[np.float64]:
    """(n,) nats by which these rows of a pair look as labelled; negative = swapped."""
    columns = store.tables["bitext"][split, source, target]
    sources, targets = columns["source"][rows], columns["target"][rows]
    is_here = np.zeros(len(store.tokens), dtype=bool)
    is_here[columns["source"]] = is_here[columns["target"]] = True
    profiles = [_profile(store, language, (source, target), is_here) for language in (source, target)]
    both = _counts(store, np.concatenate([sources, targets]))
    p, q = (both if profile is None else profile for profile in profiles)
    ratio = np.log(p + 0.5) - np.log(q + 0.5) - np.log((p + 0.5).sum() / (q + 0.5).sum())
    return _sums(store.tokens, sources, ratio) - _sums(store.tokens, targets, ratio)


def share_in_script(text: str, language: str) -> float | None:
    """Share of the letters of `text` that are in the language's script; None without letters or a known script."""
    names = SCRIPTS.get(LANGUAGES[language].script) if language in LANGUAGES else None
    letters = [unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha()]
    return sum(letter in names for letter in letters) / len(letters) if letters and names else None


def _check_pair(
    material: Material, store: Store, source: str, target: str, sources: IntArray, targets: IntArray
) -> None:
    name = f"{material.corpus}: {source}-{target}"
    rows = _sample(np.arange(len(sources)), f"{source}-{target}")
    texts = [_texts(material.tokenizer, store.tokens, side[rows]) for side in (sources, targets)]
    for language, side in zip((source, target), texts, strict=True):
        _check_script(name, language, side)
    scores = swap_scores(store, material.split, source, target, rows)
    swapped, labelled = scores < -MARGIN, scores > MARGIN
    num_telling = int(swapped.sum() + labelled.sum())
    if num_telling >= LEAST_ROWS and swapped.sum() > SHARE * num_telling:
        worst = int(np.argmin(scores))
        raise UserError(
            f"{name}: source and target look swapped in {swapped.sum() / num_telling:.0%} of the rows that tell, "
            f"for example {_short(texts[0][worst])} - {_short(texts[1][worst])}; turn the pair round in the corpus, "
            "or set check_languages: false"
        )


def _check_script(name: str, language: str, texts: Sequence[str]) -> None:
    shares = [share_in_script(text, language) for text in texts]
    found = [(share, text) for share, text in zip(shares, texts, strict=True) if share is not None]
    wrong = [text for share, text in found if share < 0.5]
    if len(found) >= LEAST_ROWS and len(wrong) > SHARE * len(found):
        scripts = Counter(unicodedata.name(letter, "?").split()[0] for text in wrong for letter in text)
        raise UserError(
            f"{name}: {len(wrong) / len(found):.0%} of the {language} rows are not in the script "
            f"{LANGUAGES[language].script} (most letters are {scripts.most_common(1)[0][0]}), for example "
            f"{_short(wrong[0])}; are the sides swapped? correct the corpus, or set check_languages: false"
        )


def _profile(
    store: Store, language: str, pair: tuple[str, str], is_here: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """Token counts of other text in a language: (vocabulary,); None where there is hardly any."""
    numbers = [columns["text"] for (_, lang), columns in store.tables.get("mono", {}).items() if lang == language]
    for (_, *sides), columns in store.tables.get("bitext", {}).items():
        if tuple(sides) != pair:  # the pair's other splits are swapped where it is
            numbers += [
                columns[side] for side, lang in zip(("source", "target"), sides, strict=True) if lang == language
            ]
    found = np.concatenate([np.zeros(0, np.int64), *(_sample(n, language, 4 * NUM_REFERENCE) for n in numbers)])
    found = found[~is_here[found]][:NUM_REFERENCE]
    return _counts(store, found) if len(found) >= LEAST_ROWS else None


def _counts(store: Store, numbers: IntArray) -> NDArray[np.float64]:
    ids = store.tokens.take(numbers).ids
    return np.bincount(ids, minlength=int(store.tokens.ids.max(initial=0)) + 1).astype(np.float64)


def _sums(tokens: TokenTable, numbers: IntArray, values: NDArray[np.float64]) -> NDArray[np.float64]:
    table = tokens.take(numbers)
    totals = np.concatenate([[0.0], np.cumsum(values[table.ids])])
    sums: NDArray[np.float64] = totals[table.starts[1:]] - totals[table.starts[:-1]]
    return sums


def _sample(numbers: IntArray, name: str, count: int = NUM_ROWS) -> IntArray:
    places: NDArray[Any] = np.arange(len(numbers))
    if len(numbers) > count:
        places = random_bits(derive_seed("check", name), np.arange(count)) % np.uint64(len(numbers))
    return np.asarray(numbers[np.unique(places)], dtype=np.int64)


def _texts(tokenizer: Any, tokens: TokenTable, numbers: IntArray) -> list[str]:
    table = tokens.take(numbers)
    rows = [table.ids[a:b].tolist() for a, b in zip(table.starts[:-1], table.starts[1:], strict=True)]
    texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return texts


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
