"""What the loop runs on: the model, its loss and its optimiser, on one process or on several that each hold all of it.

`PlainEngine` needs nothing but torch.distributed; training/zero.py has its sharded counterpart. Both take the summed
loss of a micro-batch times a scale, and both give the gradient of the whole global batch to the update.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from xbridge.objectives.base import LossSum
from xbridge.training.checkpoint import Checkpoints
from xbridge.training.optim import OptimConfig, make_optimizer
from xbridge.training.placement import Place, autocast

BUCKET_BYTES = 32 << 20  # gradients of so many bytes are summed over the ranks in one message

LossFunction = Callable[[nn.Module, Any], LossSum]


class Saves(Protocol):
    """Checkpoints of an engine."""

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the checkpoint of `step`, on all ranks together."""

    def load_newest(self) -> dict[str, Any] | None:
        """Load the newest whole checkpoint and return its state; None without one."""

    def newest(self) -> Path | None:
        """The newest whole checkpoint."""


class Engine(Protocol):
    """The seam between the loop and how the model is spread over processes."""

    place: Place

    def train(self, mode: bool) -> None:
        """Switch dropout on or off."""

    def loss(self, batch: Any) -> LossSum:
        """Loss of one micro-batch, in the run's precision."""

    def apply(self, function: Callable[[nn.Module], Any]) -> Any:
        """The value of `function` for the model, whose weights it may read in forward passes only."""

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of `loss`; `last` = the update follows."""

    def step(self, rate: float) -> float:
        """Sum over the ranks, clip, update, clear; return the L2 norm of the whole gradient before clipping."""

    def checkpoints(self, root: Path, keep: int) -> Saves:
        """The checkpoints below `root`."""

    def state_dict(self) -> dict[str, torch.Tensor] | None:
        """Whole weights on rank 0 where they are sharded; None where the model itself has them."""


class PlainEngine:
    """Every rank holds the whole model; gradients are summed over the ranks before each update."""

    def __init__(self, model: nn.Module, loss: LossFunction, optim: OptimConfig, place: Place):
        self.place = place
        self._model, self._loss, self._clip_norm = model.to(place.device), loss, optim.clip_norm
        self._optimizer = make_optimizer(model, optim)
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._buckets = buckets_of(self._trained, BUCKET_BYTES)

    def train(self, mode: bool) -> None:
        """Switch dropout on or off."""
        self._model.train(mode)

    def loss(self, batch: Any) -> LossSum:
        """Loss of one micro-batch, in the run's precision."""
        with autocast(self.place):
            return self._loss(self._model, batch)

    def apply(self, function: Callable[[nn.Module], Any]) -> Any:
        """The value of `function` for the model."""
        with autocast(self.place):
            return function(self._model)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of `loss`."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, rate: float) -> float:
        """Sum over the ranks, clip, update, clear; return the L2 norm of the whole gradient before clipping."""
        self._sum_gradients()
        norm = float(nn.utils.clip_grad_norm_(self._trained, self._clip_norm or math.inf))
        if math.isfinite(norm):
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
            self._optimizer.zero_grad()
        return norm

    def checkpoints(self, root: Path, keep: int) -> Checkpoints:
        """The checkpoints below `root`."""
        return Checkpoints(root, self._model, self._optimizer, keep, self.place.accelerator)

    def state_dict(self) -> None:
        """The model itself has the weights."""

    def _sum_gradients(self) -> None:
        """Add up the ranks' gradients; a parameter that no row used has a gradient of zero, as under ZeRO.

        DistributedDataParallel is not used: it lays its buckets out anew after the first update, so that three or
        more ranks add in another order after a resume, and it wants every rank to use the same parameters.
        """
        for bucket in self._buckets:
            gradients = []
            for parameter in bucket:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
            if self.place.world_size > 1:
                flat = torch.cat([gradient.flatten() for gradient in gradients])
                torch.distributed.all_reduce(flat)
                torch._foreach_copy_(gradients, _unflatten(flat, gradients))


def _unflatten(flat: torch.Tensor, like: list[torch.Tensor]) -> list[torch.Tensor]:
    pieces = torch.split(flat, [tensor.numel() for tensor in like])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, like, strict=True)]


def buckets_of(parameters: list[nn.Parameter], limit_bytes: int) -> list[list[nn.Parameter]]:
    """Parameters of one type in a row, as many as fit `limit_bytes`, at least one: the same lists in every run."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        if not buckets or parameter.dtype != buckets[-1][0].dtype or size + parameter.nbytes > limit_bytes:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.nbytes
    return buckets
