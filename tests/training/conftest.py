import pytest
from tiny_training import config

from xbridge.training import train


@pytest.fixture(scope="session")
def inputs(toy_corpus, toy_tokenizer_folder):
    """The toy corpus and tokenizer."""
    return train.Inputs(corpus=toy_corpus, tokenizer=toy_tokenizer_folder)


@pytest.fixture(scope="session")
def base(inputs, tmp_path_factory):
    """The folder of a finished training with the tiny settings as they are; not to be written to."""
    folder = tmp_path_factory.mktemp("base")
    train.run(config(), inputs, folder)
    return folder
