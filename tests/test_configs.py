"""Every shipped config is one that its reader accepts."""

from pathlib import Path

import pytest

from xbridge.cli import main
from xbridge.core.config import canonical, parse
from xbridge.study.config import load_extended, load_study, merge
from xbridge.study.plan import Plan
from xbridge.training.train import Config

CONFIGS = Path(__file__).parent.parent / "configs"


def files(folder):
    return [pytest.param(path, id=path.stem) for path in sorted((CONFIGS / folder).glob("*.yaml"))]


@pytest.mark.parametrize("path", files("studies"))
def test_a_study_can_be_planned(path, tmp_path):
    study, data = load_study(path)
    assert Plan(study, data, tmp_path).nodes


@pytest.mark.parametrize("path", files("train"))
def test_a_training_can_be_shown_with_every_default(path, capsys):
    assert main(["config", "show", str(path)]) == 0
    assert "objective:" in capsys.readouterr().out


@pytest.mark.parametrize("path", files("zero"))
def test_a_zero_setting_goes_with_a_training_and_does_not_name_its_results(path):
    def config(data):
        return parse(Config, {key: value for key, value in data.items() if key not in ("stage", "inputs")})

    plain = load_extended(CONFIGS / "train" / "mbart50-mt.yaml")
    sharded = merge(plain, load_extended(path))
    assert config(sharded).zero.stage >= 2
    assert canonical(config(sharded), for_digest=True) == canonical(config(plain), for_digest=True)


@pytest.mark.parametrize("path", files("accelerate"))
def test_accelerate_reads_its_own(path):
    from accelerate.commands.config.config_args import load_config_from_file

    loaded = load_config_from_file(str(path))
    assert loaded.distributed_type == "MULTI_GPU"
    assert loaded.num_processes == 4 * loaded.num_machines


def test_later_files_of_extends_and_the_file_itself_win(tmp_path):
    (tmp_path / "a.yaml").write_text("optim: {lr: 1, eps: 2}\nseed: 1\n")
    (tmp_path / "b.yaml").write_text("optim: {lr: 3}\n")
    (tmp_path / "c.yaml").write_text("extends: [a.yaml, b.yaml]\nseed: 4\n")
    assert load_extended(tmp_path / "c.yaml") == {"optim": {"lr": 3, "eps": 2}, "seed": 4}
