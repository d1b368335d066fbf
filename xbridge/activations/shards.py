"""States that are kept: each process writes the shards of its share, rank 0 the index."""

from collections.abc import Callable, Mapping
from pathlib import Path

from xbridge.activations.ranks import Ranks, remove_others
from xbridge.activations.store import write_index
from xbridge.activations.windows import LanguageReader
from xbridge.activations.writer import Part, Place, ShardWriter, finished_part
from xbridge.core.errors import UserError


def keep_states(
    readers: Mapping[str, LanguageReader],
    shares: Mapping[str, tuple[int, int]],
    ranks: Ranks,
    out: Path,
    *,
    dtype: str,
    shard_rows: int,
    advance: Callable[[int, str], None],
) -> dict[str, int]:
    """Store the states of one model by language; on rank 0 the number of sentences that were cut. Collective.

    shares: this rank's first sentence, and the one after its last. `advance(sentences, language)` hears of progress.
    """
    places = {lang: _place(reader, out, dtype) for lang, reader in readers.items()}
    own = {lang: write_share(readers[lang], places[lang], share, shard_rows, advance) for lang, share in shares.items()}
    everyone = ranks.gather(own)
    if not ranks.is_main:
        return {}
    parts: dict[str, list[Part]] = {lang: [p for rank in everyone for p in rank.get(lang, [])] for lang in readers}
    for lang, place in places.items():
        if not any(part.rows for part in parts[lang]):
            raise UserError(f"{lang}: no sentence gives a row; are the texts empty?")
        remove_others(out / lang, [path for part in parts[lang] for path in place.files(part.start)])
    cut = {lang: sum(part.cut for part in found) for lang, found in parts.items()}
    labels = {lang: r.sentences.labels for lang, r in readers.items() if r.sentences.labels is not None}
    (_, first), *_ = places.items()
    write_index(
        out,
        sites=first.sites,
        dim=first.dim,
        pooling=next(iter(readers.values())).kind,
        dtype=dtype,
        ids={lang: r.sentences.ids for lang, r in readers.items()},
        labels=labels if len(labels) == len(readers) else None,
        shards={lang: [part.shard for part in found] for lang, found in parts.items()},
        cut=cut,
    )
    return cut


def write_share(
    reader: LanguageReader,
    place: Place,
    share: tuple[int, int],
    shard_rows: int,
    advance: Callable[[int, str], None],
) -> list[Part]:
    """The shards of a run of sentences, in order; those that are finished already are not computed again."""
    start, last = share
    parts: list[Part] = []
    while start < last:
        part = finished_part(place, start)
        if part is None or part.stop > last:
            part = write_shard(reader, place, start, last, shard_rows, advance)
        else:
            advance(part.stop - part.start, reader.lang)
        parts.append(part)
        start = part.stop
    return parts


def write_shard(
    reader: LanguageReader,
    place: Place,
    start: int,
    last: int,
    shard_rows: int,
    advance: Callable[[int, str], None],
) -> Part:
    """One shard from sentence `start` on: windows while they fit in `shard_rows`, at least one."""
    writer = ShardWriter(place, start, reader.sentences.ids)
    try:
        for window in reader.windows(start, last):
            if writer.num_rows and writer.num_rows + window.num_rows > shard_rows:
                break
            states = {site: rows for (_, site), rows in reader.states(window).items()}
            writer.append(states, window.stop, window.num_cut, window.keys() if place.has_keys else None)
            advance(window.stop - window.start, reader.lang)
        return writer.finish()
    finally:
        writer.close()


def _place(reader: LanguageReader, out: Path, dtype: str) -> Place:
    return Place(
        folder=out,
        lang=reader.lang,
        sites=tuple(site for _, site in reader.layers),
        dim=next(iter(reader.layers.values())),
        dtype=dtype,
        has_keys=not reader.has_row_per_sentence,
    )
