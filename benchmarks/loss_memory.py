"""Memory and time of the loss of a large vocabulary: xbridge's, PyTorch's own fused one, and the plain one.

    python -m benchmarks.loss_memory                                   250,054 words, d = 1024, float32, on this CPU
    python -m benchmarks.loss_memory --device cuda --dtype bf16 --plain-rows 2048,4096,8192

Each call is one loss with its gradients for hidden states and output matrix, in a fresh process. Memory is what the
process (or the GPU) holds at most during the call beyond the inputs: the gradient of the output matrix, which every
method makes, is part of it and also given alone. The plain loss of all rows takes more memory than a laptop has; where
`--plain-rows` are fewer, its memory and seconds for all rows are the straight line through the last two of them, and
the result says so. Writes benchmarks/results/loss-memory-<device>.json.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.apart import Failed, measured_apart, numbers, tell
from benchmarks.similarity.measure import Peak, cpu_seconds
from xbridge.core.artifact import machine, versions
from xbridge.core.files import write_json
from xbridge.ops.linear_cross_entropy import linear_cross_entropy

RESULTS = Path(__file__).parent / "results"
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """As transformers computes it: all logits, in float32 for the cross-entropy."""
    logits = functional.linear(hidden, weight)
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


def of_torch(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """PyTorch's chunked one (2.13), which has no label smoothing."""
    options = torch.nn.LinearCrossEntropyOptions()
    return functional.linear_cross_entropy(hidden, weight, labels, reduction="sum", options=options)


METHODS: dict[str, Loss] = {"plain": plain, "xbridge": linear_cross_entropy, "torch": of_torch}


def main() -> None:
    """Measure every method and size in turn; write what was found."""
    options = parsed()
    if options.child:
        tell(measured(**json.loads(options.child)))
        return
    runs: dict[str, dict[int, list[dict[str, Any]]]] = {name: {} for name in METHODS}
    for _ in range(options.repeats):
        for name, found in runs.items():
            for rows in options.plain_rows if name == "plain" else (options.rows,):
                print(f"{name} {rows}", file=sys.stderr, flush=True)
                found.setdefault(rows, []).append(apart(name, rows, options))
    result = {
        "command": f"python -m benchmarks.loss_memory {' '.join(sys.argv[1:])}".strip(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "versions": versions(),
        "setting": {name: getattr(options, name) for name in ("rows", "words", "width", "dtype", "device", "threads")},
        "weight_gradient_bytes": options.words * options.width * 4,
        "methods": {name: [summary(rows, found[rows]) for rows in sorted(found)] for name, found in runs.items()},
        "of_all_rows": of_all_rows(runs, options.rows),
    }
    if options.write:
        write_json(RESULTS / f"loss-memory-{options.device}.json", result)
    print(json.dumps(result, indent=1))


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192, help="target tokens")
    parser.add_argument(
        "--plain-rows",
        type=numbers,
        default=(1024, 1536),
        help="sizes of the plain loss, large enough that its logits outweigh the weight's gradient",
    )
    parser.add_argument("--words", type=int, default=250_054)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-write", dest="write", action="store_false", help="print only")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def apart(name: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """`measured` in a fresh process; ends the benchmark where it fails."""
    names = ("words", "width", "dtype", "device", "threads")
    request = json.dumps({"name": name, "rows": rows, **{key: getattr(options, key) for key in names}})
    try:
        return measured_apart("benchmarks.loss_memory", ["--child", request])
    except Failed as failure:
        raise SystemExit(f"{name} at {rows} rows: {failure}") from None


def measured(name: str, rows: int, words: int, width: int, dtype: str, device: str, threads: int) -> dict[str, Any]:
    """Seconds and extra bytes of one loss and its gradients in this process."""
    torch.set_num_threads(threads)
    kind, cuda = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype], device == "cuda"
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator, device=device).to(kind).requires_grad_()
    weight = torch.randn(words, width, generator=generator, device=device)
    weight = (weight * width**-0.5).to(kind).requires_grad_()
    labels = torch.randint(0, words, (rows,), generator=generator, device=device)
    small = (hidden[:2].detach(), weight[:8].detach().requires_grad_(), labels[:2] % 8)
    METHODS[name](*small).backward()  # type: ignore[no-untyped-call]
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    peak = Peak()
    held = torch.cuda.memory_allocated() if cuda else peak.bytes
    peak.start()
    cpu, wall = cpu_seconds(), time.perf_counter()
    loss = METHODS[name](hidden, weight, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    if cuda:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    most = peak.stop()
    return {
        "extra_bytes": (torch.cuda.max_memory_allocated() if cuda else most) - held,
        "cpu_seconds": round(cpu, 2),
        "seconds": round(wall, 4),
        "mean_loss": float(loss) / rows,
    }


def summary(rows: int, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the repeats, and the most memory."""
    facts = {key: statistics.median(run[key] for run in runs) for key in ("cpu_seconds", "seconds", "mean_loss")}
    return {"rows": rows, "extra_bytes": max(run["extra_bytes"] for run in runs), **facts, "repeats": len(runs)}


def of_all_rows(runs: dict[str, dict[int, list[dict[str, Any]]]], rows: int) -> dict[str, Any]:
    """The plain loss's memory at all rows, measured or on the straight line, and the fused ones' shares of it."""
    found = {size: max(run["extra_bytes"] for run in repeats) for size, repeats in runs["plain"].items()}
    plain_bytes = found.get(rows)
    is_measured = plain_bytes is not None
    if plain_bytes is None:
        (below, low), (above, high) = sorted(found.items())[-2:]
        plain_bytes = high + (rows - above) * (high - low) / (above - below)
    fused = {name: max(run["extra_bytes"] for run in runs[name][rows]) for name in ("xbridge", "torch")}
    return {
        "rows": rows,
        "plain_bytes": round(plain_bytes),
        "plain_is": "measured" if is_measured else f"a straight line through {sorted(found)[-2:]} rows",
        **{f"{name}_bytes": size for name, size in fused.items()},
        **{f"{name}_share": round(size / plain_bytes, 4) for name, size in fused.items()},
    }


if __name__ == "__main__":
    main()
