"""A run can be stopped at any moment, and goes on as if it had not been."""

import os
import signal
import subprocess

import pytest
import torch
from regression import squared_error, steps, trainer_of

from xbridge.core.errors import Interrupted, UserError
from xbridge.core.files import locked, read_json
from xbridge.training.trainer import warn_of_short_notice
from xbridge.training.validation import Findings

WHERE = ["first validation", "validation", "last validation", "update", "save", "last update"]


class Moments:
    """Sends SIGTERM at one moment of a run with eight updates, validations every four, saves every three."""

    def __init__(self, where):
        self.where, self.is_armed, self.losses = where, True, 0

    def reach(self, where):
        if self.is_armed and where == self.where:
            self.is_armed = False
            os.kill(os.getpid(), signal.SIGTERM)

    def loss(self, model, x):
        self.losses += 1
        self.reach({2: "update", 8: "last update"}.get(self.losses, ""))
        return squared_error(model, x)

    def validate(self, step, model, poll):
        for batch in range(3):
            if batch == 1:
                self.reach({0: "first validation", 4: "validation", 8: "last validation"}[step])
            poll()
        return Findings({"dev": model.weight.sum().item()})

    def describe(self, folder):
        self.reach("save")


def run(folder, where, attempts=1):
    moments = Moments(where)
    settings = {"validate": moments.validate, "validate_every": 4, "save_every": 3, "describe": moments.describe}
    trainer, model = trainer_of(folder, loss=moments.loss, **settings)
    if attempts == 1:
        trainer.run()
        return model
    with pytest.raises(Interrupted) as caught:
        trainer.run()
    assert caught.value.exit_code == 128 + signal.SIGTERM
    logged = max((line["step"] for line in steps(folder) if "loss" in line), default=0)
    stopped = read_json(folder / "checkpoints" / "stopped.json")
    assert stopped == {"signal": "SIGTERM", "step": logged}  # nothing that was logged is done again
    moments.losses = -100
    seed = 5 if logged else 0  # other weights, which the checkpoint replaces
    again, model = trainer_of(folder, loss=moments.loss, seed=seed, **settings)
    again.run()
    assert not (folder / "checkpoints" / "stopped.json").exists()
    return model


@pytest.mark.parametrize("where", WHERE)
def test_a_run_stopped_anywhere_ends_with_the_trace_of_one_that_was_not(tmp_path, where):
    whole = run(tmp_path / "whole", "never")
    cut = run(tmp_path / "cut", where, attempts=2)
    assert steps(tmp_path / "cut") == steps(tmp_path / "whole")
    assert torch.equal(cut.weight, whole.weight)


def test_the_weights_of_the_best_validation_are_kept(tmp_path):
    from safetensors.torch import load_file

    seen = []

    def validate(step, model, poll):
        seen.append(model.weight.detach().float().clone())
        return Findings({"dev": {0: 9.0, 4: 1.0, 8: 2.0}[step]})

    trainer, _ = trainer_of(tmp_path, validate=validate, validate_every=4, keep_best=True)
    trainer.run()
    torch.testing.assert_close(load_file(tmp_path / "best" / "model.safetensors")["weight"].float(), seen[1])


def test_too_short_a_notice_is_pointed_out_with_the_measured_need(capsys, monkeypatch):
    monkeypatch.setenv("XBRIDGE_SIGNAL_SECONDS", "60")
    warn_of_short_notice(save_seconds=20, step_seconds=2)
    assert capsys.readouterr().err == ""
    warn_of_short_notice(save_seconds=70, step_seconds=2)
    assert "60 s before the end is too late; ask for at least 148 s" in capsys.readouterr().err


def test_two_runs_in_one_folder_are_refused_and_a_dead_ones_lock_is_free(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on elsewhere")  # what a kill leaves
    again = locked(tmp_path / ".lock", "trains here")
    said = rf"another run \(process {os.getpid()} on .*\) trains here; wait for it"
    with locked(tmp_path / ".lock", "trains here"), pytest.raises(UserError, match=said), again:
        pass


@pytest.fixture
def small_disk(tmp_path):
    """An empty file system of 64 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_costs_no_checkpoint_and_the_run_goes_on_when_there_is_space(tmp_path, small_disk):
    whole, expected = trainer_of(tmp_path / "whole")
    whole.run()
    ballast = small_disk / "ballast"

    def fill(model, x):
        if (small_disk / "run" / "checkpoints" / "step-000003").exists() and not ballast.exists():
            with pytest.raises(OSError, match="No space left"):
                ballast.write_bytes(bytes(1 << 20))
        return squared_error(model, x)

    stopped, _ = trainer_of(small_disk / "run", loss=fill, save_every=3)
    with pytest.raises(UserError, match=r"(step-000003 is intact|free space and run again)"):
        stopped.run()
    ballast.unlink()
    again, model = trainer_of(small_disk / "run", save_every=3)
    again.run()
    assert steps(small_disk / "run") == steps(tmp_path / "whole")
    assert torch.equal(model.weight, expected.weight)


def test_a_folder_that_turns_read_only_ends_the_run_with_one_line(small_disk):
    def turn(model, x):
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        return squared_error(model, x)

    trainer, _ = trainer_of(small_disk / "run", loss=turn)
    with pytest.raises(UserError, match=r"metrics.jsonl: Read-only file system"):
        trainer.run()
