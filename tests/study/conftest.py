"""The files of the toy study."""

from pathlib import Path

import pytest
from toy_study import write_toy_files


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with bitext.tsv and labels.tsv."""
    folder = tmp_path_factory.mktemp("toy")
    write_toy_files(folder)
    return folder
