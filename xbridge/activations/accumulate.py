"""States that go straight into second moments, with nothing else stored.

Each process accumulates its share of a language into a file of its own; then all add theirs up, language by language.
So no process waits for another while models run, and a run that is killed keeps the shares that were done.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from xbridge.activations.ranks import Ranks, remove_others
from xbridge.activations.store import moments_path, write_moments_index
from xbridge.activations.windows import LanguageReader, Window
from xbridge.core.errors import UserError
from xbridge.core.files import read_json, write_json
from xbridge.similarity.moments import SecondMoments


def keep_moments(
    readers: Mapping[str, LanguageReader],
    shares: Mapping[str, tuple[int, int]],
    ranks: Ranks,
    out: Path,
    *,
    advance: Callable[[int, str], None],
) -> dict[str, int]:
    """Write second moments by language; on rank 0 the number of sentences that were cut. Collective.

    shares: this rank's first sentence, and the one after its last. `advance(sentences, language)` hears of progress.
    """
    own = {lang: accumulate_share(readers[lang], share, out, ranks, advance) for lang, share in shares.items()}
    everyone = ranks.gather(own)
    rows = {lang: merge_ranks(reader, out, ranks) for lang, reader in readers.items()}
    if not ranks.is_main:
        return {}
    for lang in readers:
        remove_others(out / lang, [moments_path(out, lang)])
    reader = next(iter(readers.values()))
    write_moments_index(out, layers=list(reader.layers), pooling=reader.kind, rows=rows)
    return {lang: sum(rank.get(lang, 0) for rank in everyone) for lang in readers}


def accumulate_share(
    reader: LanguageReader, share: tuple[int, int], out: Path, ranks: Ranks, advance: Callable[[int, str], None]
) -> int:
    """Moments of a run of sentences into this rank's file; the number of sentences that were cut."""
    path = _share_path(out, reader.lang, ranks)
    done = path.with_suffix(".json.tmp")
    if done.exists():
        advance(share[1] - share[0], reader.lang)
        return int(read_json(done)["cut"])
    moments, cut = _empty(reader), 0
    for window in reader.windows(*share):
        cut += window.num_cut
        if window.num_rows:
            moments.update(_finite_states(reader, window))
        advance(window.stop - window.start, reader.lang)
    if moments.num_examples:
        path.parent.mkdir(parents=True, exist_ok=True)
        moments.save(path)
    write_json(done, {"cut": cut})
    return cut


def merge_ranks(reader: LanguageReader, out: Path, ranks: Ranks) -> int:
    """Add up the ranks' moments of one language; rank 0 writes the sum. The number of rows. Collective."""
    path = _share_path(out, reader.lang, ranks)
    moments = SecondMoments.load(path) if path.exists() else _empty(reader)
    if ranks.world_size > 1:
        moments.all_reduce()
    if moments.num_examples == 0:
        raise UserError(f"{reader.lang}: no sentence gives a row; are the texts empty?")
    if ranks.is_main:
        moments.save(moments_path(out, reader.lang))
    return moments.num_examples


def _empty(reader: LanguageReader) -> SecondMoments:
    names = [f"{name} {site}" for name, site in reader.layers]
    return SecondMoments(list(reader.layers.values()), names=names)


def _finite_states(reader: LanguageReader, window: Window) -> list[Tensor]:
    """The window's states, layer by layer. `UserError` names model, site and sentence of one that is not finite."""
    states = reader.states(window)
    for (name, site), rows in states.items():
        bad = ~torch.isfinite(rows).all(dim=1)
        if bool(bad.any()):
            sentence, _ = list(window.keys())[int(bad.nonzero()[0])]
            where = f"{name} {reader.lang} {site}: sentence {reader.sentences.ids[sentence]}"
            raise UserError(f"{where}: the model's state holds NaN or infinity; its weights are damaged, or overflow")
    return list(states.values())


def _share_path(out: Path, lang: str, ranks: Ranks) -> Path:
    return out / lang / f".moments-{ranks.rank}-of-{ranks.world_size}.tmp"
