"""Tiny tokenizers of the library's own classes over one sentencepiece model of number words."""

import io
import json

import sentencepiece as spm
from transformers import (
    BertTokenizer,
    M2M100Tokenizer,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    NllbTokenizer,
    T5Tokenizer,
    XGLMTokenizer,
    XLMRobertaTokenizer,
)

SENTENCES = {
    "eng_Latn": "one two three",
    "deu_Latn": "eins zwei drei",
    "spa_Latn": "uno dos tres",
}
WORDS = ["translate", "English", "German", "Spanish", "to", ":", *" ".join(SENTENCES.values()).split()]


def sentencepiece_model(*, marian=False):
    """A serialised model with fairseq's first ids, or Marian's: </s> 0, <unk> 1."""
    ids = {"eos_id": 0, "unk_id": 1, "bos_id": -1, "pad_id": -1} if marian else {
        "bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "<pad>"}  # fmt: skip
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([*SENTENCES.values(), *WORDS] * 50), model_writer=model, vocab_size=60,
        model_type="unigram", hard_vocab_limit=False, minloglevel=2, num_threads=1, **ids,
    )  # fmt: skip
    return model.getvalue()


def pieces_of(model):
    """(piece, score) of the pieces after the special ones."""
    processor = spm.SentencePieceProcessor(model_proto=model)
    return [
        (processor.id_to_piece(i), processor.get_score(i))
        for i in range(processor.get_piece_size())
        if not (processor.is_control(i) or processor.is_unknown(i))
    ]


def _fairseq(extra=()):
    specials = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return [*specials, *pieces_of(sentencepiece_model()), *extra]


def mbart25(folder):
    from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES as CODES

    return MBartTokenizer(vocab=_fairseq([*((code, 0.0) for code in CODES), ("<mask>", 0.0)]))


def mbart50(folder):
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as CODES

    return MBart50Tokenizer(vocab=_fairseq([*((code, 0.0) for code in CODES), ("<mask>", 0.0)]))


def m2m100(folder):
    (folder / "spm.model").write_bytes(sentencepiece_model())
    vocabulary = {piece: index for index, (piece, _) in enumerate(_fairseq())}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "spm.model"))


def nllb(folder, **settings):
    words = ["<s>", "<pad>", "</s>", "<unk>", *dict.fromkeys("▁" + "".join(SENTENCES.values()).replace(" ", ""))]
    return NllbTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], **settings)


def t5(folder):
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=[*specials, *pieces_of(sentencepiece_model())], extra_ids=2)


def marian(folder, *codes, **settings):
    (folder / "source.spm").write_bytes(sentencepiece_model(marian=True))
    pieces = [piece for piece, _ in pieces_of(sentencepiece_model(marian=True))]
    vocabulary = {word: index for index, word in enumerate(["</s>", "<unk>", *codes, *pieces, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    spm_file = str(folder / "source.spm")
    return MarianTokenizer(spm_file, spm_file, str(folder / "vocab.json"), **settings)


def mbert(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS)]
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)}, do_lower_case=False)


def xlmr(folder):
    return XLMRobertaTokenizer(vocab=_fairseq([("<mask>", 0.0)]))


def xglm(folder):
    return XGLMTokenizer(vocab=_fairseq())
