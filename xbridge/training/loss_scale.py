"""Dynamic loss scaling for float16 (Micikevicius et al., 2018): the scale halves at overflows, doubles after a calm."""

from collections.abc import Mapping

INITIAL = 2.0**16
CALM = 1000  # updates without an overflow before the scale doubles


class LossScale:
    """What the loss is multiplied by, so that small gradients do not vanish in float16. Off: always 1."""

    def __init__(self, enabled: bool):
        self.enabled = enabled
        self.value = INITIAL if enabled else 1.0
        self._calm = 0

    def update(self, overflowed: bool) -> None:
        """Take what became of an update."""
        if not self.enabled:
            return
        self._calm = 0 if overflowed else self._calm + 1
        if overflowed:
            self.value = max(self.value / 2, 1.0)
        elif self._calm == CALM:
            self.value, self._calm = self.value * 2, 0

    def counters(self) -> dict[str, float]:
        """What `restore` needs; nothing where scaling is off."""
        return {"loss_scale": self.value, "calm": self._calm} if self.enabled else {}

    def restore(self, counters: Mapping[str, float]) -> None:
        """Go on from a checkpoint; one of another precision says nothing about the scale."""
        if self.enabled and "loss_scale" in counters:
            self.value, self._calm = counters["loss_scale"], int(counters["calm"])
