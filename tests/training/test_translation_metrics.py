"""Scores of translations: equal to sacrebleu's own, with its signatures, and nothing is fetched."""

import math

import pytest
import sacrebleu
import sentencepiece
from sacrebleu.tokenizers import tokenizer_spm

from xbridge.core.errors import UserError
from xbridge.training.translation_metrics import FETCH, bleu_tokenizer, check_metrics, score

SAID = ["Das Licht ist aus.", "Ja"]
RIGHT = ["Das Licht ist an.", "Ja"]


def test_scores_are_those_of_sacrebleu():
    assert score("bleu", SAID, RIGHT, "deu_Latn").value == pytest.approx(sacrebleu.corpus_bleu(SAID, [RIGHT]).score)
    assert score("chrf", SAID, RIGHT, "deu_Latn").value == pytest.approx(sacrebleu.corpus_chrf(SAID, [RIGHT]).score)
    plus = sacrebleu.corpus_chrf(SAID, [RIGHT], word_order=2).score
    assert score("chrf++", SAID, RIGHT, "deu_Latn").value == pytest.approx(plus)


def test_signatures_say_what_was_computed():
    assert "tok:13a" in score("bleu", SAID, RIGHT, "deu_Latn").signature
    assert "nc:6|nw:0" in score("chrf", SAID, RIGHT, "deu_Latn").signature
    assert "nc:6|nw:2" in score("chrf++", SAID, RIGHT, "deu_Latn").signature
    assert "case:lc" in score("chrf++", SAID, RIGHT, "deu_Latn", lowercase=True).signature


def test_chinese_bleu_is_tokenised_by_character():
    scored = score("bleu", ["打开卧室的灯吧"], ["打开卧室的灯"], "zho_Hans")
    assert "tok:zh" in scored.signature
    # 6 of 7 characters, 5 of 6 pairs, 4 of 5 triples and 3 of 4 quadruples are right; no brevity penalty.
    assert scored.value == pytest.approx(100 * math.prod([6 / 7, 5 / 6, 4 / 5, 3 / 4]) ** 0.25)


@pytest.mark.parametrize(
    ("lang", "tokenizer"), [("deu_Latn", "13a"), ("zho_Hant", "zh"), ("jpn_Jpan", "char"), ("kor_Hang", "13a")]
)
def test_bleu_tokeniser_follows_the_script(lang, tokenizer):
    assert bleu_tokenizer(lang) == tokenizer


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A real sentencepiece model of a few sentences, in the place of FLORES-200's."""
    folder = tmp_path_factory.mktemp("sacrebleu")
    (folder / "models").mkdir()
    text = folder / "text.txt"
    text.write_text("\n".join(f"Das Licht {n} ist an. Ja, das Licht ist aus." for n in range(40)), encoding="utf-8")
    name = tokenizer_spm.SPM_MODELS["flores200"]["url"].rsplit("/", 1)[-1]
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "models" / name),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "models" / f"{name}.model").rename(folder / "models" / name)
    return folder / "models" / name


def test_spbleu_is_sacrebleus_over_the_pieces_of_the_model_in_its_folder(pieces, monkeypatch):
    monkeypatch.setattr(tokenizer_spm, "SACREBLEU_DIR", str(pieces.parents[1]))
    scored = score("spbleu", SAID, RIGHT, "deu_Latn")
    assert "tok:flores200" in scored.signature
    assert scored.value == pytest.approx(sacrebleu.corpus_bleu(SAID, [RIGHT], tokenize="flores200").score)
    named = score("spbleu", SAID, RIGHT, "deu_Latn", pieces=str(pieces))
    assert named.value == pytest.approx(scored.value)
    assert "tok:spm-" in named.signature  # nobody has checked that the file is FLORES-200's


def test_without_the_model_spbleu_is_refused_with_the_command_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_spm, "SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr(tokenizer_spm, "download_file", lambda *_: pytest.fail("reached for the network"))
    with pytest.raises(UserError, match=r"spbleu: .* is missing; fetch it where there is a network: ") as caught:
        check_metrics(["chrf", "spbleu"])
    assert FETCH in str(caught.value)
    with pytest.raises(UserError, match="is missing"):
        score("spbleu", SAID, RIGHT, "deu_Latn")
    check_metrics(["chrf", "chrf++", "bleu"])
