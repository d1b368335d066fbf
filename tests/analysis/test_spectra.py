"""Singular values, ranks and changes of planted matrices; names of real families."""

import math

import pytest
import torch
from safetensors.torch import save_file

from xbridge.analysis.matrices import load_matrices, neutral_name
from xbridge.analysis.spectra import Config, Inputs, run, spectrum, subspace_overlap
from xbridge.core.errors import ConfigError, UserError
from xbridge.core.files import read_rows


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(singular: list[float], rows: int = 7, cols: int = 5) -> torch.Tensor:
    u, v = torch.linalg.qr(normal(rows, rows)).Q, torch.linalg.qr(normal(cols, cols, seed=1)).Q
    return u[:, : len(singular)] @ torch.diag(torch.tensor(singular, dtype=torch.float64)) @ v[: len(singular)]


def model(folder, **changes):
    weights = {
        "model.shared.weight": normal(6, 4),
        "model.encoder.layers.0.fc1.weight": normal(5, 4, seed=1),
        "model.decoder.layers.10.encoder_attn.v_proj.weight": normal(4, 4, seed=2),
        "model.decoder.layers.9.encoder_attn.v_proj.weight": normal(4, 4, seed=3),
        "model.encoder.layers.0.fc1.bias": normal(5),
        "final_logits_bias": normal(1, 6),
    } | changes
    (folder / "model").mkdir(parents=True)
    save_file(weights, folder / "model" / "model.safetensors")
    return folder


def spectra(tmp_path, model_folder, base=None, **config):
    run(Config(**config), Inputs(model=model_folder, base=base), tmp_path)
    return {(r["matrix"], r["kind"]): r for r in read_rows(tmp_path / "spectra.parquet")}


def test_ranks_and_norms_of_planted_singular_values():
    facts = spectrum(planted([4.0, 2.0, 2.0]))
    assert facts["singular_values"] == pytest.approx([4, 2, 2, 0, 0], abs=1e-12)
    assert facts["stable_rank"] == pytest.approx(24 / 16)
    assert facts["effective_rank"] == pytest.approx(math.exp(0.5 * math.log(2) + 0.5 * math.log(4)))
    assert (facts["frobenius"], facts["spectral"], facts["nuclear"]) == pytest.approx((24**0.5, 4, 8))


def test_equal_singular_values_have_full_rank_both_ways():
    facts = spectrum(planted([3.0] * 5))
    assert (facts["stable_rank"], facts["effective_rank"]) == pytest.approx((5, 5))


def test_a_zero_matrix_has_no_rank():
    facts = spectrum(torch.zeros(3, 2))
    assert facts["stable_rank"] is None
    assert facts["effective_rank"] is None


@pytest.mark.parametrize("factor", [1e-3, 1000.0])
def test_scaling_scales_the_spectrum_and_leaves_the_ranks(factor):
    before, after = spectrum(normal(6, 9)), spectrum(normal(6, 9) * factor)
    assert after["singular_values"] == pytest.approx([s * factor for s in before["singular_values"]])
    for rank in ("stable_rank", "effective_rank"):
        assert after[rank] == pytest.approx(before[rank])


def test_delta_rows_hold_the_relative_change(tmp_path):
    base = model(tmp_path / "base")
    changed = model(tmp_path / "changed", **{"model.shared.weight": normal(6, 4) * 1.25})
    rows = spectra(tmp_path, changed, base)
    delta = rows["embedding", "delta"]
    assert delta["relative_change"] == pytest.approx(0.25)
    assert delta["subspace_overlap"] == pytest.approx(1)
    assert delta["singular_values"] == pytest.approx([s * 0.2 for s in rows["embedding", "weight"]["singular_values"]])
    still = rows["encoder.0.fc1", "delta"]
    assert (still["relative_change"], still["stable_rank"]) == (0, None)
    assert rows["embedding", "weight"]["relative_change"] is None


def test_subspace_overlap_is_one_for_the_same_zero_for_orthogonal_and_chance_for_random_subspaces():
    w = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    assert subspace_overlap(w, w * 3, 2) == pytest.approx(1)
    assert subspace_overlap(w, w.flip(0).flip(1), 2) == pytest.approx(0)
    overlaps = [subspace_overlap(normal(40, 20, seed=s), normal(40, 20, seed=s + 100), 4) for s in range(40)]
    assert sum(overlaps) / 40 == pytest.approx((4 / 40 + 4 / 20) / 2, abs=0.02)


def test_order_is_encoder_decoder_rest_by_number_and_vectors_are_left_out(tmp_path):
    assert list(load_matrices(model(tmp_path))) == [
        "encoder.0.fc1",
        "decoder.9.cross_attn.v",
        "decoder.10.cross_attn.v",
        "embedding",
    ]


def test_tied_embeddings_are_one_matrix_whatever_name_the_file_kept(tmp_path):
    shared = normal(6, 4)
    tied = model(
        tmp_path / "a", **{"lm_head.weight": shared.clone(), "model.encoder.embed_tokens.weight": shared.clone()}
    )
    assert sum(torch.equal(w, shared) for w in load_matrices(tied).values()) == 1
    (tmp_path / "b").mkdir()
    save_file({"lm_head.weight": shared}, tmp_path / "b" / "model.safetensors")
    assert list(load_matrices(tmp_path / "b")) == ["embedding"]
    untied = model(tmp_path / "c", **{"lm_head.weight": shared + 1})
    assert {"embedding", "lm_head"} < set(load_matrices(untied))


@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        ("model.encoder.layers.1.self_attn.q_proj.weight", "encoder.1.self_attn.q"),
        ("model.decoder.layers.2.encoder_attn.out_proj.weight", "decoder.2.cross_attn.out"),
        ("encoder.block.0.layer.0.SelfAttention.o.weight", "encoder.0.self_attn.out"),
        ("decoder.block.11.layer.1.EncDecAttention.v.weight", "decoder.11.cross_attn.v"),
        ("decoder.block.0.layer.2.DenseReluDense.wi_1.weight", "decoder.0.fc1"),
        ("roberta.encoder.layer.3.attention.self.query.weight", "encoder.3.self_attn.q"),
        ("bert.encoder.layer.3.attention.output.dense.weight", "encoder.3.self_attn.out"),
        ("bert.encoder.layer.3.output.dense.weight", "encoder.3.fc2"),
        ("model.encoder.embed_positions.weight", "encoder.positions"),
        ("something.new.weight", "something.new"),
    ],
)
def test_names_do_not_depend_on_the_family(parameter, name):
    assert neutral_name(parameter) == name


def test_another_architecture_is_refused_by_matrix(tmp_path):
    base = model(tmp_path / "base")
    other = model(tmp_path / "other", **{"model.encoder.layers.0.fc1.weight": normal(8, 4)})
    with pytest.raises(UserError, match=r"matrix encoder\.0\.fc1 is 8x4 and 5x4 in the base"):
        spectra(tmp_path, other, base)
    more = model(tmp_path / "more", **{"model.encoder.layers.1.fc1.weight": normal(5, 4)})
    with pytest.raises(UserError, match=r"matrix encoder\.1\.fc1 is not in the base"):
        spectra(tmp_path, more, base)
    with pytest.raises(ConfigError, match=r"matrices.0: 'encoder.0.fc3' fits no matrix"):
        spectra(tmp_path, base, matrices=("encoder.0.fc3",))
    with pytest.raises(UserError, match=r"no model.safetensors"):
        spectra(tmp_path, tmp_path)
    broken = model(tmp_path / "broken", **{"model.shared.weight": normal(6, 4) * float("nan")})
    with pytest.raises(UserError, match="matrix embedding holds NaN"):
        spectra(tmp_path, broken)
