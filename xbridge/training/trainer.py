"""The training loop: one update per global batch of a plan, on one process or many.

The loss is a sum and a count. Each micro-batch's sum is divided once by the supervised units of the whole global
batch, so that losses and gradients are the same however the batch is split over ranks and micro-batches. accelerate
places the model (one process, DDP) and training/zero.py shards it. Whatever happens between two updates (a signal, a
kill, a full disk) a second `run` continues from the newest whole checkpoint with the numbers of an uninterrupted run.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from xbridge.core.console import progress
from xbridge.core.errors import UserError
from xbridge.core.runtime import derive_seed, settle_environment
from xbridge.data.batching import Counts
from xbridge.objectives.base import LossSum, PartLosses
from xbridge.training.checkpoint import Checkpoints
from xbridge.training.metrics_log import MetricsLog
from xbridge.training.optim import OptimConfig, learning_rate, make_optimizer
from xbridge.training.signals import StopSignals
from xbridge.training.zero import ZeroCheckpoints, ZeroConfig, deepspeed_plugin, register_output_layer

Precision = Literal["fp32", "bf16"]


class BatchPlan(Protocol):
    """All global batches of a run; batch `step` (0-based) is a pure function of the plan's seed and `step`."""

    @property
    def num_steps(self) -> int:
        """Number of global batches = updates."""

    def micro_batches(self, step: int, rank: int, world_size: int) -> Sequence[Any]:
        """This rank's share of global batch `step`. Every rank gets equally many, at least one; a share may be empty
        of supervised units, never of rows."""

    def counts(self, step: int) -> Counts:
        """Tokens of the global batch; `supervised` is what the summed loss is divided by."""

    def digest(self, step: int) -> str:
        """Hash of the example ids in the global batch."""


@dataclass(frozen=True)
class Totals:
    """What a run took. Tokens are cumulative over all updates, `seconds` of the updates alone."""

    steps: int
    loss: float | None
    """Mean loss of the last update; None without updates."""
    tokens: Counts
    seconds: float
    validation: PartLosses | None
    """Last validation losses."""


class Trainer:
    """Run `plan` on `model` and leave the trained weights in it. Writes `folder`/metrics.jsonl and checkpoints/.

    `loss(model, batch)` gives a LossSum for one micro-batch. `validate(model)` gives mean losses by name; it is called
    before the first update, every `validate_every` updates (0 = never between) and after the last. `save_every` is in
    updates; with 0 a checkpoint is only written when a signal stops the run.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Any], LossSum],
        plan: BatchPlan,
        optim: OptimConfig,
        folder: Path,
        *,
        seed: int = 0,
        precision: Precision = "fp32",
        zero: ZeroConfig | None = None,
        save_every: int = 0,
        keep_checkpoints: int = 2,
        validate: Callable[[nn.Module], PartLosses] | None = None,
        validate_every: int = 0,
    ):
        self._plan, self._optim, self._folder, self._seed = plan, optim, folder, seed
        self._validate, self._validate_every, self._save_every = validate, validate_every, save_every
        self._source = model
        self._zero = zero or ZeroConfig()
        self._accelerator = make_accelerator(precision, self._zero, optim.clip_norm)
        optimizer = make_optimizer(model, optim)
        wrapped = _WithLoss(model, loss)
        self._model, self._optimizer = self._accelerator.prepare(wrapped, optimizer)
        if self._zero.stage == 3:
            register_output_layer(wrapped, model)
        self._rank, self._world_size = self._accelerator.process_index, self._accelerator.num_processes
        self._log = MetricsLog(folder / "metrics.jsonl", writes=self._rank == 0)
        self._checkpoints: Checkpoints | ZeroCheckpoints
        if self._zero.stage:
            self._checkpoints = ZeroCheckpoints(
                folder / "checkpoints", self._accelerator, self._model, keep_checkpoints
            )
        else:
            self._checkpoints = Checkpoints(
                folder / "checkpoints", model, optimizer, keep_checkpoints, self._accelerator
            )

    def run(self) -> Totals:
        """Do the updates that are left.

        Errors: `UserError` for a loss that is not finite, a checkpoint that does not fit, or a full disk;
        `Interrupted` after a signal, with a checkpoint saved.
        """
        cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=cuda), StopSignals() as stop:
            done = self._resume()
            with progress("steps", total=self._plan.num_steps, unit="step") as bar:
                bar.update(done.steps)
                if done.steps == 0:
                    done = self._validated(done)
                while done.steps < self._plan.num_steps:
                    done, should_stop = self._update(done, stop)
                    bar.update(1, loss=done.loss, tokens_per_second=round(done.tokens.nonpad / done.seconds))
                    last = done.steps == self._plan.num_steps
                    if last or (self._validate_every and done.steps % self._validate_every == 0):
                        done = self._validated(done)
                    if should_stop and not last:
                        self._save(done)
                        raise stop.interrupted()
                    if self._save_every and done.steps % self._save_every == 0 and not last:
                        self._save(done)
        return done

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes."""
        return bool(self._rank == 0)

    def wait(self) -> None:
        """Return when all ranks have called this."""
        self._accelerator.wait_for_everyone()

    def state_dict(self) -> dict[str, torch.Tensor] | None:
        """Whole weights on rank 0 where they are sharded (ZeRO 3); None where the model itself has them."""
        if self._zero.stage < 3:
            return None
        state = self._accelerator.get_state_dict(self._model)
        return {name.removeprefix("model."): tensor for name, tensor in (state or {}).items()}

    def _update(self, done: Totals, stop: StopSignals) -> tuple[Totals, bool]:
        started = time.perf_counter()
        step = done.steps
        counts = self._plan.counts(step)
        rate = learning_rate(self._optim, step, self._plan.num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(derive_seed(self._seed, "dropout", step, self._rank))
        loss, should_stop = self._forward_backward(step, counts, stop)
        norm = self._apply_gradients()
        if not math.isfinite(norm):
            raise self._not_finite(step, "gradient norm", norm)
        seconds = done.seconds + time.perf_counter() - started
        tokens = Counts(*(a + b for a, b in zip(done.tokens, counts, strict=True)))
        done = Totals(step + 1, loss, tokens, seconds, done.validation)
        self._log.write(
            {
                "step": done.steps,
                "loss": loss,
                "num_tokens": counts.supervised,
                "num_nonpad_tokens": counts.nonpad,
                "num_padded_tokens": counts.padded,
                "total_tokens": tokens.supervised,
                "total_nonpad_tokens": tokens.nonpad,
                "total_padded_tokens": tokens.padded,
                "grad_norm": norm,
                "lr": rate,
                "batch_digest": self._plan.digest(step),
                "seconds": round(seconds, 4),
            }
        )
        return done, should_stop

    def _forward_backward(self, step: int, counts: Counts, stop: StopSignals) -> tuple[float, bool]:
        """Accumulate the gradient of the mean loss of global batch `step`; return that loss, and whether to stop."""
        batches = self._plan.micro_batches(step, self._rank, self._world_size)
        scale = self._world_size / counts.supervised  # DDP and DeepSpeed average over the ranks
        loss_sum, count = torch.zeros((), dtype=torch.float64, device=self._accelerator.device), 0
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with nullcontext() if last else self._accelerator.no_sync(self._model):
                part = LossSum(*self._model(batch))
                loss_sum, count = loss_sum + part.sum.detach().double(), count + part.count
                if last:
                    total, total_count, should_stop = self._agree(loss_sum, count, stop.is_set)
                    assert total_count == counts.supervised, f"{total_count} units in step {step}, {counts} planned"
                    if not math.isfinite(total):
                        raise self._not_finite(step, "loss", total)
                self._backward(part.sum * scale, last)
        return total / counts.supervised, should_stop

    def _agree(self, loss_sum: torch.Tensor, count: int, stop: bool) -> tuple[float, int, bool]:
        """Sum over the ranks; a signal that one rank has seen stops all of them at the same step."""
        if self._world_size == 1:
            return float(loss_sum), count, stop
        facts = torch.stack([loss_sum, loss_sum.new_tensor(count), loss_sum.new_tensor(float(stop))])
        torch.distributed.all_reduce(facts)
        total, total_count, stops = facts.tolist()
        return total, round(total_count), stops > 0

    def _backward(self, loss: torch.Tensor, last: bool) -> None:
        if self._zero.stage:
            self._accelerator.deepspeed_engine_wrapped.backward(loss, sync_gradients=last)
        else:
            self._accelerator.backward(loss)

    def _apply_gradients(self) -> float:
        """Clip, update, clear; return the L2 norm of the whole gradient before clipping."""
        if self._zero.stage:  # the engine's backward has done all of it
            return float(self._accelerator.deepspeed_engine_wrapped.get_global_grad_norm())
        limit = self._optim.clip_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_([p for p in self._model.parameters() if p.grad is not None], limit))
        if math.isfinite(norm):
            self._optimizer.step()
            self._optimizer.zero_grad()
        return norm

    def _validated(self, done: Totals) -> Totals:
        if self._validate is None:
            return done
        self._model.eval()
        # ZeRO 3 has the weights only inside the engine's forward
        losses = self._model(self._validate) if self._zero.stage == 3 else self._validate(self._source)
        self._model.train()
        self._log.write({"step": done.steps, "validation": dict(losses)})
        return Totals(done.steps, done.loss, done.tokens, done.seconds, losses)

    def _save(self, done: Totals) -> None:
        self._checkpoints.save(done.steps, _to_json(done))

    def _resume(self) -> Totals:
        """Load the newest whole checkpoint and cut metrics.jsonl back to its step."""
        self._model.train()
        state = self._checkpoints.load_newest()
        done = _from_json(state) if state else Totals(0, None, Counts(0, 0, 0), 0.0, None)
        if done.steps > self._plan.num_steps:
            raise UserError(
                f"{self._folder}/checkpoints: holds step {done.steps}, the run has {self._plan.num_steps}; "
                "delete the folder to start again"
            )
        self._log.cut(done.steps if state else -1)
        return done

    def _not_finite(self, step: int, what: str, value: float) -> UserError:
        newest = self._checkpoints.newest()
        kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint was due yet"
        return UserError(f"{self._folder}: step {step + 1}: the {what} is {value}; stopped, {kept}; lower optim.lr")


class _WithLoss(nn.Module):
    """Model and loss in one forward, which is where DDP and DeepSpeed attach their hooks."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], LossSum]):
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Any) -> Any:
        """Loss and count of a batch; or, of a function, its value for the model."""
        if callable(batch):
            return batch(self.model)
        loss = self._loss(self.model, batch)
        return loss.sum, loss.count


def make_accelerator(precision: Precision, zero: ZeroConfig, clip_norm: float = 0.0) -> Any:
    """An `Accelerator` for this process; `UserError` where the processes did not find each other."""
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    place = settle_environment()
    on_cpu = place.world_size > 1 and not torch.cuda.is_available()
    handlers = [InitProcessGroupKwargs(backend="gloo")] if on_cpu else []  # accelerate finds none by itself on a CPU
    AcceleratorState._reset_state()  # one process may train twice, with another precision
    accelerator = Accelerator(
        cpu=on_cpu and not zero.stage,  # without it accelerate forms the group but leaves the gradients apart
        mixed_precision="bf16" if precision == "bf16" else "no",
        kwargs_handlers=handlers,
        deepspeed_plugin=deepspeed_plugin(zero, clip_norm) if zero.stage else None,
    )
    if accelerator.num_processes != place.world_size:
        raise UserError(f"launched as {place.world_size} processes but {accelerator.num_processes} found each other")
    assert place.world_size == 1 or accelerator.distributed_type != DistributedType.NO
    return accelerator


def _to_json(done: Totals) -> dict[str, Any]:
    validation = None if done.validation is None else dict(done.validation)
    return {"steps": done.steps, "loss": done.loss, "tokens": list(done.tokens), "seconds": done.seconds,
            "validation": validation}  # fmt: skip


def _from_json(state: Mapping[str, Any]) -> Totals:
    return Totals(state["steps"], state["loss"], Counts(*state["tokens"]), state["seconds"], state["validation"])
