"""How fast a training trains, beside Hugging Face's Seq2SeqTrainer on the same model, text and machine.

    python -m benchmarks.throughput                                           the quickstart's model on this CPU
    python -m benchmarks.throughput --model base --repeats 3                  Transformer-base: 6 + 6 layers, d = 512
    python -m benchmarks.throughput --model mbart-large --device cuda --precision bf16 --batch-tokens 16384

Both sides train translation in every direction of the quickstart corpus, from the same weights, with the same
optimiser, and are timed over updates alone: text is tokenised, model and optimiser exist, and some updates are done
before. Each run is a fresh process; the sides take turns, so that a busy moment of the machine hits both.

Batches. xbridge fills `--batch-tokens` padded source + target tokens. The Trainer takes a number of rows (of a random
40,000 pairs), grouped by length (`train_sampling_strategy="group_by_length"`, by whichever of source and source +
target length pads less); the number is the one whose batches have the same mean padded tokens as xbridge's. `--sweep
2,4` repeats both sides at so many times the tokens per update, for the batch size that suits each best. The Trainer
logs and saves nothing; xbridge writes a line of metrics per update, as always. The Trainer sorts 50 batches at a time,
longest first, and xbridge plans its first few batches from fewer rows: 25 updates are left out and fifties are timed.

Model FLOPs per non-padded token are 3 x the forward pass (benchmarks/speed/shapes.py has the formula); MFU is their
rate over that of a matrix product which is measured in the same turns. On a CPU rates are per CPU second, on a GPU per
second. Writes benchmarks/results/throughput-<model>-<tokens>-<device>.json.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.apart import Failed, measured_apart, numbers
from benchmarks.speed.prepare import Setting, prepare
from benchmarks.speed.shapes import SHAPES
from benchmarks.speed.sides import SIDES
from xbridge.core.artifact import machine, versions
from xbridge.core.files import write_json

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Prepare what both sides read, let them take turns, and write what was found."""
    options = parsed()
    settings = prepare(options)
    runs: dict[str, list[dict[str, Any]]] = {}
    for turn in range(options.repeats):
        for times, setting in settings.items():
            for side in SIDES:
                if side == "product" and times > 1:
                    continue
                name = side if times == 1 else f"{side} x{times}"
                print(f"{turn + 1}/{options.repeats} {name}", file=sys.stderr, flush=True)
                runs.setdefault(name, []).append(apart(side, setting, options.threads))
        result = found(options, settings, runs)
        if options.write:  # after every turn, so that a benchmark that is stopped has its whole turns
            write_json(RESULTS / f"throughput-{options.model}-{options.batch_tokens}-{options.device}.json", result)
    print(json.dumps({key: value for key, value in result.items() if key != "runs"}, indent=1))


def found(
    options: argparse.Namespace, settings: dict[int, Setting], runs: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """What the JSON holds."""
    return {
        "model": options.model,
        "command": f"python -m benchmarks.throughput {' '.join(sys.argv[1:])}".strip(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {**machine(), "device": runs["product"][0]["device"]},
        "versions": versions(),
        "settings": {f"x{times}": setting.facts() for times, setting in settings.items()},
        **summary(runs, settings[1].flops_per_token, "seconds" if options.device == "cuda" else "cpu_seconds"),
        "runs": runs,
    }


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SHAPES), default="quickstart", help="shape, with random weights")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 = autocast on both sides")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="padded source + target tokens per update")
    parser.add_argument("--max-tokens", type=int, default=24, help="strings of more tokens are left out")
    parser.add_argument("--sweep", type=numbers, default=(), metavar="2,4", help="also at so many times the tokens")
    parser.add_argument("--updates", type=int, default=100, help="timed updates per run, in whole fifties")
    parser.add_argument("--warmup", type=int, default=25, help="updates before them")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="threads of each process on a CPU")
    parser.add_argument("--corpus", type=Path, help="a corpus stage's folder (default: the quickstart's, built once)")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer stage's folder (default: the quickstart's)")
    parser.add_argument("--cache", type=Path, default=Path("runs/throughput"), help="what is prepared is kept here")
    parser.add_argument("--no-write", dest="write", action="store_false", help="print only")
    return parser.parse_args(arguments)


def apart(side: str, setting: Setting, threads: int) -> dict[str, Any]:
    """One run of a side in a fresh process; ends the benchmark where it fails."""
    counts = {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        return measured_apart("benchmarks.speed.sides", [side, setting.to_json()], {**counts, **quiet})
    except Failed as failure:
        raise SystemExit(f"{side}: {failure}") from None


def summary(runs: dict[str, list[dict[str, Any]]], flops_per_token: float, clock: str) -> dict[str, Any]:
    """Rates of every side, and the ratios of xbridge's to the Trainer's, turn by turn."""
    peak = statistics.median(run["flops"] / run[clock] for run in runs["product"])
    sides = {}
    for name, found in runs.items():
        if name != "product":
            rates = spread([run["nonpad_tokens"] / run[clock] for run in found])
            sides[name] = {
                "nonpad_tokens_per_second": rates,
                "target_tokens_per_second": spread([run["target_tokens"] / run[clock] for run in found]),
                "updates_per_second": spread([run["updates"] / run[clock] for run in found]),
                "padding_share": round(1 - total(found, "nonpad_tokens") / total(found, "padded_tokens"), 4),
                "padded_tokens_per_update": round(total(found, "padded_tokens") / total(found, "updates"), 1),
                "mfu": round(flops_per_token * rates["median"] / peak, 4),
                "peak_bytes": max(run["peak_bytes"] for run in found),
                "wall_over_cpu": round(total(found, "seconds") / total(found, "cpu_seconds"), 3),
            }
    ratios = {}
    for name, found in runs.items():
        if name.startswith("xbridge"):
            pairs = zip(found, runs[name.replace("xbridge", "trainer")], strict=True)
            each = [a["nonpad_tokens"] / a[clock] * b[clock] / b["nonpad_tokens"] for a, b in pairs]
            ratios[name.removeprefix("xbridge").strip() or "x1"] = spread(each)
    return {
        "clock": clock,
        "product_flops_per_second": peak,
        "flops_per_nonpad_token": flops_per_token,
        "sides": sides,
        "nonpad_ratio_same_tokens_per_update": ratios,
        "nonpad_ratio_best_of_each": round(best(sides, "xbridge") / best(sides, "trainer"), 3),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {name: round(f(values), 4) for name, f in (("median", statistics.median), ("least", min), ("most", max))}


def total(runs: Sequence[dict[str, Any]], key: str) -> float:
    """Sum over the repeats."""
    return float(sum(run[key] for run in runs))


def best(sides: dict[str, Any], side: str) -> float:
    """Highest median rate of a side over the batch sizes."""
    return float(max(facts["nonpad_tokens_per_second"]["median"] for name, facts in sides.items() if side in name))


if __name__ == "__main__":
    main()
