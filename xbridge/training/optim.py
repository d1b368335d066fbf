"""AdamW and the learning rate as a pure function of the step.

There is no scheduler object: what a step's rate is follows from the step and the number of steps, so that a resumed
run needs no scheduler state.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xbridge.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import AdamW


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser settings. AdamW: Loshchilov and Hutter (2019), decoupled weight decay."""

    lr: float = 2e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay rates of the first and second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.01
    """Decoupled decay of matrices; biases and norms are not decayed."""
    warmup_steps: int = 50
    """Steps of linear warm-up from lr / warmup_steps to lr."""
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "constant"
    """Course of the rate after the warm-up."""
    final_share: float = 0.05
    """For linear and cosine: the rate of the last step as a share of lr."""
    clip_norm: float = 1.0
    """Largest L2 norm of the whole gradient; 0 = no clipping."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ConfigError("lr", f"must be above 0, got {self.lr}")
        if self.warmup_steps < 0:
            raise ConfigError("warmup_steps", f"must be 0 or more, got {self.warmup_steps}")
        if not 0 <= self.final_share <= 1:
            raise ConfigError("final_share", f"must be between 0 and 1, got {self.final_share}")
        if self.clip_norm < 0:
            raise ConfigError("clip_norm", f"must be 0 (off) or more, got {self.clip_norm}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError("betas", f"must be at least 0 and below 1, got {list(self.betas)}")


def learning_rate(config: OptimConfig, step: int, num_steps: int) -> float:
    """Rate of update `step` (0-based) of `num_steps`. The last update of linear and cosine has lr * final_share."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "inverse_sqrt":
        return config.lr * math.sqrt(max(config.warmup_steps, 1) / (step + 1))
    left = max(num_steps - 1 - config.warmup_steps, 1)
    done = min((step - config.warmup_steps) / left, 1.0)
    fall = done if config.schedule == "linear" else (1 - math.cos(math.pi * done)) / 2
    return config.lr * (1 - (1 - config.final_share) * fall)


def make_optimizer(model: "nn.Module", config: OptimConfig) -> "AdamW":
    """AdamW over the parameters that require a gradient; matrices are decayed, vectors are not."""
    from torch.optim import AdamW

    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
