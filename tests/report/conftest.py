"""One synthetic study and its report, shared by the tests that only read them."""

from pathlib import Path

import pytest
from report_study import make_study

from xbridge.report import page


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> page.Inputs:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def report(inputs: page.Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    page.run(page.Config(), inputs, out)
    return out
