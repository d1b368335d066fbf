"""Similarity measures by name, for all pairs of layers.

A measure is a function f(x, y) -> float of (n, d1) and (n, d2) rows: one of `xbridge.similarity`, or a user's own,
written `module.function`. Where its module also has `<function>_matrix(a)`, that is called once for all layers.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from xbridge.core.errors import ConfigError, UserError


@dataclass(frozen=True)
class Matrix:
    """A measure between all pairs of S layers."""

    value: np.ndarray  # (S, S)
    stderr: np.ndarray | None  # (S, S), None where the measure has no sampling error


@dataclass(frozen=True)
class Measure:
    """A measure and how it is computed."""

    name: str
    pair: Callable[..., Any]
    matrix: Callable[..., Any] | None

    def has_option(self, option: str) -> bool:
        """True where the measure's matrix function takes this keyword."""
        return self.matrix is not None and option in inspect.signature(self.matrix).parameters

    def between(self, layers: Mapping[str, Tensor], **options: Any) -> Matrix:
        """All pairs of `layers`; of `options`, those that the measure knows. UserError names the layer that is bad."""
        try:
            if self.matrix is None:
                return Matrix(self._loop(layers), None)
            result = self.matrix(layers, **{key: value for key, value in options.items() if self.has_option(key)})
        except ValueError as error:
            raise UserError(f"{self.name}: {error}") from None
        return Matrix(*result) if isinstance(result, tuple) else Matrix(result, None)

    def _loop(self, layers: Mapping[str, Tensor]) -> np.ndarray:
        value = np.empty((len(layers), len(layers)))
        for i, (name_x, x) in enumerate(layers.items()):
            for j, (name_y, y) in enumerate(layers.items()):
                try:
                    value[i, j] = self.pair(x, y)
                except ValueError as error:
                    raise ValueError(f"{name_x} (x) and {name_y} (y): {error}") from None
        return value


def resolve(name: str, path: str) -> Measure:
    """The measure called `name`; `ConfigError` at `path` where there is none."""
    module_name, _, function = name.rpartition(".")
    try:
        module = importlib.import_module(module_name or "xbridge.similarity")
        pair = getattr(module, function)
    except (ModuleNotFoundError, AttributeError):
        raise ConfigError(
            path,
            f"no measure {name!r}; name a function of xbridge.similarity (cka, procrustes, ...) or module.function",
        ) from None
    return Measure(name, pair, getattr(module, f"{function}_matrix", None))
