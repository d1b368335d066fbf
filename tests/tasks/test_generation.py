"""Translation: directions, samples, floors and signatures; and a model that has learnt five sentences says them."""

import dataclasses

import pytest
import torch

from xbridge.activations.encoder import Encoder
from xbridge.core.config import parse
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_json, read_rows, write_table
from xbridge.tasks import evaluate, generation

PAIRS = [("red", "rot"), ("blue", "blau"), ("green", "grün"), ("turn on", "schalte an"), ("light", "licht ist")]


@pytest.fixture
def corpus(tmp_path):
    rows = [
        {
            "id": f"{split}{i}",
            "split": split,
            "source_lang": "eng_Latn",
            "target_lang": "deu_Latn",
            "source": english,
            "target": german,
        }
        for split in ("train", "test")
        for i, (english, german) in enumerate(PAIRS)
    ]
    write_table(tmp_path / "corpus" / "bitext.parquet", rows)
    return tmp_path / "corpus"


def test_directions_and_their_references():
    pairs = generation.Pairs(["1"], "eng_Latn", ["red"], ["rot"])
    assert generation.oriented(pairs, "deu_Latn", "from_pivot") == ("eng_Latn", "deu_Latn", ["red"], ["rot"])
    assert generation.oriented(pairs, "deu_Latn", "to_pivot") == ("deu_Latn", "eng_Latn", ["rot"], ["red"])


def test_only_test_pairs_are_read_and_a_sample_is_always_the_same(corpus):
    pairs = generation.load_pairs(corpus, None, None)["deu_Latn"]
    assert pairs.ids == [f"test{i}" for i in range(5)]
    sample = generation.load_pairs(corpus, ["eng_Latn", "deu_Latn"], 2)["deu_Latn"]
    assert sample == generation.load_pairs(corpus, None, 2)["deu_Latn"]
    assert len(sample.ids) == 2


def test_scores_name_direction_and_signature_and_the_copy_is_the_floor():
    pairs = generation.Pairs(["1", "2"], "eng_Latn", ["red light", "Wi-Fi 7"], ["rotes Licht", "Wi-Fi 7"])
    said = {"from_pivot": ["rotes Licht", "Wi-Fi 7"]}
    result = generation.score_language("deu_Latn", pairs, said, ["chrf", "chrf++", "bleu"])
    values = {(s.metric, s.predictor): s.value for s in result.scores}
    assert values["chrf_from_pivot", "model"] == pytest.approx(100)
    assert 0 < values["chrf_from_pivot", "copy"] < 100
    assert "nw:0" in result.facts["signatures"]["chrf_from_pivot"]
    assert "nw:2" in result.facts["signatures"]["chrf++_from_pivot"]
    assert result.predictions.to_pylist()[0] == {
        "id": "1", "direction": "from_pivot", "source": "red light", "reference": "rotes Licht",
        "hypothesis": "rotes Licht",
    }  # fmt: skip


def test_lower_case_scores_fold_both_sides_and_say_so():
    pairs = generation.Pairs(["1"], "eng_Latn", ["red"], ["Rotes Licht an der Tür"])
    said = {"from_pivot": ["rotes licht an der tür"]}
    cased = generation.score_language("deu_Latn", pairs, said, ["chrf", "bleu"])
    folded = generation.score_language("deu_Latn", pairs, said, ["chrf", "bleu"], lowercase=True)
    values = [{(s.metric, s.predictor): s.value for s in result.scores} for result in (cased, folded)]
    assert values[0]["chrf_from_pivot", "model"] < 100
    assert values[1]["chrf_from_pivot", "model"] == pytest.approx(100)
    assert values[1]["bleu_from_pivot", "model"] == pytest.approx(100)
    assert "case:lc" in folded.facts["signatures"]["bleu_from_pivot"]


def test_a_model_that_learnt_five_sentences_by_heart_translates_them(tiny_model, corpus, tmp_path):
    encoder = Encoder.open(tiny_model)
    source = encoder.batch(encoder.rows([s for s, _ in PAIRS], "eng_Latn"))
    target = encoder.batch(encoder.rows([t for _, t in PAIRS], "deu_Latn")).decoder
    ends = torch.full((5, 1), 1)
    labels = torch.cat([target[:, 1:], ends], dim=1)
    labels[torch.arange(5), (labels != 1).sum(dim=1)] = 2
    optimizer = torch.optim.AdamW(encoder.model.parameters(), lr=5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        scores = encoder.model(
            input_ids=source.ids, attention_mask=source.attention.long(), decoder_input_ids=target
        ).logits
        torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=1).backward()
        optimizer.step()
    encoder.save(tmp_path / "model")

    config = parse(evaluate.Config, {"task": {"type": "generation", "max_pairs": None, "directions": ["from_pivot"]}})
    for out, size in (("a", 2), ("b", 100)):
        evaluate.run(
            dataclasses.replace(config, batch_size=size), evaluate.Inputs(model=tmp_path, data=corpus), tmp_path / out
        )
    rows = read_rows(tmp_path / "a" / "predictions" / "deu_Latn.parquet")
    assert [row["hypothesis"] for row in rows] == [german.lower() for _, german in PAIRS]
    assert rows == read_rows(tmp_path / "b" / "predictions" / "deu_Latn.parquet")
    scores = {(r["metric"], r["predictor"]): r["value"] for r in read_rows(tmp_path / "a" / "scores.parquet")}
    assert scores["chrf_from_pivot", "model"] > 80 > scores["chrf_from_pivot", "copy"]
    summary = read_json(tmp_path / "a" / "summary.json")
    assert summary["metrics"]["chrf_from_pivot"] == {"higher_is_better": True, "scale": 100}
    assert "tok:13a" in summary["languages"]["deu_Latn"]["signatures"]["bleu_from_pivot"]


def test_what_is_missing_is_named(corpus, tmp_path):
    with pytest.raises(UserError, match=r"bitext\.parquet: has no test pairs with hun_Latn; it has deu_Latn"):
        generation.load_pairs(corpus, ["hun_Latn"], None)
    with pytest.raises(UserError, match=r"has no bitext\.parquet; generation reads a corpus folder"):
        generation.load_pairs(tmp_path, None, None)
    with pytest.raises(ConfigError, match=r"^num_beams: must be at least 1"):
        parse(generation.Config, {"num_beams": 0})
