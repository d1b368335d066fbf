"""CPU kernels beside what PyTorch can do without them, in CPU-seconds.

    python -m benchmarks.cpu_kernels gram --n 20000 --d 768 --repeat 3
    python -m benchmarks.cpu_kernels permutations --n 2000 --layers 13 --num 1000

`gram`: the sums of HSIC of a pair of layers under the RBF kernel; `extra_bytes` is what a call allocates beyond its
inputs. `permutations`: products of all pairs of kernel matrices. Writes benchmarks/results/cpu-<name>-<size>.json.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.similarity.measure import Peak, cpu_seconds, resident
from xbridge.core.artifact import machine, versions
from xbridge.core.files import write_json
from xbridge.ops.gram_sums import GramTotals, gram_sums
from xbridge.ops.native import isa
from xbridge.ops.permuted_products import permuted_products

RESULTS = Path(__file__).parent / "results"


def timed(call: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """CPU and wall seconds and allocated bytes of one call, and its result."""
    before, peak = resident(), Peak()
    peak.start()
    cpu, wall = cpu_seconds(), time.perf_counter()
    result = call()
    facts = {"cpu_seconds": cpu_seconds() - cpu, "wall_seconds": time.perf_counter() - wall}
    return {**facts, "extra_bytes": float(peak.stop() - before)}, result


def compare(cases: dict[str, Callable[[], Any]], repeat: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """All cases in turn, `repeat` times over; medians, ratios to the first case, runs; results."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    results = {}
    for _ in range(repeat):
        for name, call in cases.items():
            facts, results[name] = timed(call)
            runs[name].append(facts)
            print(f"{name:44}", "  ".join(f"{key} {value:.4g}" for key, value in facts.items()), flush=True)
    medians = {name: statistics.median(run["cpu_seconds"] for run in found) for name, found in runs.items()}
    first = next(iter(medians.values()))
    rows = {name: {"cpu_seconds": medians[name], "ratio": medians[name] / first, "runs": runs[name]} for name in cases}
    return rows, results


def gram(options: argparse.Namespace) -> dict[str, Any]:
    """RBF kernel, two layers with half of their variance in common, bandwidth the root mean squared distance."""
    n, d = options.n, options.d
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(n, d, generator=generator)
    layers = [common + torch.randn(n, d, generator=generator) for _ in range(2)]
    gamma = 1 / (8 * d)
    shifts = [x.double().mean(0) for x in layers]

    def ours() -> GramTotals:
        return gram_sums.on("native", layers, shifts, [1.0, 1.0], "rbf", [gamma, gamma])

    cases = {
        f"gram_sums in C++ ({isa()})": ours,
        "torch, blocks of 1024 x 4096, float32": lambda: in_blocks(layers, gamma, 1024, 4096),
        "torch, whole n x n matrices, float32": lambda: in_blocks(layers, gamma, n, n),
        "torch, one float32 matrix product of 2048 rows": lambda: layers[0][:2048] @ layers[1][:2048].T,
    }
    warm = [x[:64] for x in layers]
    gram_sums.on("native", warm, shifts, [1.0, 1.0], "rbf", [gamma, gamma])
    in_blocks(warm, gamma, 64, 64)
    rows, results = compare(cases, options.repeat)
    truth = cka(gram_sums.reference(layers, shifts, [1.0, 1.0], "rbf", [gamma, gamma]))
    for name, totals in list(results.items())[:3]:
        rows[name]["error_of_cka"] = abs(cka(totals) - truth)
        print(f"{name:44} CKA {cka(totals):.9f}, float64 {truth:.9f}")
    return rows


def in_blocks(layers: list[Tensor], gamma: float, rows: int, cols: int) -> GramTotals:
    """The same sums, matrix by matrix in float32, sums of a block in float32 and of blocks in float64."""
    n = len(layers[0])
    lengths = [x.square().sum(1) for x in layers]
    products, row_sums = torch.zeros(2, 2, dtype=torch.float64), torch.full((2, n), -1.0, dtype=torch.float64)
    for i in range(0, n, rows):
        for j in range(0, n, cols):
            tiles = []
            for layer, (x, a) in enumerate(zip(layers, lengths, strict=True)):
                squared = a[i : i + rows, None] + a[None, j : j + cols] - 2 * (x[i : i + rows] @ x[j : j + cols].T)
                tiles.append(squared.mul_(-gamma).exp_())
                row_sums[layer, i : i + rows] += tiles[-1].sum(1).double()
            for p, q in ((0, 0), (0, 1), (1, 1)):
                products[p, q] += torch.vdot(tiles[p].flatten(), tiles[q].flatten()).double()
    products[1, 0] = products[0, 1]
    return GramTotals(products - n, row_sums)


def cka(totals: GramTotals) -> float:
    """Unbiased CKA of the two layers."""
    n, total = totals.row_sums.shape[1], totals.row_sums.sum(1)
    hsic = totals.products + torch.outer(total, total) / ((n - 1) * (n - 2))
    hsic -= 2 / (n - 2) * totals.row_sums @ totals.row_sums.T
    return float(hsic[0, 1] / (hsic[0, 0] * hsic[1, 1]).sqrt())


def permutations(options: argparse.Namespace) -> dict[str, Any]:
    """`num` permutations of all pairs of two models' layers; PyTorch's time is that of two of them, scaled."""
    n, num = options.n, options.num
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(options.layers, n, n, generator=generator) for _ in range(2))
    orders = torch.stack([torch.randperm(n, generator=generator) for _ in range(num)])
    flat = left.flatten(1)

    def in_torch() -> Tensor:
        return torch.stack([flat @ right[:, o][:, :, o].flatten(1).T for o in orders[:2]])

    cases = {f"permuted_products in C++ ({isa()})": lambda: permuted_products.on("native", left, right, orders)}
    rows, _ = compare({**cases, "torch, float32, 2 permutations": in_torch}, options.repeat)
    return rows


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("gram", "permutations"))
    parser.add_argument("--n", type=int, default=8000)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = {"gram": gram, "permutations": permutations}[options.name](options)
    facts = {"machine": machine(), "versions": versions(), "options": vars(options), "cases": rows}
    write_json(RESULTS / f"cpu-{options.name}-{options.n}.json", facts)


if __name__ == "__main__":
    main()
