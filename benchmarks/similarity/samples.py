"""How many samples CKA needs: biased, unbiased and minibatch estimates over n, with true and estimated errors.

    python -m benchmarks.similarity.samples      # about two minutes; writes the JSON and docs/explanation/samples.svg

Two populations of d = 256 features with a power-law spectrum: layers that share ten factors, and independent ones. The
true value is the estimate at n = 200,000 from second moments; the spread is over draws.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xbridge.core.artifact import machine, versions
from xbridge.similarity import cka, cka_matrix

DIM, DRAWS, LARGE = 256, 24, 200_000
SIZES = (32, 64, 128, 256, 512, 1024, 2048)
ROOT = Path(__file__).parents[2]
RESULT, FIGURE = ROOT / "benchmarks/results/similarity-samples.json", ROOT / "docs/explanation/samples.svg"


def draw(n: int, seed: int, *, related: bool) -> tuple[Tensor, Tensor]:
    """n examples in two layers, (n, DIM) float32 each."""
    weights = torch.Generator().manual_seed(1)
    loadings = [torch.randn(10, DIM, generator=weights) for _ in range(2)]
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, 10, generator=generator)
    latents = (latent, latent if related else torch.randn(n, 10, generator=generator))
    spectrum = torch.arange(1, DIM + 1) ** -0.5
    x, y = (
        (z @ w + torch.randn(n, DIM, generator=generator)) * spectrum for z, w in zip(latents, loadings, strict=True)
    )
    return x, y


def population_value(*, related: bool) -> float:
    """CKA of a very large sample, streamed."""
    parts = (draw(LARGE // 20, 10_000 + i, related=related) for i in range(20))
    return float(cka_matrix(parts)[0, 1])


def measure(n: int, *, related: bool) -> dict[str, float]:
    """Means and spreads of the estimators over draws of n examples."""
    found: dict[str, list[float]] = {"unbiased": [], "biased": [], "jackknife": [], "minibatch": [], "batch_error": []}
    for seed in range(DRAWS):
        x, y = draw(n, seed * 7919 + n, related=related)
        value, error = cka(x, y, return_stderr=True)
        found["unbiased"].append(value)
        found["jackknife"].append(error)
        found["biased"].append(cka(x, y, estimator="biased"))
        if n >= 64:
            value, error = cka(x, y, engine="minibatch", batch_size=32, return_stderr=True)
            found["minibatch"].append(value)
            found["batch_error"].append(error)
    rows = {"n": float(n)}
    for name in ("unbiased", "biased", "minibatch"):
        if found[name]:
            rows[name], rows[f"{name}_sd"] = float(np.mean(found[name])), float(np.std(found[name], ddof=1))
    rows["jackknife"] = float(np.mean(found["jackknife"]))
    if found["batch_error"]:
        rows["batch_error"] = float(np.mean(found["batch_error"]))
    return rows


def plot(results: dict[str, dict]) -> None:
    """One panel for each population, one for the errors."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "xbridge"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")
    styles = {"unbiased": ("#1b5e9c", "o"), "biased": ("#b4451f", "s"), "minibatch": ("#4d7a2b", "^")}
    for axis, (title, result) in zip(axes, results.items(), strict=False):
        for name, (color, marker) in styles.items():
            rows = [row for row in result["rows"] if name in row]
            axis.errorbar([r["n"] for r in rows], [r[name] for r in rows], yerr=[r[f"{name}_sd"] for r in rows],
                          color=color, marker=marker, markersize=4, capsize=2, label=name)  # fmt: skip
        axis.axhline(result["truth"], color="black", linewidth=0.8, linestyle="--", label="population")
        axis.set(xscale="log", title=f"{title} layers", xlabel="examples", ylabel="CKA (mean ± sd of draws)")
    axes[0].legend(frameon=False, fontsize=8)
    related = results["related"]["rows"]
    for name, label, color in (
        ("unbiased_sd", "true spread", "black"),
        ("jackknife", "jackknife", "#1b5e9c"),
        ("batch_error", "over batches of 32", "#4d7a2b"),
    ):
        rows = [row for row in related if name in row]
        axes[2].plot(
            [r["n"] for r in rows], [r[name] for r in rows], marker="o", markersize=4, color=color, label=label
        )
    axes[2].set(xscale="log", yscale="log", title="standard error, related", xlabel="examples")
    axes[2].legend(frameon=False, fontsize=8)
    figure.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    """Measure, write, draw."""
    results = {
        name: {
            "truth": population_value(related=name == "related"),
            "rows": [measure(n, related=name == "related") for n in SIZES],
        }
        for name in ("related", "independent")
    }
    report = {"dim": DIM, "draws": DRAWS, "machine": machine(), "versions": versions(), "results": results}
    RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    plot(results)
    for name, result in results.items():
        print(f"{name}: population {result['truth']:.4f}")
        for row in result["rows"]:
            print("  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))


if __name__ == "__main__":
    main()
