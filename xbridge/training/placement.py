"""Where the processes of a training stand, how they found each other, and in which precision they compute."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from xbridge.core.errors import UserError
from xbridge.core.runtime import settle_environment

Precision = Literal["fp32", "bf16"]


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
    on_cpu = started.world_size > 1 and not torch.cuda.is_available()
    handlers = [InitProcessGroupKwargs(backend="gloo")] if on_cpu else []  # accelerate finds none by itself on a CPU
    AcceleratorState._reset_state()  # one process may train twice, with another precision
    accelerator = Accelerator(
        cpu=on_cpu and deepspeed_plugin is None,  # with it accelerate drops the plugin, without it forms no group
        mixed_precision="bf16" if precision == "bf16" and deepspeed_plugin is not None else "no",
        kwargs_handlers=handlers,
        deepspeed_plugin=deepspeed_plugin,
    )
    if accelerator.num_processes != started.world_size:
        raise UserError(f"launched as {started.world_size} processes but {accelerator.num_processes} found each other")
    assert started.world_size == 1 or accelerator.distributed_type != DistributedType.NO
    return Place(accelerator.process_index, accelerator.num_processes, accelerator.device, precision, accelerator)


def autocast(place: Place) -> AbstractContextManager[Any]:
    """Matrix products in the run's precision; weights, sums and the loss stay in float32."""
    return torch.autocast(place.device.type, torch.bfloat16) if place.precision == "bf16" else nullcontext()


def seed_dropout(place: Place, seed: int) -> None:
    """Seed the generators that dropout draws from, as `torch.manual_seed` does.

    That function also notes the seed, with a stack trace, for every kind of accelerator that is not here.
    """
    torch.default_generator.manual_seed(seed)
    if place.device.type == "cuda":
        torch.cuda.manual_seed(seed)
