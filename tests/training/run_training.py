"""One rank of trainings, for the tests that need processes: `run_training.py CORPUS TOKENIZER OUT...`.

Each OUT holds a settings.json; they are trained one after the other by the same processes. Exits with 128 + n after
signal n and with 2 after a user's error, as the command line does.
"""

import json
import sys
from pathlib import Path

from xbridge.core.config import parse
from xbridge.core.errors import Interrupted, UserError
from xbridge.training import train

if __name__ == "__main__":
    corpus, tokenizer, *folders = map(Path, sys.argv[1:])
    try:
        for out in folders:
            config = parse(train.Config, json.loads((out / "settings.json").read_text()))
            train.run(config, train.Inputs(corpus=corpus, tokenizer=tokenizer), out)
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
    except UserError as error:
        print(f"xbridge: {error}", file=sys.stderr)
        sys.exit(2)
