import pytest

from xbridge.models.families import conventions_of
from xbridge.objectives.base import Material


@pytest.fixture
def material(toy_corpus, toy_tokenizer):
    """What the objectives are built from, over the toy corpus."""
    return Material(
        corpus=toy_corpus,
        split="train",
        tokenizer=toy_tokenizer,
        conventions=conventions_of("mbart", toy_tokenizer),
        max_tokens=6,
        seed=5,
    )
