"""xbridge against other libraries: the same numbers where they are right, and a page that says where they are not.

Rows whose library is not installed are skipped; `make agreement` builds an environment that has them all.
"""

import importlib
import math
from fractions import Fraction
from importlib import metadata
from itertools import permutations
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def benchmarks_can_be_imported():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield


def module(name):
    return importlib.import_module(f"benchmarks.similarity.{name}")


with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT))
    ROWS = module("agreement").ROWS


def is_installed(distribution):
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_xbridge_gives_the_number_of_a_peer_where_the_peer_is_right(row):
    if not is_installed(row.distribution):
        pytest.skip(f"{row.distribution} is not installed (make agreement)")
    assert row.difference() <= module("agreement").BOUND


def test_rows_of_the_agreement_matrix_have_distinct_names():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)


def hsic_1(kernel, other):
    """Song et al. (2012), equation 5, entry by entry in exact arithmetic."""
    n = len(kernel)
    pairs = list(permutations(range(n), 2))
    product = sum(kernel[i][j] * other[i][j] for i, j in pairs)
    totals = sum(kernel[i][j] for i, j in pairs) * sum(other[i][j] for i, j in pairs)
    rows = sum(
        sum(kernel[i][j] for j in range(n) if j != i) * sum(other[i][j] for j in range(n) if j != i) for i in range(n)
    )
    return (product + Fraction(totals, (n - 1) * (n - 2)) - Fraction(2 * rows, n - 2)) / (n * (n - 3))


def exact_gram(rows):
    return [[sum(a * b for a, b in zip(left, right, strict=True)) for right in rows] for left in rows]


def small_integers(n, d, offset):
    generator = torch.Generator().manual_seed(n + d)
    return (torch.randint(-9, 10, (n, d), generator=generator) + offset).tolist()


@pytest.mark.parametrize("offset", [0, 1_000_000])
def test_the_reference_is_exact_to_rounding_against_rational_arithmetic(offset):
    x, y = small_integers(9, 3, offset), small_integers(9, 5, offset)
    K, L = exact_gram(x), exact_gram(y)
    truth = float(hsic_1(K, L)) / math.sqrt(float(hsic_1(K, K)) * float(hsic_1(L, L)))
    value = module("reference").linear_cka(torch.tensor(x).double(), torch.tensor(y).double())
    assert abs(value - truth) < 1e-14


def test_the_minibatch_reference_with_one_batch_is_the_unbiased_one():
    x, y = module("sets").gauss(40, 6)
    reference = module("reference")
    assert abs(reference.minibatch_cka(x, y, 40) - reference.linear_cka(x, y)) < 1e-15


def test_offsets_of_the_stress_sets_are_what_their_names_say():
    sets = module("sets")
    for ratio in (1.7, 50.0):
        for layer in sets.states(2000, 64, ratio=ratio):
            mean, spread = layer.mean(0), layer - layer.mean(0)
            assert float(mean.norm() / spread.square().sum(1).mean().sqrt()) == pytest.approx(ratio, rel=0.1)


def results(name):
    path = ROOT / "benchmarks" / "results" / f"similarity-{name}.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not there yet (make agreement)")
    return importlib.import_module("xbridge.core.files").read_json(path)


def test_the_committed_agreement_matrix_holds_every_row_within_the_bound():
    found = {f"{row['measure']}: {row['peer']}": row["max_difference"] for row in results("agreement")["rows"]}
    assert set(found) == {row.name for row in ROWS}
    assert max(found.values()) <= module("agreement").BOUND


def test_the_page_shows_the_numbers_of_the_committed_results():
    stress, committed = module("stress"), results("stress")
    assert stress.page_block(committed) in stress.PAGE.read_text(encoding="utf-8")


def test_the_committed_results_cover_every_stress_set_and_xbridge_is_right_on_all():
    stress = results("stress")
    names = [one.name for one in module("sets").STRESS_SETS]
    for problem in stress["problems"]:
        assert [row["set"] for row in problem["rows"]] == names
        for row in problem["rows"]:
            ours = {name: answer for name, answer in row["answers"].items() if name.startswith("xbridge ")}
            assert ours
            wrong = {name: answer for name, answer in ours.items() if not abs(answer.get("error", math.inf)) <= 1e-6}
            assert not wrong, (problem["name"], row["set"])
