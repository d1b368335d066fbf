"""The activation store gives back what was written, by language and site, and names what is missing."""

import subprocess
import sys

import pytest
import torch

from xbridge.activations.store import ActivationStore, shard_path, write_index, write_states
from xbridge.core.errors import UserError

STATES = torch.arange(12, dtype=torch.float32).reshape(4, 3)


def write(folder, shards=1, ids=("a", "b", "c", "d"), labels=None):
    for i, part in enumerate(STATES.chunk(shards)):
        write_states(shard_path(folder, "deu_Latn", "encoder.0", i, shards), part)
    write_index(
        folder,
        sites=["encoder.0"],
        dim=3,
        pooling="mean",
        ids={"deu_Latn": ids},
        labels=labels,
        num_shards=shards,
    )
    return ActivationStore(folder)


@pytest.mark.parametrize("shards", [1, 2])
def test_rows_come_back_in_order_from_any_number_of_shards(tmp_path, shards):
    store = write(tmp_path, shards, labels={"deu_Latn": ["x", "y", "x", "y"]})
    assert torch.equal(store.load("deu_Latn", "encoder.0"), STATES)
    assert store.ids("deu_Latn") == ["a", "b", "c", "d"]
    assert store.labels("deu_Latn") == ["x", "y", "x", "y"]
    assert (store.sites, store.languages, store.dim, store.pooling) == (("encoder.0",), ("deu_Latn",), 3, "mean")


def test_blocks_are_the_rows_in_pieces(tmp_path):
    store = write(tmp_path, 2)
    blocks = list(store.blocks("deu_Latn", "encoder.0", block_rows=3))
    assert [len(block) for block in blocks] == [2, 2]
    assert torch.equal(torch.cat(blocks), STATES)


def test_other_float_types_are_stored_as_float32(tmp_path):
    path = tmp_path / "x.safetensors"
    write_states(path, STATES.to(torch.bfloat16))
    write_states(shard_path(tmp_path, "deu_Latn", "encoder.0"), STATES.double())
    assert write(tmp_path).load("deu_Latn", "encoder.0").dtype == torch.float32


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


def test_ids_and_rows_that_differ_in_number_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"deu_Latn has 4 rows at encoder\.0 but 3 ids"):
        write(tmp_path, ids=("a", "b", "c")).load("deu_Latn", "encoder.0")


def test_reading_needs_no_transformers():
    code = "import sys, xbridge.activations.store; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
