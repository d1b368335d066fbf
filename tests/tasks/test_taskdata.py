"""The task-data stage: what is dropped, what is written, users' own tables, and messages."""

import csv
import gzip
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xbridge.core.config import parse
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_json, read_rows, sha256_of_path, write_table
from xbridge.tasks import taskdata
from xbridge.tasks.datasets import Sentence
from xbridge.tasks.examples import load_examples

ROWS = [
    {"id": "1", "split": "train", "lang": "en", "text": "Turn it on", "label": "on"},
    {"id": "2", "split": "train", "lang": "en", "text": "Turn it off", "label": "off"},
    {"id": "3", "split": "validation", "lang": "en", "text": "Please turn it on", "label": "on"},
    {"id": "4", "split": "test", "lang": "en", "text": "On, please", "label": "on"},
    {"id": "4", "split": "test", "lang": "de", "text": "Schalte es ein", "label": "on"},
    {"id": "5", "split": "test", "lang": "de", "text": "Schalte es aus", "label": "off"},
    {"id": "6", "split": "test", "lang": "fr", "text": "Allume", "label": "on"},
]


def write(path, rows):
    names = list(rows[0])
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = ["\t".join(names), *("\t".join(map(str, row.values())) for row in rows)]
        data = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def build(folder, rows, *, name="data.tsv", corpus=None, languages=("eng_Latn", "deu_Latn"), source=(), **settings):
    path = write(folder / name, rows) if rows is not None else folder / name
    table = {"type": "table", "path": str(path), "splits": {"validation": "dev"}, **dict(source)}
    data = {"source": table, "languages": list(languages), **settings}
    out = folder / "out"
    out.mkdir(exist_ok=True)
    taskdata.run(parse(taskdata.Config, data), taskdata.Inputs(corpus=corpus), out)
    return read_rows(out / "examples.parquet"), read_json(out / "card.json")


@pytest.mark.parametrize("name", ["data.tsv", "data.tsv.gz", "data.csv", "data.jsonl", "data.parquet"])
def test_a_table_of_any_format_gives_the_same_examples(tmp_path, name):
    rows, card = build(tmp_path, ROWS, name=name)
    assert [(r["id"], r["split"], r["lang"], r["label"]) for r in rows] == [
        ("1", "train", "eng_Latn", "on"),
        ("2", "train", "eng_Latn", "off"),
        ("3", "dev", "eng_Latn", "on"),
        ("4", "test", "eng_Latn", "on"),
        ("4", "test", "deu_Latn", "on"),
        ("5", "test", "deu_Latn", "off"),
    ]
    assert card["num_labels"] == 2
    assert card["languages"]["deu_Latn"]["examples"] == {"train": 0, "dev": 0, "test": 2}


def test_examples_are_what_the_fine_tuner_reads(tmp_path):
    build(tmp_path, ROWS)
    examples = load_examples(tmp_path / "out", "test", "deu_Latn")
    assert [(e.text, e.label) for e in examples] == [("Schalte es ein", "on"), ("Schalte es aus", "off")]


def test_tagged_sentences_keep_words_and_tags(tmp_path):
    rows = [
        {"split": s, "lang": code, "text": "in Rom", "words": ["in", "Rom"], "tags": ["O", "B-LOC"]}
        for s, code in (("train", "eng_Latn"), ("test", "eng_Latn"), ("test", "deu_Latn"))
    ]
    found, _ = build(tmp_path, rows, name="data.jsonl", drop_overlaps=False)
    assert found[-1]["words"] == ["in", "Rom"]
    assert found[-1]["tags"] == ["O", "B-LOC"]
    assert found[-1]["label"] is None


def sentence(split, text, label="a", lang="eng_Latn", tags=(), id_="0"):
    return Sentence(id_, split, lang, text, label, tuple(text.split()) if tags else (), tuple(tags), "")


def drop(*sentences, corpus=None):
    dropped = {"eng_Latn": Counter(), "deu_Latn": Counter()}
    kept = taskdata.drop_overlaps(sentences, "eng_Latn", corpus or {}, dropped)
    return [s.text for s in kept], {code: dict(counts) for code, counts in dropped.items() if counts}


def test_a_text_with_two_labels_is_dropped_everywhere():
    kept, dropped = drop(sentence("train", "stop", "a"), sentence("test", "Stop!", "b"), sentence("test", "go", "b"))
    assert kept == ["go"]
    assert dropped == {"eng_Latn": {"two labels": 2}}


def test_test_sentences_of_the_training_data_or_the_corpus_are_dropped():
    kept, dropped = drop(
        sentence("train", "turn on"),
        sentence("test", "Turn on."),
        sentence("test", "timer", lang="deu_Latn"),
        sentence("test", "turn on", lang="deu_Latn"),
        sentence("test", "licht", lang="deu_Latn"),
        sentence("train", "licht"),
        corpus={"deu_Latn": {"timer"}, "eng_Latn": {"turn on"}},
    )
    assert kept == ["turn on", "licht"]
    assert dropped == {"eng_Latn": {"in training data": 1}, "deu_Latn": {"in training data": 2, "in the corpus": 1}}


def test_labels_and_tags_that_training_never_shows_are_dropped():
    train = sentence("train", "in rome", "a", tags=("O", "B-LOC"))
    sentences = [
        train,
        sentence("test", "x", "b", lang="deu_Latn"),
        sentence("test", "x y", "a", lang="deu_Latn", tags=("B-PER", "O")),
        sentence("test", "x z", "a", lang="deu_Latn", tags=("B-LOC", "I-LOC")),
    ]
    dropped = {"eng_Latn": Counter(), "deu_Latn": Counter()}
    kept = taskdata.drop_unseen(sentences, "eng_Latn", dropped)
    assert [s.text for s in kept] == ["in rome", "x z"]
    assert dropped["deu_Latn"] == {"label not in training data": 1, "tag not in training data": 1}


def test_the_corpus_input_keeps_its_texts_out_of_the_test_sets(tmp_path):
    write_table(tmp_path / "mono.parquet", [{"split": "train", "lang": "deu_Latn", "text": "SCHALTE es, ein!"}])
    rows, card = build(tmp_path, ROWS, corpus=tmp_path)
    assert card["languages"]["deu_Latn"]["dropped"] == {"in the corpus": 1}
    assert [r["id"] for r in rows if r["lang"] == "deu_Latn"] == ["5"]


def test_two_runs_write_the_same_bytes(tmp_path):
    build(tmp_path, ROWS)
    first = sha256_of_path(tmp_path / "out")
    build(tmp_path, ROWS)
    assert sha256_of_path(tmp_path / "out") == first


# --- messages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lang": "no"}, ":2: unknown language 'no'; did you mean nob_Latn"),
        ({"split": "valid"}, ":2: split 'valid' is not one of train, dev, test; map it with `splits`"),
        ({"text": " "}, ":2: no 'text'; there is: id, split, lang, text, label"),
        ({"label": ""}, ":2: neither a label nor words and tags"),
        ({"label": "a\tb"}, ":2: 6 cells, the header has 5"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, change, message):
    with pytest.raises(UserError) as caught:
        build(tmp_path, [{**ROWS[0], **change}, *ROWS[1:]])
    assert str(caught.value).startswith(f"{tmp_path}/data.tsv{message}")


def test_words_and_tags_of_different_length_are_an_error(tmp_path):
    row = {"split": "test", "lang": "de", "text": "a b", "words": ["a", "b"], "tags": ["O"]}
    with pytest.raises(UserError, match=r"data\.jsonl:1: 2 words and 1 tags"):
        build(tmp_path, [row], name="data.jsonl")


def test_a_repeated_id_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"^source: id '1' occurs twice in train of eng_Latn"):
        build(tmp_path, [ROWS[0], {**ROWS[1], "id": "1"}, *ROWS[2:]])


def test_a_language_without_test_data_is_named(tmp_path):
    with pytest.raises(UserError, match=r"^languages: hun_Latn \(Hungarian\) has no test sentence"):
        build(tmp_path, ROWS, languages=("eng_Latn", "hun_Latn"))


def test_no_training_data_in_the_source_language_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no training sentence in eng_Latn"):
        build(tmp_path, ROWS[3:])


def test_an_unknown_format_is_an_error(tmp_path):
    (tmp_path / "data.xlsx").write_bytes(b"")
    with pytest.raises(UserError, match=r"data\.xlsx: cannot tell its format"):
        build(tmp_path, None, name="data.xlsx")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"languages": ["eng_Latn", "de"]}, "languages.1: unknown language 'de'; did you mean deu_Latn"),
        ({"source_lang": "fra_Latn"}, "source_lang: fra_Latn is not among `languages`"),
        ({"source": {"type": "table", "path": "x", "columns": {"labels": "y"}}}, "source.columns.labels: not a column"),
        ({"source": {"type": "table", "path": "x", "splits": {"a": "b"}}}, "source.splits.a: 'b' is not one of"),
        ({"source": "homeassistant"}, "source.type: no module xbridge.tasks.datasets.homeassistant; did you mean"),
    ],
)
def test_a_wrong_config_is_told_its_path(data, message):
    with pytest.raises(ConfigError) as caught:
        parse(taskdata.Config, {"source": "homeassistant_intents", "languages": ["eng_Latn", "deu_Latn"], **data})
    assert str(caught.value).startswith(message)
