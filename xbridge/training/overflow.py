"""What to do when a gradient is not finite: in float16 the update is skipped, so often in a row; else the run ends."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

MAX_IN_A_ROW = 20  # the loss scale has then fallen by a million


class Overflows:
    """Updates of one run that were skipped because float16 overflowed."""

    def __init__(self, model: nn.Module):
        self._model = model
        self._in_a_row = 0
        self._culprits: list[str] = []

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Around forward and backward: when the next overflow would be one too many, note where it begins."""
        hooks: list[Any] = []
        if self._in_a_row == MAX_IN_A_ROW:
            for name, parameter in self._model.named_parameters():
                if parameter.requires_grad:
                    note = partial(_note_if_not_finite, self._culprits, name)
                    hooks.append(parameter.register_hook(note))  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def update(self, norm: float) -> str | None:
        """Take the norm of an update's gradient; return what to tell the user when there were too many overflows."""
        self._in_a_row = 0 if math.isfinite(norm) else self._in_a_row + 1
        if self._in_a_row <= MAX_IN_A_ROW:
            return None
        first = f" (first in the gradient of {self._culprits[0]}, from the loss backwards)" if self._culprits else ""
        return f"{self._in_a_row} updates in a row overflowed float16{first}; set precision: bf16, or lower optim.lr"


def _note_if_not_finite(names: list[str], name: str, gradient: torch.Tensor) -> None:
    if not torch.isfinite(gradient).all():
        names.append(name)
