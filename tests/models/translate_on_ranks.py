"""One rank of a translation: `translate_on_ranks.py ZERO_STAGE MODEL_FOLDER OUT` writes OUT/<rank>.json."""

import json
import sys
from pathlib import Path

from torch import nn

from xbridge.models.families import conventions_of
from xbridge.models.generation import Request, Search, translate
from xbridge.models.loading import load_backbone, load_tokenizer
from xbridge.training.optim import OptimConfig, make_optimizer
from xbridge.training.trainer import make_accelerator
from xbridge.training.zero import ZeroConfig

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
SENTENCES = [" ".join(NUMBERS[i % 8 : i % 8 + 1 + i % 5]) for i in range(23)]
REQUESTS = [Request(text, "eng_Latn", "deu_Latn" if i % 3 else "spa_Latn") for i, text in enumerate(SENTENCES)]


class Whole(nn.Module):
    """A model whose forward takes what is to be done with it, as the trainer's does."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, work):
        return work(self.model)


if __name__ == "__main__":
    stage, folder, out = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    accelerator = make_accelerator("fp32", ZeroConfig(stage=stage))
    model, tokenizer = load_backbone(folder), load_tokenizer(folder)
    engine, _ = accelerator.prepare(Whole(model), make_optimizer(model, OptimConfig()))
    # 23 sentences in batches of 2 to 4: no multiple of two or three ranks, and no two batches end equally soon
    search = Search(max_new_tokens=9, num_beams=2, batch_tokens=64)
    conventions = conventions_of("mbart", tokenizer)
    texts = engine(lambda inner: translate(inner, tokenizer, conventions, REQUESTS, search))
    (out / f"{accelerator.process_index}.json").write_text(json.dumps(texts))
    accelerator.wait_for_everyone()
    accelerator.end_training()
