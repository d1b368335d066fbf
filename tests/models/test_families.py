"""Golden ids of the families, sites, and content masks. Vocabularies are stand-ins with the real tokens."""

import pytest
import torch

from xbridge.core.errors import UserError
from xbridge.models.families import conventions_of, encode, encode_source, generate
from xbridge.models.loading import new_mbart


class Vocabulary:
    """The little of a tokenizer that the conventions read; ids as the hub's checkpoints have them."""

    eos_token_id, pad_token_id, mask_token_id = 2, 1, 250053

    def __init__(self, **ids):
        self._ids = ids

    def get_vocab(self):
        return {"</s>": 2, "<pad>": 1, "hello": 77, **self._ids}


def test_our_own_layout_is_code_text_eos(toy_tokenizer):
    conventions = conventions_of("mbart", toy_tokenizer)
    assert conventions.family.name == "own"
    assert conventions.languages == {"eng_Latn": 29, "deu_Latn": 30, "spa_Latn": 31}
    assert conventions.source("deu_Latn") == ([30], [2])
    assert conventions.target("deu_Latn") == ([2, 30], [2])


def test_mbart50_marks_with_locales_in_our_layout():
    conventions = conventions_of("mbart", Vocabulary(de_DE=250003, en_XX=250004, zh_CN=250025, af_ZA=250028))
    assert conventions.family.name == "mbart50"
    assert conventions.languages["deu_Latn"] == 250003
    assert conventions.source("eng_Latn") == ([250004], [2])
    assert conventions.target("zho_Hans") == ([2, 250025], [2])


def test_mbart25_puts_the_code_last_and_starts_with_it():
    conventions = conventions_of("mbart", Vocabulary(de_DE=250003, en_XX=250004))
    assert conventions.family.name == "mbart25"
    assert conventions.source("eng_Latn") == ([], [2, 250004])
    assert conventions.target("deu_Latn") == ([250003], [2])


def test_nllb_has_our_codes_and_m2m100_its_own():
    nllb = conventions_of("m2m_100", Vocabulary(eng_Latn=256047, deu_Latn=256042))
    assert nllb.source("eng_Latn") == ([256047], [2])
    assert nllb.target("deu_Latn") == ([2, 256042], [2])
    m2m = conventions_of("m2m_100", Vocabulary(__de__=128020, __en__=128022))
    assert m2m.family.name == "m2m100"
    assert m2m.target("deu_Latn") == ([2, 128020], [2])


def test_a_language_without_a_token_is_named_with_those_there_are(toy_tokenizer):
    with pytest.raises(UserError, match=r"^hun_Latn: .*it has deu_Latn, eng_Latn, spa_Latn$"):
        conventions_of("mbart", toy_tokenizer).source("hun_Latn")


@pytest.mark.parametrize("model_type", ["mbart", "gpt2"])
def test_a_model_without_known_language_tokens_is_refused(model_type):
    with pytest.raises(UserError, match="no known language tokens"):
        conventions_of(model_type, Vocabulary())


def tiny(tokenizer):
    return new_mbart(
        tokenizer, seed=0, layers=2, d_model=16, ffn=32, heads=2, init_std=0.2, max_positions=16, dropout=0.0
    ).eval()


def test_sources_are_laid_out_and_cut(toy_tokenizer):
    conventions = conventions_of("mbart", toy_tokenizer)
    batch = encode_source(["one two three", "one"], "eng_Latn", toy_tokenizer, conventions, max_tokens=2)
    assert batch["input_ids"].tolist() == [[29, 4, 5, 2], [29, 4, 2, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_the_last_site_is_what_the_decoder_reads_and_the_first_the_embeddings(toy_tokenizer):
    model, conventions = tiny(toy_tokenizer), conventions_of("mbart", toy_tokenizer)
    batch = encode_source(["one two three", "four five"], "eng_Latn", toy_tokenizer, conventions, max_tokens=8)
    states = encode(model, **batch)
    assert [tuple(state.shape) for state in states] == [(2, 5, 16)] * 3
    encoder = model.get_encoder()
    torch.testing.assert_close(states[-1], encoder(**batch).last_hidden_state)
    first = {}
    hook = encoder.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: first.update(x=args[0]), with_kwargs=True
    )
    encoder(**batch)
    hook.remove()
    torch.testing.assert_close(states[0], first["x"])


def test_states_do_not_depend_on_the_padding(toy_tokenizer):
    model, conventions = tiny(toy_tokenizer), conventions_of("mbart", toy_tokenizer)
    both = encode_source(["one two three four five", "four"], "eng_Latn", toy_tokenizer, conventions, max_tokens=8)
    alone = encode_source(["four"], "eng_Latn", toy_tokenizer, conventions, max_tokens=8)
    for padded, bare in zip(encode(model, **both), encode(model, **alone), strict=True):
        torch.testing.assert_close(padded[1, :3], bare[0], rtol=1e-4, atol=1e-5)


def test_generation_keeps_the_order_of_its_input_and_starts_from_the_target_language(toy_tokenizer):
    model, conventions = tiny(toy_tokenizer), conventions_of("mbart", toy_tokenizer)
    texts = ["one two three four", "five", "six seven"]
    settings = {"source_lang": "eng_Latn", "target_lang": "deu_Latn", "max_tokens": 5}
    together = generate(model, toy_tokenizer, conventions, texts, batch_size=2, **settings)
    alone = [generate(model, toy_tokenizer, conventions, [text], **settings)[0] for text in texts]
    assert together == alone
    assert not any("deu_Latn" in text or "</s>" in text for text in together)
