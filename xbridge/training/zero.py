"""ZeRO (Rajbhandari et al., 2020) through DeepSpeed: the only file that imports it.

The stage is chosen by the config, never by the launcher: the same file runs under python, torchrun, accelerate,
deepspeed and srun. DeepSpeed's own checkpoints hold pickled shards; everything else that xbridge writes does not.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xbridge.core.errors import UserError
from xbridge.core.files import read_json, write_json
from xbridge.objectives.base import LossSum
from xbridge.training.checkpoint import STATE, CheckpointFolder
from xbridge.training.config import ZeroConfig
from xbridge.training.engine import LossFunction
from xbridge.training.optim import OptimConfig, make_optimizer
from xbridge.training.placement import Place


def deepspeed_plugin(config: ZeroConfig, clip_norm: float = 0.0) -> Any:
    """accelerate's DeepSpeedPlugin for `config`; `UserError` where DeepSpeed is not installed."""
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


class ZeroEngine:
    """The optimiser's state, the gradients and the parameters spread over the ranks, as the stage says."""

    def __init__(self, model: nn.Module, loss: LossFunction, optim: OptimConfig, place: Place, config: ZeroConfig):
        self.place, self._config = place, config
        wrapped = _WithLoss(model, loss)
        self._engine, self._optimizer = place.accelerator.prepare(wrapped, make_optimizer(model, optim))
        self._model = model
        if config.stage == 3:
            _register_output_layer(wrapped, model)

    def train(self, mode: bool) -> None:
        """Switch dropout on or off."""
        self._engine.train(mode)

    def loss(self, batch: Any) -> LossSum:
        """Loss of one micro-batch, in the run's precision."""
        return LossSum(*self._engine(batch))

    def apply(self, function: Callable[[nn.Module], Any]) -> Any:
        """The value of `function` for the model; at stage 3 its weights are there inside the engine's forward only."""
        return self._engine(function) if self._config.stage == 3 else function(self._model)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of `loss`. DeepSpeed takes the mean over the ranks, hence the factor."""
        self._engine.set_gradient_accumulation_boundary(is_boundary=last)
        self._engine.backward(loss * self.place.world_size)

    def step(self, rate: float) -> float:
        """Sum over the ranks, clip, update, clear; return the L2 norm of the whole gradient before clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def checkpoints(self, root: Path, keep: int) -> "ZeroCheckpoints":
        """The checkpoints below `root`."""
        return ZeroCheckpoints(root, self.place.accelerator, self._engine, keep)

    def state_dict(self) -> dict[str, torch.Tensor] | None:
        """Whole weights on rank 0 at stage 3; None where the model itself has them."""
        if self._config.stage < 3:
            return None
        state = self.place.accelerator.get_state_dict(self._engine)
        return {name.removeprefix("model."): tensor for name, tensor in (state or {}).items()}


class _WithLoss(nn.Module):
    """Model and loss in one forward, which is where DeepSpeed attaches its hooks."""

    def __init__(self, model: nn.Module, loss: LossFunction):
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Any) -> Any:
        """Loss and count of a batch; or, of a function, its value for the model."""
        if callable(batch):
            return batch(self.model)
        loss = self._loss(self.model, batch)
        return loss.sum, loss.count


def _register_output_layer(wrapped: nn.Module, model: nn.Module) -> None:
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
