"""Every library on the stress sets, against float64: which numbers are wrong, and by how much.

    .venv-peers/bin/python -m benchmarks.similarity.stress          (make agreement)

Writes benchmarks/results/similarity-stress.json and the tables of docs/explanation/peers.md. An error is the returned
value minus the value of the definition (reference.py) on the same rounded numbers; what a library raises is written
down instead. The RBF widths are those of ckatorch's convention, and are given as numbers to whoever takes numbers.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.similarity import peers, reference
from benchmarks.similarity.findings import findings
from benchmarks.similarity.sets import STRESS_SETS, StressSet
from benchmarks.similarity.tables import markdown
from xbridge.core.artifact import machine, versions
from xbridge.core.files import read_json, write_json
from xbridge.similarity import SecondMoments, cka, cka_matrix

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "similarity-stress.json"
PAGE = ROOT / "docs" / "explanation" / "peers.md"
BATCH = 64
CHUNK_ROWS = 100
SEEN = 5e-7  # an error below it is shown as "ok"


@dataclass(frozen=True)
class Problem:
    """What is computed: its truth, and every way to compute it, given x, y and the two RBF widths."""

    name: str
    title: str
    truth: Callable[[Tensor, Tensor, tuple[float, float]], float]
    ways: dict[str, Callable[[Tensor, Tensor, tuple[float, float]], float]]


def problems() -> list[Problem]:
    """The four estimates of CKA for which there is more than one implementation."""
    return [
        Problem(
            "unbiased",
            "Linear CKA, unbiased, all rows at once",
            lambda x, y, _: reference.linear_cka(x, y),
            {
                "pytorch-cka": lambda x, y, _: float(peers.pytorch_cka_features(x, y)),
                "ckatorch": lambda x, y, _: peers.ckatorch_pair(x, y),
                "cka-pytorch": lambda x, y, _: float(peers.cka_pytorch_batches([x], [y], len(x))),
                "torch_cka": lambda x, y, _: float(peers.torch_cka_batches([x], [y], len(x))),
                **{f"xbridge {name}": way for name, way in _ours(("moments", "gram"), {})},
                "xbridge SecondMoments": lambda x, y, _: _streamed(x, y, "unbiased"),
            },
        ),
        Problem(
            "biased",
            "Linear CKA, biased",
            lambda x, y, _: reference.linear_cka(x, y, "biased"),
            {
                "ckatorch": lambda x, y, _: peers.ckatorch_pair(x, y, unbiased=False),
                "deep-reps": lambda x, y, _: _deep_reps(x, y),
                **{f"xbridge {name}": way for name, way in _ours(("moments", "gram"), {"estimator": "biased"})},
                "xbridge SecondMoments": lambda x, y, _: _streamed(x, y, "biased"),
            },
        ),
        Problem(
            "minibatch",
            f"Linear CKA, minibatches of {BATCH}",
            lambda x, y, _: reference.minibatch_cka(x, y, BATCH),
            {
                "pytorch-cka": lambda x, y, _: float(peers.pytorch_cka_batches([x], [y], BATCH)),
                "cka-pytorch": lambda x, y, _: float(peers.cka_pytorch_batches([x], [y], BATCH)),
                "torch_cka": lambda x, y, _: float(peers.torch_cka_batches([x], [y], BATCH)),
                "ckatorch CKA()": lambda x, y, _: peers.ckatorch_model_batches(x, y, BATCH),
                "ckatorch cka_batch": lambda x, y, _: peers.ckatorch_batch(x, y, BATCH),
                **{f"xbridge {name}": way for name, way in _ours(("minibatch",), {"batch_size": BATCH})},
            },
        ),
        Problem(
            "rbf",
            "RBF CKA, unbiased",
            reference.rbf_cka,
            {
                "ckatorch": lambda x, y, _: peers.ckatorch_pair(x, y, kernel="rbf"),
                "pytorch-ignite": peers.ignite_rbf_cka,
                **{f"xbridge {name}": way for name, way in _ours(("rbf",), {})},
            },
        ),
    ]


def _ours(
    engines: tuple[str, ...], options: dict[str, Any]
) -> Iterator[tuple[str, Callable[[Tensor, Tensor, tuple[float, float]], float]]]:
    """xbridge's engines, each with every backend that can run here."""
    backends = ("native", "triton", "reference") if torch.cuda.is_available() else ("native", "reference")
    for engine in engines:
        for backend in backends:

            def way(
                x: Tensor, y: Tensor, widths: tuple[float, float], engine: str = engine, backend: str = backend
            ) -> float:
                if engine == "rbf":
                    return cka(x, y, kernel="rbf", bandwidth=widths, backend=backend)  # type: ignore[call-overload,no-any-return]
                value = cka_matrix([x], [y], engine=engine, backend=backend, **options)  # type: ignore[call-overload]
                return float(value[0, 0])

            try:
                way(torch.randn(2 * BATCH, 8), torch.randn(2 * BATCH, 8), (1.0, 1.0))
            except ValueError as error:
                if "cannot run" not in str(error):
                    raise
            else:
                yield f"{engine}/{backend}", way


def _streamed(x: Tensor, y: Tensor, estimator: str) -> float:
    moments = SecondMoments([x.shape[1], y.shape[1]])
    for start in range(0, len(x), CHUNK_ROWS):
        moments.update([x[start : start + CHUNK_ROWS], y[start : start + CHUNK_ROWS]])
    return float(moments.cka(estimator)[0, 1])  # type: ignore[arg-type]


def _deep_reps(x: Tensor, y: Tensor) -> float:
    if len(x) > 512:
        raise MemoryError("not run: it fills the n x n kernel in a Python loop")
    return float(peers.deep_reps("rsm_measures").centered_kernel_alignment(x, y))


def outcome(way: Callable[[], float], truth: float) -> dict[str, Any]:
    """{"value", "error"}, or {"failed"} with the first line of what was raised or the value that is no number."""
    try:
        with peers.quiet():
            value = way()
    except Exception as error:  # whatever a library raises is the finding
        lines = str(error).strip().splitlines()
        return {"failed": f"{type(error).__name__}: {lines[0] if lines else ''}"}
    if not math.isfinite(value):
        return {"failed": str(value)}
    return {"value": value, "error": value - truth}


def measure(problem: Problem, stress: StressSet) -> dict[str, Any]:
    """The truth and everyone's answer on one set."""
    x, y = stress.make()
    widths = (reference.median_width(x), reference.median_width(y))
    truth = problem.truth(x, y, widths)
    answers = {}
    for name, way in problem.ways.items():
        answers[name] = outcome(lambda way=way: way(x, y, widths), truth)  # type: ignore[misc]
    return {
        "set": stress.name,
        "n": len(x),
        "d": x.shape[1],
        "dtype": str(x.dtype)[6:],
        "truth": truth,
        "answers": answers,
    }


def table(problem: dict[str, Any]) -> str:
    """Markdown: one line per set, one column per peer, and xbridge's worst engine and backend in the last."""
    names = [name for name in problem["rows"][0]["answers"] if not name.startswith("xbridge ")]
    lines = []
    for row in problem["rows"]:
        ours = [answer for name, answer in row["answers"].items() if name.startswith("xbridge ")]
        worst = max(ours, key=lambda answer: abs(answer.get("error", math.inf)))
        cells = [shown(row["answers"][name]) for name in names]
        lines.append([row["set"], f"{row['truth']:.4f}", *cells, shown(worst, precise=True)])
    return markdown(["set", "truth", *names, "xbridge (worst)"], lines)


def shown(answer: dict[str, Any], *, precise: bool = False) -> str:
    """A cell: the error, bold from 1e-3 on; "ok" below SEEN unless `precise`; a bare 0 or 1 as such."""
    if "failed" in answer:
        return _reason(answer["failed"])
    value, error = answer["value"], answer["error"]
    if abs(error) < SEEN and not precise:
        return "ok"
    if abs(error) >= 1e-3:
        return f"**returns {value:.0f}**" if value in (0, 1) else f"**{error:+.2g}**"
    return f"{error:+.0e}"


def _reason(failed: str) -> str:
    numbers = {"nan": "**NaN**", "inf": "**inf**", "-inf": "**-inf**"}
    return numbers.get(failed) or ("not run" if failed.startswith("MemoryError") else "raises")


def page_block(result: dict[str, Any]) -> str:
    """What stands between the page's two markers."""
    peers_used = ", ".join(
        f"{name} {version}" for name, version in result["peers"].items() if name in
        ("pytorch-cka", "ckatorch", "cka-pytorch", "torch_cka", "deep-reps", "pytorch-ignite", "torch")
    )  # fmt: skip
    parts = [f"Versions: {peers_used}. Measured {result['date']}."]
    for problem in result["problems"]:
        parts += [f"### {problem['title']}", table(problem)]
    header = ("library", "what", "it gives", "truth", "xbridge")
    keys = ("peer", "what", "value", "truth", "xbridge")
    parts += ["### Single findings", markdown(header, [[row[key] for key in keys] for row in result["findings"]])]
    return "\n\n".join(parts)


BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def with_block(page: str, block: str) -> str:
    """The page with the text between its markers replaced."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{block}\n\n{END}{tail}"


def main() -> None:
    """Run all, or with --page only write the page's tables again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write the tables from the results that are there")
    parser.add_argument("--quick", action="store_true", help="the first six sets, printed and not written")
    options = parser.parse_args()
    result = read_json(RESULTS) if options.page else run(STRESS_SETS[:6] if options.quick else STRESS_SETS)
    if not options.quick:
        write_json(RESULTS, result)
        PAGE.write_text(with_block(PAGE.read_text(encoding="utf-8"), page_block(result)), encoding="utf-8")
    print(page_block(result))


def run(sets: tuple[StressSet, ...]) -> dict[str, Any]:
    """Everything, as the JSON holds it."""
    found = [{"name": p.name, "title": p.title, "rows": [measure(p, stress) for stress in sets]} for p in problems()]
    return {
        "command": "make agreement",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "versions": versions(),
        "peers": peers.installed_versions(),
        "batch_size": BATCH,
        "problems": found,
        "findings": findings(),
    }


if __name__ == "__main__":
    main()
