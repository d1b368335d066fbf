"""The processes that extract together, and what they leave when they are interrupted.

Each takes a run of sentences; rank 0 writes what says that all is there. `resume.json` stands in the folder while they
work and holds a fingerprint of the settings: the next run of the same settings keeps what is finished.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from xbridge.activations.store import INDEX
from xbridge.core.files import read_json, write_json
from xbridge.core.runtime import settle_environment

BLOCK = 1024  # sentences; shares of ranks begin at multiples of it, so that batches do not depend on their number
RESUME = "resume.json"
PATIENCE = timedelta(hours=24)  # a rank whose languages are done waits for the slowest


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        """True in the process that writes the index."""
        return self.rank == 0

    def shares(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """Of each language that this rank has a share of: the first sentence and the one after the last.

        sizes: sentences by language. The blocks of all languages, end to end, are cut into one run for each rank.
        """
        blocks = [(lang, start) for lang, size in sizes.items() for start in range(0, size, BLOCK)]
        first, last = (len(blocks) * rank // self.world_size for rank in (self.rank, self.rank + 1))
        found: dict[str, tuple[int, int]] = {}
        for lang, start in blocks[first:last]:
            begin, _ = found.get(lang, (start, start))
            found[lang] = (begin, min(start + BLOCK, sizes[lang]))
        return found

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order; on other ranks than 0 an empty list."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, found)
        return found or []


def begin(out: Path, languages: Sequence[str], fingerprint: str, ranks: Ranks) -> None:
    """Keep what an interrupted run of these settings finished in `out`, and remove what is of other settings."""
    if ranks.is_main:
        (out / INDEX).unlink(missing_ok=True)
        known = read_json(out / RESUME) if (out / RESUME).exists() else {}
        if known != {"fingerprint": fingerprint}:
            for lang in languages:
                remove_others(out / lang)
            write_json(out / RESUME, {"fingerprint": fingerprint})
    ranks.wait()


def end(out: Path, ranks: Ranks) -> None:
    """There is nothing to resume any more."""
    if ranks.is_main:
        (out / RESUME).unlink()
    ranks.wait()


def remove_others(folder: Path, keep: Iterable[Path] = ()) -> None:
    """Remove a language's files that are not in `keep`: those of an interrupted run of other settings or boundaries."""
    kept = set(keep)
    for path in folder.glob("*"):
        if path not in kept and path.name.endswith((".safetensors", ".tmp")):
            path.unlink()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes that a launcher started; alone, there is nothing to do."""
    place = settle_environment()
    ranks = Ranks(place.rank, place.world_size)
    if place.world_size == 1:
        yield ranks
        return
    import torch
    import torch.distributed as dist

    starts = not dist.is_initialized()
    if starts:
        if torch.cuda.is_available():
            torch.cuda.set_device(place.local_rank)
        dist.init_process_group("gloo", timeout=PATIENCE)  # little goes over the wire, all of it from the CPU
    try:
        yield ranks
    finally:
        if starts:
            dist.destroy_process_group()
