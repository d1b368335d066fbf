"""The train stage: from scratch, from a pretrained model, or on from another training, on one objective.

model/          a plain `from_pretrained` folder with the tokenizer
metrics.jsonl   one line per update, and the validation lines between them
summary.json    totals, last validation losses, warnings; written last
checkpoints/    only while it runs, or as many as `keep_after` says
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from xbridge.core.config import InputPathOrId, Plugin, digest_of, undigested
from xbridge.core.console import log
from xbridge.core.errors import ConfigError
from xbridge.core.files import read_json, write_json
from xbridge.core.runtime import derive_seed
from xbridge.data.batching import Budget
from xbridge.training.optim import OptimConfig
from xbridge.training.zero import ZeroConfig

if TYPE_CHECKING:
    from torch import nn

    from xbridge.objectives.base import Material, Objective
    from xbridge.training.trainer import Totals

VERSION = 1
_OPTIM, _ZERO = OptimConfig(), ZeroConfig()
WARN_LOSS = 3.5  # a denoising base above this has not learned to copy yet: its forks showed no difference


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """An mBART-shaped encoder-decoder with random weights; embeddings are tied and scaled by sqrt(d_model)."""

    layers: int = 3
    """Layers of the encoder, and of the decoder."""
    d_model: int = 128
    """Width of the hidden states."""
    ffn: int = 512
    """Width of the feed-forward layers."""
    heads: int = 4
    """Attention heads; must divide d_model."""
    init_std: float = 0.08
    """Standard deviation of the initial weights; d_model^-0.5 is about right, mBART's 0.02 suits 1024."""
    max_positions: int = 64
    """Longest sequence, special tokens included."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit."""

    def __post_init__(self) -> None:
        if self.heads < 1 or self.d_model % self.heads:
            raise ConfigError("heads", f"{self.heads} does not divide d_model = {self.d_model}")
        if self.layers < 1:
            raise ConfigError("layers", f"must be at least 1, got {self.layers}")
        if not 0 <= self.dropout < 1:
            raise ConfigError("dropout", f"must be at least 0 and below 1, got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model to start from that is not a stage of this study."""

    model: InputPathOrId
    """A from_pretrained folder or a hub id."""
    revision: str = "main"
    """Branch, tag or commit on the hub; pin a commit for results that others can repeat."""
    random_weights: bool = False
    """Take its architecture with new weights: the random control."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a training. Exactly one of `scratch`, `pretrained` and the input `init` says where it starts."""

    objective: Annotated[Plugin, "xbridge.objectives"]
    """What is trained, e.g. {type: denoising}."""
    budget: Budget
    """How long. An amount of 0 saves the model as it starts: the random or untouched control."""
    seed: int = 0
    """Seed of initial weights, sampling, noise and dropout."""
    scratch: Scratch | None = None
    """Start from random weights of this shape."""
    pretrained: Pretrained | None = None
    """Start from this model."""
    batch_tokens: int = 1024
    """Largest padded source + target tokens of a global batch."""
    max_tokens: int = 24
    """Strings of more tokens, special tokens not counted, are left out of the training."""
    temperature: float = 1.0
    """Sampling over languages or directions in proportion to size^(1/temperature)."""
    multiple_of: int = 1
    """Sequence widths are padded to a multiple of this; 8 suits GPUs."""
    optim: OptimConfig = _OPTIM
    """Optimiser and learning rate."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 = autocast; on CPUs it is slower below a width of about 256."""
    validation_rows: int = 64
    """Held-out examples per language or direction; 0 = no validation."""
    validate_every: int = 0
    """Updates between validations; 0 = only before and after."""
    save_every: int = undigested(200)
    """Updates between checkpoints; 0 = only when a signal stops the run."""
    keep_checkpoints: int = undigested(2)
    """Checkpoints kept while running."""
    keep_after: int = undigested(0)
    """Checkpoints kept when the training is complete."""
    accumulation: int = undigested(1)
    """Micro-batches that a rank splits its share of a batch into: less memory, the same result."""
    zero: ZeroConfig = undigested(_ZERO)
    """Sharding over the ranks."""

    def __post_init__(self) -> None:
        if self.scratch is not None and self.pretrained is not None:
            raise ConfigError("pretrained", "give either `scratch` or `pretrained`, not both")
        lowest = {"batch_tokens": 1, "max_tokens": 1, "multiple_of": 1, "accumulation": 1, "keep_checkpoints": 1}
        for name in (*lowest, "validation_rows", "validate_every", "save_every", "keep_after"):
            if getattr(self, name) < lowest.get(name, 0):
                raise ConfigError(name, f"must be at least {lowest.get(name, 0)}, got {getattr(self, name)}")
        if not self.temperature >= 1:
            raise ConfigError("temperature", f"must be at least 1, got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Folders that a training reads."""

    corpus: Path
    """A corpus stage."""
    tokenizer: Path | None = None
    """A tokenizer stage; null = the tokenizer of the model that it starts from."""
    init: Path | None = None
    """A train stage to continue from."""


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Train and write `out`; continues where an interrupted run of the same config stopped."""
    from xbridge.models.loading import check_vocabulary, load_tokenizer, save_model
    from xbridge.training.checkpoint import claim
    from xbridge.training.trainer import Trainer

    claim(out, run_key(config, inputs))
    if (out / "summary.json").exists():
        return
    start = _start(config, inputs)
    vocabulary = inputs.tokenizer or start
    assert vocabulary is not None
    tokenizer = load_tokenizer(vocabulary, revision=_revision(config, inputs.tokenizer))
    model = _model(config, start, tokenizer)
    check_vocabulary(model, tokenizer, str(inputs.init or start or "scratch"))
    _check_positions(model, config)
    generation = _generation(inputs)
    seed = derive_seed(config.seed, "generation", generation)
    material = _material(config, inputs, model, tokenizer, seed)
    objective = config.objective.load().build(config.objective.config, material)
    trainer = Trainer(
        model,
        objective.loss,
        plan := _plan(config, objective, seed),
        config.optim,
        out,
        seed=seed,
        precision=config.precision,
        zero=config.zero,
        save_every=config.save_every,
        keep_checkpoints=config.keep_checkpoints,
        validate=_validation(config, material),
        validate_every=config.validate_every,
    )
    facts = {"steps": plan.num_steps, **plan.totals()._asdict(), "parameters": num_parameters(model)}
    log("plan", **facts, dropped=objective.num_dropped)
    totals = trainer.run()
    state = trainer.state_dict()
    if trainer.is_main:
        _save(model, tokenizer, out / "model", state, save_model)
        write_json(
            out / "summary.json", _summary(config, totals, facts, plan.ledger(), objective.num_dropped, generation)
        )
        _remove_checkpoints(out / "checkpoints", config.keep_after)
    trainer.wait()


def run_key(config: Config, inputs: Inputs) -> str:
    """Names this training: what an interrupted run in the same folder must equal to be continued."""
    parents = {name: _identity(path) for name, path in vars(inputs).items() if path is not None}
    return digest_of("train", VERSION, config, parents)


def num_parameters(model: "nn.Module") -> int:
    """Trained parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _identity(path: Path) -> str:
    manifest = path / "manifest.json"
    return str(read_json(manifest)["digest"]) if manifest.exists() else str(path)


def _generation(inputs: Inputs) -> int:
    """How many trainings lie behind this one: a continued training must not see its parent's batches again."""
    if inputs.init is None:
        return 0
    summary = inputs.init / "summary.json"
    return 1 + (int(read_json(summary)["generation"]) if summary.exists() else 0)


def _start(config: Config, inputs: Inputs) -> Path | str | None:
    """The folder or hub id of the model to start from; None = scratch."""
    given = [name for name in ("scratch", "pretrained") if getattr(config, name) is not None]
    if inputs.init is not None:
        given.append("inputs.init")
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise ConfigError("scratch", f"give exactly one of `scratch`, `pretrained` and the input `init`; found {found}")
    if inputs.tokenizer is None and config.scratch is not None:
        raise ConfigError("inputs.tokenizer", "is required for a model from scratch")
    return config.pretrained.model if config.pretrained else inputs.init


def _revision(config: Config, tokenizer: Path | None) -> str | None:
    return config.pretrained.revision if config.pretrained and tokenizer is None else None


def _model(config: Config, start: Path | str | None, tokenizer: Any) -> Any:
    from xbridge.models.loading import load_backbone, new_mbart, redrawn

    if start is not None:
        model = load_backbone(start, revision=config.pretrained.revision if config.pretrained else None)
        again = config.pretrained is not None and config.pretrained.random_weights
        return redrawn(model, derive_seed(config.seed, "init")) if again else model
    assert config.scratch is not None
    return new_mbart(tokenizer, seed=derive_seed(config.seed, "init"), **asdict(config.scratch))


def _check_positions(model: Any, config: Config) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions < config.max_tokens + 3:
        raise ConfigError(
            "max_tokens", f"{config.max_tokens} and 3 special tokens exceed the model's {positions} positions"
        )


def _material(config: Config, inputs: Inputs, model: Any, tokenizer: Any, seed: int) -> "Material":
    from xbridge.models.families import conventions_of
    from xbridge.objectives.base import Material

    return Material(
        corpus=inputs.corpus,
        split="train",
        tokenizer=tokenizer,
        conventions=conventions_of(model.config.model_type, tokenizer),
        max_tokens=config.max_tokens,
        seed=seed,
        temperature=config.temperature,
    )


def _plan(config: Config, objective: "Objective", seed: int) -> Any:
    from xbridge.data.batching import TokenPlan

    return TokenPlan(
        objective,
        seed=seed,
        budget=config.budget,
        batch_tokens=config.batch_tokens,
        shares=objective.shares,
        accumulation=config.accumulation,
        multiple_of=config.multiple_of,
    )


def _validation(config: Config, material: "Material") -> Any:
    """A function of the model: mean loss per part of the objective on the same held-out examples every time."""
    if not config.validation_rows:
        return None
    from dataclasses import replace

    from xbridge.training.validation import Validation

    held_out = config.objective.load().build(config.objective.config, replace(material, split="dev", seed=0))
    return Validation(held_out, rows=config.validation_rows, batch_tokens=4 * config.batch_tokens)


def _save(model: Any, tokenizer: Any, folder: Path, state: Any, save_model: Any) -> None:
    temporary = folder.with_name(".model.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    save_model(model, tokenizer, temporary, state)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def _summary(
    config: Config,
    totals: "Totals",
    facts: Mapping[str, int],
    ledger: Mapping[str, Any],
    num_dropped: int,
    generation: int,
) -> dict[str, Any]:
    warnings = []
    losses = [loss for name, loss in (totals.validation or {}).items() if "-" not in name]
    mean = sum(losses) / len(losses) if losses else None
    if config.objective.type == "denoising" and totals.steps and mean is not None and mean > WARN_LOSS:
        warnings.append(
            f"the denoising loss ended at {mean:.2f}, above {WARN_LOSS}: the model has hardly learned to copy its "
            "source, and trainings continued from it may not differ; train longer, or check optim.lr and init_std"
        )
        log("warning", message=warnings[0])
    return {
        "steps": totals.steps,
        "budget": asdict(config.budget),
        "tokens": totals.tokens._asdict(),
        "padding_share": round(1 - totals.tokens.nonpad / totals.tokens.padded, 4) if totals.steps else None,
        "loss": totals.loss,
        "validation": dict(totals.validation) if totals.validation else None,
        "seconds": round(totals.seconds, 3),
        "parameters": facts["parameters"],
        "generation": generation,
        "dropped_overlong": num_dropped,
        "ledger": ledger,
        "warnings": warnings,
    }


def _remove_checkpoints(root: Path, keep: int) -> None:
    kept = sorted(root.glob("step-*"))[-keep:] if keep else []
    for path in root.glob("*step-*"):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)
