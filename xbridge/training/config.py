"""Settings of a training: where it starts, on what, for how long, and how it is run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from xbridge.core.config import InputPathOrId, Plugin, undigested
from xbridge.core.errors import ConfigError
from xbridge.data.batching import Budget
from xbridge.data.sampling import Schedule, check_schedule
from xbridge.models.attaching import AttachDecoder
from xbridge.objectives.corpora import Corpora
from xbridge.training.monitor import EarlyStopping, mode_of
from xbridge.training.optim import OptimConfig
from xbridge.training.translation_scores import TranslationScores


@dataclass(frozen=True, kw_only=True)
class ZeroConfig:
    """What is sharded over the ranks."""

    stage: Literal[0, 1, 2, 3] = 0
    """0 = nothing (DDP, no DeepSpeed), 1 = optimiser, 2 = and gradients, 3 = and parameters."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """Where the optimiser's state lives."""
    offload_parameters: Literal["none", "cpu"] = "none"
    """Where the parameters live; stage 3 only."""


_OPTIM, _ZERO, _EARLY_STOPPING = OptimConfig(), ZeroConfig(), EarlyStopping()
_CORPORA = Corpora()


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
    attach_decoder: AttachDecoder | None = None
    """Give an encoder-only model a decoder, so that it can be trained on translation."""
    batch_tokens: int = 1024
    """Largest padded source + target tokens of a global batch."""
    max_tokens: int = 24
    """Strings of more tokens, special tokens not counted, are left out of the training."""
    temperature: Schedule = 1.0
    """Sampling over languages or directions in proportion to size^(1/temperature), or phases of it such as
    [{until: 0.5, value: 5}, {until: 1, value: 1}], `until` in shares of the budget."""
    corpora: Corpora = _CORPORA
    """Sampling over several corpora, where the input `corpus` is a mapping of names to folders."""
    multiple_of: int = 1
    """Sequence widths are padded to a multiple of this; 8 suits GPUs."""
    optim: OptimConfig = _OPTIM
    """Optimiser and learning rate."""
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """Of matrix products; weights have a float32 master. auto = bf16 on a GPU that has it, else fp32; fp16 scales the
    loss. On CPUs bf16 is slower below a width of about 256."""
    check_languages: bool = undigested(True)
    """Refuse a corpus whose text is plainly in another language than its labels say, before the first update."""
    validation_rows: int = 64
    """Held-out examples per language or direction; 0 = no validation."""
    validate_every: int = 0
    """Updates between validations; 0 = only before and after."""
    translation_scores: TranslationScores | None = None
    """Translate held-out pairs and score them; null = losses only."""
    early_stopping: EarlyStopping = _EARLY_STOPPING
    """What makes one validation better than another, and when to stop for want of a better one."""
    save_every: int = undigested(200)
    """Updates between checkpoints; 0 = only when a signal stops the run."""
    keep_checkpoints: int = undigested(2)
    """Checkpoints kept while running."""
    keep_best: bool = undigested(False)
    """Keep the weights of the best validation in best/; what is best, `early_stopping` says."""
    keep_after: int = undigested(0)
    """Checkpoints kept when the training is complete."""
    accumulation: int = undigested(1)
    """Micro-batches that a rank splits its share of a batch into: less memory, the same result."""
    activation_checkpointing: bool = undigested(False)
    """Compute activations again in the backward pass: far less memory, about a third slower."""
    compile: bool = undigested(False)
    """Compile model and loss with torch.compile; not with ZeRO 3."""
    trackers: tuple[str, ...] = undigested(())
    """Who gets metrics.jsonl too: tensorboard, wandb, or another of accelerate's trackers."""
    zero: ZeroConfig = undigested(_ZERO)
    """Sharding over the ranks."""

    def __post_init__(self) -> None:
        if self.scratch is not None and self.pretrained is not None:
            raise ConfigError("pretrained", "give either `scratch` or `pretrained`, not both")
        if self.scratch is not None and self.attach_decoder is not None:
            raise ConfigError("attach_decoder", "is for an encoder to start from; a model from scratch has a decoder")
        lowest = {"batch_tokens": 1, "max_tokens": 1, "multiple_of": 1, "accumulation": 1, "keep_checkpoints": 1}
        for name in (*lowest, "validation_rows", "validate_every", "save_every", "keep_after"):
            if getattr(self, name) < lowest.get(name, 0):
                raise ConfigError(name, f"must be at least {lowest.get(name, 0)}, got {getattr(self, name)}")
        scores = self.translation_scores
        if scores is not None and scores.every and (not self.validate_every or scores.every % self.validate_every):
            raise ConfigError(
                "translation_scores.every",
                f"{scores.every} is not a multiple of validate_every, which is {self.validate_every}",
            )
        stopping = self.early_stopping
        if stopping.patience and not self.validate_every:
            raise ConfigError("early_stopping.patience", "needs validations between: set validate_every")
        if stopping.patience and mode_of(stopping.metric) == "max" and not (scores and scores.every):
            raise ConfigError("early_stopping.metric", f"{stopping.metric} needs translation_scores.every")
        if self.compile and self.zero.stage == 3:
            raise ConfigError("compile", "cannot see parameters that ZeRO 3 gathers; choose zero.stage 2 or less")
        check_schedule("temperature", self.temperature, lowest=1)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Folders that a training reads."""

    corpus: Path | dict[str, Path]
    """A corpus stage, a folder of fairseq-preprocess, or several by name."""
    tokenizer: Path | None = None
    """A tokenizer stage; null = the tokenizer of the model that it starts from."""
    init: Path | None = None
    """A train stage to continue from."""
