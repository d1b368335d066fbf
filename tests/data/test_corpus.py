"""The corpus stage on toy text: leaks, determinism, tables, card and messages."""

import json
import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from xbridge.core.config import parse
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_json, read_rows, sha256_of_path
from xbridge.data import corpus
from xbridge.data.cleaning import normalise

CODES = ["eng_Latn", "deu_Latn", "rus_Cyrl"]
TABLES = ("bitext", "mono", "nway", "retrieval", "near_duplicates", "entries")


def build(out, *sources, languages=CODES, **settings):
    data = {"languages": languages, "sources": list(sources), "split": {"dev": 0.1, "test": 0.3}, **settings}
    out.mkdir(exist_ok=True)
    corpus.run(parse(corpus.Config, data), corpus.Inputs(), out)
    return {name: read_rows(out / f"{name}.parquet") for name in TABLES} | {"card": read_json(out / "card.json")}


@pytest.fixture
def toy(tmp_path, toy_jsonl):
    return build(tmp_path / "out", toy_jsonl())


def test_no_pivot_string_is_in_two_splits(toy):
    splits = {}
    for row in toy["bitext"]:
        splits.setdefault(normalise(row["source"]), set()).add(row["split"])
    assert {len(found) for found in splits.values()} == {1}
    assert set().union(*splits.values()) == {"train", "dev", "test"}


def test_nothing_held_out_is_in_training_text_of_its_language(tmp_path, toy_jsonl, toy_rows):
    rows = [*toy_rows]
    for i in range(0, 288, 5):  # another English string with the German text of row i
        rows.append({**toy_rows[i], "eng_Latn": f"please {toy_rows[i]['eng_Latn']}"})
    found = build(tmp_path / "out", toy_jsonl(rows))
    assert found["card"]["languages"]["deu_Latn"]["leaks_removed"] > 5
    for code in CODES[1:]:
        pairs = [row for row in found["bitext"] if row["target_lang"] == code]
        train = {normalise(row["target"]) for row in pairs if row["split"] == "train"}
        train |= {normalise(r["text"]) for r in found["mono"] if (r["split"], r["lang"]) == ("train", code)}
        held_out = {normalise(row["target"]) for row in pairs if row["split"] != "train"}
        assert held_out
        assert not train & held_out
    sources = {normalise(row["source"]) for row in found["bitext"] if row["split"] != "train"}
    train = {normalise(r["text"]) for r in found["mono"] if (r["split"], r["lang"]) == ("train", "eng_Latn")}
    assert not train & sources


def test_dev_and_test_share_no_target(tmp_path, toy_jsonl, toy_rows):
    rows = [{**row, "deu_Latn": f"Satz Nummer {'abcdefgh'[i % 8] * 3}"} for i, row in enumerate(toy_rows)]
    settings = {"split": {"dev": 0.4, "test": 0.59}}
    found = build(tmp_path / "out", toy_jsonl(rows), languages=["eng_Latn", "deu_Latn"], **settings)
    by_split = {s: {r["target"] for r in found["bitext"] if r["split"] == s} for s in ("dev", "test")}
    assert by_split["dev"]
    assert not by_split["dev"] & by_split["test"]


def test_tables_do_not_depend_on_the_order_of_rows(tmp_path, toy_jsonl, toy_rows):
    rows = toy_rows + [{**row, "eng_Latn": row["eng_Latn"].upper()} for row in toy_rows[::7]]
    shuffled = random.Random(3).sample(rows, len(rows))
    first = build(tmp_path / "a", toy_jsonl(rows, "a.jsonl"))
    second = build(tmp_path / "b", toy_jsonl(shuffled, "b.jsonl"))
    for name in TABLES:
        assert first[name] == second[name]


def test_another_hash_seed_gives_the_same_bytes(tmp_path, toy_jsonl):
    source = toy_jsonl()
    code = (
        "import sys, json; from pathlib import Path; from xbridge.core.config import parse\n"
        "from xbridge.data import corpus\n"
        "out = Path(sys.argv[2]); out.mkdir()\n"
        "corpus.run(parse(corpus.Config, json.loads(sys.argv[1])), corpus.Inputs(), out)"
    )
    config = json.dumps({"languages": CODES, "sources": [source], "split": {"dev": 0.1, "test": 0.3}})
    for seed in ("0", "4242"):
        environ = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, config, str(tmp_path / seed)], check=True, env=environ)
    assert sha256_of_path(tmp_path / "0") == sha256_of_path(tmp_path / "4242")


def test_a_second_run_over_the_same_folder_gives_the_same_tables(tmp_path, toy_jsonl):
    source = toy_jsonl()
    first = build(tmp_path / "out", source)
    (tmp_path / "out" / "mono.parquet").write_bytes(b"half of a table")
    assert build(tmp_path / "out", source) == first


def test_ids_are_unique_per_language_and_join_the_tables(toy):
    pairs = Counter((row["id"], row["target_lang"]) for row in toy["bitext"])
    assert set(pairs.values()) == {1}
    held_out = {row["id"] for row in toy["bitext"] if row["split"] != "train"}
    assert held_out == {row["id"] for row in toy["near_duplicates"]}
    test = {row["id"] for row in toy["bitext"] if row["split"] == "test"}
    assert {row["id"] for row in toy["nway"]} <= test
    assert {row["id"] for row in toy["retrieval"]} <= test


def test_nway_strings_exist_in_every_language_with_the_same_ids(toy):
    ids = {code: [row["id"] for row in toy["nway"] if row["lang"] == code] for code in CODES}
    assert len(ids["eng_Latn"]) > 30
    assert ids["eng_Latn"] == ids["deu_Latn"] == ids["rus_Cyrl"]
    texts = {(row["id"], row["lang"]): row["text"] for row in toy["nway"]}
    for row in toy["bitext"]:
        if (row["id"], row["target_lang"]) in texts:
            assert texts[row["id"], row["target_lang"]] == row["target"]
            assert texts[row["id"], "eng_Latn"] == row["source"]


def test_retrieval_pools_have_the_size_asked_for_and_one_right_answer(tmp_path, toy_jsonl):
    found = build(tmp_path / "out", toy_jsonl(), retrieval_pool=12)["retrieval"]
    assert Counter(row["target_lang"] for row in found) == {"deu_Latn": 12, "rus_Cyrl": 12}
    assert len({(row["target_lang"], normalise(row["target"])) for row in found}) == 24


def test_a_source_keeps_all_its_translations_in_training_and_the_commonest_in_test(tmp_path, toy_jsonl, toy_rows):
    rows = []
    for row in toy_rows:
        rows += [row, row, {**row, "deu_Latn": f"bitte {row['deu_Latn']}"}]
    found = build(tmp_path / "out", toy_jsonl(rows), languages=["eng_Latn", "deu_Latn"])
    train = [row for row in found["bitext"] if row["split"] == "train"]
    test = [row for row in found["bitext"] if row["split"] == "test"]
    assert len(train) == 2 * len({row["source"] for row in train})
    assert {row["id"][16:] for row in train} == {"", ".1"}
    assert not any(row["target"].startswith("bitte") for row in test)
    assert len(test) == len({row["source"] for row in test})


def test_counts_of_the_card_add_up(tmp_path, toy_jsonl, toy_rows):
    rows = [*toy_rows, {"eng_Latn": "Level", "deu_Latn": "Level", "rus_Cyrl": "Wi-Fi"}, {"deu_Latn": "nur deutsch"}]
    rows.append({"eng_Latn": "Turn {a}", "deu_Latn": "Drehe", "rus_Cyrl": "[%key:x%] да"})
    found = build(tmp_path / "out", toy_jsonl([*rows, {"eng_Latn": "12:30"}]))
    card = found["card"]["languages"]
    assert card["eng_Latn"]["dropped"] == {"no letter": 1}
    assert card["deu_Latn"]["dropped"] == {"no pivot text": 1, "placeholders differ": 1, "untranslated": 1}
    assert card["rus_Cyrl"]["dropped"] == {"reference": 1, "wrong script": 1}
    for code in CODES[1:]:
        counts = card[code]
        kept = sum(counts["pairs"].values())
        assert counts["read"] == kept + sum(counts["dropped"].values()) + counts["leaks_removed"]
    near = found["card"]["near_duplicates"]
    assert sum(near["counts"]) == near["num"]
    assert found["card"]["sources"][0]["files"][0]["sha256"] == sha256_of_path(tmp_path / "toy.jsonl")


def test_text_without_a_pivot_trains_the_language_model_but_no_pair(tmp_path, toy_jsonl, toy_rows):
    found = build(tmp_path / "out", toy_jsonl([*toy_rows, {"deu_Latn": "ganz allein"}]))
    assert {"split": "train", "lang": "deu_Latn", "text": "ganz allein"} in found["mono"]
    assert not any(row["target"] == "ganz allein" for row in found["bitext"])


def test_keyed_sources_are_kept_as_entries(tmp_path, toy_jsonl, make_wheel):
    catalogue = {"onboarding": {"en": {"area": {"a": "Kitchen {x}"}}, "de": {"area": {"a": "Küche {x}"}}}}
    path, sha256 = make_wheel(catalogue)
    wheel = {"type": "homeassistant", "version": "1.2.3", "sha256": sha256, "wheel": str(path)}
    found = build(tmp_path / "out", toy_jsonl(), wheel)
    assert found["entries"] == [
        {"key": "onboarding/area/a", "lang": "deu_Latn", "text": "Küche {}"},
        {"key": "onboarding/area/a", "lang": "eng_Latn", "text": "Kitchen {}"},
    ]


# --- messages --------------------------------------------------------------------------------------------------


def test_a_language_without_pairs_is_named_with_the_filter_that_took_most(tmp_path, toy_jsonl, toy_rows):
    rows = [{**row, "rus_Cyrl": "not translated"} for row in toy_rows]
    with pytest.raises(UserError) as caught:
        build(tmp_path / "out", toy_jsonl(rows))
    assert str(caught.value).startswith(
        "languages: rus_Cyrl (Russian) has no train pair: "
        "of 288 texts read, the filter 'wrong script' removed most (288)"
    )


def test_an_empty_corpus_is_named(tmp_path, toy_jsonl):
    with pytest.raises(
        UserError, match=r"^sources\.0 \(jsonl\): holds no usable text in eng_Latn, deu_Latn, rus_Cyrl$"
    ):
        build(tmp_path / "out", toy_jsonl([]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"languages": ["eng_Latn", "no"]}, "corpus.languages.1: unknown language 'no'; did you mean nob_Latn"),
        ({"languages": ["eng_Latn"]}, "corpus.languages: name the pivot and at least one other"),
        ({"languages": ["eng_Latn", "deu_Latn", "deu_Latn"]}, "corpus.languages: names a language twice"),
        ({"sources": []}, "corpus.sources: name at least one source"),
        ({"sources": ["homeasistant"]}, "corpus.sources.0.type: no module"),
        ({"split": {"test": 2.0}}, "corpus.split.test: dev 0.01 and test 2"),
        ({"cleaning": {"max_chars": 3}}, "corpus.cleaning.max_chars: unknown key; did you mean 'max_characters'?"),
        ({"retrieval_pool": 1}, "corpus.retrieval_pool: must be at least 2"),
    ],
)
def test_a_wrong_config_is_told_its_path(data, message):
    with pytest.raises(ConfigError) as caught:
        parse(corpus.Config, {"languages": CODES, "sources": ["homeassistant"], **data}, "corpus")
    assert str(caught.value).startswith(message)
