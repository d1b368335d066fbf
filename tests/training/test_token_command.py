"""`xbridge tokens`: what a training reads is there before it starts."""

import re
import textwrap
from pathlib import Path

import pytest
import yaml
from tiny_training import DEFAULTS

from xbridge.cli import main
from xbridge.core.config import parse, parse_yaml
from xbridge.training.train import Config

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "bitext-at-scale.md"


@pytest.fixture
def training(toy_corpus, toy_tokenizer_folder, tmp_path):
    inputs = {"corpus": str(toy_corpus), "tokenizer": str(toy_tokenizer_folder / "tokenizer")}
    file = tmp_path / "mt.yaml"
    file.write_text(yaml.safe_dump({**DEFAULTS, "inputs": inputs}), encoding="utf-8")
    return file


def test_the_tasks_of_an_array_job_make_the_store_that_the_training_reads(training, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in (2, 1):
        assert main(["tokens", str(training), "--part", f"{part}/2"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    store = tmp_path / line
    assert store.parent == tmp_path / "runs" / "tokens"
    before = store.stat().st_mtime_ns
    assert main(["train", str(training), "validation_rows=0"]) == 0
    assert [path.name for path in store.parent.iterdir()] == [store.name]
    assert store.stat().st_mtime_ns == before
    assert "tokens strings" not in capsys.readouterr().err


@pytest.mark.parametrize("part", ["0/4", "5/4", "3", "a/b"])
def test_a_part_that_does_not_exist_is_refused(training, part, capsys):
    assert main(["tokens", str(training), "--part", part]) == 2
    assert f"--part {part}: write it as k/n" in capsys.readouterr().err


def test_the_settings_of_the_page_are_settings():
    blocks = re.findall(r"(?:^    .*\n)+", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    whole, corpora = (parse_yaml(textwrap.dedent(block), PAGE.name) for block in blocks[:2])
    del whole["stage"], whole["inputs"], corpora["inputs"]
    assert parse(Config, {**whole, **corpora}).corpora.temperature == 2
    for line in blocks[-1].splitlines():
        parse(Config, {**whole, **parse_yaml(line.strip(), PAGE.name)})
