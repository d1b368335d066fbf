"""What it costs to plan a pass over millions of pairs, and how much padding its batches hold.

    python benchmarks/planning.py --pairs 10000000

Builds a token store of synthetic pairs whose lengths follow Zipf's law, plans one pass over it with the translation
objective, and groups the same pairs by length with the function that the Hugging Face Trainer calls (`group_by_length`:
sorted within 50 batches of a fixed number of pairs). Each of the three runs in a process of its own, and its seconds
leave the imports out. Writes benchmarks/results/planning.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from xbridge.core.artifact import machine, versions
from xbridge.core.files import write_json
from xbridge.core.runtime import derive_seed
from xbridge.data.batching import Budget, TokenPlan
from xbridge.data.numbering import Block
from xbridge.data.token_store import open_store
from xbridge.data.tokens import TokenTable, starts_of
from xbridge.models.families import FAMILIES, Conventions
from xbridge.objectives.base import Material
from xbridge.objectives.translation import Config, from_store

RESULTS = Path(__file__).parent / "results"
PIVOT = "eng_Latn"
LANGUAGES = ("deu_Latn", "fra_Latn", "spa_Latn", "rus_Cyrl", "fin_Latn", "hun_Latn", "tur_Latn", "swh_Latn")
EXPONENT, LONGEST = 1.0, 256
LARGEST_ID = 250_000  # mBART's vocabulary
SPECIAL = (2, 2)  # special tokens of a source and of a decoder input, in mBART's layout
ROWS = 65_536  # per block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--batch-tokens", type=int, default=32_768, help="padded source + target tokens of a batch")
    parser.add_argument("--multiple-of", type=int, default=8)
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(SIDES[options.side](options)))
        return
    with tempfile.TemporaryDirectory(prefix="planning-") as folder:
        sides = {side: run_side(side, Path(folder), options) for side in SIDES}
    result = {
        "command": f"python benchmarks/planning.py --pairs {options.pairs} --batch-tokens {options.batch_tokens} "
        f"--multiple-of {options.multiple_of}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {**machine(), "memory_bytes": psutil.virtual_memory().total},
        "versions": versions(),
        "pairs": options.pairs,
        "languages": len(LANGUAGES),
        "lengths": f"Zipf, exponent {EXPONENT}, 4 to {LONGEST} tokens; the target within 20 % of the source",
        **sides,
    }
    write_json(RESULTS / "planning.json", result)
    print(json.dumps(result, indent=1))


class ZipfCorpus:
    """Distinct strings, a pair of them per row, whose token counts follow Zipf's law; a string is its own number."""

    def __init__(self, pairs: int):
        self.pairs = pairs
        random = np.random.default_rng(derive_seed("planning", pairs))
        ranks = np.arange(1, LONGEST - 2)
        weights = ranks**-EXPONENT
        source = random.choice(ranks + 3, size=pairs, p=weights / weights.sum())
        target = np.clip(source * random.uniform(0.8, 1.2, pairs), 4, LONGEST)
        self.lengths = np.concatenate([source, target]).astype(np.int64)
        shares = np.arange(1, len(LANGUAGES) + 1) ** -1.0
        self.edges = np.round(np.concatenate([[0], np.cumsum(shares / shares.sum())]) * pairs).astype(int)

    def identity(self) -> str:
        return f"zipf {self.pairs}"

    def blocks(self) -> Iterator[Block]:
        for language, start, end in zip(LANGUAGES, self.edges[:-1].tolist(), self.edges[1:].tolist(), strict=True):
            for first in range(start, end, ROWS):
                rows = range(first, min(first + ROWS, end))
                columns = {
                    side: [(shift + row).to_bytes(8, "little") for row in rows]
                    for side, shift in (("source", 0), ("target", self.pairs))
                }
                yield Block("bitext", [("train", PIVOT, language)] * len(rows), columns)

    def encode(self, strings: Sequence[bytes]) -> TokenTable:
        lengths = self.lengths[np.frombuffer(b"".join(strings), dtype="<i8")]
        return TokenTable(np.zeros(int(lengths.sum()), dtype=np.int32), starts_of(lengths))

    def largest_id(self) -> int:
        return LARGEST_ID


def run_side(side: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One side in a fresh process."""
    command = [
        sys.executable, __file__, "--side", side, "--store", str(folder), "--pairs", str(options.pairs),
        "--multiple-of", str(options.multiple_of), "--batch-tokens", str(options.batch_tokens),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def build(options: argparse.Namespace) -> dict[str, Any]:
    """Number and write the strings of the corpus."""
    corpus = ZipfCorpus(options.pairs)
    clock = Clock()
    open_store(options.store, corpus)
    size = sum(path.stat().st_size for path in options.store.rglob("*"))
    return {**clock.facts(), "store_bytes": size, "strings": len(corpus.lengths)}


def plan(options: argparse.Namespace) -> dict[str, Any]:
    """Open the store, choose what fits, plan one pass, and read batches in the middle of it."""
    corpus = ZipfCorpus(0)
    corpus.pairs = options.pairs
    material = Material(
        corpus=options.store, split="train", tokenizer=None, max_tokens=LONGEST, seed=0,
        conventions=Conventions(FAMILIES[0], {code: i for i, code in enumerate((PIVOT, *LANGUAGES))}, 2, 1, None),
    )  # fmt: skip
    clock = Clock()
    store = open_store(options.store, corpus)
    objective = from_store(Config(directions="one_to_many"), material, store)
    one_pass = int(store.tokens.starts[-1]) + options.pairs * sum(SPECIAL)
    planned = TokenPlan(
        objective, seed=0, budget=Budget(unit="nonpad_tokens", amount=one_pass), batch_tokens=options.batch_tokens,
        shares=objective.shares, multiple_of=options.multiple_of,
    )  # fmt: skip
    facts = clock.facts()
    totals = planned.totals()
    started = time.perf_counter()
    for step in range(0, planned.num_steps, max(planned.num_steps // 100, 1)):
        planned.examples(step)
    milliseconds = (time.perf_counter() - started) * 10
    return {
        **facts, "steps": planned.num_steps, "nonpad_tokens": totals.nonpad,
        "padding_share": round(1 - totals.nonpad / totals.padded, 4),
        "seek_milliseconds": round(milliseconds, 3),
    }  # fmt: skip


def group(options: argparse.Namespace) -> dict[str, Any]:
    """The Trainer's grouping: batches of as many pairs as the budget holds on average, sorted by the source."""
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    lengths = ZipfCorpus(options.pairs).lengths.reshape(2, -1) + np.asarray(SPECIAL)[:, None]
    size = int(options.batch_tokens / lengths.sum(axis=0).mean())
    clock = Clock()
    order = get_length_grouped_indices(lengths[0].tolist(), size, generator=torch.Generator().manual_seed(0))
    facts = clock.facts()
    starts = np.arange(0, options.pairs, size)
    widths = [
        -(-np.maximum.reduceat(side[order], starts) // options.multiple_of) * options.multiple_of for side in lengths
    ]
    tokens = np.diff(np.append(starts, options.pairs)) * (widths[0] + widths[1])
    return {
        **facts, "pairs_per_batch": size, "largest_batch_tokens": int(tokens.max()),
        "padding_share": round(1 - int(lengths.sum()) / int(tokens.sum()), 4),
    }  # fmt: skip


class Clock:
    """Seconds since it was made; the peak memory is that of the whole process, mapped pages included."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def facts(self) -> dict[str, Any]:
        return {
            "wall_seconds": round(time.monotonic() - self._wall, 1),
            "cpu_seconds": round(time.process_time() - self._cpu, 1),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


SIDES = {"build": build, "plan": plan, "group_by_length": group}

if __name__ == "__main__":
    main()
