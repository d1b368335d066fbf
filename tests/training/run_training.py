"""One rank of a training, for the tests that need processes: `run_training.py CONFIG.json CORPUS TOKENIZER OUT`.

Exits with 128 + n after signal n, as the command line does.
"""

import json
import sys
from pathlib import Path

from xbridge.core.config import parse
from xbridge.core.errors import Interrupted
from xbridge.training import train

if __name__ == "__main__":
    settings, corpus, tokenizer, out = map(Path, sys.argv[1:])
    config = parse(train.Config, json.loads(settings.read_text()))
    try:
        train.run(config, train.Inputs(corpus=corpus, tokenizer=tokenizer), out)
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
