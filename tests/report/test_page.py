"""The page: whole, self-contained, escaped, the same on every run, and true to its inputs."""

import csv
import filecmp
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from report_study import make_study

from xbridge.core.errors import UserError
from xbridge.core.files import read_json, read_rows, write_json
from xbridge.report import page, svg
from xbridge.report.document import Figure, Panel
from xbridge.report.load import load
from xbridge.report.sections.training import binned
from xbridge.report.sections.weights import matrix_type

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects what the tests ask about and checks that tags balance."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._note(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "action", "data", "poster", "srcset"):
                self.references.append(value or "")


def parse(path: Path) -> Page:
    parser = Page()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    return parser


def table(report: Path, name: str) -> list[dict[str, str]]:
    with (report / "data" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_tags_balance_and_ids_are_unique(report: Path) -> None:
    parsed = parse(report / "index.html")
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))


def test_the_page_needs_nothing_from_outside(report: Path) -> None:
    parsed = parse(report / "index.html")
    outside = [r for r in parsed.references if not r.startswith("#")]
    assert set(outside) == {"https://arxiv.org/abs/2403.16777"}
    assert not parsed.tags & {"script", "img", "iframe", "object", "embed", "link", "video", "audio"}
    text = (report / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import", text)
    assert {r[1:] for r in parsed.references if r.startswith("#")} <= set(parsed.ids)


def test_the_page_is_light(report: Path) -> None:
    assert (report / "index.html").stat().st_size < 2_000_000


def test_figures_are_valid_alone_and_follow_both_themes(report: Path) -> None:
    figures = sorted((report / "figures").glob("*.svg"))
    assert len(figures) >= 10
    for figure in figures:
        root = ElementTree.parse(figure).getroot()  # noqa: S314  (our own file)
        assert root.find("{http://www.w3.org/2000/svg}title") is not None
        text = figure.read_text(encoding="utf-8")
        assert "prefers-color-scheme: dark" in text
        assert "#0102" not in text, "a placeholder colour is left"
        assert (report / "data" / f"{figure.stem}.csv").exists()


def test_numbers_on_axes_are_not_cut() -> None:
    panel = Panel("", "ticks", lambda axes: axes.set_xticks([0.025, 0.0375]))
    (drawing,) = svg.draw(Figure("ticks", "", "", [panel], []))
    assert ">0.0250<" in drawing.body
    assert ">0.0375<" in drawing.body


def test_every_drawing_on_the_page_has_a_name(report: Path) -> None:
    text = (report / "index.html").read_text(encoding="utf-8")
    for tag in re.findall(r"<svg[^>]*>", text):
        assert 'role="img"' in tag or 'aria-hidden="true"' in tag


def test_two_runs_give_the_same_bytes(inputs: page.Inputs, tmp_path: Path) -> None:
    smaller = replace(inputs, comparison=None, spectra={}, separability={})
    for name in ("first", "second"):
        page.run(page.Config(), smaller, tmp_path / name)
    first, second = tmp_path / "first", tmp_path / "second"
    files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
    assert filecmp.cmpfiles(first, second, files, shallow=False) == (files, [], [])


def test_headline_csv_holds_the_transfer_tables_numbers(inputs: page.Inputs, report: Path) -> None:
    assert inputs.transfer is not None
    expected = {
        (r["task"], r["mode"], r["arm"]): r
        for r in read_rows(inputs.transfer / "transfer.parquet")
        if r["target_lang"] == "zero-shot"
        and (r["metric"], r["site"]) in {("macro_accuracy", ""), ("span_f1", ""), ("centred_margin", "encoder.3")}
    }
    rows = table(report, "headline")
    assert len(rows) == len(expected) == 20
    for row in rows:
        source = expected[row["task"], row["mode"], row["arm"]]
        assert float(row["value"]) == source["value"]
        if row["arm"] != "denoise":
            assert [float(row[k]) for k in ("difference", "ci_low", "ci_high", "p_holm")] == [
                source[k] for k in ("difference", "ci_low", "ci_high", "p_holm")
            ]


def test_transfer_csv_is_the_whole_transfer_table(inputs: page.Inputs, report: Path) -> None:
    assert inputs.transfer is not None
    source = read_rows(inputs.transfer / "transfer.parquet")
    rows = table(report, "transfer")
    assert sorted(float(r["value"]) for r in rows) == sorted(r["value"] for r in source)


def test_difference_csv_gives_each_training_seed(inputs: page.Inputs, report: Path) -> None:
    assert inputs.transfer is not None
    seeds = [
        r
        for r in read_rows(inputs.transfer / "seeds.parquet")
        if (r["task"], r["mode"], r["metric"], r["target_lang"])
        == ("intents", "finetune", "macro_accuracy", "zero-shot")
    ]
    row = next(
        r for r in table(report, "differences") if (r["task"], r["mode"], r["arm"]) == ("intents", "finetune", "mt")
    )
    for seed in (0, 1):
        ours, theirs = (
            [r["value"] for r in seeds if (r["arm"], r["train_seed"]) == (arm, seed)] for arm in ("mt", "denoise")
        )
        expected = sum(ours) / len(ours) - sum(theirs) / len(theirs)
        assert float(row[f"difference_seed_{seed}"]) == pytest.approx(expected, abs=1e-12)


def test_loss_csv_averages_consecutive_steps(inputs: page.Inputs, report: Path) -> None:
    curve = [r for r in table(report, "training-loss") if r["model"] == "mt-s1"]
    training = next(t for t in load(inputs).trainings if t.model == "mt-s1")
    width = math.ceil(800 / 60)
    first = [line["loss"] for line in training.steps[:width]]
    assert float(curve[0]["loss"]) == pytest.approx(sum(first) / width)
    assert int(curve[-1]["total_nonpad_tokens"]) == training.steps[-1]["total_nonpad_tokens"]
    assert sum(int(r["num_steps"]) for r in curve) == 800


def test_bins_cover_every_step_once() -> None:
    lines = [{"total_nonpad_tokens": 10 * i, "loss": float(i)} for i in range(1, 8)]
    assert binned(lines, points=3) == [(30, 2.0, 3), (60, 5.0, 3), (70, 7.0, 1)]


def test_training_csv_counts_tokens(report: Path, inputs: page.Inputs) -> None:
    row = next(r for r in table(report, "training") if r["model"] == "denoise-s0")
    last = next(t for t in load(inputs).trainings if t.model == "denoise-s0").steps[-1]
    assert [int(row[k]) for k in ("steps", "padded", "nonpad", "supervised")] == [
        last[k] for k in ("step", "total_padded_tokens", "total_nonpad_tokens", "total_tokens")
    ]


def test_similarity_csvs_keep_every_pair_with_its_standard_error(inputs: page.Inputs, report: Path) -> None:
    assert inputs.comparison is not None
    source = read_rows(inputs.comparison / "similarity.parquet")
    models = table(report, "similarity-models-cka-unbiased")
    languages = table(report, "similarity-languages-cka-unbiased")
    assert len(models) + len(languages) == len(source)
    assert {float(r["stderr"]) for r in models + languages} == {0.012}
    assert sum(float(r["value"]) for r in models + languages) == pytest.approx(sum(r["value"] for r in source))


def test_weight_csv_averages_layers_then_models(inputs: page.Inputs, report: Path) -> None:
    row = next(
        r
        for r in table(report, "weights")
        if (r["quantity"], r["arm"], r["matrix_type"]) == ("Relative change", "mt", "encoder self-attention q")
    )
    assert float(row["value"]) == pytest.approx((0.30 + 0.304) / 2)
    assert [float(row["seed_min"]), float(row["seed_max"])] == pytest.approx([0.30, 0.304])


def test_spectra_csv_keeps_every_singular_value(inputs: page.Inputs, report: Path) -> None:
    rows = [r for r in table(report, "spectra") if (r["matrix_type"], r["arm"]) == ("encoder fc1", "base")]
    source = [
        r["singular_values"]
        for r in read_rows(inputs.spectra["base"] / "spectra.parquet")
        if r["matrix"] == "encoder.0.fc1"
    ]
    assert [float(r["singular_value"]) for r in rows] == pytest.approx(source[0])


def test_separability_csv_keeps_every_value(inputs: page.Inputs, report: Path) -> None:
    sources = [r for path in inputs.separability.values() for r in read_rows(path / "separability.parquet")]
    assert sorted(float(r["value"]) for r in table(report, "separability")) == sorted(r["value"] for r in sources)


def test_retrieval_csv_splits_scores_by_near_duplicates(inputs: page.Inputs, report: Path) -> None:
    assert inputs.corpus is not None
    jaccard = {r["id"]: r["jaccard"] for r in read_rows(inputs.corpus / "near_duplicates.parquet")}
    hits = [
        (r["forward_hit"] + r["backward_hit"]) / 2
        for model in ("mt-s0", "mt-s1")
        for file in sorted((inputs.evaluations[f"retrieval-{model}"] / "predictions").glob("*.parquet"))
        for r in read_rows(file)
        if r["margin"] == "centred_margin" and jaccard[r["id"]] < 0.4
    ]
    row = next(r for r in table(report, "retrieval-near-duplicates") if r["arm"] == "mt")
    assert float(row["below 0.4"]) == pytest.approx(sum(hits) / len(hits))
    assert int(row["n below 0.4"]) == len(hits) / 2


def test_translation_csv_averages_seeds(report: Path) -> None:
    rows = {(r["metric"], r["arm"], r["target_lang"]): r for r in table(report, "translation")}
    assert float(rows["chrf_from_pivot", "mt", "deu_Latn"]["value"]) == pytest.approx(21.45)
    assert float(rows["bleu_to_pivot", "mt_shuffled", "deu_Latn"]["value"]) == pytest.approx(1.65)
    assert float(rows["chrf_from_pivot", "copy", "zho_Hans"]["value"]) == 9.5


def test_markdown_has_the_same_sentences_tables_and_figures(report: Path) -> None:
    text = (report / "report.md").read_text(encoding="utf-8")
    shown = parse(report / "index.html").text
    lead = "Here mt is higher than denoise in 2 of 3 zero-shot readings"
    assert lead in text
    assert lead in shown
    for figure in (report / "figures").glob("*.svg"):
        assert f"(figures/{figure.name})" in text
    for line in text.splitlines():
        for target in re.findall(r"\]\((?!http)([^)]+)\)", line):
            assert (report / target).exists()


def test_data_is_escaped_everywhere(tmp_path: Path) -> None:
    arm = 'mt"><script>alert(1)</script>&$x_1$'
    inputs = make_study(tmp_path / "study", num_languages=3, arms=("denoise", "mt"), seeds=(0,))
    inputs = replace(inputs, comparison=None, spectra={})
    lock = read_json(tmp_path / "study" / "study.lock.json")
    write_json(tmp_path / "study" / "study.lock.json", {**lock, "question": f"Is {arm} | *better*?"})
    for path in inputs.trainings.values():
        manifest = read_json(path / "manifest.json")
        if manifest["labels"]["arm"] == "mt":
            manifest["labels"]["arm"] = arm
            write_json(path / "manifest.json", manifest)
    page.run(page.Config(), inputs, tmp_path / "report")
    parsed = parse(tmp_path / "report" / "index.html")
    assert "script" not in parsed.tags
    assert f"Is {arm} | *better*?" in parsed.text
    for figure in (tmp_path / "report" / "figures").glob("*.svg"):
        ElementTree.parse(figure)  # noqa: S314  (our own file)
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert r"\| \*better\*?" in text


def test_a_study_that_ran_nothing_says_so(inputs: page.Inputs, tmp_path: Path) -> None:
    page.run(page.Config(), page.Inputs(study=inputs.study), tmp_path)
    parsed = parse(tmp_path / "index.html")
    assert parsed.open == []
    assert parsed.text.count("Not run in this study") == 8
    assert "this study does not answer the question" in parsed.text


FIELDS = (
    "trainings",
    "evaluations",
    "comparison",
    "spectra",
    "separability",
    "transfer",
    "corpus",
    "tokenizer",
    "taskdata",
)


@pytest.mark.parametrize("missing", FIELDS)
def test_any_one_input_may_be_missing(inputs: page.Inputs, missing: str) -> None:
    empty: Any = {} if isinstance(getattr(inputs, missing), dict) else None
    document = page.compose(page.Config(), load(replace(inputs, **{missing: empty})))
    assert [s.name for s in document.sections][:2] == ["verdict", "transfer"]
    assert all(section.blocks for section in document.sections)


def test_limits_name_the_size_of_a_base_that_was_trained_here(report: Path) -> None:
    said = parse(report / "index.html").text
    assert "The base is a model of 2,200,000 parameters trained here from scratch on" in said
    assert "come from one domain" in said


def test_a_retrieval_only_study_does_not_claim_transfer(inputs: page.Inputs) -> None:
    study = load(inputs)
    only = [r for r in study.transfer if r["task"] == "retrieval"]
    document = page.compose(page.Config(), replace(study, transfer=only))
    said = str(document.sections[0])
    assert "does not answer the question" in said
    assert "alignment of sentence representations, not transfer" in said


def test_eight_arms_and_twelve_languages_fit(tmp_path: Path) -> None:
    arms = ("denoise", "mt_shuffled", "mt", "both", "an_arm_with_quite_a_long_name_of_its_own", "tlm")
    inputs = make_study(tmp_path / "study", num_languages=12, arms=arms)
    page.run(page.Config(), inputs, tmp_path / "report")
    assert (tmp_path / "report" / "index.html").stat().st_size < 2_000_000
    parsed = parse(tmp_path / "report" / "index.html")
    assert "an_arm_with_quite_a_long_name_of_its_own" in parsed.text
    assert "an_arm_w…_its_own" in parsed.text
    assert len({(s.token, s.marker, s.dash) for s in load(inputs).styles.values()}) == 8


def test_missing_matplotlib_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    figure = Figure("f", "", "", [Panel("", "nothing", lambda axes: None)], [])
    with pytest.raises(UserError, match=r"pip install 'xbridge-mt\[report\]'"):
        svg.draw(figure)


def test_a_folder_without_a_lock_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no study\.lock\.json"):
        page.run(page.Config(), page.Inputs(study=tmp_path), tmp_path / "report")


@pytest.mark.parametrize(
    ("matrix", "kind"),
    [
        ("encoder.11.self_attn.q", "encoder self-attention q"),
        ("decoder.0.cross_attn.out", "decoder cross-attention out"),
        ("encoder.2.fc1", "encoder fc1"),
        ("embedding", "embedding"),
        ("encoder.positions", "encoder positions"),
        ("model.decoder.layers.1.encoder_attn.k_proj.weight", "decoder cross-attention k"),
    ],
)
def test_matrix_types_drop_the_layer(matrix: str, kind: str) -> None:
    assert matrix_type(matrix) == kind
