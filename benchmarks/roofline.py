"""How close the GPU kernels come to the machine's limits, and how exact they are there.

    python benchmarks/roofline.py [--only gram_pair ...] [--repeat 5]
    TRITON_INTERPRET=1 python benchmarks/roofline.py     a rehearsal on the CPU: tiny sizes, times mean nothing

First the ceilings of this machine: a copy, and products of large random matrices in bfloat16, float16 and TF32. Then a
probe of how its tensor cores round: a sum of squares in one accumulator, ever longer. Then each kernel: time (median,
least and most of the repeats), counted operations and bytes as percentages of the ceilings, the same by plain PyTorch,
error against float64, peak memory beyond the inputs. Counted operations are the useful ones: symmetric matrices once,
and rows in two planes count as one product though they take three. Writes benchmarks/results/roofline-<gpu>.json.
"""

import argparse
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from xbridge.core.artifact import machine, versions
from xbridge.core.files import write_json
from xbridge.ops.gram_sums import GramTotals
from xbridge.ops.gram_sums import gram_sums as gram_sums_op
from xbridge.ops.hsic import hsic_from_sums
from xbridge.ops.triton.device import interpreting
from xbridge.ops.triton.gram_sums import gram_sums
from xbridge.ops.triton.ingest import ingest
from xbridge.ops.triton.margin_both_ways import margin_both_ways
from xbridge.ops.triton.nearest_both_ways import nearest_both_ways

RESULTS = Path(__file__).parent / "results"
ERROR_ROWS = 4096


@dataclass(frozen=True)
class Row:
    """One measured call."""

    name: str
    shape: str
    seconds: list[float]
    """median, least, most"""
    operations: float
    bytes: float
    percent_of_product: float
    """of the 16-bit product ceiling"""
    percent_of_copy: float
    baseline_seconds: float | None
    """the same in plain PyTorch"""
    error: float
    """see `error_is`"""
    error_is: str
    peak_bytes: int
    """beyond the inputs"""


@dataclass(frozen=True)
class Bench:
    """Where and how often things are timed, and the ceilings that they are held against."""

    device: torch.device
    repeat: int
    product_rate: float = math.nan
    copy_rate: float = math.nan

    def seconds(self, run: Callable[[], object]) -> list[float]:
        """Median, least and most seconds of a call, after one that is not counted."""
        run()
        taken = []
        for _ in range(self.repeat):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            taken.append(time.perf_counter() - start)
        return [statistics.median(taken), min(taken), max(taken)]

    def wait(self) -> None:
        """Until the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self, run: Callable[[], object]) -> int:
        """Bytes that a call allocates at most beyond what is allocated before."""
        if self.device.type != "cuda":
            return 0
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        run()
        self.wait()
        return int(torch.cuda.max_memory_allocated(self.device)) - before

    def row(
        self,
        name: str,
        shape: str,
        run: Callable[[], object],
        *,
        operations: float,
        moved: float,
        baseline: Callable[[], object] | None,
        error: tuple[float, str],
    ) -> Row:
        """Time a call and its baseline."""
        seconds = self.seconds(run)
        return Row(
            name=name,
            shape=shape,
            seconds=seconds,
            operations=operations,
            bytes=moved,
            percent_of_product=100 * operations / seconds[0] / self.product_rate,
            percent_of_copy=100 * moved / seconds[0] / self.copy_rate,
            baseline_seconds=self.seconds(baseline)[0] if baseline else None,
            error=error[0],
            error_is=error[1],
            peak_bytes=self.peak(run),
        )


def main() -> None:
    """Measure, print a table, write the results."""
    kernels = {"ingest": ingest_rows, "gram_pair": pair_rows, "gram_panel": panel_rows, "neighbours": neighbour_rows}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=kernels, default=list(kernels))
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    rehearsal = interpreting()
    if not rehearsal and not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing to measure here (TRITON_INTERPRET=1 rehearses on the CPU)")
    bench = Bench(torch.device("cpu" if rehearsal else "cuda"), 1 if rehearsal else options.repeat)
    torch.manual_seed(0)
    ceilings = measure_ceilings(bench, 64 if rehearsal else 8192)
    bench = Bench(bench.device, bench.repeat, max(ceilings["bfloat16"], ceilings["float16"]), ceilings["copy"])
    probe = rounding_probe(bench.device, 10 if rehearsal else 20)
    rows: list[Row] = []
    for name in options.only:
        for row in kernels[name](bench, rehearsal):
            rows.append(row)
            print(line_of(row), flush=True)
    gpu = "rehearsal" if rehearsal else torch.cuda.get_device_name(bench.device)
    result = {
        "command": "python benchmarks/roofline.py " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "gpu": gpu,
        "machine": machine(),
        "versions": {**versions(), "cuda": torch.version.cuda, "hip": torch.version.hip},
        "ceilings_per_second": ceilings,
        "sum_of_squares_relative_error": probe,
        "rows": [asdict(row) for row in rows],
    }
    if not rehearsal:
        write_json(RESULTS / f"roofline-{re.sub('[^a-z0-9]+', '-', gpu.lower())}.json", result)
    print(json.dumps({"gpu": gpu, "ceilings_per_second": ceilings, "sum_of_squares_relative_error": probe}, indent=1))


def measure_ceilings(bench: Bench, side: int) -> dict[str, float]:
    """Bytes a second of a copy, operations a second of square products of random matrices."""
    source = torch.randn(side * side * 4, device=bench.device)
    target = torch.empty_like(source)
    rates = {"copy": 2 * 4 * source.numel() / bench.seconds(lambda: target.copy_(source))[0]}
    for name in ("bfloat16", "float16", "tf32"):
        dtype = torch.float32 if name == "tf32" else getattr(torch, name)
        a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        rates[name] = 2 * side**3 / bench.seconds(lambda a=a, b=b: a @ b.T)[0]
        torch.set_float32_matmul_precision(before)
    return rates


def rounding_probe(device: torch.device, largest_exponent: int) -> dict[str, float]:
    """Relative error of |x|^2 in one accumulator of a tile product, by length: truncation shows as growth with it."""
    from xbridge.ops.triton.operand import as_is, squared_norms

    errors = {}
    for exponent in range(8, largest_exponent + 1, 2):
        x = torch.randn(16, 1 << exponent, device=device).half()
        exact = x.double().square().sum(1)
        errors[str(1 << exponent)] = float(((squared_norms(as_is(x), "x") - exact) / exact).mean())
    return errors


def ingest_rows(bench: Bench, rehearsal: bool) -> list[Row]:
    """One read and one write, from bfloat16 and from float32."""
    n, d = (100, 40) if rehearsal else (1 << 18, 1024)
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        x = (torch.randn(n, d, device=bench.device) + 3).to(dtype)
        shift = x[:1024].double().mean(0)
        out, lengths = torch.empty(n, d, device=bench.device), torch.empty(n, dtype=torch.float64, device=bench.device)

        def eager(x: Tensor = x, shift: Tensor = shift) -> Tensor:
            moved = (x.float() - shift.float()) * 0.5
            return torch.isfinite(moved).all() & (moved.square().sum(1) >= 0).all()

        run = lambda x=x, shift=shift, out=out, lengths=lengths: ingest(x, shift, 0.5, out, lengths)  # noqa: E731
        run()
        error = float((lengths / out.double().square().sum(1) - 1).abs().max())
        moved = n * d * (x.element_size() + 4)
        shape = f"{n} x {d} {str(dtype).removeprefix('torch.')}"
        found = (error, "squared lengths, relative")
        rows.append(bench.row("ingest", shape, run, operations=4 * n * d, moved=moved, baseline=eager, error=found))
    return rows


def layers_of(bench: Bench, n: int, d: int, count: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Correlated layers, some features a hundred times the others, and their means."""
    common = torch.randn(n, 32, device=bench.device)
    layers = []
    for _ in range(count):
        x = common @ torch.randn(32, d, device=bench.device) / 32**0.5 + 0.5 * torch.randn(n, d, device=bench.device)
        x[:, :4] += 100
        layers.append(x.to(dtype))
    return layers, [x.mean(0, dtype=torch.float64) for x in layers]


def cka_error(
    layers: list[Tensor], shifts: list[Tensor], scales: list[float], gammas: list[float]
) -> tuple[float, str]:
    """Largest error of CKA of the first rows against float64."""
    few = [x[:ERROR_ROWS] for x in layers[:4]]
    given = (few, shifts[:4], scales[:4], "rbf", gammas[:4])
    found, exact = cka_of(gram_sums(*given)), cka_of(gram_sums_op.reference(*given))
    return float((found - exact).abs().max()), f"unbiased CKA, {len(few[0])} rows, {len(few)} layers"


def cka_of(totals: GramTotals) -> Tensor:
    """Unbiased CKA of all pairs, (S, S)."""
    n = torch.tensor(float(totals.row_sums.shape[1]), dtype=torch.float64, device=totals.products.device)
    total = totals.row_sums.sum(1)
    row_products = totals.row_sums @ totals.row_sums.T
    hsic = hsic_from_sums(totals.products, row_products, total[:, None], total[None, :], n, "unbiased")
    own = hsic.diagonal().sqrt()
    return hsic / torch.outer(own, own)


def gram_row(bench: Bench, name: str, n: int, d: int, count: int, dtype: torch.dtype) -> Row:
    """RBF sums of `count` layers; two of them also in plain PyTorch, in blocks of rows."""
    layers, shifts = layers_of(bench, n, d, count, dtype)
    scales, gammas = [1 / d**0.5] * count, [0.4] * count

    def eager_pair() -> Tensor:
        total = torch.zeros(3, dtype=torch.float64, device=bench.device)
        x, y = layers[0], layers[1]
        a, b = x.float().square().sum(1), y.float().square().sum(1)
        for block in torch.split(torch.arange(n, device=bench.device), 4096):
            k = torch.exp(-0.4 / d * (a[block, None] + a[None, :] - 2 * (x[block] @ x.T).float()))
            w = torch.exp(-0.4 / d * (b[block, None] + b[None, :] - 2 * (y[block] @ y.T).float()))
            total += torch.stack([(k * k).sum(), (k * w).sum(), (w * w).sum()]).double()
        return total

    return bench.row(
        name,
        f"{count} x {n} x {d} {str(dtype).removeprefix('torch.')}",
        lambda: gram_sums(layers, shifts, scales, "rbf", gammas),
        operations=float(n) ** 2 * d * count + (0 if count == 2 else float(n) ** 2 * count**2),
        moved=float(n) * d * count * layers[0].element_size(),
        baseline=eager_pair if count == 2 else None,
        error=cka_error(layers, shifts, scales, gammas),
    )


def pair_rows(bench: Bench, rehearsal: bool) -> list[Row]:
    """Two layers."""
    n, d = (40, 24) if rehearsal else (100_000, 1024)
    return [gram_row(bench, "gram_pair", n, d, 2, dtype) for dtype in (torch.bfloat16, torch.float32)]


def panel_rows(bench: Bench, rehearsal: bool) -> list[Row]:
    """Fifty layers, all 1225 pairs."""
    n, d, count = (40, 24, 3) if rehearsal else (20_000, 1024, 50)
    return [gram_row(bench, "gram_panel", n, d, count, dtype) for dtype in (torch.bfloat16, torch.float32)]


def neighbour_rows(bench: Bench, rehearsal: bool) -> list[Row]:
    """Ten neighbours both ways, and the best margin over all pairs."""
    n, d, k = (60, 24, 3) if rehearsal else (1 << 18, 1024, 10)
    x, y = (torch.nn.functional.normalize(torch.randn(n, d, device=bench.device)).bfloat16() for _ in range(2))
    found = nearest_both_ways(x, y, k)
    near_x, near_y = found[0].double().mean(1), found[2].double().mean(1)
    sample = torch.arange(0, n, max(1, n // 256), device=bench.device)
    exact = torch.cat([exact_row(x[i], y) for i in sample])
    wrong = float((found[0][sample] != exact.float().topk(k).values).double().mean())
    ratios = (exact / ((near_x[sample, None] + near_y[None, :]) / 2)).float().amax(1)
    wrong_margin = float((margin_both_ways(x, y, near_x, near_y)[0][sample] != ratios).double().mean())
    error_is = f"share of scores of {len(sample)} rows that differ from float64's"

    def eager() -> None:
        for block in torch.split(x, 8192):
            (block @ y.T).topk(k)
        for block in torch.split(y, 8192):
            (block @ x.T).topk(k)

    shape, moved = f"{n} x {n} x {d} bfloat16, k = {k}", 2.0 * n * d * 2
    return [
        bench.row(
            "nearest_both_ways", shape, lambda: nearest_both_ways(x, y, k), operations=2.0 * n * n * d, moved=moved,
            baseline=eager, error=(wrong, error_is),
        ),
        bench.row(
            "margin_both_ways", shape, lambda: margin_both_ways(x, y, near_x, near_y), operations=2.0 * n * n * d,
            moved=moved, baseline=None, error=(wrong_margin, error_is),
        ),
    ]  # fmt: skip


def exact_row(query: Tensor, keys: Tensor) -> Tensor:
    """Scores of one query in float64, keys converted a part at a time: (1, m)."""
    return torch.cat([part.double() @ query.double() for part in torch.split(keys, 1 << 15)])[None, :]


def line_of(row: Row) -> str:
    """A row of the table."""
    ratio = f"{row.baseline_seconds / row.seconds[0]:6.2f}x PyTorch" if row.baseline_seconds else " " * 14
    return (
        f"{row.name:18} {row.shape:36} {1e3 * row.seconds[0]:10.2f} ms  {row.percent_of_product:5.1f} % product  "
        f"{row.percent_of_copy:5.1f} % copy  {ratio}  error {row.error:.1e}  +{row.peak_bytes / 2**20:.0f} MB"
    )


if __name__ == "__main__":
    main()
