"""Corpus scores of translations against one reference each, 0 to 100, by sacrebleu (Post, 2018), with its signatures.

| metric   | what                                                                                              |
|----------|---------------------------------------------------------------------------------------------------|
| `chrf`   | character n-grams up to 6 (Popović, 2015)                                                         |
| `chrf++` | and words and pairs of words (Popović, 2017)                                                      |
| `bleu`   | words (Papineni et al., 2002); characters in scripts that put no spaces                           |
| `spbleu` | BLEU over FLORES-200's sentencepiece pieces (NLLB Team, 2022), comparable across target languages |

spBLEU needs FLORES' sentencepiece model, which sacrebleu would fetch at the first use. Here it is only ever read from
disk: sacrebleu's own folder (`$SACREBLEU/models`, else ~/.sacrebleu/models) or a file that the config names.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from xbridge.core.errors import UserError
from xbridge.data.languages import UNSPACED_SCRIPTS, language

Metric = Literal["chrf", "chrf++", "bleu", "spbleu"]
FETCH = "python -c \"import sacrebleu; sacrebleu.BLEU(tokenize='flores200')\""


class Scored(NamedTuple):
    """A score and how it was computed."""

    value: float
    signature: str


class Scorer(Protocol):
    """A metric of another kind, as a plug-in: a module with a `Config` and `build(config) -> Scorer`."""

    name: str
    """What its scores are called, e.g. comet."""
    signature: str
    """Model and version: what someone else needs to get the same numbers."""

    def score(self, sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]) -> float:
        """Score of a corpus; higher is better."""


def score(
    metric: Metric,
    hypotheses: Sequence[str],
    references: Sequence[str],
    target_lang: str,
    *,
    lowercase: bool = False,
    pieces: str | None = None,
) -> Scored:
    """Score hypotheses against one reference each. `target_lang` (`zho_Hans`) chooses BLEU's tokeniser.

    `lowercase` folds both sides, which is fair to a model whose tokenizer does; the signature says so. `pieces`: a
    sentencepiece model for spBLEU in the place of FLORES-200's.
    """
    assert len(hypotheses) == len(references) > 0
    judge = _judge(metric, target_lang, lowercase, pieces)
    value = judge.corpus_score(list(hypotheses), [list(references)]).score
    return Scored(float(value), str(judge.get_signature()))


def check_metrics(metrics: Sequence[Metric], pieces: str | None = None) -> None:
    """`UserError` where a metric cannot be computed here, so that a run fails before its first step."""
    try:
        import sacrebleu  # noqa: F401
    except ImportError:
        raise UserError("sacrebleu is not installed; pip install 'xbridge-mt[study]'") from None
    if "spbleu" in metrics and not pieces_file(pieces).is_file():
        raise UserError(
            f"spbleu: {pieces_file(pieces)} is missing; fetch it where there is a network: {FETCH}; then copy the file "
            "to the same place here, or leave spbleu out"
        )


def pieces_file(pieces: str | None = None) -> Path:
    """The sentencepiece model of spBLEU: the one named, or sacrebleu's copy of FLORES-200's."""
    if pieces:
        return Path(pieces)
    from sacrebleu.tokenizers import tokenizer_spm

    name = Path(tokenizer_spm.SPM_MODELS["flores200"]["url"]).name
    return Path(tokenizer_spm.SACREBLEU_DIR, "models", name)


def bleu_tokenizer(lang: str) -> str:
    """sacrebleu's tokeniser for a language: its default 13a would score an unspaced sentence as one word."""
    script = language(lang).script
    return "zh" if script in ("Hans", "Hant") else "char" if script in UNSPACED_SCRIPTS else "13a"


def _judge(metric: Metric, target_lang: str, lowercase: bool, pieces: str | None) -> Any:
    check_metrics([metric], pieces)
    import sacrebleu

    if metric.startswith("chrf"):
        return sacrebleu.CHRF(word_order=2 if metric == "chrf++" else 0, lowercase=lowercase)
    if metric == "bleu":
        return sacrebleu.BLEU(lowercase=lowercase, tokenize=bleu_tokenizer(target_lang))
    if not pieces:
        return sacrebleu.BLEU(lowercase=lowercase, tokenize="flores200")
    judge = sacrebleu.BLEU(lowercase=lowercase, tokenize="none")
    judge.tokenizer = _Pieces(Path(pieces))
    judge.tokenizer_signature = judge.tokenizer.signature()
    return judge


class _Pieces:
    """A sacrebleu tokeniser from any sentencepiece model; the signature names it by its content."""

    def __init__(self, file: Path):
        import sentencepiece

        self._file = file
        self._model = sentencepiece.SentencePieceProcessor(model_file=str(file))

    def signature(self) -> str:
        return f"spm-{hashlib.sha256(self._file.read_bytes()).hexdigest()[:12]}"

    def __call__(self, line: str) -> str:
        return " ".join(self._model.encode(line, out_type=str))
