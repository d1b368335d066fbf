"""Golden ids of the families (stand-in vocabularies with the real tokens), and layouts without language tokens."""

import pytest
import torch

from xbridge.core.errors import UserError
from xbridge.models.encoding import encode_source, max_positions
from xbridge.models.families import conventions_for, conventions_of


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


def test_marian_and_mt5_start_with_padding():
    class OpusMt(Vocabulary):
        eos_token_id, pad_token_id, mask_token_id = 0, 58100, None

    one = conventions_of("marian", OpusMt())
    assert (one.family.name, one.source("eng_Latn", "deu_Latn"), one.target("deu_Latn")) == (
        "marian", ([], [0]), ([58100], [0]),
    )  # fmt: skip
    many = conventions_of(
        "marian", OpusMt(**{">>deu<<": 101, ">>es_AR<<": 90, ">>es<<": 102, ">>cmn_Hans<<": 103, ">>pt_br<<": 104})
    )
    assert many.source("eng_Latn", "spa_Latn") == ([102], [0])
    assert many.languages == {"deu_Latn": 101, "spa_Latn": 102, "zho_Hans": 103, "por_Latn_BR": 104}

    class Mt5(Vocabulary):
        eos_token_id, pad_token_id, mask_token_id = 1, 0, None

    assert conventions_of("mt5", Mt5()).target("deu_Latn") == ([0], [1])
    assert conventions_of("mt5", Mt5(**{"<extra_id_0>": 250099})).mask == 250099


def test_a_language_without_a_token_is_named_with_those_there_are(toy_tokenizer):
    with pytest.raises(UserError, match=r"^hun_Latn: .*it has deu_Latn, eng_Latn, spa_Latn$"):
        conventions_of("mbart", toy_tokenizer).source("hun_Latn")


@pytest.mark.parametrize("model_type", ["mbart", "gpt2"])
def test_a_model_without_known_language_tokens_is_refused(model_type):
    with pytest.raises(UserError, match="no known language tokens"):
        conventions_of(model_type, Vocabulary())


def test_sources_are_laid_out_and_cut(toy_tokenizer):
    conventions = conventions_of("mbart", toy_tokenizer)
    batch = encode_source(["one two three", "one"], "eng_Latn", toy_tokenizer, conventions, max_tokens=2)
    assert batch["input_ids"].tolist() == [[29, 4, 5, 2], [29, 4, 2, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def templated(template, **special):
    """A word-level tokenizer that puts its own special tokens around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", "one", "two"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)


def config_model(model_type, **settings):
    """The configs that conventions are read from, in the place of a model."""
    from types import SimpleNamespace

    config = SimpleNamespace(model_type=model_type, is_encoder_decoder=bool(settings), **settings)
    return SimpleNamespace(config=config, generation_config=None)


@pytest.mark.parametrize(
    ("template", "around"),
    [("<s> $A </s>", ([1], [2])), ("$A </s>", ([], [2])), ("<s> $A", ([1], [])), (None, ([], []))],
)
def test_a_model_without_language_tokens_reads_what_its_tokenizer_puts_around_a_text(template, around):
    conventions = conventions_for(config_model("bert"), templated(template, pad_token="<pad>", eos_token="</s>"))
    assert conventions.source("deu_Latn") == conventions.source("any language") == around
    assert conventions.num_around() == len(around[0]) + len(around[1])
    assert (conventions.pad, conventions.eos) == (0, 2)
    conventions.check_language("deu_Latn")


def test_its_decoder_starts_with_the_token_that_the_model_names_also_when_that_is_token_0():
    model = config_model("bart", decoder_start_token_id=0)
    conventions = conventions_for(model, templated("$A </s>", pad_token="<pad>", eos_token="</s>"))
    assert conventions.target("deu_Latn") == ([0], [2])
    with pytest.raises(UserError, match="does not say what its decoder starts with; set decoder_start_token_id"):
        conventions_for(config_model("bart", decoder_start_token_id=None), templated("$A </s>", eos_token="</s>"))


def test_without_a_padding_token_the_end_token_pads():
    conventions = conventions_for(config_model("llama"), templated("<s> $A", bos_token="<s>", eos_token="</s>"))
    assert conventions.pad == 2


def test_a_family_with_language_tokens_still_needs_them(toy_tokenizer):
    assert conventions_for(config_model("mbart"), toy_tokenizer).family.name == "own"
    with pytest.raises(UserError, match="no known language tokens"):
        conventions_for(config_model("mbart"), templated("$A </s>", eos_token="</s>"))


def test_roberta_keeps_two_positions_for_padding_and_bert_none():
    from transformers import BertConfig, BertModel, T5Config, T5EncoderModel, XLMRobertaConfig, XLMRobertaModel

    shape = {
        "vocab_size": 9,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    roberta = XLMRobertaModel(XLMRobertaConfig(**shape, max_position_embeddings=34, pad_token_id=1)).eval()
    assert max_positions(roberta) == 32
    roberta(input_ids=torch.full((1, 32), 5))
    with pytest.raises((IndexError, RuntimeError)):
        roberta(input_ids=torch.full((1, 33), 5))
    assert max_positions(BertModel(BertConfig(**shape, max_position_embeddings=34))) == 34
    t5 = T5EncoderModel(T5Config(vocab_size=9, d_model=8, d_kv=8, d_ff=8, num_layers=1, num_heads=1))
    assert max_positions(t5) == 512
