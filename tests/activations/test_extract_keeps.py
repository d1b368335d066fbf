"""What extraction keeps: narrow types, bounded shards that survive a kill, and second moments instead of states."""

from pathlib import Path

import numpy as np
import pytest
import torch
from extracting import run

from xbridge.activations import extract
from xbridge.activations.encoder import Encoder
from xbridge.activations.store import ActivationStore
from xbridge.core.config import parse
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_json, write_json, write_table
from xbridge.similarity import cka_matrix


@pytest.mark.parametrize(("dtype", "rounding"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_narrow_types_are_stored_rounded(tiny_model, corpus, tmp_path, dtype, rounding):
    wide = run(tiny_model, corpus, tmp_path / "wide").load("deu_Latn", "encoder.1")
    store = run(tiny_model, corpus, tmp_path / dtype, dtype=dtype)
    assert store.layer("deu_Latn", "encoder.1").dtype == getattr(torch, dtype)
    found = store.load("deu_Latn", "encoder.1")
    assert torch.equal(found, wide.to(getattr(torch, dtype)).float())
    assert ((found - wide).abs() <= rounding * wide.abs() + 1e-7).all()


def test_a_state_that_does_not_fit_the_type_is_refused_by_site_and_sentence(tiny_model, corpus, tmp_path):
    opened = Encoder.open(tiny_model)
    opened.model.get_encoder().layer_norm.weight.data.mul_(1e6)
    opened.save(tmp_path / "huge" / "model")
    with pytest.raises(
        UserError, match=r"eng_Latn encoder\.2: sentence s0: .* does not fit float16; set dtype: float32"
    ):
        run(tmp_path / "huge", corpus, tmp_path / "out", dtype="float16")
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    opened.model.get_encoder().layer_norm.weight.data.fill_(float("nan"))
    opened.save(tmp_path / "nan" / "model")
    for settings in ({}, {"keep": "moments"}):
        with pytest.raises(UserError, match=r"eng_Latn encoder\.2: sentence s0: the model's state holds NaN"):
            run(tmp_path / "nan", corpus, tmp_path / "out", **settings)


def many(tmp_path, count=600):
    words = ["turn", "on", "the", "light", "door", "please"]
    rows = [
        {"id": f"s{i:04}", "lang": "eng_Latn", "text": " ".join(words[(i * k) % 6] for k in range(1, 2 + i % 3))}
        for i in range(count)
    ]
    write_table(tmp_path / "many" / "nway.parquet", rows)
    return tmp_path / "many"


def test_shards_are_bounded_and_hold_the_same_rows(tiny_model, tmp_path):
    corpus = many(tmp_path)
    whole = run(tiny_model, corpus, tmp_path / "whole", pooling="words", sites=["encoder.1"])
    parts = run(tiny_model, corpus, tmp_path / "parts", pooling="words", sites=["encoder.1"], shard_rows=600)
    files = sorted(path.name for path in (tmp_path / "parts" / "eng_Latn").iterdir())
    assert files == ["encoder.1-000000256.safetensors", "encoder.1-000000512.safetensors", "encoder.1.safetensors",
                     "rows-000000256.safetensors", "rows-000000512.safetensors", "rows.safetensors"]  # fmt: skip
    assert parts.ids("eng_Latn") == whole.ids("eng_Latn")
    assert torch.equal(parts.load("eng_Latn", "encoder.1"), whole.load("eng_Latn", "encoder.1"))


def test_shards_of_an_interrupted_run_are_kept_and_those_of_other_settings_are_not(tiny_model, tmp_path):
    corpus, out = many(tmp_path), tmp_path / "out"
    settings = {"pooling": "words", "sites": ["encoder.1"], "shard_rows": 700}
    done = run(tiny_model, corpus, tmp_path / "done", **settings)
    shard = Path("eng_Latn", "encoder.1-000000256.safetensors")

    def interrupted(sites):
        """What a run that was killed leaves: its fingerprint, and one finished shard, filled with zeros to be known."""
        config = parse(extract.Config, {**settings, "sites": sites})
        inputs = extract.Inputs(model=tiny_model, sentences=corpus)
        sentences = extract.load_sentences(corpus, "nway", None, None)
        name = extract.fingerprint(config, sentences, extract.open_models(config, inputs))
        for path in (shard, shard.with_name("rows-000000256.safetensors")):
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes((tmp_path / "done" / path).read_bytes())
        with (out / shard).open("r+b") as stream:
            stream.seek(512)
            stream.write(bytes((out / shard).stat().st_size - 512))
        write_json(out / "resume.json", {"fingerprint": name})

    interrupted(["encoder.1"])
    kept = run(tiny_model, corpus, out, **settings).load("eng_Latn", "encoder.1")
    expected = done.load("eng_Latn", "encoder.1")
    zero = (kept == 0).all(dim=1)
    assert 0 < zero.sum() < len(kept)
    assert torch.equal(kept[~zero], expected[~zero])
    interrupted(["encoder.2"])
    assert torch.equal(run(tiny_model, corpus, out, **settings).load("eng_Latn", "encoder.1"), expected)


def test_moments_are_those_of_the_states_that_would_have_been_stored(tiny_model, tmp_path):
    corpus = many(tmp_path)
    states = run(tiny_model, corpus, tmp_path / "states", sites=["encoder.*.*"])
    store = run(tiny_model, corpus, tmp_path / "moments", sites=["encoder.*.*"], keep="moments")
    assert store.moment_layers == [("model", site) for site in states.sites]
    moments = store.moments("eng_Latn")
    assert moments.num_examples == 600
    assert np.abs(moments.cka() - cka_matrix(states.layers("eng_Latn"))).max() <= 1e-9
    files = [path.name for path in (tmp_path / "moments").rglob("*") if path.is_file()]
    assert sorted(files) == ["index.json", "moments.safetensors"]


def test_two_models_of_other_tokenizers_are_compared_word_by_word_in_one_pass(
    tiny_model, tiny_roberta, corpus, tmp_path
):
    config = parse(extract.Config, {"pooling": "words", "keep": "moments", "sites": ["encoder.[12]"]})
    extract.run(config, extract.Inputs(model=tiny_model, sentences=corpus, other=tiny_roberta), tmp_path / "both")
    store = ActivationStore(tmp_path / "both")
    assert store.moment_layers == [(m, s) for m in ("model", "other") for s in ("encoder.1", "encoder.2")]
    a = run(tiny_model, corpus, tmp_path / "a", pooling="words")
    b = run(tiny_roberta, corpus, tmp_path / "b", pooling="words")
    for lang in a.languages:
        layers = [s.load(lang, site) for s in (a, b) for site in ("encoder.1", "encoder.2")]
        assert np.abs(store.moments(lang).cka() - cka_matrix(layers)).max() <= 1e-9


def test_only_words_that_both_models_read_are_accumulated(tiny_model, tiny_roberta, tmp_path):
    write_table(tmp_path / "nway.parquet", [{"id": "0", "lang": "eng_Latn", "text": "light " * 30}] * 2)
    config = parse(extract.Config, {"pooling": "words", "keep": "moments"})
    extract.run(config, extract.Inputs(model=tiny_model, sentences=tmp_path, other=tiny_roberta), tmp_path / "both")
    read = [
        set(run(model, tmp_path, tmp_path / model.name, pooling="words").ids("eng_Latn"))
        for model in (tiny_model, tiny_roberta)
    ]
    assert read[0] != read[1]
    assert ActivationStore(tmp_path / "both").moments("eng_Latn").num_examples == 2 * len(read[0] & read[1])


def test_moments_and_states_are_not_taken_for_each_other(tiny_model, corpus, tmp_path):
    states = run(tiny_model, corpus, tmp_path / "states")
    with pytest.raises(UserError, match="holds states, not moments"):
        states.moments("eng_Latn")
    moments = run(tiny_model, corpus, tmp_path / "moments", keep="moments")
    for read in (moments.ids, moments.labels, moments.layers):
        with pytest.raises(UserError, match="holds moments, not states"):
            read("eng_Latn")
    with pytest.raises(ConfigError, match="dtype: is for keep: states"):
        extract.Config(keep="moments", dtype="bfloat16")


def test_a_second_model_that_cannot_be_read_beside_the_first_is_refused(tiny_model, tiny_roberta, corpus, tmp_path):
    inputs = extract.Inputs(model=tiny_model, sentences=corpus, other=tiny_roberta)
    with pytest.raises(ConfigError, match=r"inputs\.other: is for keep: moments"):
        extract.run(extract.Config(), inputs, tmp_path)
    with pytest.raises(ConfigError, match=r"inputs\.other: has another tokenizer, so tokens do not align"):
        extract.run(extract.Config(keep="moments", pooling="tokens"), inputs, tmp_path)


def test_sentences_that_were_cut_are_counted(tiny_model, tmp_path, capsys):
    rows = [{"id": str(i), "lang": "eng_Latn", "text": text} for i, text in enumerate(["no " * 40, "no", "on " * 50])]
    write_table(tmp_path / "nway.parquet", rows)
    run(tiny_model, tmp_path, tmp_path / "out")
    assert read_json(tmp_path / "out" / "index.json")["cut"] == {"eng_Latn": 2}
    assert "extract language=eng_Latn sentences_cut=2" in capsys.readouterr().err


def test_texts_without_a_word_are_refused(tiny_model, tmp_path):
    write_table(tmp_path / "nway.parquet", [{"id": "0", "lang": "eng_Latn", "text": " "}])
    for keep in ("states", "moments"):
        with pytest.raises(UserError, match="eng_Latn: no sentence gives a row"):
            run(tiny_model, tmp_path, tmp_path / "out", pooling="words", keep=keep)
