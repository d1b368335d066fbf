"""The train stage: from scratch, from a pretrained model, or on from another training, on one objective.

model/          a plain `from_pretrained` folder with the tokenizer
encoder/        the same of the encoder alone, where a decoder was attached to it
best/           the same, of the best validation, where the config asks for it
metrics.jsonl   one line per update, and the validation lines between them
translations/   a table of hypotheses per scoring, where the config asks for scores
tensorboard/    event files, where the config asks for them
summary.json    totals, last validation, warnings; written last
checkpoints/    only while it runs, or as many as `keep_after` says
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xbridge.core.config import canonical, digest_of
from xbridge.core.console import log
from xbridge.core.errors import ConfigError
from xbridge.core.files import locked, read_json, write_json
from xbridge.core.runtime import derive_seed, settle_environment
from xbridge.objectives.corpora import build_over
from xbridge.training.config import Config, Inputs
from xbridge.training.monitor import EarlyStopping
from xbridge.training.start import (
    ENCODER,
    check_objective,
    generation_of,
    model_of,
    plain_tokenizer_of,
    revision_of,
    start_of,
    tokens_folder,
)

if TYPE_CHECKING:
    from torch import nn

    from xbridge.objectives.base import Material, Objective
    from xbridge.training.monitor import Monitor
    from xbridge.training.trainer import Totals
    from xbridge.training.validation import Validator

__all__ = ["VERSION", "Config", "Inputs", "run"]

VERSION = 2
WARN_LOSS = 3.5  # a denoising base above this has not learned to copy yet: its forks showed no difference


def run(config: Config, inputs: Inputs, out: Path) -> None:
    """Train and write `out`; continues where an interrupted run of the same config stopped.

    Every process of a launch calls it. Errors: `UserError` where another run holds `out`; `Interrupted` after a signal,
    with everything saved.
    """
    from xbridge.training.checkpoint import LOCK

    if settle_environment().rank == 0:
        with locked(out / "checkpoints" / LOCK, "trains here"):
            _run(config, inputs, out)
    else:
        _run(config, inputs, out)


def _run(config: Config, inputs: Inputs, out: Path) -> None:
    from xbridge.models.attaching import export_encoder, is_attached
    from xbridge.models.loading import check_vocabulary, load_tokenizer, save_description
    from xbridge.training.checkpoint import claim
    from xbridge.training.monitor import Monitor
    from xbridge.training.signals import StopSignals
    from xbridge.training.trackers import Trackers
    from xbridge.training.trainer import Trainer, compiled

    if claim(out, run_key(config, inputs), writes=settle_environment().rank == 0):
        return
    start = start_of(config, inputs)
    vocabulary = inputs.tokenizer or start
    assert vocabulary is not None
    tokenizer = load_tokenizer(vocabulary, revision=revision_of(config, inputs.tokenizer))
    model = model_of(config, start, tokenizer)
    check_vocabulary(model, tokenizer, str(inputs.init or start or "scratch"))
    generation = generation_of(inputs)
    seed = derive_seed(config.seed, "generation", generation)
    materials = _materials(config, inputs, model, tokenizer, seed, tokens_folder(out))
    objective = build_over(config.objective, materials, config.corpora)
    check_objective(model, config, materials, objective)
    plan = _plan(config, objective, seed)
    if config.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trainer = Trainer(
        model,
        compiled(objective.loss) if config.compile else objective.loss,
        plan,
        config.optim,
        out,
        seed=seed,
        precision=config.precision,
        zero=config.zero,
        save_every=config.save_every,
        keep_checkpoints=config.keep_checkpoints,
        validate=_validator(config, materials, objective, plan.num_steps, out),
        validate_every=config.validate_every,
        monitor=(monitor := Monitor.of(config.early_stopping)),
        ledger=plan.ledger,
        trackers=Trackers(config.trackers, out, canonical(config)),
        keep_best=config.keep_best,
        describe=partial(save_description, model, tokenizer),
    )
    facts = {"steps": plan.num_steps, **plan.totals()._asdict(), "parameters": num_parameters(model)}
    log("plan", **facts, padding_share=plan.totals().padding_share, dropped=objective.num_dropped)
    with StopSignals() as stop:  # until the end: a signal after the last update lets the run finish
        totals = trainer.run(stop)
        trainer.export(out / "model")
        if trainer.is_main:
            if is_attached(model):
                export_encoder(out / "model", plain_tokenizer_of(config, inputs), out / ENCODER)
            facts |= {"generation": generation, "dropped_overlong": objective.num_dropped}
            write_json(out / "summary.json", _summary(config, totals, facts, plan.ledger(totals.steps), monitor))
            _remove_checkpoints(out / "checkpoints", config.keep_after)
        trainer.wait()


def run_key(config: Config, inputs: Inputs) -> str:
    """Names this training: what an interrupted run in the same folder must equal to be continued."""
    parents = {name: _identity(path) for name, path in vars(inputs).items() if path is not None}
    return digest_of("train", VERSION, config, parents)


def num_parameters(model: "nn.Module") -> int:
    """Trained parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _identity(path: Path | Mapping[str, Path]) -> Any:
    if isinstance(path, Mapping):
        return {name: _identity(one) for name, one in path.items()}
    manifest = path / "manifest.json"
    return str(read_json(manifest)["digest"]) if manifest.exists() else str(path)


def _materials(
    config: Config, inputs: Inputs, model: Any, tokenizer: Any, seed: int, tokens: Path
) -> "dict[str, Material]":
    """One per corpus, by its name; the name of the only one is empty."""
    from xbridge.models.families import conventions_for
    from xbridge.objectives.base import Material

    corpora = inputs.corpus if isinstance(inputs.corpus, dict) else {"": inputs.corpus}
    whole = Material(
        corpus=next(iter(corpora.values())),
        tokens=tokens,
        split="train",
        tokenizer=tokenizer,
        conventions=conventions_for(model, tokenizer),
        max_tokens=config.max_tokens,
        seed=seed,
        multiple_of=config.multiple_of,
        temperature=config.temperature,
    )
    return {name: replace(whole, corpus=corpus) for name, corpus in corpora.items()}


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


def _validator(
    config: Config, materials: "Mapping[str, Material]", objective: "Objective", num_steps: int, out: Path
) -> "Validator | None":
    """What is done at a validation, always on the same held-out examples; None where the config asks for nothing."""
    from xbridge.training.translation_scores import TranslationValidation, directions_of
    from xbridge.training.validation import Validation, Validator, numbers_of

    losses, translations, scores = None, None, config.translation_scores
    parts = [part.name for part in objective.parts]
    if config.validation_rows:
        held_out = build_over(
            config.objective,
            {name: replace(material, split="dev", seed=0) for name, material in materials.items()},
            config.corpora,
        )
        losses = Validation(held_out, rows=config.validation_rows, batch_tokens=4 * config.batch_tokens)
    directions = directions_of(scores, parts) if scores else []
    if scores:
        corpora = [material.corpus for material in materials.values()]
        any_of = next(iter(materials.values()))
        translations = TranslationValidation(
            scores, directions, corpora, out / "translations", any_of.tokenizer, any_of.conventions
        )
    known = numbers_of(parts if losses else [], directions, scores.names() if scores else [])
    if config.early_stopping != EarlyStopping() and config.early_stopping.metric not in known:
        raise ConfigError("early_stopping.metric", f"{config.early_stopping.metric!r} is none of {', '.join(known)}")

    def is_due(step: int) -> bool:
        return step in (0, num_steps) or bool(scores and scores.every and step % scores.every == 0)

    return Validator(losses, translations, is_due) if losses or translations else None


def _summary(
    config: Config, totals: "Totals", facts: Mapping[str, int], ledger: Mapping[str, Any], monitor: "Monitor"
) -> dict[str, Any]:
    warnings = []
    found = totals.validation
    losses = [loss for name, loss in (found.losses.items() if found else ()) if "-" not in name]
    mean = sum(losses) / len(losses) if losses else None
    if config.objective.type == "denoising" and totals.steps and mean is not None and mean > WARN_LOSS:
        warnings.append(
            f"the denoising loss ended at {mean:.2f}, above {WARN_LOSS}: the model has hardly learned to copy its "
            "source, and trainings continued from it may not differ; train longer, or check optim.lr and init_std"
        )
        log("warning", message=warnings[0])
    return {
        "steps": totals.steps,
        "stopped_early": monitor.reason() if totals.steps < facts["steps"] else None,
        "budget": asdict(config.budget),
        "tokens": totals.tokens._asdict(),
        "padding_share": totals.tokens.padding_share if totals.steps else None,
        "loss": totals.loss,
        **(found.line() if found else {"validation": None}),
        "best": {"metric": monitor.metric, "value": monitor.best, "step": monitor.best_step},
        "seconds": round(totals.seconds, 3),
        "parameters": facts["parameters"],
        "generation": facts["generation"],
        "dropped_overlong": facts["dropped_overlong"],
        "ledger": ledger,
        "warnings": warnings,
    }


def _remove_checkpoints(root: Path, keep: int) -> None:
    kept = sorted(root.glob("step-*"))[-keep:] if keep else []
    for path in root.glob("*step-*"):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)
