"""Documentation that cannot rot unseen: links lead somewhere, and example configs load."""

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from xbridge.cli import _parse
from xbridge.similarity.properties import describe
from xbridge.study.config import load_study

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def anchors_of(text):
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings(page):
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target.read_text(encoding="utf-8")), f"{link}: no such heading"


COMMAND = re.compile(r"^    (?:\.venv/bin/)?xbridge (.+)$", flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_in_the_documentation_are_commands(page):
    for words in COMMAND.findall(page.read_text(encoding="utf-8")):
        arguments = shlex.split(
            words.partition(" #")[0].replace("plan|run|status", "plan").replace("[", "").replace("]", "")
        )
        _parse(arguments)


def test_the_study_of_your_own_corpus_is_a_study(tmp_path):
    text = (ROOT / "docs" / "how-to" / "own-corpus.md").read_text(encoding="utf-8")
    block = re.search(r"((?:^    .*\n)+)", text, flags=re.MULTILINE).group(1)
    study = textwrap.dedent(block).replace("quickstart.yaml", str(ROOT / "configs" / "studies" / "quickstart.yaml"))
    (tmp_path / "mine.yaml").write_text(study, encoding="utf-8")
    loaded, _ = load_study(tmp_path / "mine.yaml")
    assert loaded.study == "mine"
    assert list(loaded.tasks) == ["retrieval", "translation"]
    assert [source["type"] for source in loaded.corpus["sources"]] == ["text", "tsv"]


def test_the_table_of_measures_is_the_declared_one():
    assert describe().strip() in (ROOT / "docs" / "reference" / "measures.md").read_text(encoding="utf-8")
