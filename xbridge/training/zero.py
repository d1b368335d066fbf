"""ZeRO (Rajbhandari et al., 2020) through DeepSpeed: the only file that imports it.

The stage is chosen by the config, never by the launcher: the same file runs under python, torchrun, accelerate,
deepspeed and srun. DeepSpeed's own checkpoints hold pickled shards; everything else that xbridge writes does not.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xbridge.core.errors import UserError
from xbridge.core.files import read_json, write_json
from xbridge.training.checkpoint import STATE, CheckpointFolder

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ZeroConfig:
    """What is sharded over the ranks."""

    stage: Literal[0, 1, 2, 3] = 0
    """0 = nothing (DDP, no DeepSpeed), 1 = optimiser, 2 = and gradients, 3 = and parameters."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """Where the optimiser's state lives."""
    offload_parameters: Literal["none", "cpu"] = "none"
    """Where the parameters live; stage 3 only."""


def deepspeed_plugin(config: ZeroConfig, clip_norm: float = 0.0) -> Any:
    """accelerate's DeepSpeedPlugin for `config`; `UserError` where DeepSpeed is not installed."""
    import torch

    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)  # without them DeepSpeed asks for MPI
    os.environ.setdefault("MASTER_PORT", "29500")
    try:
        import deepspeed.ops
    except ImportError:
        raise UserError(
            "zero.stage: DeepSpeed is not installed; pip install 'xbridge-mt[scale]' or set stage 0"
        ) from None
    if on_cpu:  # DeepSpeed compiles this operator at start (over a minute) and training does not use it
        getattr(deepspeed.ops, "__compatible_ops__", {})["deepspeed_shm_comm"] = False
    from accelerate import DeepSpeedPlugin

    settings = {
        "train_micro_batch_size_per_gpu": 1,  # our plan makes the batches; DeepSpeed only insists on a number
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip_norm,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": config.stage,
            "offload_optimizer": {"device": config.offload_optimizer},
            "offload_param": {"device": config.offload_parameters},
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }
    return DeepSpeedPlugin(hf_ds_config=settings)


def register_output_layer(wrapped: "nn.Module", model: "nn.Module") -> None:
    """Tell ZeRO 3 that the forward of `wrapped` reads the output matrix of `model` outside its own layer's forward."""
    import deepspeed

    whole: Any = model
    output = whole.get_output_embeddings() if hasattr(whole, "get_output_embeddings") else None
    if output is not None:
        deepspeed.zero.register_external_parameter(wrapped, output.weight)


class ZeroCheckpoints(CheckpointFolder):
    """Checkpoints of a sharded run: every rank writes its shards, rank 0 renames the folder."""

    def __init__(self, root: Path, accelerator: Any, engine: Any, keep: int):
        super().__init__(root, keep)
        self._accelerator, self._engine = accelerator, engine

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the checkpoint of `step`; `UserError` where the disk does not take it, older ones intact."""
        is_main = self._accelerator.is_main_process
        temporary = self.root / f".step-{step:06d}"
        try:
            if is_main:
                self.begin(step)
            self._accelerator.wait_for_everyone()
            self._engine.save_checkpoint(str(temporary), tag="zero")
            self._accelerator.wait_for_everyone()
            if is_main:
                write_json(temporary / STATE, {**state, "world_size": self._accelerator.num_processes})
                self.finish(step, temporary)
        except OSError as error:
            raise self.failed(temporary, error) from None
        self._accelerator.wait_for_everyone()

    def load_newest(self) -> dict[str, Any] | None:
        """Load the newest whole checkpoint and return its state; `UserError` where the world size differs."""
        path = self.newest()
        if path is None:
            return None
        state: dict[str, Any] = read_json(path / STATE)
        now = self._accelerator.num_processes
        if state.get("world_size") != now:
            raise UserError(
                f"{path}: saved by {state.get('world_size')} processes under ZeRO, now {now}; start as many"
            )
        self._engine.load_checkpoint(str(path), tag="zero")
        return state
