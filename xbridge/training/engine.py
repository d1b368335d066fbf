"""What the loop runs on: the model, its loss and its optimiser, on one process or on several that each hold all of it.

`PlainEngine` needs nothing but torch.distributed; training/zero.py has its sharded counterpart. Both take the summed
loss of a micro-batch times a scale, and both give the gradient of the whole global batch to the update.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from xbridge.core.runtime import keep_freed_memory
from xbridge.objectives.base import LossSum
from xbridge.training.checkpoint import Contents
from xbridge.training.loss_scale import LossScale
from xbridge.training.optim import OptimConfig, make_optimizer
from xbridge.training.placement import Place, autocast
from xbridge.training.tensor_files import Slot

BUCKET_BYTES = 32 << 20  # gradients of so many bytes are summed over the ranks in one message
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, by PyTorch's names

LossFunction = Callable[[nn.Module, Any], LossSum]


class Engine(Contents, Protocol):
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
        """Sum over the ranks, clip, update, clear; return the L2 norm of the whole gradient before clipping.

        A norm that is not finite means that there was no update.
        """


class PlainEngine:
    """Every rank holds the whole model; gradients are summed over the ranks before each update."""

    def __init__(self, model: nn.Module, loss: LossFunction, optim: OptimConfig, place: Place):
        self.place = place
        if place.device.type == "cpu":
            keep_freed_memory()
        self._model, self._loss, self._clip_norm = model.to(place.device), loss, optim.clip_norm
        self._optimizer = make_optimizer(model, optim)
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._buckets = buckets_of(self._trained, BUCKET_BYTES)
        self._scale = LossScale(place.precision == "fp16")
        self._updates = 0

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
        (loss * self._scale.value if self._scale.enabled else loss).backward()  # type: ignore[no-untyped-call]

    def step(self, rate: float) -> float:
        """Sum over the ranks, clip, update, clear; return the L2 norm of the whole gradient before clipping."""
        self._sum_gradients()
        if self._scale.enabled:
            torch._foreach_div_([p.grad for p in self._trained if p.grad is not None], self._scale.value)
        norm = float(nn.utils.clip_grad_norm_(self._trained, self._clip_norm or math.inf))
        if math.isfinite(norm):
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
            self._updates += 1
        self._scale.update(not math.isfinite(norm))
        self._optimizer.zero_grad()
        return norm

    def weights(self) -> list[Slot]:
        """Parameters and saved buffers, a tied parameter under its first name."""
        return [slot_of(name, tensor) for name, tensor in model_tensors(self._model).items()]

    def moments(self) -> list[Slot]:
        """AdamW's moments of the trained parameters; none before the first update."""
        return [
            slot_of(f"{name}/{key}", self._optimizer.state[parameter][key])
            for name, parameter in self._model.named_parameters()
            if parameter in self._optimizer.state
            for key in MOMENTS
        ]

    def counters(self) -> dict[str, float]:
        """Updates so far, and the loss scale."""
        return {"updates": self._updates, **self._scale.counters()}

    def begin_restore(self, counters: Mapping[str, float]) -> None:
        """Take the counters, and make room for the moments."""
        self._scale.restore(counters)
        self._updates = int(counters["updates"])
        for parameter in self._trained if self._updates else []:
            self._optimizer.state[parameter] = new_moments(parameter, self._updates)

    def end_restore(self) -> None:
        """Nothing is kept twice here."""

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


def model_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and saved buffers by name; a tied parameter appears under its first name."""
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters())
    saved = model.state_dict()
    tensors.update({name: buffer for name, buffer in model.named_buffers() if name in saved})
    return tensors


def slot_of(name: str, tensor: torch.Tensor) -> Slot:
    """A tensor that this rank holds whole; in files, half precision is float32."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)

    def write(value: torch.Tensor) -> None:
        with torch.no_grad():
            tensor.copy_(value)

    return Slot(name, tuple(tensor.shape), torch.float32 if half else tensor.dtype, lambda: tensor, write)


def new_moments(parameter: torch.Tensor, updates: int) -> dict[str, torch.Tensor]:
    """AdamW's state of a parameter as PyTorch's fused version keeps it, to be filled from a checkpoint."""
    step = torch.tensor(float(updates), dtype=torch.float32, device=parameter.device)
    return {"step": step, **{key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENTS}}
