"""Where the libraries are right, xbridge gives their numbers: the agreement matrix.

    .venv-peers/bin/python -m benchmarks.similarity.agreement          (make agreement)

Every row runs one measure of xbridge and of one peer on the same data, in the regime in which the peer is right:
float64, centred, unit mean squared row, a few hundred rows. Writes benchmarks/results/similarity-agreement.json and
prints the table. tests/similarity/test_peers.py asserts each row that the installed libraries allow.
"""

import importlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.similarity import peers, reference, sets
from benchmarks.similarity.tables import markdown
from xbridge import similarity
from xbridge.core.artifact import machine, versions
from xbridge.core.files import write_json

RESULTS = Path(__file__).parents[1] / "results" / "similarity-agreement.json"
BOUND = 1e-8
BATCH, K = 32, 5

Value = float | Tensor | np.ndarray


@dataclass(frozen=True)
class Row:
    """`ours` and `theirs`, given x: (n, d1) and y: (n, d2), return the same numbers."""

    measure: str
    peer: str
    distribution: str
    regime: str
    ours: Callable[[Tensor, Tensor], Value]
    theirs: Callable[[Tensor, Tensor], Value]

    @property
    def name(self) -> str:
        """Unique among rows."""
        return f"{self.measure}: {self.peer}"

    def difference(self) -> float:
        """Largest |ours - theirs|."""
        x, y = data()
        ours = np.asarray(self.ours(x, y), dtype=np.float64)
        with peers.quiet(torch.float64):
            theirs = np.asarray(self.theirs(x, y), dtype=np.float64)
        assert ours.shape == theirs.shape, f"{self.name}: {ours.shape} and {theirs.shape}"
        return float(np.abs(ours - theirs).max())


def data() -> sets.Pair:
    """x, y: (192, 24) float64, related, centred, unit mean squared row."""
    x, y = (torch.from_numpy(reference.centred(z)) for z in sets.gauss(192, 24))
    return x, y


def widths(x: Tensor, y: Tensor) -> tuple[float, float]:
    """ckatorch's convention for both sides."""
    return reference.median_width(x), reference.median_width(y)


def layers(x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Two sets of three layers."""
    return [x, x + 0.5 * y, y.square()], [y, x * y, x[:, :7]]


def _first(x: Tensor, y: Tensor) -> sets.Pair:
    """Their first 80 rows, centred again."""
    return x[:80] - x[:80].mean(0), y[:80] - y[:80].mean(0)


def unbiased(x: Tensor, y: Tensor) -> Value:
    """Linear."""
    return similarity.cka(x, y)


def biased(x: Tensor, y: Tensor) -> Value:
    """Linear."""
    return similarity.cka(x, y, estimator="biased")


def minibatch(x: Tensor, y: Tensor) -> Value:
    """Linear, consecutive batches."""
    return float(similarity.cka_matrix([x], [y], engine="minibatch", batch_size=BATCH)[0, 0])


def rbf(estimator: str) -> Callable[[Tensor, Tensor], Value]:
    """CKA with ckatorch's bandwidths, given as numbers."""
    return lambda x, y: similarity.cka(x, y, kernel="rbf", bandwidth=widths(x, y), estimator=estimator)  # type: ignore[call-overload]


def cosine_neighbours(x: Tensor, y: Tensor) -> Value:
    """Indices in y of each row of x."""
    return similarity.nearest(x, y, K)[1]


def sklearn_neighbours(metric: str) -> Callable[[Tensor, Tensor], Value]:
    """Indices from an exhaustive search."""

    def search(x: Tensor, y: Tensor) -> Value:
        module = importlib.import_module("sklearn.neighbors")
        index = module.NearestNeighbors(n_neighbors=K, metric=metric, algorithm="brute").fit(y.numpy())
        indices: np.ndarray = index.kneighbors(x.numpy(), return_distance=False)
        return indices

    return search


def unit_rows(x: Tensor) -> Tensor:
    """float32, of unit length."""
    return torch.nn.functional.normalize(x, dim=1).float()


def sklearn_r2(x: Tensor, y: Tensor, ridge: float) -> float:
    """In-sample R^2 of y on x, weighted by variance; ridge as a share of the total variance."""
    linear_model = importlib.import_module("sklearn.linear_model")
    metrics = importlib.import_module("sklearn.metrics")
    penalty = ridge * float((x - x.mean(0)).square().sum())
    model = linear_model.Ridge(alpha=penalty, solver="svd") if ridge else linear_model.LinearRegression()
    predicted = model.fit(x.numpy(), y.numpy()).predict(x.numpy())
    return float(metrics.r2_score(y.numpy(), predicted, multioutput="variance_weighted"))


def sklearn_mmd(x: Tensor, y: Tensor) -> float:
    """Biased squared MMD from scikit-learn's Gaussian kernel, width 1."""
    kernel = importlib.import_module("sklearn.metrics.pairwise").rbf_kernel
    a, b = x.numpy(), y.numpy()
    return float(kernel(a, a, gamma=0.5).mean() + kernel(b, b, gamma=0.5).mean() - 2 * kernel(a, b, gamma=0.5).mean())


def sklearn_mean_cosine(x: Tensor, y: Tensor) -> float:
    """Mean over ordered pairs of different rows of y + x[0], which are not centred."""
    cosine = importlib.import_module("sklearn.metrics.pairwise").cosine_similarity((y + x[0]).numpy())
    n = len(y)
    return float((cosine.sum() - n) / (n * (n - 1)))


def spearman_of_distances(x: Tensor, y: Tensor) -> float:
    """scipy's Spearman correlation of scipy's distances."""
    distance = importlib.import_module("scipy.spatial.distance")
    stats = importlib.import_module("scipy.stats")
    return float(stats.spearmanr(*(distance.pdist(z.numpy(), "sqeuclidean") for z in (x, y))).statistic)


def pearson_of_distances(metric: str) -> Callable[[Tensor, Tensor], Value]:
    """Pearson's correlation of scipy's distances."""

    def correlate(x: Tensor, y: Tensor) -> Value:
        distance = importlib.import_module("scipy.spatial.distance")
        return float(np.corrcoef(*(distance.pdist(z.numpy(), metric) for z in (x, y)))[0, 1])

    return correlate


def mean_of_angles(x: Tensor, y: Tensor) -> float:
    """Mean cosine of scipy's principal angles between the column spaces."""
    angles = importlib.import_module("scipy.linalg").subspace_angles(x.numpy(), y.numpy())
    return float(np.cos(angles).mean())


def scipy_procrustes(x: Tensor, y: Tensor) -> float:
    """Its disparity is 1 - (nuclear norm)^2 at unit Frobenius norm."""
    disparity = importlib.import_module("scipy.spatial").procrustes(x.numpy(), y.numpy())[2]
    return float((1 - disparity) ** 0.5)


def deep_reps_procrustes(x: Tensor, y: Tensor) -> float:
    """Its distance at unit Frobenius norm is sqrt(2 - 2 nuclear norm)."""
    distance = peers.deep_reps("alignment_measures").orthogonal_procrustes(x / x.norm(), y / y.norm())
    return float(1 - distance**2 / 2)


def isoscore_star(x: Tensor, y: Tensor) -> Value:
    """Shrunk to the covariance of y; the library's own covariance divides by n - 1, xbridge's by n."""
    return similarity.isoscore_star(x, torch.cov(y.T, correction=0), zeta=0.3)


def dcor_unbiased(x: Tensor, y: Tensor) -> float:
    """Bias-corrected squared distance correlation."""
    return float(importlib.import_module("dcor").u_distance_correlation_sqr(x.numpy(), y.numpy()))


def dcor_biased(x: Tensor, y: Tensor) -> float:
    """Distance correlation."""
    return float(importlib.import_module("dcor").distance_correlation(x.numpy(), y.numpy()))


def isoscore_module() -> object:
    """`IsoScore.IsoScore`."""
    return importlib.import_module("IsoScore.IsoScore")


def as_float(value: object) -> float:
    """Of a zero-dimensional tensor."""
    return float(value)  # type: ignore[arg-type]


GIVEN = "float64; bandwidth = root of the median of all n^2 squared distances, given to xbridge as a number"
PLAIN = "float64, centred, unit scale"
EXACT = "indices equal; no ties"

ROWS: tuple[Row, ...] = (
    Row("linear CKA, unbiased", "pytorch-cka cka_from_features", "pytorch-cka", PLAIN, unbiased,
        lambda x, y: as_float(peers.pytorch_cka_features(x, y))),
    Row("linear CKA, unbiased", "ckatorch cka_base", "ckatorch", PLAIN, unbiased, peers.ckatorch_pair),
    Row("linear CKA, unbiased", "cka-pytorch, one batch", "cka-pytorch", f"{PLAIN}; epsilon=0", unbiased,
        lambda x, y: as_float(peers.cka_pytorch_batches([x], [y], len(x), epsilon=0.0))),
    Row("linear CKA, unbiased", "torch_cka, one batch", "torch_cka", PLAIN, unbiased,
        lambda x, y: as_float(peers.torch_cka_batches([x], [y], len(x)))),
    Row("linear CKA, unbiased, 3 x 3 layers", "pytorch-cka cka_from_features", "pytorch-cka",
        f"{PLAIN}; estimates below 0 aside (it clamps)",
        lambda x, y: similarity.cka_matrix(*layers(x, y)).clip(0, 1),
        lambda x, y: peers.pytorch_cka_features(*layers(x, y))),
    Row("linear CKA, biased", "ckatorch cka_base", "ckatorch", PLAIN, biased,
        lambda x, y: peers.ckatorch_pair(x, y, unbiased=False)),
    Row("linear CKA, biased", "ckatorch cka_base(method='hsic')", "ckatorch", PLAIN, biased,
        lambda x, y: peers.ckatorch_pair(x, y, unbiased=False, method="hsic")),
    Row("linear CKA, biased", "rsatoolbox compare('cosine_cov')", "rsatoolbox",
        f"{PLAIN}; whitened RDM similarity is linear CKA (Diedrichsen et al., 2020)", biased,
        lambda x, y: peers.rsatoolbox_compare(x, y, "cosine_cov")),
    Row("linear CKA, biased", "deep-reps centered_kernel_alignment", "deep-reps", f"{PLAIN} (not off centre)",
        lambda x, y: biased(*_first(x, y)),
        lambda x, y: float(peers.deep_reps("rsm_measures").centered_kernel_alignment(*_first(x, y)))),
    Row("linear CKA, minibatch", "pytorch-cka compute_cka", "pytorch-cka", PLAIN, minibatch,
        lambda x, y: as_float(peers.pytorch_cka_batches([x], [y], BATCH))),
    Row("linear CKA, minibatch", "cka-pytorch CKACalculator", "cka-pytorch", f"{PLAIN}; epsilon=0", minibatch,
        lambda x, y: as_float(peers.cka_pytorch_batches([x], [y], BATCH, epsilon=0.0))),
    Row("linear CKA, minibatch", "torch_cka CKA", "torch_cka", PLAIN, minibatch,
        lambda x, y: as_float(peers.torch_cka_batches([x], [y], BATCH))),
    Row("linear CKA, minibatch", "ckatorch cka_batch", "ckatorch", PLAIN, minibatch,
        lambda x, y: peers.ckatorch_batch(x, y, BATCH)),
    Row("RBF CKA, unbiased", "ckatorch cka_base", "ckatorch", GIVEN, rbf("unbiased"),
        lambda x, y: peers.ckatorch_pair(x, y, kernel="rbf")),
    Row("RBF CKA, biased", "ckatorch cka_base", "ckatorch", GIVEN, rbf("biased"),
        lambda x, y: peers.ckatorch_pair(x, y, kernel="rbf", unbiased=False)),
    Row("RBF CKA, unbiased", "pytorch-ignite HSIC, ratio of three", "pytorch-ignite", f"{GIVEN}; one batch",
        rbf("unbiased"), lambda x, y: peers.ignite_rbf_cka(x, y, widths(x, y))),
    Row("RBF CKA, unbiased", "pykeops reductions", "pykeops", GIVEN, rbf("unbiased"),
        lambda x, y: peers.keops_rbf_cka(x, y, widths(x, y))),
    Row("RSA, Pearson of squared distances", "rsatoolbox compare('corr')", "rsatoolbox", PLAIN, similarity.rsa,
        lambda x, y: peers.rsatoolbox_compare(x, y, "corr")),
    Row("RSA, Pearson of distances", "scipy pdist", "scipy", PLAIN,
        lambda x, y: similarity.rsa(x, y, distance="euclidean"), pearson_of_distances("euclidean")),
    Row("RSA, Pearson of cosine distances", "scipy pdist", "scipy", PLAIN,
        lambda x, y: similarity.rsa(x, y, distance="cosine"), pearson_of_distances("cosine")),
    Row("RSA, Spearman", "rsatoolbox compare('spearman')", "rsatoolbox", PLAIN, similarity.rsa_spearman,
        lambda x, y: peers.rsatoolbox_compare(x, y, "spearman")),
    Row("RSA, Spearman", "scipy spearmanr", "scipy", PLAIN, similarity.rsa_spearman, spearman_of_distances),
    Row("normalised Bures", "rsatoolbox compare('bures')", "rsatoolbox",
        f"{PLAIN}; 20 rows: it takes roots of eigenvalues, of which a kernel of low rank has many near 0",
        lambda x, y: similarity.normalised_bures(x[:20], y[:20]),
        lambda x, y: peers.rsatoolbox_compare(x[:20], y[:20], "bures")),
    Row("distance correlation, bias-corrected", "dcor u_distance_correlation_sqr", "dcor", PLAIN,
        similarity.distance_correlation, dcor_unbiased),
    Row("distance correlation, biased", "dcor distance_correlation", "dcor", PLAIN,
        lambda x, y: similarity.distance_correlation(x, y, estimator="biased"), dcor_biased),
    Row("CCA, mean correlation", "scipy subspace_angles", "scipy", PLAIN, similarity.cca, mean_of_angles),
    Row("CCA, mean correlation", "deep-reps compute_standard_cca", "deep-reps", f"{PLAIN}; full rank, equal widths",
        similarity.cca, lambda x, y: float(peers.deep_reps("cca_measures").compute_standard_cca(x, y))),
    Row("Procrustes", "scipy procrustes", "scipy", PLAIN, similarity.procrustes, scipy_procrustes),
    Row("Procrustes", "deep-reps orthogonal_procrustes", "deep-reps", f"{PLAIN}; unit Frobenius norm",
        similarity.procrustes, deep_reps_procrustes),
    Row("linear regression R^2", "scikit-learn LinearRegression", "scikit-learn", PLAIN, similarity.linear_r2,
        lambda x, y: sklearn_r2(x, y, 0.0)),
    Row("linear regression R^2", "deep-reps aligned_linear_regression", "deep-reps", PLAIN, similarity.linear_r2,
        lambda x, y: float(peers.deep_reps("alignment_measures").aligned_linear_regression(y, x))),
    Row("ridge regression R^2", "scikit-learn Ridge", "scikit-learn", PLAIN,
        lambda x, y: similarity.linear_r2(x, y, ridge=0.1), lambda x, y: sklearn_r2(x, y, 0.1)),
    Row("RBF MMD^2, biased", "scikit-learn rbf_kernel", "scikit-learn", f"{PLAIN}; width 1",
        lambda x, y: similarity.squared_mmd(x, y, estimator="biased", bandwidth=1.0), sklearn_mmd),
    Row("mean cosine", "scikit-learn cosine_similarity", "scikit-learn", "float64, off centre",
        lambda x, y: similarity.mean_cosine(y + x[0]), sklearn_mean_cosine),
    Row("principal variances", "scikit-learn PCA", "scikit-learn", PLAIN,
        lambda x, y: similarity.spectrum(x) * len(x) / (len(x) - 1),
        lambda x, y: importlib.import_module("sklearn.decomposition").PCA().fit(x.numpy()).explained_variance_),
    Row("IsoScore", "IsoScore IsoScore", "IsoScore", PLAIN, lambda x, y: similarity.isoscore(x),
        lambda x, y: as_float(isoscore_module().IsoScore(x))),  # type: ignore[attr-defined]
    Row("IsoScore*", "IsoScore IsoScore_star", "IsoScore", f"{PLAIN}; zeta 0.3", isoscore_star,
        lambda x, y: as_float(isoscore_module().IsoScore_star(x, torch.cov(y.T), 0.3))),  # type: ignore[attr-defined]
    Row("k nearest, cosine", "scikit-learn NearestNeighbors", "scikit-learn", EXACT, cosine_neighbours,
        sklearn_neighbours("cosine")),
    Row("k nearest, Euclidean", "scikit-learn NearestNeighbors", "scikit-learn", EXACT,
        lambda x, y: similarity.nearest(x, y, K, metric="euclidean")[1], sklearn_neighbours("euclidean")),
    Row("k nearest, cosine", "faiss IndexFlatIP", "faiss-cpu", f"float32 unit rows; {EXACT}", cosine_neighbours,
        lambda x, y: peers.faiss_inner_product(unit_rows(x), unit_rows(y), K)[1]),
)  # fmt: skip


def main() -> None:
    """Run every row and write the matrix; SystemExit where a row disagrees."""
    found = peers.installed_versions()
    missing = sorted({row.distribution for row in ROWS} - set(found))
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}; run: make agreement")
    rows = []
    for row in ROWS:
        facts = asdict(row)
        del facts["ours"], facts["theirs"]
        rows.append({**facts, "version": found[row.distribution], "max_difference": row.difference()})
    write_json(
        RESULTS,
        {
            "command": "make agreement",
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "bound": BOUND,
            "machine": machine(),
            "versions": {**versions(), **found},
            "rows": rows,
        },
    )
    header = ("measure", "peer", "version", "regime", "largest difference")
    keys = ("measure", "peer", "version", "regime", "max_difference")
    print(markdown(header, [[_shown(row[key]) for key in keys] for row in rows]))
    wrong = [f"{row['measure']}: {row['peer']}" for row in rows if not row["max_difference"] <= BOUND]
    if wrong:
        raise SystemExit(f"differ by more than {BOUND}: {'; '.join(wrong)}")


def _shown(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.0e}" if value else "0"


if __name__ == "__main__":
    main()
