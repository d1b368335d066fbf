"""From cleaned entries to the tables of the corpus: pairs by split, monolingual text, n-way and retrieval sets."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xbridge.data.cleaning import Cleaning, normalise, reject_pair
from xbridge.data.entries import Entry
from xbridge.data.splitting import ANCHOR_CHARACTERS, SPLITS, Split, is_overlap_free, pivot_id, split_of, strip_marks

Row = dict[str, str]


MIN_NWAY = 100  # fewer strings in all languages than this support no comparison of representations


@dataclass(frozen=True, kw_only=True)
class Bitext:
    """The corpus as rows; the columns are those of the stage's tables."""

    train: list[Row]
    """Training pairs, every distinct one: a source may have several targets."""
    held_out: list[Row]
    """Dev and test pairs: one per pivot string and language, none with a training target."""
    mono: list[Row]
    """Distinct texts per split and language."""
    nway: list[Row]
    """Test strings that exist in every language; where they are too few, the test pairs of each language."""
    num_nway: int
    """Test strings that exist in every language."""
    retrieval: list[Row]
    """Test pairs without surface overlap, at most the pool size per language."""
    num_leaks: dict[str, int]
    """Held-out items removed per language because their target is also a training target."""


class _Group:
    """All entries whose pivot strings normalise to the same form."""

    def __init__(self) -> None:
        self.sources: Counter[str] = Counter()
        self.pairs: dict[str, Counter[tuple[str, str]]] = {}


def build(
    entries: Iterable[Entry],
    languages: Sequence[str],
    cleaning: Cleaning,
    split: Split,
    pool_size: int,
    dropped: dict[str, Counter[str]],
) -> Bitext:
    """Pair, deduplicate, split and remove leaks. Adds what each filter drops to `dropped`; see `Bitext`."""
    pivot = languages[0]
    groups, orphans = _group(entries, pivot, cleaning, dropped)
    ids = {form: pivot_id(form) for form in groups}
    splits = {form: split_of(form, split) for form in groups}
    order = sorted(groups, key=lambda form: ids[form])
    train: list[Row] = []
    held_out: list[Row] = []
    leaks: dict[str, int] = {}
    for code in languages[1:]:
        learnt = _train_pairs(groups, order, ids, splits, pivot, code, dropped)
        train.extend(learnt)
        targets = {normalise(row["target"]) for row in learnt}
        held, leaks[code] = _held_out_pairs(groups, order, ids, splits, pivot, code, targets)
        held_out.extend(held)
    nway = _nway(held_out, languages)
    num_nway = len(nway) // len(languages)
    return Bitext(
        train=train,
        held_out=held_out,
        mono=_mono(groups, splits, orphans, train, held_out, languages),
        nway=nway if num_nway >= MIN_NWAY else _pairwise(held_out, languages),
        num_nway=num_nway,
        retrieval=_retrieval(held_out, languages, pool_size),
        num_leaks=leaks,
    )


def _group(
    entries: Iterable[Entry], pivot: str, cleaning: Cleaning, dropped: dict[str, Counter[str]]
) -> tuple[dict[str, _Group], dict[str, set[str]]]:
    """Entries by normalised pivot string, and the texts {language: texts} of those whose pivot was dropped."""
    groups: dict[str, _Group] = {}
    orphans: dict[str, set[str]] = {}
    for entry in entries:
        source = entry.texts.get(pivot)
        for code, target in entry.texts.items():
            if source is None:
                orphans.setdefault(code, set()).add(target)
                dropped[code]["no pivot text"] += 1
            elif code == pivot:
                _group_of(groups, source).sources[source] += 1
            else:
                reason = reject_pair(source, target, cleaning)
                if reason is not None:
                    dropped[code][reason] += 1
                    continue
                pairs = _group_of(groups, source).pairs
                if code not in pairs:
                    pairs[code] = Counter()
                pairs[code][source, target] += 1
    return groups, orphans


def _group_of(groups: dict[str, _Group], source: str) -> _Group:
    form = normalise(source)
    if form not in groups:
        groups[form] = _Group()
    return groups[form]


def _train_pairs(
    groups: dict[str, _Group],
    order: Sequence[str],
    ids: dict[str, str],
    splits: dict[str, str],
    pivot: str,
    code: str,
    dropped: dict[str, Counter[str]],
) -> list[Row]:
    """One row per distinct normalised (source, target), written as its most frequent form; further targets of a
    source get `.1`, `.2` ... behind its id. Repetitions are counted as the filter `duplicate`."""
    rows: list[Row] = []
    for form in order:
        pairs = groups[form].pairs.get(code)
        if not pairs:
            continue
        distinct = _distinct_targets(pairs)
        if splits[form] == "train":
            for number, (source, target) in enumerate(distinct):
                suffix = f".{number}" if number else ""
                rows.append(_row(ids[form] + suffix, "train", pivot, code, source, target))
            dropped[code]["duplicate"] += sum(pairs.values()) - len(distinct)
        else:
            dropped[code]["duplicate"] += sum(pairs.values()) - 1
    return rows


def _held_out_pairs(
    groups: dict[str, _Group],
    order: Sequence[str],
    ids: dict[str, str],
    splits: dict[str, str],
    pivot: str,
    code: str,
    train_targets: set[str],
) -> tuple[list[Row], int]:
    """Dev and test rows, the most frequent pair of each source, and how many leaked: their target, in any of its
    forms, is a training target or that of an earlier held-out item of another split."""
    rows: list[Row] = []
    taken: dict[str, str] = {}
    num_leaks = 0
    for form in order:
        pairs = groups[form].pairs.get(code)
        if splits[form] == "train" or not pairs:
            continue
        targets = {normalise(target) for _, target in pairs}
        if targets & train_targets or any(taken.get(target, splits[form]) != splits[form] for target in targets):
            num_leaks += 1
            continue
        taken.update(dict.fromkeys(targets, splits[form]))
        source, target = _distinct_targets(pairs)[0]
        rows.append(_row(ids[form], splits[form], pivot, code, source, target))
    return rows, num_leaks


def _distinct_targets(pairs: Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    """One pair per normalised target, most frequent first; ties go by the text, never by the order of rows."""
    ranked = sorted(pairs, key=lambda pair: (-pairs[pair], pair))
    best: dict[str, tuple[str, str]] = {}
    for pair in ranked:
        best.setdefault(normalise(pair[1]), pair)
    return list(best.values())


def _row(id_: str, split: str, pivot: str, code: str, source: str, target: str) -> Row:
    return {"id": id_, "split": split, "source_lang": pivot, "target_lang": code, "source": source, "target": target}


def _mono(
    groups: dict[str, _Group],
    splits: dict[str, str],
    orphans: dict[str, set[str]],
    train: list[Row],
    held_out: list[Row],
    languages: Sequence[str],
) -> list[Row]:
    """Distinct texts per split: the pivot's strings, the targets of pairs, and texts without a pivot string.

    Nothing held out in a language stands in its training text, on either side and in any normalised form.
    """
    texts: dict[tuple[str, str], dict[str, str]] = {(s, code): {} for s in SPLITS for code in languages}
    for form, group in groups.items():
        if group.sources:
            best = min(group.sources, key=lambda text: (-group.sources[text], text))
            texts[splits[form], languages[0]].setdefault(form, best)
    for row in train + held_out:
        texts[row["split"], row["target_lang"]].setdefault(normalise(row["target"]), row["target"])
    for code, found in orphans.items():
        for text in sorted(found):
            form = normalise(text)
            if not any(form in texts[s, code] for s in ("dev", "test")) and splits.get(form, "train") == "train":
                texts["train", code].setdefault(form, text)
    return [
        {"split": s, "lang": code, "text": text}
        for s in SPLITS
        for code in languages
        for text in sorted(texts[s, code].values())
    ]


def _nway(held_out: list[Row], languages: Sequence[str]) -> list[Row]:
    """Test strings that every language has, sorted by id, languages in the study's order."""
    found: dict[str, dict[str, Row]] = {}
    for row in held_out:
        if row["split"] == "test":
            found.setdefault(row["id"], {})[row["target_lang"]] = row
    rows: list[Row] = []
    for id_ in sorted(i for i, by_language in found.items() if len(by_language) == len(languages) - 1):
        by_language = found[id_]
        sources = Counter(row["source"] for row in by_language.values())
        source = min(sources, key=lambda text: (-sources[text], text))
        rows.append({"id": id_, "lang": languages[0], "text": source})
        rows.extend({"id": id_, "lang": code, "text": by_language[code]["target"]} for code in languages[1:])
    return rows


def _pairwise(held_out: list[Row], languages: Sequence[str]) -> list[Row]:
    """The test pairs as rows of texts: translations share an id, and the pivot has the ids of all languages."""
    texts: dict[tuple[str, str], str] = {}
    for row in held_out:
        if row["split"] == "test":
            texts.setdefault((row["id"], languages[0]), row["source"])
            texts[row["id"], row["target_lang"]] = row["target"]
    order = {code: place for place, code in enumerate(languages)}
    rows = [{"id": id_, "lang": code, "text": text} for (id_, code), text in texts.items()]
    return sorted(rows, key=lambda row: (row["id"], order[row["lang"]]))


def _retrieval(held_out: list[Row], languages: Sequence[str], pool_size: int) -> list[Row]:
    """Up to `pool_size` overlap-free test pairs of each language, sorted by id.

    The strictest rule's pairs come first, in the order of their ids (a hash, so a random draw). Targets are distinct
    within a language, for a pool must have one right answer.
    """
    rows: list[Row] = []
    for code in languages[1:]:
        pairs = [_stripped(row) for row in held_out if row["split"] == "test" and row["target_lang"] == code]
        chosen: dict[str, Row] = {}
        for anchor in ANCHOR_CHARACTERS:
            for row in pairs:
                form = normalise(row["target"])
                if len(chosen) == pool_size:
                    break
                if form not in chosen and is_overlap_free(row["source"], row["target"], code, anchor):
                    chosen[form] = row
        rows.extend(sorted(chosen.values(), key=lambda row: row["id"]))
    return rows


def _stripped(row: Row) -> Row:
    """The pair without its split, and without marks at the ends of its sides."""
    kept = {name: value for name, value in row.items() if name != "split"}
    return kept | {side: strip_marks(row[side]) for side in ("source", "target")}
