"""One rank of a translation: `translate_on_ranks.py ZERO_STAGE MODEL_FOLDER OUT` writes OUT/<rank>.json."""

import json
import sys
from pathlib import Path

from xbridge.models.families import conventions_of
from xbridge.models.generation import Request, Search, translate
from xbridge.models.loading import load_backbone, load_tokenizer
from xbridge.training.config import ZeroConfig
from xbridge.training.optim import OptimConfig
from xbridge.training.trainer import make_engine

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
SENTENCES = [" ".join(NUMBERS[i % 8 : i % 8 + 1 + i % 5]) for i in range(23)]
REQUESTS = [Request(text, "eng_Latn", "deu_Latn" if i % 3 else "spa_Latn") for i, text in enumerate(SENTENCES)]


if __name__ == "__main__":
    stage, folder, out = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    model, tokenizer = load_backbone(folder), load_tokenizer(folder)
    engine = make_engine(model, lambda model, batch: batch, OptimConfig(), "fp32", ZeroConfig(stage=stage))
    # 23 sentences in batches of 2 to 4: no multiple of two or three ranks, and no two batches end equally soon
    search = Search(max_new_tokens=9, num_beams=2, batch_tokens=64)
    conventions = conventions_of("mbart", tokenizer)
    texts = engine.apply(lambda inner: translate(inner, tokenizer, conventions, REQUESTS, search))
    (out / f"{engine.place.rank}.json").write_text(json.dumps(texts))
    engine.place.wait()
    engine.place.accelerator.end_training()
