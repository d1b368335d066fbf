"""Where a training starts: from random weights, from a pretrained model, or on from another training."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xbridge.core.errors import ConfigError
from xbridge.core.files import read_json
from xbridge.core.runtime import derive_seed
from xbridge.training.config import Config, Inputs

if TYPE_CHECKING:
    from xbridge.objectives.base import Material, Objective

ENCODER = "encoder"  # beside model/, where a decoder was attached


def generation_of(inputs: Inputs) -> int:
    """How many trainings lie behind this one: a continued training must not see its parent's batches again."""
    if inputs.init is None:
        return 0
    summary = inputs.init / "summary.json"
    return 1 + (int(read_json(summary)["generation"]) if summary.exists() else 0)


def tokens_folder(out: Path) -> Path:
    """Where the trainings whose folders stand beside `out` keep token stores: XBRIDGE_TOKENS, else `tokens` there.

    All trainings of a study, runs/<study>/train/<name>, share runs/<study>/tokens.
    """
    if given := os.environ.get("XBRIDGE_TOKENS"):
        return Path(given)
    beside = out.resolve().parent
    return (beside.parent if beside.name == "train" else beside) / "tokens"


def start_of(config: Config, inputs: Inputs) -> Path | str | None:
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


def revision_of(config: Config, tokenizer: Path | None) -> str | None:
    """The hub revision of the tokenizer; None where it is a local one."""
    return config.pretrained.revision if config.pretrained and tokenizer is None else None


def model_of(config: Config, start: Path | str | None, tokenizer: Any) -> Any:
    """The model to train, in float32, with weights that are a pure function of the config."""
    from xbridge.models.attaching import attach_decoder, freeze_unused, is_attached
    from xbridge.models.loading import load_backbone, new_mbart, redrawn

    if start is not None:
        revision = config.pretrained.revision if config.pretrained else None
        model = load_backbone(start, revision=revision, with_output=config.attach_decoder is None)
        again = config.pretrained is not None and config.pretrained.random_weights
        model = redrawn(model, derive_seed(config.seed, "init")) if again else model
        if config.attach_decoder is not None:
            return attach_decoder(model, tokenizer, config.attach_decoder, seed=derive_seed(config.seed, "decoder"))
        if is_attached(model):
            freeze_unused(model)
        return model
    assert config.scratch is not None
    return new_mbart(tokenizer, seed=derive_seed(config.seed, "init"), **asdict(config.scratch))


def plain_tokenizer_of(config: Config, inputs: Inputs) -> Any:
    """The tokenizer of an encoder as it was before a decoder was attached, which may have been a training ago."""
    from xbridge.models.loading import load_tokenizer

    if inputs.init is not None and (inputs.init / ENCODER).is_dir():
        return load_tokenizer(inputs.init / ENCODER)
    vocabulary = inputs.tokenizer or start_of(config, inputs)
    assert vocabulary is not None
    return load_tokenizer(vocabulary, revision=revision_of(config, inputs.tokenizer))


def check_positions(model: Any, config: Config, objective: "Objective") -> None:
    """`ConfigError` where the longest sequence does not fit the model's positions."""
    from xbridge.models.encoding import position_limit

    positions = position_limit(model)
    if positions is not None and positions < objective.longest:
        raise ConfigError(
            "max_tokens",
            f"{config.max_tokens} gives sequences of up to {objective.longest} tokens with the special ones, "
            f"and the model has {positions} positions",
        )


def check_objective(model: Any, config: Config, materials: "Mapping[str, Material]", objective: "Objective") -> None:
    """`UserError` where the batches do not keep to the model's conventions, or the text is not what its label says."""
    from xbridge.models.output_layer import check_output_layer
    from xbridge.objectives.language_check import check_texts
    from xbridge.objectives.layout_check import check_layouts

    check_positions(model, config, objective)
    check_output_layer(model)
    check_layouts(model, objective, next(iter(materials.values())).conventions)
    if config.check_languages:
        for name, material in materials.items():
            check_texts(
                material, [part.name for part in objective.parts if part.name.startswith(f"{name}/" if name else "")]
            )
