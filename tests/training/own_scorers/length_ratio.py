"""A scorer of the user's own: 100 times the mean of min(words said, words wanted) / max of the two."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Config:
    """Length ratio."""

    scale: float = 100.0
    """Score of a translation that is as long as its reference."""


@dataclass(frozen=True)
class LengthRatio:
    name: str
    signature: str
    scale: float

    def score(self, sources, hypotheses, references):
        pairs = [(len(h.split()), len(r.split())) for h, r in zip(hypotheses, references, strict=True)]
        return self.scale * sum(min(pair) / max(pair) for pair in pairs) / len(pairs)


def build(config):
    """The scorer."""
    return LengthRatio("length_ratio", f"scale:{config.scale:g}", config.scale)
