"""The loop: exact sums, clipping, errors, signals and the log."""

import os
import signal

import pytest
import torch
from regression import Regression, squared_error, steps, trainer_of
from torch import nn

from xbridge.core.errors import Interrupted, UserError
from xbridge.objectives.base import LossSum
from xbridge.training.metrics_log import MetricsLog, read_metrics
from xbridge.training.validation import Findings


@pytest.mark.parametrize("accumulation", [2, 3])
def test_any_accumulation_gives_the_losses_and_weights_of_one_batch(tmp_path, accumulation):
    one, plain = trainer_of(tmp_path / "one")
    many, split = trainer_of(tmp_path / "many", plan=Regression(accumulation=accumulation))
    one.run()
    many.run()
    for a, b in zip(steps(tmp_path / "one"), steps(tmp_path / "many"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-12)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-12)
    torch.testing.assert_close(plain.weight, split.weight, rtol=1e-12, atol=0)


def test_loss_and_gradient_norm_are_those_of_the_mean_over_the_global_batch(tmp_path):
    trainer, _ = trainer_of(tmp_path)
    torch.manual_seed(0)
    model = nn.Linear(4, 1).double()
    x = Regression().micro_batches(0, 0, 1)[0]
    loss = squared_error(model, x).sum / 12
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    trainer.run()
    first = steps(tmp_path)[0]
    assert first["loss"] == pytest.approx(loss.item(), rel=1e-12)
    assert first["grad_norm"] == pytest.approx(norm.item(), rel=1e-12)


def test_a_gradient_above_the_limit_is_scaled_down_to_it(tmp_path):
    trainer, model = trainer_of(tmp_path, clip_norm=0.01)
    seen = []
    for parameter in model.parameters():
        parameter.register_hook(seen.append)
    step = torch.optim.AdamW.step
    norms = []

    def spy(optimizer, *args, **kwargs):
        norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())
        return step(optimizer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        trainer.run()
    assert norms == pytest.approx([0.01] * 8, rel=1e-3)
    assert all(line["grad_norm"] > 0.01 for line in steps(tmp_path))


def test_every_step_has_a_line_with_all_counts(tmp_path):
    trainer, _ = trainer_of(tmp_path, validate=lambda step, model, poll: Findings({"dev": 1.5}), validate_every=4)
    trainer.run()
    found = steps(tmp_path)
    assert [line["step"] for line in found] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8]
    assert [line["step"] for line in found if "validation" in line] == [0, 4, 8]
    last = [line for line in found if "loss" in line][-1]
    assert (last["num_tokens"], last["num_nonpad_tokens"], last["num_padded_tokens"]) == (12, 48, 50)
    assert (last["total_tokens"], last["total_nonpad_tokens"], last["total_padded_tokens"]) == (96, 384, 400)
    assert last["batch_digest"] == "0000000000000007"
    assert last["lr"] == 0.05


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, value):
    calls = []

    def breaks(model, x):
        calls.append(1)
        loss = squared_error(model, x)
        return LossSum(loss.sum * (value if len(calls) == 6 else 1.0), loss.count)

    trainer, model = trainer_of(tmp_path, loss=breaks, save_every=2)
    with pytest.raises(UserError, match=rf"step 6: the loss is {value}; .*last good checkpoint is .*step-000004"):
        trainer.run()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert [line["step"] for line in steps(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_a_second_run_gives_the_trace_of_an_uninterrupted_one(tmp_path, number):
    whole, expected = trainer_of(tmp_path / "whole")
    whole.run()
    calls = []

    def interrupted(model, x):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), number)
        return squared_error(model, x)

    handler = signal.getsignal(number)
    stopped, _ = trainer_of(tmp_path / "cut", loss=interrupted)
    with pytest.raises(Interrupted) as caught:
        stopped.run()
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == handler
    again, model = trainer_of(tmp_path / "cut", seed=9)
    again.run()
    assert steps(tmp_path / "cut") == steps(tmp_path / "whole")
    assert torch.equal(model.weight, expected.weight)


def test_a_run_does_not_touch_the_global_random_state(tmp_path):
    trainer, _ = trainer_of(tmp_path)
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    trainer.run()
    assert torch.equal(torch.rand(1), expected)


def test_cutting_the_log_drops_later_lines_and_a_torn_one(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.write({"step": step})
    with log.path.open("a") as stream:
        stream.write('{"step": 4, "lo')
    log.cut(2, 2)
    log.write({"step": 3, "loss": 0.5})
    assert read_metrics(log.path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 0.5}]
