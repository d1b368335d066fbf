"""The activation store gives back what was written, by language and site, and names what is missing."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from xbridge.activations.store import ActivationStore, Shard, shard_path, write_index, write_states
from xbridge.core.errors import UserError
from xbridge.core.files import read_json, write_json
from xbridge.similarity import cka_matrix

STATES = torch.arange(12, dtype=torch.float32).reshape(4, 3)


def write(folder, sizes=(4,), ids=("a", "b", "c", "d"), labels=None, **settings):
    """A store of STATES in shards of so many rows, a sentence each."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    for start, size in zip(starts, sizes, strict=True):
        write_states(shard_path(folder, "deu_Latn", "encoder.0", start), STATES[start : start + size])
    write_index(
        folder,
        sites=["encoder.0"],
        dim=3,
        ids={"deu_Latn": ids},
        labels=labels,
        shards={"deu_Latn": [Shard(start, size) for start, size in zip(starts, sizes, strict=True)]},
        **{"pooling": "mean", **settings},
    )
    return ActivationStore(folder)


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (1, 2, 1)])
def test_rows_come_back_in_order_from_any_number_of_shards(tmp_path, sizes):
    store = write(tmp_path, sizes, labels={"deu_Latn": ["x", "y", "x", "y"]})
    assert torch.equal(store.load("deu_Latn", "encoder.0"), STATES)
    assert store.ids("deu_Latn") == ["a", "b", "c", "d"]
    assert store.labels("deu_Latn") == ["x", "y", "x", "y"]
    assert (store.sites, store.languages, store.dim, store.pooling) == (("encoder.0",), ("deu_Latn",), 3, "mean")


def test_one_shard_of_a_row_per_sentence_is_what_an_index_says_without_shards(tmp_path):
    write_states(shard_path(tmp_path, "deu_Latn", "encoder.0"), STATES)
    write_index(tmp_path, sites=["encoder.0"], dim=3, pooling="mean", ids={"deu_Latn": ["a", "b", "c", "d"]})
    assert torch.equal(ActivationStore(tmp_path).load("deu_Latn", "encoder.0"), STATES)


def test_blocks_are_the_rows_in_pieces_whatever_the_shards(tmp_path):
    blocks = list(write(tmp_path, (2, 2)).blocks("deu_Latn", "encoder.0", block_rows=3))
    assert [len(block) for block in blocks] == [3, 1]
    assert torch.equal(torch.cat(blocks), STATES)


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (1, 2, 1)])
def test_every_slice_of_a_layer_is_that_of_the_matrix(tmp_path, sizes):
    layer = write(tmp_path, sizes).layers("deu_Latn")["encoder.0"]
    assert (layer.shape, layer.dtype, len(layer)) == ((4, 3), torch.float32, 4)
    for start in (None, *range(-5, 6)):
        for stop in (None, *range(-5, 6)):
            assert torch.equal(layer[start:stop], STATES[start:stop]), (start, stop)


def test_a_layer_opens_only_the_shards_that_a_slice_needs(tmp_path):
    layer = write(tmp_path, (2, 2)).layer("deu_Latn", "encoder.0")
    shard_path(tmp_path, "deu_Latn", "encoder.0", 2).unlink()
    assert torch.equal(layer[0:2], STATES[:2])
    with pytest.raises(UserError, match=r"encoder\.0-000000002\.safetensors: cannot be read"):
        layer[1:3]


def test_a_layer_takes_slices_of_step_one_only(tmp_path):
    layer = write(tmp_path).layer("deu_Latn", "encoder.0")
    with pytest.raises(TypeError, match="slices of rows"):
        layer[0]
    with pytest.raises(ValueError, match="step 1, not 2"):
        layer[::2]


def test_layers_are_what_the_similarity_engine_takes(tmp_path):
    states = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    for site, x in (("encoder.0", states), ("encoder.1", states.square())):
        write_states(shard_path(tmp_path, "deu_Latn", site, 0), x[:25])
        write_states(shard_path(tmp_path, "deu_Latn", site, 25), x[25:])
    write_index(
        tmp_path, sites=["encoder.0", "encoder.1"], dim=3, pooling="mean",
        ids={"deu_Latn": [str(i) for i in range(40)]}, shards={"deu_Latn": [Shard(0, 25), Shard(25, 15)]},
    )  # fmt: skip
    found = cka_matrix(ActivationStore(tmp_path).layers("deu_Latn"))
    assert found == pytest.approx(cka_matrix([states, states.square()]), abs=1e-12)


def test_narrow_states_are_kept_in_their_type_and_loaded_as_float32(tmp_path):
    narrow = STATES.to(torch.bfloat16)
    shard_path(tmp_path, "deu_Latn", "encoder.0").parent.mkdir()
    save_file({"states": narrow}, shard_path(tmp_path, "deu_Latn", "encoder.0"))
    write_index(tmp_path, sites=["encoder.0"], dim=3, pooling="mean", ids={"deu_Latn": list("abcd")}, dtype="bfloat16")
    store = ActivationStore(tmp_path)
    layer = store.layer("deu_Latn", "encoder.0")
    assert layer.dtype == layer[0:2].dtype == torch.bfloat16
    assert torch.equal(store.load("deu_Latn", "encoder.0"), narrow.float())


def test_written_states_are_float32_whatever_their_type(tmp_path):
    write_states(tmp_path / "x.safetensors", STATES.to(torch.bfloat16))
    write_states(shard_path(tmp_path, "deu_Latn", "encoder.0"), STATES.double())
    assert write(tmp_path).layer("deu_Latn", "encoder.0")[:].dtype == torch.float32


def test_rows_that_are_words_have_the_ids_and_labels_of_their_sentences(tmp_path):
    table = {"sentence": torch.tensor([0, 0, 2, 2]), "number": torch.tensor([0, 1, 0, 3])}
    (tmp_path / "deu_Latn").mkdir()
    save_file(table, shard_path(tmp_path, "deu_Latn", "rows"))
    labels = {"deu_Latn": ["x", "y", "z"]}
    store = write(tmp_path, ids=("a", "b", "c"), labels=labels, pooling="words")
    assert store.ids("deu_Latn") == ["a:0", "a:1", "c:0", "c:3"]
    assert store.labels("deu_Latn") == ["x", "x", "z", "z"]
    assert not store.has_row_per_sentence


def test_a_store_of_several_languages_asks_which_one(tmp_path):
    store = write(tmp_path)
    assert list(store.layers()) == ["encoder.0"]
    index = read_json(tmp_path / "index.json")
    write_json(tmp_path / "index.json", {**index, "languages": ["deu_Latn", "fra_Latn"]})
    with pytest.raises(UserError, match="several languages; choose one of deu_Latn, fra_Latn"):
        ActivationStore(tmp_path).layers()


def test_an_index_of_another_version_is_refused(tmp_path):
    write(tmp_path)
    write_json(tmp_path / "index.json", {**read_json(tmp_path / "index.json"), "format": 1})
    with pytest.raises(UserError, match="written by another version"):
        ActivationStore(tmp_path)


@pytest.mark.parametrize(
    ("lang", "site", "message"),
    [
        ("fra_Latn", "encoder.0", "no activations of fra_Latn; it has deu_Latn"),
        ("deu_Latn", "encoder.7", "no site 'encoder.7'; it has encoder.0"),
    ],
)
def test_what_is_not_stored_is_named(tmp_path, lang, site, message):
    with pytest.raises(UserError, match=message):
        write(tmp_path).load(lang, site)


def test_a_folder_without_index_is_refused(tmp_path):
    with pytest.raises(UserError, match="run `xbridge extract` first"):
        ActivationStore(tmp_path)


def test_a_truncated_file_is_named(tmp_path):
    store = write(tmp_path)
    path = shard_path(tmp_path, "deu_Latn", "encoder.0")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"encoder\.0\.safetensors: cannot be read"):
        store.load("deu_Latn", "encoder.0")


def test_a_file_that_is_not_what_the_index_says_is_refused(tmp_path):
    write(tmp_path)
    write_index(tmp_path, sites=["encoder.0"], dim=3, pooling="mean", ids={"deu_Latn": ["a", "b", "c"]})
    with pytest.raises(UserError, match=r"encoder\.0\.safetensors: holds \(4, 3\), but the index says \(3, 3\)"):
        ActivationStore(tmp_path).load("deu_Latn", "encoder.0")


def test_reading_needs_no_transformers():
    code = "import sys, xbridge.activations.store; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
