"""The training loop: one update per global batch of a plan, on one process or many.

The loss is a sum and a count. Each micro-batch's sum is divided once by the supervised units of the whole global
batch, so that losses and gradients are the same however the batch is split over ranks and micro-batches. The engine
(training/engine.py, or training/zero.py where the state is sharded) holds the model and updates it. Whatever happens
between two updates (a signal, a kill, a full disk) a second `run` continues from the newest whole checkpoint with the
numbers of an uninterrupted run.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from xbridge.core.console import log, progress
from xbridge.core.errors import Interrupted, LostProcess, UserError
from xbridge.core.files import write_json
from xbridge.core.runtime import derive_seed
from xbridge.data.batching import Counts
from xbridge.objectives.base import LossSum
from xbridge.training.checkpoint import Checkpoints
from xbridge.training.config import ZeroConfig
from xbridge.training.engine import Engine, LossFunction, PlainEngine
from xbridge.training.metrics_log import MetricsLog
from xbridge.training.monitor import Monitor
from xbridge.training.optim import OptimConfig, learning_rate
from xbridge.training.overflow import Overflows
from xbridge.training.placement import Precision, find_place, lost_contact, seed_dropout
from xbridge.training.signals import StopSignals
from xbridge.training.trackers import Trackers
from xbridge.training.validation import Findings, Poll
from xbridge.training.zero import ZeroEngine, deepspeed_plugin

Validate = Callable[[int, nn.Module, Poll], Findings]
"""`validate(step, model, poll)` calls `poll()` between its batches, equally often on every rank; a run that is asked
to stop leaves it there by an exception and does the whole validation again when it continues."""


STOPPED = "stopped.json"  # in checkpoints/: the last attempt was stopped by a signal and saved everything


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
    validation: Findings | None
    """What the last validation found."""
    validated_at: int
    """Updates before the last validation; -1 = there was none."""


class Trainer:
    """Run `plan` on `model` and leave the trained weights in it. Writes `folder`/metrics.jsonl and checkpoints/.

    `loss(model, batch)` gives a LossSum for one micro-batch. `validate` is called before the first update, every
    `validate_every` updates (0 = never between) and after the last. `save_every` is in updates; with 0 a checkpoint is
    only written when a signal stops the run. The run ends early where `monitor` says so after a validation.
    With `keep_best` the weights of the best validation are in `folder`/best. `describe(folder)` adds to a folder with
    weights what `from_pretrained` needs besides them. What `ledger` says of the updates so far stands in the lines of
    validations.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        plan: BatchPlan,
        optim: OptimConfig,
        folder: Path,
        *,
        seed: int = 0,
        precision: Precision = "fp32",
        zero: ZeroConfig | None = None,
        save_every: int = 0,
        keep_checkpoints: int = 2,
        validate: Validate | None = None,
        validate_every: int = 0,
        monitor: Monitor | None = None,
        trackers: Trackers | None = None,
        keep_best: bool = False,
        describe: Callable[[Path], None] | None = None,
        ledger: Callable[[int], Mapping[str, Any]] | None = None,
    ):
        self._plan, self._optim, self._folder, self._seed = plan, optim, folder, seed
        self._validate, self._validate_every, self._save_every = validate, validate_every, save_every
        self._monitor, self._keep_best = monitor or Monitor("loss", "min"), keep_best
        self._ledger = ledger
        self._engine = make_engine(model, loss, optim, precision, zero or ZeroConfig())
        self._place = self._engine.place
        self._log = MetricsLog(folder / "metrics.jsonl", writes=self.is_main, trackers=trackers)
        root = folder / "checkpoints"
        self._checkpoints = Checkpoints(root, self._engine, self._place, keep_checkpoints, describe)
        self._saved = -1  # the step of the newest checkpoint of this run
        self._timed = False  # the first save tells whether a signal leaves enough time for one
        self._overflows = Overflows(model)

    def run(self, stop: StopSignals | None = None) -> Totals:
        """Do the updates that are left. With `stop` the caller listens to signals, and goes on doing so afterwards.

        Errors: `UserError` for a loss that is not finite, a checkpoint that does not fit, or a full disk;
        `LostProcess` where another rank is gone; `Interrupted` after a signal, with a checkpoint saved.
        """
        try:
            return self._run(stop)
        except RuntimeError as error:
            if not lost_contact(error):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise LostProcess(f"{self._folder}: lost another process ({reason}); {self._kept()}; run again") from None

    def _run(self, stop: StopSignals | None) -> Totals:
        cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        listening = nullcontext(stop) if stop else StopSignals()
        with torch.random.fork_rng(devices=cuda), listening as signals, closing(self._log):
            done = self._resume()
            with progress("steps", total=self._plan.num_steps, unit="step") as bar:
                bar.update(done.steps)
                while True:
                    if self._validation_is_due(done):
                        done = self._validated(done, signals)
                    if done.steps == self._plan.num_steps or self._monitor.should_stop:
                        return done
                    if self._save_every and done.steps % self._save_every == 0 and done.steps:
                        self._save(done)
                    done, should_stop = self._update(done, signals)
                    bar.update(
                        1,
                        loss=done.loss,
                        tokens_per_second=round(done.tokens.nonpad / done.seconds),
                        padding_share=done.tokens.padding_share,
                    )
                    if should_stop and (done.steps < self._plan.num_steps or self._validation_is_due(done)):
                        raise self._stopped(done, signals)

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes."""
        return self._place.rank == 0

    def wait(self) -> None:
        """Return when all ranks have called this."""
        self._place.wait()

    def export(self, folder: Path) -> None:
        """Write the weights as they are as a `from_pretrained` folder; all ranks call it."""
        self._checkpoints.export(folder)

    def _update(self, done: Totals, stop: StopSignals) -> tuple[Totals, bool]:
        started = time.perf_counter()
        step = done.steps
        counts = self._plan.counts(step)
        rate = learning_rate(self._optim, step, self._plan.num_steps)
        seed_dropout(self._place, derive_seed(self._seed, "dropout", step, self._place.rank))
        with self._overflows.watch():
            loss, should_stop = self._forward_backward(step, counts, stop)
        norm = self._engine.step(rate)
        if not math.isfinite(norm) and self._place.precision != "fp16":
            raise self._not_finite(step, "gradient norm", norm)
        if hopeless := self._overflows.update(norm):
            raise UserError(f"{self._folder}: step {step + 1}: {hopeless}")
        seconds = done.seconds + time.perf_counter() - started
        tokens = Counts(*(a + b for a, b in zip(done.tokens, counts, strict=True)))
        done = replace(done, steps=step + 1, loss=loss, tokens=tokens, seconds=seconds)
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
                "grad_norm": norm if math.isfinite(norm) else None,
                "lr": rate,
                "batch_digest": self._plan.digest(step),
                "seconds": round(seconds, 4),
                **({"loss_scale": scale} if (scale := self._engine.counters().get("loss_scale")) else {}),
            }
        )
        return done, should_stop

    def _forward_backward(self, step: int, counts: Counts, stop: StopSignals) -> tuple[float, bool]:
        """Accumulate the gradient of the mean loss of global batch `step`; return that loss, and whether to stop."""
        batches = self._plan.micro_batches(step, self._place.rank, self._place.world_size)
        loss_sum, count = torch.zeros((), dtype=torch.float64, device=self._place.device), 0
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            part = self._engine.loss(batch)
            loss_sum, count = loss_sum + part.sum.detach().double(), count + part.count
            if last:  # before the backward pass, which updates the weights under ZeRO
                total, total_count, stops = self._place.sums(loss_sum, count, stop.is_set)
                assert total_count == counts.supervised, f"{total_count} units in step {step}, {counts} planned"
                if not math.isfinite(total):
                    raise self._not_finite(step, "loss", total)
            self._engine.backward(part.sum * (1 / counts.supervised), last)
        return total / counts.supervised, stops > 0

    def _validation_is_due(self, done: Totals) -> bool:
        if self._validate is None or done.validated_at == done.steps:
            return False
        at_an_end = done.steps in (0, self._plan.num_steps)
        return at_an_end or bool(self._validate_every and done.steps % self._validate_every == 0)

    def _validated(self, done: Totals, stop: StopSignals) -> Totals:
        """Validate; a signal leaves it undone, for the run that continues from here."""
        validate = self._validate
        assert validate is not None

        def poll() -> None:
            if self._place.sums(stop.is_set)[0] > 0:
                raise _Stop

        self._engine.train(False)
        try:
            found: Findings = self._engine.apply(lambda model: validate(done.steps, model, poll))
        except _Stop:
            raise self._stopped(done, stop) from None
        self._engine.train(True)
        if self.is_main:
            ledger = {"ledger": self._ledger(done.steps)} if self._ledger is not None else {}
            self._log.write({"step": done.steps, **found.line(), **ledger})
        verdict = self._monitor.update(done.steps, found.numbers())
        if verdict.is_best and self._keep_best:
            self.export(self._folder / "best")
        return replace(done, validation=found, validated_at=done.steps)

    def _save(self, done: Totals) -> None:
        if done.steps != self._saved and done.steps:
            started = time.perf_counter()
            self._checkpoints.save(done.steps, {**_to_json(done), "monitor": self._monitor.state()})
            self._saved = done.steps
            if not self._timed:
                self._timed = True
                warn_of_short_notice(time.perf_counter() - started, done.seconds / done.steps)

    def _stopped(self, done: Totals, stop: StopSignals) -> Interrupted:
        """Save, and say for whoever started the run that it stopped on purpose."""
        self._save(done)
        interrupted = stop.interrupted()
        if self.is_main:
            note = {"signal": signal.Signals(interrupted.signum).name, "step": done.steps}
            write_json(self._folder / "checkpoints" / STOPPED, note)
        self.wait()
        return interrupted

    def _resume(self) -> Totals:
        """Load the newest whole checkpoint and cut metrics.jsonl back to what it covers."""
        self._engine.train(True)
        if self.is_main:
            (self._folder / "checkpoints" / STOPPED).unlink(missing_ok=True)
        state = self._checkpoints.load_newest()
        done = _from_json(state) if state else Totals(0, None, Counts(0, 0, 0), 0.0, None, -1)
        if state:
            self._monitor.load(state["monitor"])
        if done.steps > self._plan.num_steps:
            raise UserError(
                f"{self._folder}/checkpoints: holds step {done.steps}, the run has {self._plan.num_steps}; "
                "delete the folder to start again"
            )
        self._saved = done.steps if state else -1
        self._log.cut(done.steps if state else -1, done.validated_at)
        return done

    def _not_finite(self, step: int, what: str, value: float) -> UserError:
        advice = "set precision: bf16" if self._place.precision == "fp16" else "lower optim.lr"
        return UserError(f"{self._folder}: step {step + 1}: the {what} is {value}; stopped, {self._kept()}; {advice}")

    def _kept(self) -> str:
        newest = self._checkpoints.newest()
        return f"the last good checkpoint is {newest}" if newest else "no checkpoint was due yet"


def warn_of_short_notice(save_seconds: float, step_seconds: float) -> None:
    """Log when XBRIDGE_SIGNAL_SECONDS, the time between a launcher's signal and its kill, is less than is needed."""
    notice = os.environ.get("XBRIDGE_SIGNAL_SECONDS")
    needed = save_seconds + 2 * step_seconds
    if notice is not None and needed > float(notice):
        log("warning", message=f"a save takes {save_seconds:.0f} s and an update {step_seconds:.0f} s: a signal "
            f"{notice} s before the end is too late; ask for at least {math.ceil(2 * needed)} s")  # fmt: skip


class _Stop(Exception):
    """Raised inside a validation to leave it."""


def compiled(loss: LossFunction) -> LossFunction:
    """`loss` through torch.compile, shapes left open; `UserError` where it does not compile here."""
    fast = torch.compile(loss, dynamic=True)

    def run(model: nn.Module, batch: Any) -> LossSum:
        try:
            return fast(model, batch)
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"compile: does not work here ({reason}); set compile: false") from None

    return run


def make_engine(
    model: nn.Module, loss: LossFunction, optim: OptimConfig, precision: Precision, zero: ZeroConfig
) -> Engine:
    """The engine that the config asks for."""
    if not zero.stage:
        return PlainEngine(model, loss, optim, find_place(precision))
    plugin = deepspeed_plugin(zero, optim.clip_norm, precision)
    return ZeroEngine(model, loss, optim, find_place(precision, plugin), zero)


def _to_json(done: Totals) -> dict[str, Any]:
    validation = None if done.validation is None else done.validation.line()
    return {"steps": done.steps, "loss": done.loss, "tokens": list(done.tokens), "seconds": done.seconds,
            "validation": validation, "validated_at": done.validated_at}  # fmt: skip


def _from_json(state: Mapping[str, Any]) -> Totals:
    validation = None if state["validation"] is None else Findings.from_line(state["validation"])
    return Totals(
        state["steps"], state["loss"], Counts(*state["tokens"]), state["seconds"], validation, state["validated_at"]
    )
