"""One rank of an extraction, for the tests that need processes: `run_extract.py CONFIG.json MODEL SENTENCES OUT`.

A fifth argument is the second model.
"""

import json
import sys
from pathlib import Path

from xbridge.activations import extract
from xbridge.core.config import parse

if __name__ == "__main__":
    settings, model, sentences, out, *other = map(Path, sys.argv[1:])
    config = parse(extract.Config, json.loads(settings.read_text()))
    extract.run(config, extract.Inputs(model=model, sentences=sentences, other=other[0] if other else None), out)
