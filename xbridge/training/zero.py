"""ZeRO (Rajbhandari et al., 2020) through DeepSpeed: the only file that imports it.

The stage is chosen by the config, never by the launcher: the same file runs under python, torchrun, accelerate,
deepspeed and srun. DeepSpeed's own checkpoints, pickled shards for one stage and one number of ranks, are not used.
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from xbridge.core.errors import UserError
from xbridge.objectives.base import LossSum
from xbridge.training.config import ZeroConfig
from xbridge.training.engine import MOMENTS, LossFunction, new_moments, slot_of
from xbridge.training.loss_scale import CALM, INITIAL
from xbridge.training.optim import OptimConfig, make_optimizer
from xbridge.training.placement import Place, Precision
from xbridge.training.tensor_files import Slot


def deepspeed_plugin(config: ZeroConfig, clip_norm: float, precision: Precision) -> Any:
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

    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # our plan makes the batches; DeepSpeed only insists on a number
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # it would compile its own for minutes; PyTorch's fused AdamW is as fast
        "zero_optimization": {
            "stage": config.stage,
            "offload_optimizer": {"device": config.offload_optimizer},
            "offload_param": {"device": config.offload_parameters},
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }
    if precision == "fp16":
        if not deepspeed.accelerator.get_accelerator().is_fp16_supported():
            raise UserError("precision: DeepSpeed has no fp16 on this device; set bf16, or zero.stage 0")
        settings["fp16"] = {
            "enabled": True,
            "initial_scale_power": int(math.log2(INITIAL)),
            "loss_scale_window": CALM,
            "hysteresis": 1,
            "min_loss_scale": 1,
        }
    return DeepSpeedPlugin(hf_ds_config=settings)


class ZeroEngine:
    """The optimiser's state, the gradients and the parameters spread over the ranks, as the stage says.

    In bf16 and fp16 DeepSpeed keeps the weights in half precision and float32 masters of them beside the optimiser's
    state; checkpoints hold the masters.
    """

    def __init__(self, model: nn.Module, loss: LossFunction, optim: OptimConfig, place: Place, config: ZeroConfig):
        self.place, self._config, self._model = place, config, model
        wrapped = _WithLoss(model, loss)
        full = {} if place.precision == "fp32" else {n: p.detach().clone() for n, p in model.named_parameters()}
        self._engine, _ = place.accelerator.prepare(wrapped, make_optimizer(model, optim))
        self._zero = self._engine.optimizer
        self._updates = 0
        if config.stage == 3:
            _register_output_layer(wrapped, model)
        if full:  # DeepSpeed made the masters from weights that it had rounded
            for slot in self.weights():
                if slot.name in full:
                    slot.write(full.pop(slot.name))
            self.end_restore()

    def train(self, mode: bool) -> None:
        """Switch dropout on or off."""
        self._engine.train(mode)

    def loss(self, batch: Any) -> LossSum:
        """Loss of one micro-batch, in the run's precision."""
        return LossSum(*self._engine(batch))

    def apply(self, function: Callable[[nn.Module], Any]) -> Any:
        """The value of `function` for the model; at stage 3 its weights are there inside the engine's forward only."""
        if self._config.stage < 3:
            return function(self._model)
        values: list[Any] = []
        self._engine(lambda model: values.append(function(model)))  # DeepSpeed warns of outputs that are no tensors
        return values[0]

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of `loss`. DeepSpeed takes the mean over the ranks, hence the factor."""
        self._engine.set_gradient_accumulation_boundary(is_boundary=last)
        self._engine.backward(loss * self.place.world_size)

    def step(self, rate: float) -> float:
        """Sum over the ranks, clip, update, clear; return the L2 norm of the whole gradient before clipping."""
        for group in self._zero.param_groups:
            group["lr"] = rate
        self._engine.step()
        if self._zero.overflow:
            return math.inf
        self._updates += 1
        return float(self._engine.get_global_grad_norm())

    def weights(self) -> list[Slot]:
        """Parameters and saved buffers, a tied parameter under its first name."""
        names = {name for name, _ in self._model.named_parameters()}
        saved = self._model.state_dict()
        buffers = [(n, b) for n, b in self._model.named_buffers() if n in saved and n not in names]
        parameters = [self._slot(name, parameter) for name, parameter in self._model.named_parameters()]
        return [*parameters, *(slot_of(name, buffer) for name, buffer in buffers)]

    def moments(self) -> list[Slot]:
        """AdamW's moments of the trained parameters; none before the first update."""
        if not self._updates:
            return []
        self._link_moments()
        trained = [(name, p) for name, p in self._model.named_parameters() if p.requires_grad]
        return [self._slot(f"{name}/{key}", parameter, key) for name, parameter in trained for key in MOMENTS]

    def counters(self) -> dict[str, float]:
        """Updates so far, and the loss scale."""
        if self.place.precision != "fp16":
            return {"updates": self._updates}
        scaler = self._zero.loss_scaler
        calm = scaler.cur_iter - scaler.last_overflow_iter - 1
        return {"updates": self._updates, "loss_scale": scaler.cur_scale, "calm": calm}

    def begin_restore(self, counters: Mapping[str, float]) -> None:
        """Take the counters, and make room for the moments."""
        self._updates = int(counters["updates"])
        if self.place.precision == "fp16" and "loss_scale" in counters:
            scaler = self._zero.loss_scaler
            scaler.cur_scale, scaler.last_overflow_iter = counters["loss_scale"], -1
            scaler.cur_iter = int(counters["calm"])
        if not self._updates:
            return
        state = self._zero.optimizer.state
        for flat in self._masters():
            state[flat] = new_moments(flat, self._updates)
        self._link_moments()

    def end_restore(self) -> None:
        """Bring the weights that the forward pass reads up to the masters."""
        if self._config.stage < 3:
            self._zero.update_lp_params()
            return
        for group in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(group)
        kept_whole = self._zero.persistent_parameters
        if kept_whole:
            kept_whole[0].partition(kept_whole)
            kept_whole[0].all_gather(kept_whole)

    def _link_moments(self) -> None:
        """Let the parameters of stages 1 and 2 find their moments: DeepSpeed does it when only the first parameter
        group has any."""
        if self._config.stage < 3:
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    def _masters(self) -> list[torch.Tensor]:
        stage_3 = self._config.stage == 3
        flat = self._zero.fp32_partitioned_groups_flat if stage_3 else self._zero.single_partition_of_fp32_groups
        return list(flat)

    def _slot(self, name: str, parameter: Any, key: str | None = None) -> Slot:
        """A parameter's master, or one of its moments; a frozen parameter has neither and is read as it is."""
        from deepspeed import utils

        shape = tuple(parameter.ds_shape if self._config.stage == 3 else parameter.shape)
        if not parameter.requires_grad:
            return self._frozen_slot(name, parameter, shape)

        def read() -> Any:
            found = (
                utils.safe_get_full_optimizer_state(parameter, key)
                if key
                else utils.safe_get_full_fp32_param(parameter)
            )
            return found.view(shape)

        def write(value: torch.Tensor) -> None:
            if self._config.stage == 3:  # DeepSpeed's own setter reads past the end where the parts are uneven
                value = _part_of(value.flatten(), parameter.ds_tensor.numel(), self.place.rank)
                set_state, set_master = utils.safe_set_local_optimizer_state, utils.safe_set_local_fp32_param
            else:
                set_state, set_master = utils.safe_set_full_optimizer_state, utils.safe_set_full_fp32_param
            if key:
                set_state(parameter, value, key)
            else:
                set_master(parameter, value)

        return Slot(name, shape, torch.float32, read, write)

    def _frozen_slot(self, name: str, parameter: Any, shape: tuple[int, ...]) -> Slot:
        import deepspeed

        if self._config.stage < 3:
            return slot_of(name, parameter)

        def read() -> torch.Tensor:
            with deepspeed.zero.GatheredParameters([parameter]):
                whole: torch.Tensor = parameter.detach().clone()
            return whole

        def write(value: torch.Tensor) -> None:
            with torch.no_grad(), deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if self.place.rank == 0:
                    parameter.copy_(value)

        return Slot(name, shape, torch.float32, read, write)


def _part_of(flat: torch.Tensor, numel: int, rank: int) -> torch.Tensor:
    """Rank `rank`'s `numel` elements of a flat tensor; zeros where it ends."""
    part = flat[numel * rank : numel * (rank + 1)]
    return torch.nn.functional.pad(part, (0, numel - part.numel()))


class _WithLoss(nn.Module):
    """Model and loss in one forward, which is where DeepSpeed attaches its hooks."""

    def __init__(self, model: nn.Module, loss: LossFunction):
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Any) -> Any:
        """Loss and count of a batch; a function is called with the model."""
        if callable(batch):
            return batch(self.model)
        loss = self._loss(self.model, batch)
        return loss.sum, loss.count


def _register_output_layer(wrapped: nn.Module, model: nn.Module) -> None:
    """Tell ZeRO 3 that the forward of `wrapped` reads the output matrix of `model` outside its own layer's forward."""
    import deepspeed

    whole: Any = model
    output = whole.get_output_embeddings() if hasattr(whole, "get_output_embeddings") else None
    for tensor in (getattr(output, "weight", None), getattr(output, "bias", None)):
        if tensor is not None:
            deepspeed.zero.register_external_parameter(wrapped, tensor)
