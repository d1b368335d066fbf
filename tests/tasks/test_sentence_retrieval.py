"""Retrieval: hits by hand, and tables that can be read back."""

import gzip
from pathlib import Path

import pytest
import torch

from xbridge.core.config import parse
from xbridge.core.errors import UserError
from xbridge.core.files import read_rows, write_table
from xbridge.tasks import evaluate
from xbridge.tasks import sentence_retrieval as retrieval

TATOEBA = Path(__file__).parents[3] / "shared" / "data" / "tatoeba"


def unit(*degrees):
    angles = torch.tensor(degrees) * torch.pi / 180
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_cosine_finds_the_nearest_in_each_direction():
    # 0 <-> 5 degrees; 40's nearest target is 45; 80's nearest target is 45 too (35 away), not its own at 120 (40 away).
    source, target = unit(0.0, 40.0, 80.0), unit(5.0, 45.0, 120.0)
    forward, backward = retrieval.hits(source, target, "cosine", "ratio", 1)
    assert forward == [True, True, False]
    assert backward == [True, True, True]


def test_a_constant_offset_between_languages_is_removed_by_centring():
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(40, 8, generator=generator)
    target = source + 50 * torch.nn.functional.one_hot(torch.tensor(3), 8)
    assert sum(retrieval.hits(source, target, "cosine", "ratio", 4)[0]) <= 30
    assert retrieval.hits(source, target, "centred_cosine", "ratio", 4) == ([True] * 40, [True] * 40)
    assert retrieval.hits(source, target, "centred_margin", "ratio", 4) == ([True] * 40, [True] * 40)


def test_margin_discounts_a_hub():
    # Target 1 is the nearest of all three sources by cosine; the margin sees that it is near to everything.
    source, target = unit(0.0, 20.0, 40.0), unit(-21.0, 20.0, 61.0)
    assert retrieval.hits(source, target, "cosine", "ratio", 3)[0] == [False, True, False]
    assert retrieval.hits(source, target, "margin", "ratio", 3)[0] == [True, True, True]


def test_scores_are_the_means_of_the_stored_hits_and_chance_is_stated():
    config = parse(retrieval.Config, {"rules": ["cosine"]})
    pairs = retrieval.Pairs(["a", "b", "c"], "eng_Latn", ["", "", ""], ["", "", ""])
    states = {"encoder.0": unit(0.0, 40.0, 80.0)}, {"encoder.0": unit(5.0, 45.0, 120.0)}
    result = retrieval.score_language(config, "deu_Latn", pairs, *states)
    values = {(s.metric, s.predictor): s.value for s in result.scores}
    assert values["cosine", "model"] == pytest.approx(5 / 6)
    assert values["cosine_forward", "model"] == pytest.approx(2 / 3)
    assert values["cosine_backward", "model"] == 1.0
    assert values["cosine", "constant"] == pytest.approx(1 / 3)
    assert result.predictions.to_pylist()[2] == {
        "id": "c", "site": "encoder.0", "margin": "cosine", "forward_hit": False, "backward_hit": True,
    }  # fmt: skip


def write_pairs(folder, langs=("deu_Latn",), n=3):
    rows = [
        {"id": f"{lang}-{i}", "source_lang": "eng_Latn", "target_lang": lang, "source": f"s{i}", "target": f"t{i}"}
        for lang in langs
        for i in range(n)
    ]
    write_table(folder / "retrieval.parquet", rows)


def test_pairs_are_read_by_language_without_the_pivot(tmp_path):
    write_pairs(tmp_path, ("deu_Latn", "fra_Latn"))
    pairs = retrieval.load_pairs(tmp_path, ["eng_Latn", "fra_Latn"], 2)
    assert pairs == {"fra_Latn": retrieval.Pairs(["fra_Latn-0", "fra_Latn-1"], "eng_Latn", ["s0", "s1"], ["t0", "t1"])}


def test_missing_languages_and_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"has no retrieval\.parquet"):
        retrieval.load_pairs(tmp_path, None, None)
    write_pairs(tmp_path)
    with pytest.raises(UserError, match=r"retrieval\.parquet: has no pairs with fra_Latn; it has deu_Latn"):
        retrieval.load_pairs(tmp_path, ["fra_Latn"], None)
    write_pairs(tmp_path, n=1)
    with pytest.raises(UserError, match="deu_Latn has a single pair"):
        retrieval.load_pairs(tmp_path, None, None)


@pytest.mark.skipif(not TATOEBA.is_dir(), reason="needs the Tatoeba files of ../shared/data")
def test_letter_trigrams_beat_chance_on_tatoeba_spanish():
    def read(name):
        return gzip.decompress((TATOEBA / name).read_bytes()).decode("utf-8").splitlines()[:200]

    def trigrams(lines):
        table = torch.zeros(len(lines), 4096)
        for i, line in enumerate(lines):
            for j in range(len(line) - 2):
                table[i, sum(ord(c) * 97**k for k, c in enumerate(line[j : j + 3].lower())) % 4096] += 1
        return table

    source, target = (trigrams(read(f"tatoeba.spa-eng.{side}.gz")) for side in ("eng", "spa"))
    for rule in ("cosine", "margin", "centred_margin"):
        forward, backward = retrieval.hits(source, target, rule, "ratio", 4)
        assert 10 / 200 < (sum(forward) + sum(backward)) / 400 < 0.9


def test_the_stage_scores_every_layer_and_states_chance(tiny_model, tmp_path):
    rows = [
        {"id": f"{i}", "source_lang": "eng_Latn", "target_lang": "deu_Latn", "source": s, "target": t}
        for i, (s, t) in enumerate([("red light", "rotes Licht"), ("blue", "blau"), ("turn it off", "schalte aus")])
    ]
    write_table(tmp_path / "corpus" / "retrieval.parquet", rows)
    for out, size in (("a", 1), ("b", 100)):
        config = parse(evaluate.Config, {"task": "sentence_retrieval", "batch_size": size})
        evaluate.run(config, evaluate.Inputs(model=tiny_model, data=tmp_path / "corpus"), tmp_path / out)
    scores = read_rows(tmp_path / "a" / "scores.parquet")
    assert {row["site"] for row in scores} == {"encoder.0", "encoder.1", "encoder.2"}
    assert {row["value"] for row in scores if row["predictor"] == "constant"} == {1 / 3}
    hits = read_rows(tmp_path / "a" / "predictions" / "deu_Latn.parquet")
    assert hits == read_rows(tmp_path / "b" / "predictions" / "deu_Latn.parquet")
    for score in scores:
        if score["predictor"] == "model" and score["metric"] == "centred_margin":
            own = [h for h in hits if h["site"] == score["site"] and h["margin"] == "centred_margin"]
            both = sum(h["forward_hit"] + h["backward_hit"] for h in own)
            assert score["value"] == pytest.approx(both / 6)
