"""float16: an overflow costs an update and halves the loss scale; too many in a row end the run."""

import pytest
import torch
from regression import Regression, squared_error, steps
from torch import nn

from xbridge.core.errors import UserError
from xbridge.objectives.base import LossSum
from xbridge.training.config import ZeroConfig
from xbridge.training.loss_scale import CALM, INITIAL, LossScale
from xbridge.training.optim import OptimConfig
from xbridge.training.overflow import MAX_IN_A_ROW
from xbridge.training.trainer import Trainer


def train(folder, factor, num_steps):
    def loss(model, x):
        part = squared_error(model, x.float())
        return LossSum(part.sum.float() * factor, part.count)

    optim = OptimConfig(lr=0.001, warmup_steps=2)  # so slow that the gradients hardly change
    torch.manual_seed(0)
    Trainer(nn.Linear(4, 1), loss, Regression(num_steps), optim, folder, precision="fp16").run()
    return steps(folder)


def test_updates_that_overflow_are_skipped_until_the_scale_fits(tmp_path):
    found = train(tmp_path, 100, 14)  # 100 times the scale exceeds float16's 65504 from a scale of about 2^9 on
    skipped = [line["step"] for line in found if line["grad_norm"] is None]
    assert skipped == list(range(1, len(skipped) + 1))
    assert 5 <= len(skipped) <= 12
    assert [line["loss_scale"] for line in found[: len(skipped)]] == [INITIAL / 2**n for n in skipped]
    assert len({line["loss_scale"] for line in found[len(skipped) :]}) == 1


def test_too_many_overflows_in_a_row_name_where_they_begin(tmp_path):
    def broken(gradient):
        return gradient * float("inf")

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    model[1].bias.register_hook(broken)
    optim = OptimConfig(lr=0.05)
    loss = lambda model, x: squared_error(model, x.float())  # noqa: E731
    trainer = Trainer(model, loss, Regression(40), optim, tmp_path, precision="fp16")
    with pytest.raises(UserError, match=rf"{MAX_IN_A_ROW + 1} updates in a row .*gradient of 1\.bias.*precision: bf16"):
        trainer.run()


def test_the_scale_doubles_after_a_calm_and_survives_a_checkpoint():
    scale = LossScale(enabled=True)
    scale.update(True)
    for _ in range(CALM - 1):
        scale.update(False)
    fresh = LossScale(enabled=True)
    fresh.restore(scale.counters())
    fresh.update(False)
    assert (scale.value, fresh.value) == (INITIAL / 2, INITIAL)


@pytest.mark.slow
def test_fp16_is_refused_in_a_line_where_deepspeed_has_none(tmp_path):
    pytest.importorskip("deepspeed")
    from xbridge.training.zero import deepspeed_plugin

    if torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_fp16_supported():
        pytest.skip("this device has fp16")
    with pytest.raises(
        UserError, match=r"^precision: DeepSpeed has no fp16 on this device; set bf16, or zero.stage 0$"
    ):
        deepspeed_plugin(ZeroConfig(stage=2), 1.0, "fp16")
