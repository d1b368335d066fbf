"""Token stores: built once whoever asks, whole or built again, and the same from an array job."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from xbridge.core.console import set_sink
from xbridge.core.files import read_json, write_json
from xbridge.data.claims import Claim
from xbridge.data.corpus_text import CorpusText
from xbridge.data.numbering import Block
from xbridge.data.token_store import address_of, build_part, open_store
from xbridge.data.tokens import TokenTable, from_rows

WORDS = ["x", "yy", "zzz", "yy", "x", "w", "vvvv"]


class Letters:
    """A corpus of single strings whose tokens are their bytes; it counts what it is asked to tokenise."""

    def __init__(self, words=WORDS, pause=0.0):
        self.words, self.pause, self.encoded = words, pause, []

    def identity(self):
        return "-".join(self.words)

    def blocks(self):
        for start in range(0, len(self.words), 2):
            words = [word.encode() for word in self.words[start : start + 2]]
            yield Block("mono", [("train", "eng_Latn")] * len(words), {"text": words})

    def encode(self, strings):
        self.encoded += strings
        time.sleep(self.pause)
        return from_rows([list(string) for string in strings])

    def largest_id(self):
        return 300


class Lines:
    """Keeps what is logged."""

    def __init__(self):
        self.lines = []

    def progress(self, *_):
        pass

    def log(self, label, facts):
        self.lines.append((label, facts))


@pytest.fixture
def logged():
    sink = Lines()
    set_sink(sink)
    yield sink.lines
    set_sink(None)


def strings_of(store):
    numbers = store.tables["mono"]["train", "eng_Latn"]["text"]
    table = store.tokens.take(np.asarray(numbers))
    return [bytes(table.ids[a:b].tolist()).decode() for a, b in zip(table.starts[:-1], table.starts[1:], strict=True)]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_each_distinct_string_is_stored_once_in_the_smallest_type_and_mapped(tmp_path):
    store = open_store(tmp_path, Letters())
    assert strings_of(store) == WORDS
    assert len(store.tokens) == 5
    assert isinstance(store.tokens.ids, np.memmap)
    assert store.tokens.ids.dtype == np.uint16  # for ids up to 300


def test_a_store_that_exists_is_opened_without_tokenising(tmp_path):
    open_store(tmp_path, Letters())
    again = Letters()
    assert strings_of(open_store(tmp_path, again)) == WORDS
    assert again.encoded == []


def test_the_tokens_are_the_tokenizers(toy_corpus, toy_tokenizer, tmp_path):
    corpus = CorpusText(toy_corpus, toy_tokenizer)
    store = open_store(tmp_path, corpus)
    texts = dict.fromkeys(string for block in corpus.blocks() for string in block.strings())
    expected = toy_tokenizer([text.decode() for text in texts], add_special_tokens=False)["input_ids"]
    rows = store.tokens.take(np.arange(len(store.tokens)))
    assert [
        rows.ids[a:b].tolist() for a, b in zip(rows.starts[:-1], rows.starts[1:], strict=True)
    ] == expected  # fmt: skip
    assert list(store.tables["bitext"]) == [
        ("train", "eng_Latn", "deu_Latn"), ("dev", "eng_Latn", "deu_Latn"),
        ("train", "eng_Latn", "spa_Latn"), ("dev", "eng_Latn", "spa_Latn"),
    ]  # fmt: skip


def test_the_address_names_corpus_and_tokenizer(toy_corpus, toy_tokenizer, tmp_path):
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(tokenizer_object=toy_tokenizer.backend_tokenizer)
    assert address_of(CorpusText(toy_corpus, toy_tokenizer)) == address_of(CorpusText(toy_corpus, other))
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert address_of(CorpusText(toy_corpus, toy_tokenizer)) != address_of(CorpusText(toy_corpus, other))
    (tmp_path / "mono.parquet").write_bytes((toy_corpus / "mono.parquet").read_bytes())
    assert address_of(CorpusText(toy_corpus, toy_tokenizer)) != address_of(CorpusText(tmp_path, toy_tokenizer))


def shorten(folder):
    (folder / "ids.bin").write_bytes((folder / "ids.bin").read_bytes()[:-1])


def edit(folder):
    index = read_json(folder / "index.json")
    index["arrays"]["ids"]["count"] += 1
    write_json(folder / "index.json", index)


def forget(folder):
    (folder / "index.json").unlink()


@pytest.mark.parametrize("damage", [shorten, edit, forget])
def test_a_damaged_store_is_built_again_and_one_line_says_so(tmp_path, damage, logged):
    corpus = Letters()
    open_store(tmp_path, corpus)
    before = files_of(tmp_path / address_of(corpus))
    damage(tmp_path / address_of(corpus))
    assert strings_of(open_store(tmp_path, Letters())) == WORDS
    assert files_of(tmp_path / address_of(corpus)) == before
    assert sum("damaged" in facts for _, facts in logged) == 1


def test_of_many_that_ask_at_once_one_builds(tmp_path, logged):
    corpora = [Letters(pause=0.05) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda corpus: open_store(tmp_path, corpus), corpora))
    assert [strings_of(store) for store in stores] == [WORDS] * 6
    assert sum(bool(corpus.encoded) for corpus in corpora) == 1
    assert [path.name for path in tmp_path.iterdir()] == [address_of(corpora[0])]


def test_the_claim_of_a_process_that_was_killed_is_taken_over(tmp_path, logged):
    claim = tmp_path / "store.claim"
    code = "import sys, pathlib; from xbridge.data.claims import Claim; Claim(pathlib.Path(sys.argv[1])).__enter__()"
    subprocess.run([sys.executable, "-c", code, str(claim)], check=True)
    assert claim.exists()
    started = time.monotonic()
    with Claim(claim) as waited:
        assert not waited.is_mine
    with Claim(claim) as next_try:
        assert next_try.is_mine
    assert time.monotonic() - started < 5


def test_a_claim_that_is_renewed_is_waited_for_and_a_silent_one_is_not(tmp_path, monkeypatch, logged):
    monkeypatch.setattr("xbridge.data.claims.PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr("xbridge.data.claims.RENEW_SECONDS", 0.02)
    claim = Claim(tmp_path / "store.claim")
    with claim:
        ended = []
        waiting = threading.Thread(target=lambda: ended.append(Claim(tmp_path / "store.claim").__enter__()))
        waiting.start()
        for _ in range(12):
            time.sleep(0.05)
            claim.renew()
            assert not ended
        waiting.join(timeout=3)
        assert ended


@pytest.mark.parametrize("order", [[1, 2, 3], [3, 1, 2]])
def test_an_array_job_makes_the_store_that_one_process_makes(tmp_path, order):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    open_store(whole, Letters())
    corpora = [Letters() for _ in order]
    done = [build_part(parts, corpus, part, 3) for corpus, part in zip(corpora, order, strict=True)]
    assert done == [False, False, True]
    assert sorted(string for corpus in corpora for string in corpus.encoded) == [b"vvvv", b"w", b"x", b"yy", b"zzz"]
    address = address_of(Letters())
    assert files_of(parts / address) == files_of(whole / address)
    assert [path.name for path in parts.iterdir()] == [address]


def test_tasks_that_finish_together_may_both_join(tmp_path):
    build_part(tmp_path, Letters(), 1, 3)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda part: build_part(tmp_path, Letters(pause=0.02), part, 3), [2, 3, 2, 3]))
    assert any(done)
    assert strings_of(open_store(tmp_path, Letters())) == WORDS


def test_a_task_that_is_run_again_does_only_what_is_missing(tmp_path):
    build_part(tmp_path, Letters(), 1, 2)
    again = Letters()
    assert not build_part(tmp_path, again, 1, 2)
    assert again.encoded == []


def test_a_table_of_rows_is_the_same_from_a_map_and_from_memory(tmp_path):
    mapped, memory = open_store(tmp_path, Letters()).tokens, open_store(None, Letters()).tokens
    rows = np.asarray([4, 0, 2, 2])
    assert not isinstance(memory.ids, np.memmap)
    for one, other in zip(vars(mapped.take(rows)).values(), vars(memory.take(rows)).values(), strict=True):
        assert np.array_equal(one, other)
    assert isinstance(mapped.take(rows), TokenTable)
