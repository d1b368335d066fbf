"""Our layouts against the library's own tokenizers and label shifting, family by family, on tiny vocabularies."""

import importlib

import library_tokenizers as tiny
import numpy as np
import pytest
import torch

from xbridge.core.errors import UserError
from xbridge.data.languages import from_tag
from xbridge.data.tokens import encode
from xbridge.models.families import conventions_for, conventions_of
from xbridge.objectives.seq2seq import Layouts

ENG, DEU = tiny.SENTENCES["eng_Latn"], tiny.SENTENCES["deu_Latn"]
SHIFTS = {  # the library's function that makes decoder inputs of labels: its module, and what it is given besides pad
    "mbart25": ("mbart", ()),
    "mbart50": ("mbart", ()),
    "m2m100": ("m2m_100", ("eos",)),
    "nllb": ("m2m_100", ("eos",)),
    "marian": ("marian", ("pad",)),
    "marian-multilingual": ("marian", ("pad",)),
}


def shifted(name, labels, tokenizer):
    module, starts = SHIFTS[name]
    found = importlib.import_module(f"transformers.models.{module}.modeling_{module}").shift_tokens_right
    ids = {"pad": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id}
    return found(labels, ids["pad"], *(ids[start] for start in starts))


def library_batch(tokenizer, *, source=ENG, **sides):
    """What the library's tokenizer makes of the pair: source ids, and labels."""
    for side, code in sides.items():
        setattr(tokenizer, side, code)
    encoded = tokenizer([source], text_target=[DEU], return_tensors="pt")
    return encoded["input_ids"], encoded["labels"]


def our_batch(conventions, tokenizer):
    layouts = Layouts(conventions, [("eng_Latn", "deu_Latn")])
    return layouts.batch(encode(tokenizer, [ENG]), encode(tokenizer, [DEU]), np.zeros(1, dtype=np.int64))


@pytest.mark.parametrize(
    ("name", "model_type", "sides"),
    [
        ("mbart50", "mbart", {"src_lang": "en_XX", "tgt_lang": "de_DE"}),
        ("m2m100", "m2m_100", {"src_lang": "en", "tgt_lang": "de"}),
        ("nllb", "m2m_100", {"src_lang": "eng_Latn", "tgt_lang": "deu_Latn"}),
    ],
)
def test_language_first_families_read_and_write_what_the_library_does(tmp_path, name, model_type, sides):
    tokenizer = getattr(tiny, name)(tmp_path)
    conventions = conventions_of(model_type, tokenizer)
    assert conventions.family.name == name
    ours, (source, labels) = our_batch(conventions, tokenizer), library_batch(tokenizer, **sides)
    assert torch.equal(ours.input_ids, source)
    assert torch.equal(ours.decoder_input_ids, shifted(name, labels, tokenizer))
    # the library also scores the language code, which is given in generation
    assert torch.equal(ours.labels[:, 1:], labels[:, 1:])
    assert ours.labels[0, 0] == -100
    assert labels[0, 0] == conventions.languages["deu_Latn"]


def test_mbart25_writes_what_the_library_does_up_to_the_end_of_the_text(tmp_path):
    tokenizer = tiny.mbart25(tmp_path)
    conventions = conventions_of("mbart", tokenizer)
    assert conventions.family.name == "mbart25"
    ours = our_batch(conventions, tokenizer)
    source, labels = library_batch(tokenizer, src_lang="en_XX", tgt_lang="de_DE")
    assert torch.equal(ours.input_ids, source)
    # the library goes on to score the code after </s>, where generation has stopped
    assert torch.equal(ours.labels, labels[:, :-1])
    assert labels[0, -1] == conventions.languages["deu_Latn"]
    assert torch.equal(ours.decoder_input_ids, shifted("mbart25", labels, tokenizer)[:, :-1])


def test_an_nllb_tokenizer_with_the_old_layout_does_not_change_ours(tmp_path):
    old, new = (tiny.nllb(tmp_path, legacy_behaviour=legacy) for legacy in (True, False))
    source, _ = library_batch(old, src_lang="eng_Latn", tgt_lang="deu_Latn")
    assert source[0, -1] == old.convert_tokens_to_ids("eng_Latn"), "the old layout had the code last"
    assert torch.equal(*(our_batch(conventions_of("m2m_100", tok), tok).input_ids for tok in (old, new)))


@pytest.mark.parametrize(("name", "codes"), [("marian", []), ("marian-multilingual", [">>deu<<", ">>spa<<"])])
def test_marian_names_the_target_in_the_source_where_there_are_several(tmp_path, name, codes):
    tokenizer = tiny.marian(tmp_path, *codes)
    conventions = conventions_of("marian", tokenizer)
    assert conventions.family.name == name
    ours = our_batch(conventions, tokenizer)
    source, labels = library_batch(tokenizer, source=f">>deu<< {ENG}" if codes else ENG)
    assert torch.equal(ours.input_ids, source)
    assert torch.equal(ours.labels, labels)
    assert torch.equal(ours.decoder_input_ids, shifted(name, labels, tokenizer))
    assert conventions.source("eng_Latn") == ([], [tokenizer.eos_token_id]), "a text that is only read has no target"


def test_a_tokenizer_that_cuts_targets_in_another_way_is_refused_for_training(tmp_path):
    from xbridge.objectives.layout_check import check_one_segmentation

    same = tiny.marian(tmp_path)
    check_one_segmentation(same)
    same.spm_target = tiny.spm.SentencePieceProcessor(model_proto=tiny.sentencepiece_model())
    with pytest.raises(UserError, match="MarianTokenizer cuts sources and targets by two sentencepiece models"):
        check_one_segmentation(same)


def test_t5_is_told_the_direction_in_words_and_masks_with_its_first_sentinel(tmp_path):
    from transformers import MT5Config, MT5ForConditionalGeneration

    tokenizer = tiny.t5(tmp_path)
    shape = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 1, "vocab_size": len(tokenizer)}
    model = MT5ForConditionalGeneration(MT5Config(**shape))
    conventions = conventions_for(model, tokenizer)
    assert conventions.family.name == "t5"
    assert conventions.mask == tokenizer.convert_tokens_to_ids("<extra_id_0>")
    ours = our_batch(conventions, tokenizer)
    source, labels = library_batch(tokenizer, source=f"translate English to German: {ENG}")
    assert torch.equal(ours.input_ids, source)
    assert torch.equal(ours.labels, labels)
    assert torch.equal(ours.decoder_input_ids, model._shift_right(labels))
    model.config.translation_prompt = "to {target} :"
    named = our_batch(conventions_for(model, tokenizer), tokenizer)
    assert torch.equal(named.input_ids, library_batch(tokenizer, source=f"to German : {ENG}")[0])


@pytest.mark.parametrize(
    ("make", "model_type", "around"), [(tiny.mbert, "bert", ([2], [3])), (tiny.xlmr, "xlm-roberta", ([0], [2]))]
)
def test_encoders_read_one_text_and_two_as_their_tokenizers_put_them(tmp_path, make, model_type, around):
    tokenizer = make(tmp_path)
    conventions = conventions_of(model_type, tokenizer)
    before, after = conventions.source("deu_Latn")
    assert (before, after) == around
    eng, deu = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (ENG, DEU))
    assert before + eng + after == tokenizer(ENG)["input_ids"]
    assert before + eng + conventions.between() + deu + after == tokenizer(ENG, DEU)["input_ids"]
    assert (conventions.eos, conventions.mask) == (tokenizer.sep_token_id, tokenizer.mask_token_id)


def test_a_decoder_reads_the_prompt_and_both_texts_in_one_sequence(tmp_path):
    from transformers import XGLMConfig, XGLMForCausalLM

    tokenizer = tiny.xglm(tmp_path)
    shape = {"d_model": 8, "num_layers": 1, "attention_heads": 1, "ffn_dim": 8, "vocab_size": len(tokenizer)}
    conventions = conventions_for(XGLMForCausalLM(XGLMConfig(**shape)), tokenizer)
    assert (conventions.family.name, conventions.family.kind) == ("causal", "decoder")
    assert conventions.source("eng_Latn") == ([2], []), "XGLM's own: </s> before a text"
    prompt, _ = conventions.source("eng_Latn", "deu_Latn")
    assert prompt == tokenizer("translate English to German:")["input_ids"]
    assert (conventions.between(), conventions.target("deu_Latn")) == ([2], ([], [2]))


def test_every_language_of_mbart50_and_m2m100_has_one_code_of_ours(tmp_path):
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as MBART50

    fifty, hundred = tiny.mbart50(tmp_path), tiny.m2m100(tmp_path)
    found = conventions_of("mbart", fifty).languages
    assert found == {from_tag(code).code: fifty.convert_tokens_to_ids(code) for code in MBART50}
    assert len(found) == 52
    found = conventions_of("m2m_100", hundred).languages
    assert len(found) == len(M2M["m2m100"]) == 100
    assert found["nob_Latn"] == hundred.get_lang_id("no")
    assert found["nso_Latn"] == hundred.get_lang_id("ns")
    assert found["zho_Hans"] == hundred.get_lang_id("zh")


def test_a_symbol_that_the_tokenizer_lacks_is_named(tmp_path):
    with pytest.raises(UserError, match=r"T5Tokenizer has no sep_token, which mbert needs"):
        conventions_of("bert", tiny.t5(tmp_path)).between()
