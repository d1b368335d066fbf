"""What a cluster asks of a job, as data: one YAML file per cluster in launch/profiles."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from xbridge.core.config import load_yaml, parse
from xbridge.core.errors import ConfigError, UserError


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One cluster, or one kind of node of it. No value is ever run as a shell's text: each is quoted."""

    description: str
    """Which cluster this is."""
    gpus_per_node: int
    """Most GPUs of a node; 0 = none are asked for, and `--gpus` counts processes."""
    cpus_per_gpu: int
    """Cores of each GPU's process."""
    time: str
    """Time limit of a job where nothing else is asked for, as Slurm writes it: 24:00:00."""
    partition: str | None = None
    """Partition; null = the cluster's default."""
    account: Literal["required", "optional"] = "optional"
    """Whether XBRIDGE_ACCOUNT must be set."""
    account_suffix: str = ""
    """What stands behind the account's name, e.g. "@a100"."""
    constraint: str | None = None
    """Feature that nodes must have (sbatch --constraint)."""
    qos: str | None = None
    """Quality of service."""
    gres: str | None = None
    """Name that GPUs go by as a generic resource, e.g. gpu:v100; null = they are asked for by --gpus-per-node."""
    memory_per_gpu_gb: int | None = None
    """Gigabytes of main memory for each GPU; null = what the cluster gives."""
    hint: str | None = None
    """sbatch --hint, e.g. nomultithread."""
    exclusive: bool = False
    """Ask for whole nodes."""
    cpu_masks: tuple[str, ...] = ()
    """Hexadecimal masks of the cores beside each GPU, by local rank."""
    modules: tuple[str, ...] = ()
    """Environment modules that are loaded first."""
    container: tuple[str, ...] = ()
    """Words in front of Python where XBRIDGE_CONTAINER names an image, which stands for {image}."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of the job; {job} stands for the job's id."""
    offline: bool = False
    """Compute nodes reach no network: jobs run with XBRIDGE_OFFLINE=1."""
    lead_seconds: int = 300
    """How long before its time limit a job is told to save and stop."""
    max_requeues: int = 50
    """How often a job goes back into the queue before it counts as stuck."""
    max_failures: int = 2
    """How often it does so after a failure rather than a stop."""
    max_array: int = 50
    """Tasks of an array that run at a time."""

    def __post_init__(self) -> None:
        lowest = {"gpus_per_node": 0, "cpus_per_gpu": 1, "lead_seconds": 10, "max_requeues": 0, "max_failures": 0}
        for name, least in {**lowest, "max_array": 1}.items():
            if getattr(self, name) < least:
                raise ConfigError(name, f"must be at least {least}, got {getattr(self, name)}")
        self._check_words()

    def _check_words(self) -> None:
        """Header lines take no quotes, so what stands in them must need none."""
        words = {name: getattr(self, name) for name in ("partition", "constraint", "qos", "gres", "hint", "time")}
        words |= {f"cpu_masks.{i}": mask for i, mask in enumerate(self.cpu_masks)}
        words |= {f"modules.{i}": name for i, name in enumerate(self.modules)}
        for path, word in words.items():
            if word is not None and not re.fullmatch(r"[\w@%+=:,./&|*-]+", word):
                raise ConfigError(path, f"{word!r} is not one plain word")
        for name in self.environment:
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ConfigError(f"environment.{name}", "not a variable's name")


def load_profile(name: str, folder: Path) -> Profile:
    """The profile `name` of `folder`, or of a file of that path."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise UserError(f"{name}: no such cluster profile; give a .yaml file or one of: {known}")
    try:
        return parse(Profile, load_yaml(path))
    except ConfigError as error:
        raise UserError(f"{path}: {error}") from None
