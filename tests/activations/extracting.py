"""Run the extract stage with settings as they stand in a YAML."""

from xbridge.activations import extract
from xbridge.activations.store import ActivationStore
from xbridge.core.config import parse


def run(tiny_model, sentences, out, **settings):
    config = parse(extract.Config, settings)
    extract.run(config, extract.Inputs(model=tiny_model, sentences=sentences), out)
    return ActivationStore(out)
