"""Where the processes of a training stand, how they found each other, and in which precision they compute."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch

from xbridge.core.errors import UserError
from xbridge.core.runtime import settle_environment

Precision = Literal["fp32", "bf16", "fp16", "auto"]
"""`auto` = bf16 on a GPU that has it, otherwise fp32."""


@dataclass(frozen=True)
class Place:
    """This process among all, and accelerate's handle on them."""

    rank: int
    world_size: int
    device: torch.device
    precision: Precision
    accelerator: Any

    def wait(self) -> None:
        """Return when all ranks have called this."""
        self.accelerator.wait_for_everyone()

    def from_main(self, function: Callable[[], Any]) -> Any:
        """What `function` gives on rank 0, on every rank; a `UserError` of it too."""
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer[0] = function()
            except UserError as error:
                answer[1] = str(error)
        if self.world_size > 1:
            torch.distributed.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise UserError(answer[1])
        return answer[0]

    def sums(self, *values: float | torch.Tensor) -> list[float]:
        """Each value summed over the ranks, in float64."""
        facts = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values])
        if self.world_size > 1:
            torch.distributed.all_reduce(facts)
        summed: list[float] = facts.tolist()
        return summed


def find_place(precision: Precision, deepspeed_plugin: Any = None) -> Place:
    """Join the other processes; `UserError` where they did not find each other."""
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    started = settle_environment()
    on_gpu = torch.cuda.is_available()
    if precision == "auto":
        precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32"
    patience = timedelta(minutes=float(os.environ.get("XBRIDGE_TIMEOUT_MINUTES", "30")))
    on_cpu = started.world_size > 1 and not on_gpu
    group = InitProcessGroupKwargs(backend="gloo" if on_cpu else "nccl", timeout=patience)
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may train twice, in another way
    if deepspeed_plugin is None:  # the config chooses the stage, not `accelerate launch --use_deepspeed`
        os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
    accelerator = Accelerator(
        cpu=on_cpu and deepspeed_plugin is None,  # it drops the plugin, and is needed without one
        mixed_precision="no" if precision == "fp32" or deepspeed_plugin is None else precision,
        kwargs_handlers=[group] if started.world_size > 1 else [],
        deepspeed_plugin=deepspeed_plugin,
    )
    if accelerator.num_processes != started.world_size:
        raise UserError(f"launched as {started.world_size} processes but {accelerator.num_processes} found each other")
    assert started.world_size == 1 or accelerator.distributed_type != DistributedType.NO
    return Place(accelerator.process_index, accelerator.num_processes, accelerator.device, precision, accelerator)


def autocast(place: Place) -> AbstractContextManager[Any]:
    """Matrix products in the run's precision; weights, sums and the loss stay in float32."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(place.precision)
    return nullcontext() if half is None else torch.autocast(place.device.type, half)


def lost_contact(error: RuntimeError) -> bool:
    """True for what torch.distributed raises where another process died or does not answer in time."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return any(word in str(error) for word in ("gloo/", "NCCL", "Connection closed by peer", "Timed out waiting"))


def seed_dropout(place: Place, seed: int) -> None:
    """Seed the generators that dropout draws from, as `torch.manual_seed` does.

    That function also notes the seed, with a stack trace, for every kind of accelerator that is not here.
    """
    torch.default_generator.manual_seed(seed)
    if place.device.type == "cuda":
        torch.cuda.manual_seed(seed)
