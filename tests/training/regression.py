"""A small exact problem for the loop: linear regression in float64, whose batches are known in advance."""

import itertools

import torch
from torch import nn

from xbridge.data.batching import Counts
from xbridge.objectives.base import LossSum
from xbridge.training.metrics_log import read_metrics
from xbridge.training.optim import OptimConfig
from xbridge.training.trainer import Trainer


class Regression:
    """Global batches of 12 rows of y = sum(x), split unevenly into `accumulation` micro-batches."""

    def __init__(self, num_steps=8, accumulation=1):
        self.num_steps, self._accumulation = num_steps, accumulation

    def micro_batches(self, step, rank, world_size):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
        edges = [*[0, 1, 6, 12][: self._accumulation], 12]
        return [x[a:b] for a, b in itertools.pairwise(edges)]

    def counts(self, step):
        return Counts(12, 48, 50)

    def digest(self, step):
        return f"{step:016x}"


def squared_error(model, x):
    """Sum over the rows."""
    return LossSum((model(x)[:, 0] - x.sum(1)).square().sum(), len(x))


def trainer_of(folder, *, plan=None, loss=squared_error, seed=0, **settings):
    """A trainer of a fresh model, and the model."""
    torch.manual_seed(seed)
    model = nn.Linear(4, 1).double()
    optim = OptimConfig(lr=0.05, warmup_steps=2, clip_norm=settings.pop("clip_norm", 1.0))
    return Trainer(model, loss, plan or Regression(), optim, folder, **settings), model


def steps(folder):
    """metrics.jsonl without what depends on the clock."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder / "metrics.jsonl")]
