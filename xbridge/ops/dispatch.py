"""An operator is its reference, in plain PyTorch; faster backends stand beside it under the same name.

`ops/native/<op>.py` and `ops/triton/<op>.py` define `<op>(...)` with the reference's parameters, and `why_not(...)`
with the same ones: "" or the reason why this call cannot run there. Of native, triton and reference, the first that can
runs it. XBRIDGE_BACKEND=reference (or native, triton) decides for every call that asks for "auto".
"""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Generic, Literal, ParamSpec, TypeAlias, TypeVar, get_args

P = ParamSpec("P")
R = TypeVar("R")

Backend: TypeAlias = Literal["auto", "native", "triton", "reference"]
FAST = ("native", "triton")


class Op(Generic[P, R]):
    """An operator with backends. Call it as its reference; `on` names a backend."""

    def __init__(self, reference: Callable[P, R]):
        functools.update_wrapper(self, reference)
        self.name: str = reference.__name__
        self.reference = reference

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.on("auto", *args, **kwargs)

    def on(self, backend: Backend, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run on `backend`. ValueError, with the reason, where a named one cannot take this call."""
        return self._implementation(self.choose(backend, *args, **kwargs))(*args, **kwargs)

    def choose(self, backend: Backend, *args: P.args, **kwargs: P.kwargs) -> str:
        """The backend that runs this call. ValueError, with the reason, where a named one cannot."""
        wanted = checked(backend)
        if wanted == "auto":
            return next((name for name in FAST if not self.why_not(name, *args, **kwargs)), "reference")
        reason = self.why_not(wanted, *args, **kwargs)
        if reason:
            raise ValueError(f"{self.name}: backend {wanted} cannot run this: {reason}")
        return wanted

    def why_not(self, backend: str, *args: P.args, **kwargs: P.kwargs) -> str:
        """ "" where `backend` can run this call, otherwise the reason."""
        if backend == "reference":
            return ""
        if not has_backend(backend, self.name):
            return f"there is no {backend} kernel for {self.name}"
        module = importlib.import_module(f"xbridge.ops.{backend}.{self.name}")
        return str(module.why_not(*args, **kwargs))

    def _implementation(self, backend: str) -> Callable[P, R]:
        if backend == "reference":
            return self.reference
        module = importlib.import_module(f"xbridge.ops.{backend}.{self.name}")
        found: Callable[P, R] = getattr(module, self.name)
        return found


def op(reference: Callable[P, R]) -> Op[P, R]:
    """Make a reference an operator with backends."""
    return Op(reference)


def checked(backend: str) -> Backend:
    """A backend's name, "auto" replaced by XBRIDGE_BACKEND where that is set."""
    names = get_args(Backend)
    forced = os.environ.get("XBRIDGE_BACKEND") or "auto"
    for value, what in ((backend, "backend"), (forced, "XBRIDGE_BACKEND")):
        if value not in names:
            raise ValueError(f"{what} must be one of {', '.join(names)}, not {value!r}")
    return next(name for name in names if name == (forced if backend == "auto" else backend))


@functools.cache
def has_backend(backend: str, name: str) -> bool:
    """True where a backend has a kernel for an operator, usable here or not."""
    return importlib.util.find_spec(f"xbridge.ops.{backend}.{name}") is not None
