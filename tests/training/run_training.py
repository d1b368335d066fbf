"""One rank of trainings, for the tests that need processes: `run_training.py CORPUS TOKENIZER OUT...`.

Each OUT holds a settings.json; they are trained one after the other by the same processes. SOURCE:STEP:OUT begins as
SOURCE was when it had saved STEP. Exits with 128 + n after signal n and with 2 after a user's error, as the command
line does.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from xbridge.core.config import parse
from xbridge.core.errors import Interrupted, UserError
from xbridge.training import train


def copy_until(source, step, out):
    """Make `out` what a run leaves that was killed right after saving `step`."""
    (out / "checkpoints").mkdir()
    for name in ("metrics.jsonl", "checkpoints/run.json"):
        shutil.copy(source / name, out / name)
    saved = f"checkpoints/step-{int(step):06d}"
    shutil.copytree(source / saved, out / saved)


if __name__ == "__main__":
    corpus, tokenizer = map(Path, sys.argv[1:3])
    try:
        for word in sys.argv[3:]:
            *source, out = word.split(":")
            out = Path(out)
            if source and os.environ.get("RANK", "0") == "0":
                copy_until(Path(source[0]), source[1], out)
            config = parse(train.Config, json.loads((out / "settings.json").read_text()))
            train.run(config, train.Inputs(corpus=corpus, tokenizer=tokenizer), out)
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
    except UserError as error:
        print(f"xbridge: {error}", file=sys.stderr)
        sys.exit(2)
