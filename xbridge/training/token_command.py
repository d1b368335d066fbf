"""`xbridge tokens CONFIG`: make the token stores of a training ahead of it, alone or as a task of an array job."""

from pathlib import Path

from xbridge.core.console import log
from xbridge.core.errors import UserError
from xbridge.data.token_store import address_of, build_part, open_store
from xbridge.models.loading import load_tokenizer
from xbridge.objectives.text import corpus_of
from xbridge.training.config import Config, Inputs
from xbridge.training.start import revision_of, start_of, tokens_folder


def parse_part(text: str) -> tuple[int, int]:
    """`3/16` -> (3, 16); `UserError` for anything else."""
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UserError(f"--part {text}: write it as k/n, from 1/n to n/n")
    return int(number), int(of)


def build_tokens(config: Config, inputs: Inputs, out: Path, part: tuple[int, int]) -> list[Path]:
    """Make the stores that a training into `out` will read, or share k of n of them; return those that are whole."""
    vocabulary = inputs.tokenizer or start_of(config, inputs)
    assert vocabulary is not None
    tokenizer = load_tokenizer(vocabulary, revision=revision_of(config, inputs.tokenizer))
    root = tokens_folder(out)
    whole = []
    for folder in inputs.corpus.values() if isinstance(inputs.corpus, dict) else [inputs.corpus]:
        corpus = corpus_of(folder, tokenizer)
        if part[1] == 1:
            open_store(root, corpus)
        elif not build_part(root, corpus, *part):
            log("tokens", corpus=folder, done=f"part {part[0]} of {part[1]}")
            continue
        whole.append(root / address_of(corpus))
    return whole
