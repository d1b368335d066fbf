"""Sites of tiny models of every known architecture: names, and that the states are what the model adds up."""

import inspect

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from xbridge.core.errors import ConfigError
from xbridge.models.encoding import encode_source
from xbridge.models.families import conventions_of
from xbridge.models.loading import new_mbart, quiet
from xbridge.models.sites import SUBLAYERS, default_sites, match_sites, site_names, stacks_of, states_at

SHAPE = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_attention_heads", "num_heads", "n_head", "n_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "attention_heads"), 2),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size"), 16),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim", "d_ff", "hidden_dim"), 24),
    **dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id"), 1),
    **dict.fromkeys(("head_dim", "d_kv"), 8),
    "num_key_value_heads": 2, "vocab_size": 40, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
POST_NORM = {  # model type: the norms after attention, cross-attention and feed-forward; all others are pre-norm
    "bart": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    "marian": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    "distilbert": ("sa_layer_norm", None, "output_layer_norm"),
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "camembert", "electra"),
        ("attention.output.LayerNorm", None, "output.LayerNorm"),
    ),
}
ROUNDING = 2e-6  # float32 sums of three terms of order 1 to 5


def tiny(model_type):
    kind = type(AutoConfig.for_model(model_type))
    known = {*kind().to_dict(), *inspect.signature(kind.__init__).parameters}
    config = kind(**{key: value for key, value in SHAPE.items() if key in known})
    loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModel
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = loader.from_config(config).eval()
        for parameter in model.parameters():  # initial weights of 0.02 would make all sublayers nearly zero
            if parameter.ndim > 1:
                parameter.data.mul_(10)
    return model


@pytest.fixture(scope="module")
def ids():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 40, (2, 5), generator=generator), torch.randint(3, 40, (2, 7), generator=generator)


def all_states(model, ids):
    source, target = ids
    with torch.no_grad():
        return states_at(model, site_names(model), source, torch.ones_like(source), target)


def first_layer(model, stack):
    """The first layer of a stack, found by its own path, not by the code under test."""
    root = model.base_model
    if model.config.is_encoder_decoder:
        root = model.get_encoder() if stack == "encoder" else model.get_decoder()
    for path in ("layers", "encoder.layer", "transformer.layer", "block", "h"):
        if path in dict(root.named_modules()):
            return root.get_submodule(path)[0]
    raise AssertionError(f"{stack} of {type(model).__name__}")


@pytest.mark.parametrize("model_type", SUBLAYERS)
def test_a_layer_is_its_input_and_what_its_sublayers_add(model_type, ids):
    model = tiny(model_type)
    states = all_states(model, ids)
    for stack in stacks_of(model):
        layer, stream = first_layer(model, stack), states[f"{stack}.0"]
        norms = POST_NORM.get(model_type, (None, None, None))
        for name, norm in zip(("attention", "cross_attention", "feed_forward"), norms, strict=True):
            added = states.get(f"{stack}.1.{name}")
            if added is not None:
                assert added.abs().max() > 1e-3
                stream = stream + added if norm is None else layer.get_submodule(norm)(stream + added)
        assert (stream - states[f"{stack}.1"]).abs().max() <= ROUNDING * stream.abs().max().clamp_min(1)


@pytest.mark.parametrize("model_type", SUBLAYERS)
def test_an_encoder_decoder_has_cross_attention_and_others_have_not(model_type):
    model = tiny(model_type)
    cross = [name for name in site_names(model) if name.endswith("cross_attention")]
    assert cross == (
        ["decoder.1.cross_attention", "decoder.2.cross_attention"] if model.config.is_encoder_decoder else []
    )


@pytest.mark.parametrize(
    ("model_type", "stacks"),
    [
        ("mbart", ["encoder", "decoder"]),
        ("mt5", ["encoder", "decoder"]),
        ("xlm-roberta", ["encoder"]),
        ("bert", ["encoder"]),
        ("llama", ["decoder"]),
        ("xglm", ["decoder"]),
        ("bloom", ["decoder"]),
    ],
)
def test_stacks_are_named_after_what_a_model_has(model_type, stacks):
    model = tiny(model_type)
    assert list(stacks_of(model)) == stacks
    assert default_sites(model) == tuple(f"{stacks[0]}.{n}" for n in range(3))


@pytest.mark.parametrize("model_type", ["mbart", "m2m_100", "marian"])
def test_streams_are_the_hidden_states_of_the_whole_model(model_type, ids):
    model = tiny(model_type)
    states = all_states(model, ids)
    with torch.no_grad():
        output = model.base_model(input_ids=ids[0], decoder_input_ids=ids[1], output_hidden_states=True)
    for stack in ("encoder", "decoder"):
        for n, hidden in enumerate(output[f"{stack}_hidden_states"]):
            torch.testing.assert_close(states[f"{stack}.{n}"], hidden)
    torch.testing.assert_close(states["decoder.2"], output.last_hidden_state)


@pytest.mark.parametrize("model_type", ["xlm-roberta", "llama", "xglm", "mt5"])
def test_the_last_stream_has_the_final_norm_and_the_first_is_what_layer_1_reads(model_type, ids):
    model = tiny(model_type)
    stack = next(iter(stacks_of(model)))
    seen = {}
    layer = first_layer(model, stack)
    hook = layer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(x=(*args, *kwargs.values())[0]), with_kwargs=True
    )
    states = all_states(model, ids)
    hook.remove()
    torch.testing.assert_close(states[f"{stack}.0"], seen["x"])
    root = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    with torch.no_grad():
        torch.testing.assert_close(states[f"{stack}.2"], root(input_ids=ids[0]).last_hidden_state)


def test_encoder_sites_alone_do_not_run_the_decoder(ids):
    model = tiny("mbart")

    def fail(*_):
        raise AssertionError("the decoder ran")

    model.get_decoder().register_forward_pre_hook(fail)
    with torch.no_grad():
        states = states_at(model, ["encoder.1.attention"], ids[0], torch.ones_like(ids[0]))
    assert list(states) == ["encoder.1.attention"]


def test_the_layer_over_the_vocabulary_never_runs(ids):
    model = tiny("t5")

    def fail(*_):
        raise AssertionError("the output layer ran")

    model.lm_head.register_forward_pre_hook(fail)
    assert all_states(model, ids)["decoder.2"].shape == (2, 7, 16)


def test_hooks_are_removed_also_when_the_model_fails(ids):
    model = tiny("mbart")
    with pytest.raises(IndexError):
        states_at(model, ["encoder.1.feed_forward"], ids[0] + 1000, torch.ones_like(ids[0]))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("patterns", "sites"),
    [
        (["encoder.*"], ("encoder.0", "encoder.1", "encoder.2")),
        (["decoder.*.attention"], ("decoder.1.attention", "decoder.2.attention")),
        (["encoder.1.*"], ("encoder.1.attention", "encoder.1.feed_forward")),
        (["encoder.2", "encoder.*"], ("encoder.2", "encoder.0", "encoder.1")),
        (["*.[01]"], ("encoder.0", "encoder.1", "decoder.0", "decoder.1")),
    ],
)
def test_a_star_stands_for_one_part_of_a_name(patterns, sites):
    assert match_sites(tiny("mbart"), patterns) == sites


@pytest.mark.parametrize("pattern", ["encoder.9", "middle.*", "encoder.0.attention", "encoder.1.cross_attention"])
def test_a_site_that_is_not_there_is_answered_with_those_that_are(pattern):
    with pytest.raises(ConfigError) as caught:
        match_sites(tiny("mbart"), ["encoder.0", pattern])
    assert str(caught.value).startswith("sites")
    assert f"no site {pattern!r}; it has encoder.0 to encoder.2, decoder.0 to decoder.2, " in str(caught.value)
    assert str(caught.value).endswith("decoder.1.feed_forward to decoder.2.feed_forward")


def test_sublayers_of_an_architecture_that_is_not_known_are_refused_by_its_name():
    model = tiny("bloom")  # its attention and feed-forward modules add the residual themselves
    with pytest.raises(
        ConfigError, match=r"the sublayers of 'bloom' models are not known; it has decoder\.0 to decoder"
    ):
        match_sites(model, ["decoder.*.attention"])


def test_states_do_not_depend_on_the_padding(toy_tokenizer):
    model = new_mbart(
        toy_tokenizer, seed=0, layers=2, d_model=16, ffn=32, heads=2, init_std=0.2, max_positions=16, dropout=0.0
    ).eval()
    conventions = conventions_of("mbart", toy_tokenizer)
    both = encode_source(["one two three four five", "four"], "eng_Latn", toy_tokenizer, conventions, max_tokens=8)
    alone = encode_source(["four"], "eng_Latn", toy_tokenizer, conventions, max_tokens=8)
    sites = match_sites(model, ["encoder.*", "encoder.*.*"])
    padded, bare = states_at(model, sites, **both), states_at(model, sites, **alone)
    for site in sites:
        torch.testing.assert_close(padded[site][1, :3], bare[site][0], rtol=1e-4, atol=1e-5)
