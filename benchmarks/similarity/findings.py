"""Single facts about libraries that a table of errors does not show, each a value beside its truth; for stress.py."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.similarity import peers, reference, sets
from xbridge import similarity


@dataclass(frozen=True)
class Finding:
    """`value` is what the library gives and `truth` what it should; both as text, since some raise."""

    peer: str
    what: str
    value: str
    truth: str
    xbridge: str = ""


def findings() -> list[dict[str, Any]]:
    """All of them, for the JSON."""
    singles = (_last_batch, _clamped_batches, _clamped_estimates, _faiss_euclidean)
    return [asdict(make()) for make in (*singles, *_deep_reps())]


def _last_batch() -> Finding:
    x, y = sets.gauss(512, 64)
    other = torch.cat([torch.randn(448, 64, dtype=torch.float64), x[448:]])
    with peers.quiet():
        values = [peers.ckatorch_model_batches(z, y, 64) for z in (x, other)]
    ours = [similarity.cka_matrix([z], [y], engine="minibatch", batch_size=64)[0, 0] for z in (x, other)]
    truth = [reference.minibatch_cka(z, y, 64) for z in (x, other)]
    return Finding(
        "ckatorch CKA()",
        "8 batches of 64; then the same with 7 of the batches replaced by noise",
        f"{values[0]:.4f}, then {values[1]:.4f}",
        f"{truth[0]:.4f}, then {truth[1]:.4f}",
        f"{ours[0]:.4f}, then {ours[1]:.4f}",
    )


def _clamped_batches() -> Finding:
    x, y = sets.independent(4096, 16)
    widths = (reference.median_width(x[:1024]), reference.median_width(y[:1024]))

    def exact(start: int) -> float:
        rows = slice(start, start + 32)
        k, l = (  # noqa: E741
            torch.exp(torch.from_numpy(-reference.squared_distances(z[rows])) / (2 * w**2)).numpy()
            for z, w in zip((x, y), widths, strict=True)
        )
        return float((reference.u_centred(k) * reference.u_centred(l)).sum() / (32 * 29))

    truth = sum(exact(start) for start in range(0, 4096, 32)) / 128
    with peers.quiet(torch.float64):
        value = peers.ignite_hsic(x, y, widths, 32)
    return Finding(
        "pytorch-ignite HSIC",
        "mean over 128 batches of 32 independent rows; every batch below 0 is set to 0 before averaging",
        f"{value:.1e}",
        f"{truth:.1e}",
    )


def _clamped_estimates() -> Finding:
    pairs = [sets.independent(128, 64, seed=seed) for seed in range(200)]
    values = [float(peers.pytorch_cka_features(x, y)) for x, y in pairs]
    ours = [similarity.cka(x, y) for x, y in pairs]
    truth = [reference.linear_cka(x, y) for x, y in pairs]
    return Finding(
        "pytorch-cka",
        "mean of the unbiased CKA of 200 independent pairs, 128 x 64, float64: below 0 becomes 0",
        f"{sum(values) / 200:+.4f}",
        f"{sum(truth) / 200:+.4f}",
        f"{sum(ours) / 200:+.4f}",
    )


def _faiss_euclidean() -> Finding:
    x, y = sets.cast(sets.gauss(2000, 64), torch.float32, shift=1000.0)
    faiss = importlib.import_module("faiss")
    index = faiss.IndexFlatL2(64)
    index.add(y.numpy())
    found = torch.from_numpy(index.search(x.numpy(), 1)[1][:, 0])
    truth = _nearest_in_float64(x, y)
    ours = similarity.nearest(x, y, 1, metric="euclidean")[1][:, 0]
    return Finding(
        "faiss-cpu IndexFlatL2",
        "rows whose nearest neighbour is wrong, of 2,000 x 64, float32, shifted by 1000",
        f"{float((found != truth).double().mean()):.0%}",
        "0%",
        f"{float((ours != truth).double().mean()):.0%}",
    )


def _nearest_in_float64(x: Tensor, y: Tensor) -> Tensor:
    mean = y.double().mean(0)
    return torch.cdist(x.double() - mean, y.double() - mean, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


def _deep_reps() -> list[Callable[[], Finding]]:
    x, y = (torch.from_numpy(reference.centred(z)) for z in sets.gauss(80, 16))

    def of(module: str, function: str, what: str, truth: Callable[[], float]) -> Callable[[], Finding]:
        def make() -> Finding:
            try:
                with peers.quiet(torch.float64):
                    value = f"{float(getattr(peers.deep_reps(module), function)(x, y)):.4f}"
            except TypeError as error:
                value = f"TypeError: {error}"
            return Finding("deep-reps", f"{what} (`{function}`), 80 x 16, float64, centred", value, f"{truth():.4f}")

        return make

    return [
        _deep_reps_import,
        of("rsm_measures", "distance_correlation", "distance correlation", lambda: _dcor(x, y)),
        of("rsm_measures", "normalized_bures_similarity", "normalised Bures similarity",
           lambda: peers.rsatoolbox_compare(x, y, "bures")),
        of("rsm_measures", "representation_similarity_analysis", "RSA of inner products", lambda: _rsa(x, y)),
        of("cca_measures", "compute_wvcca", "PWCCA", lambda: similarity.pwcca(x, y)),
    ]  # fmt: skip


def _deep_reps_import() -> Finding:
    code = "import sys, types; sys.modules['open_clip'] = types.ModuleType('open_clip'); import deep_reps"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = (done.stderr.strip().splitlines() or ["imports"])[-1]
    what = "`import deep_reps`, with open_clip, which it needs but does not ask for, there"
    return Finding("deep-reps", what, last.partition(" (")[0], "imports")


def _dcor(x: Tensor, y: Tensor) -> float:
    return float(importlib.import_module("dcor").distance_correlation(x.numpy(), y.numpy()))


def _rsa(x: Tensor, y: Tensor) -> float:
    above = torch.triu_indices(len(x), len(x), offset=1)
    return float(torch.corrcoef(torch.stack([(z @ z.T)[above[0], above[1]] for z in (x, y)]))[0, 1])
