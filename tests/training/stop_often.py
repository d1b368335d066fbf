"""One rank of a training that goes on in the same process each time a signal has stopped it.

`stop_often.py CORPUS TOKENIZER OUT`. OUT/attempts counts the beginnings; between two attempts signals are ignored.
"""

import json
import os
import signal
import sys
from pathlib import Path

from xbridge.core.config import parse
from xbridge.core.errors import Interrupted
from xbridge.training import train
from xbridge.training.signals import STOPPING

if __name__ == "__main__":
    corpus, tokenizer, out = map(Path, sys.argv[1:])
    for name in STOPPING:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    config = parse(train.Config, json.loads((out / "settings.json").read_text()))
    stops = 0
    while True:
        if os.environ["RANK"] == "0":
            (out / "stops").write_text(str(stops))
        try:
            train.run(config, train.Inputs(corpus=corpus, tokenizer=tokenizer), out)
            break
        except Interrupted:
            stops += 1
