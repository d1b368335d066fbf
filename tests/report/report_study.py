"""A synthetic study in the stages' formats, with numbers like the quickstart's, for any arms and languages."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from xbridge.core.artifact import folder_name
from xbridge.core.files import write_json, write_table, write_text
from xbridge.report.page import Inputs

LANGUAGES = (
    "eng_Latn", "deu_Latn", "spa_Latn", "rus_Cyrl", "hun_Latn", "zho_Hans",
    "fra_Latn", "ces_Latn", "ell_Grek", "ita_Latn", "fin_Latn", "kor_Hang",
)  # fmt: skip
ARMS = ("denoise", "mt_shuffled", "mt")
SITES = ("encoder.0", "encoder.1", "encoder.2", "encoder.3")
TYPES = (
    "encoder.{}.self_attn.q",
    "encoder.{}.self_attn.v",
    "encoder.{}.fc1",
    "encoder.{}.fc2",
    "decoder.{}.cross_attn.k",
    "decoder.{}.fc1",
)
# Zero-shot level of an arm by task; other arms get the mean of denoise and mt.
LEVELS = {
    ("intents", "finetune"): {"random": 0.052, "base": 0.074, "denoise": 0.079, "mt_shuffled": 0.082, "mt": 0.137},
    ("intents", "probe"): {"random": 0.036, "base": 0.054, "denoise": 0.048, "mt_shuffled": 0.055, "mt": 0.135},
    ("slots", "finetune"): {"random": 0.21, "base": 0.25, "denoise": 0.262, "mt_shuffled": 0.255, "mt": 0.266},
    ("retrieval", "zeroshot"): {"random": 0.008, "base": 0.034, "denoise": 0.042, "mt_shuffled": 0.047, "mt": 0.404},
}
METRICS = {
    ("intents", "finetune"): ("accuracy", "macro_accuracy"),
    ("intents", "probe"): ("accuracy", "macro_accuracy"),
    ("slots", "finetune"): ("span_f1", "span_f1_strict"),
    ("retrieval", "zeroshot"): ("cosine", "centred_margin"),
}
FLOORS = {"intents": 0.024, "slots": 0.0, "retrieval": 0.003}
CUDA_FREE_VERSIONS = {"python": "3.11.2", "xbridge": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}


@dataclass
class StudyFolder:
    """Writes stage folders and remembers them as the report's inputs and the lock's nodes."""

    folder: Path
    languages: Sequence[str]
    arms: Sequence[str]
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.random = random.Random(7)

    def stage(self, stage: str, name: str, labels: dict[str, Any], seconds: float = 12.3) -> Path:
        """A stage folder with its manifest."""
        digest = f"{len(self.nodes):064x}"
        path = self.folder / stage / folder_name(name, digest)
        manifest = {
            "stage": stage, "name": name, "digest": digest, "labels": labels, "parents": {}, "seconds": seconds,
            "cpu_seconds": seconds * 0.97, "bytes": 1234567, "finished": "2026-11-22T13:00:00Z",
            "machine": {"system": "Linux", "processor": "Example CPU @ 2.0 GHz", "cores": 2},
            "versions": CUDA_FREE_VERSIONS,
        }  # fmt: skip
        write_json(path / "manifest.json", manifest)
        self.nodes.append(
            {"id": f"{stage}/{name}", "stage": stage, "name": name, "digest": digest, "labels": labels, "parents": []}
        )
        return path

    def models(self) -> list[tuple[str, str, int]]:
        """(model, arm, training seed) of all models."""
        continued = [(f"{arm}-s{seed}", arm, seed) for seed in self.seeds for arm in self.arms]
        return [("random", "random", 0), ("base", "base", 0), *continued]


def make_study(
    folder: Path, *, num_languages: int = 6, arms: Sequence[str] = ARMS, seeds: Sequence[int] = (0, 1)
) -> Inputs:
    """Write a whole study below `folder`; return the report's inputs."""
    study = StudyFolder(folder, LANGUAGES[:num_languages], arms, seeds)
    inputs = Inputs(
        study=folder,
        corpus=_corpus(study),
        tokenizer=_tokenizer(study),
        trainings={model: _training(study, model, arm, seed) for model, arm, seed in study.models()},
        taskdata={"home": _taskdata(study)},
        evaluations=_evaluations(study),
        comparison=_comparison(study),
        spectra={model: _spectra(study, model, arm, seed) for model, arm, seed in study.models()},
        separability={model: _separability(study, model, arm, seed) for model, arm, seed in study.models()},
        transfer=_transfer(study),
    )
    write_lock(study)
    return inputs


def write_lock(study: StudyFolder, **changes: Any) -> None:
    """study.lock.json as the study runner writes it."""
    lock = {
        "study": "quickstart",
        "question": "Does machine translation, as continued training, help or hurt cross-lingual transfer?",
        "languages": list(study.languages),
        "arms": {arm: {"objective": {"type": arm, "shuffle_pairs": arm == "mt_shuffled"}} for arm in study.arms},
        "seeds": list(study.seeds),
        "finetune_seeds": [0, 1, 2],
        "reference": "denoise",
        "config": {
            "study": "quickstart",
            "languages": list(study.languages),
            "base": {"budget": {"unit": "steps", "amount": 1050}},
            "continued": {"budget": {"unit": "nonpad_tokens", "amount": 742000}, "optim": {"lr": 0.002}},
        },
        "nodes": study.nodes,
    }
    write_json(study.folder / "study.lock.json", {**lock, **changes})


def _corpus(study: StudyFolder) -> Path:
    path = study.stage("corpus", "corpus", {}, 16.1)
    languages = {
        code: {
            "name": code[:3].title(), "script": code[4:], "family": "Indo-European", "read": 63036,
            "dropped": {"duplicate": 12000 + 10 * i, "too_long": 809, "equal_sides": 700 * i, "bad_ratio": 3},
            "leaks_removed": 23 + i, "pairs": {"train": 32600 - 900 * i if i else 0, "dev": 700, "test": 1500},
            "mono": {"train": 33800 - 900 * i, "dev": 720, "test": 1500}, "retrieval": 300 if i else 0,
        }
        for i, code in enumerate(study.languages)
    }  # fmt: skip
    card = {
        "pivot": study.languages[0],
        "languages": languages,
        "nway": 300,
        "near_duplicates": {
            "num": 1500, "edges": [0, 0.2, 0.4, 0.6, 0.8, 1.0], "counts": [60, 135, 675, 570, 60],
            "share_at_least_0.6": 0.42, "share_at_least_0.8": 0.04,
        },
        "retrieval_rule": "no placeholder, digit or common word",
        "sources": [
            {"kind": "homeassistant", "licence": "Apache-2.0", "version": "2026.11.0",
             "files": [{"name": "homeassistant-2026.11.0-py3-none-any.whl", "sha256": "ab" * 32}]}
        ],
    }  # fmt: skip
    write_json(path / "card.json", card)
    rows = [{"id": f"r{i}", "jaccard": (i % 100) / 100} for i in range(300)]
    write_table(path / "near_duplicates.parquet", rows)
    return path


def _tokenizer(study: StudyFolder) -> Path:
    path = study.stage("tokenizer", "tokenizer", {}, 31.0)
    by_language = {code: 1.9 + 0.05 * i for i, code in enumerate(study.languages)}
    unknown = {code: 0.004 if code == "zho_Hans" else 0.0 for code in study.languages}
    write_json(path / "card.json", {"vocabulary": 6010, "fertility": by_language, "unknown_rate": unknown})
    return path


def _taskdata(study: StudyFolder) -> Path:
    path = study.stage("taskdata", "home", {}, 3.1)
    counts = {code: {"train": 2325 if i == 0 else 0, "test": 500 + 10 * i} for i, code in enumerate(study.languages)}
    source = {"kind": "homeassistant_intents", "licence": "Apache-2.0", "version": "2026.10.27", "files": []}
    write_json(path / "card.json", {"num_labels": 42, "source": source, "languages": counts})
    return path


def _training(study: StudyFolder, model: str, arm: str, seed: int) -> Path:
    path = study.stage("train", model, {"model": model, "arm": arm, "train_seed": seed}, 117.0)
    if arm == "random":
        return path
    lines: list[dict[str, Any]] = []
    total = padded = supervised = 0
    num_steps = 1050 if arm == "base" else 800
    for step in range(1, num_steps + 1):
        nonpad = 928 + study.random.randrange(40)
        total, padded, supervised = total + nonpad, padded + 1024, supervised + nonpad // 2 - 20
        start, end = (8.0, 2.35) if arm == "base" else (4.0, 2.6) if "mt" in arm else (2.4, 2.0)
        loss = end + (start - end) * math.exp(-step / 180) + study.random.gauss(0, 0.12)
        line = {
            "step": step, "loss": loss, "num_tokens": nonpad // 2 - 20, "num_nonpad_tokens": nonpad,
            "num_padded_tokens": 1024, "total_tokens": supervised, "total_nonpad_tokens": total,
            "total_padded_tokens": padded, "grad_norm": 0.8, "lr": 0.002, "batch_digest": "00", "seconds": step * 0.14,
        }  # fmt: skip
        lines.append(line)
        if step % 200 == 0:
            name = "denoising" if arm in ("base", "denoise") else "translation"
            parts = study.languages if name == "denoising" else [f"eng_Latn-{code}" for code in study.languages[1:]]
            validation = dict.fromkeys(parts, loss + 0.1)
            lines.append({"step": step, "validation": validation})
    write_text(path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_json(path / "summary.json", {"steps": num_steps, "parameters": 2200000, "tokens": {"nonpad": total}})
    return path


def _level(task: str, mode: str, arm: str) -> float:
    levels = LEVELS[task, mode]
    return levels.get(arm, (levels["denoise"] + levels["mt"]) / 2)


def _evaluations(study: StudyFolder) -> dict[str, Path]:
    found = {}
    for model, arm, seed in study.models():
        labels = {"model": model, "arm": arm, "train_seed": seed, "task": "translation", "mode": "zeroshot"}
        if "mt" in arm:
            path = study.stage("evaluate", f"translation-{model}", labels)
            scores = [
                {"task": "generation", "metric": f"{metric}_{direction}", "predictor": predictor,
                 "source_lang": study.languages[0] if direction == "from_pivot" else code, "target_lang": code,
                 "site": "",
                 "value": scale * (0.5 if "shuffled" in arm else 1) + 0.1 * seed if predictor == "model" else 9.5,
                 "n": 200}
                for code in study.languages[1:]
                for direction in ("from_pivot", "to_pivot")
                for metric, scale in (("chrf", 21.4), ("bleu", 3.2))
                for predictor in ("model", "copy")
            ]  # fmt: skip
            write_table(path / "scores.parquet", scores)
            signatures = {"chrf_to_pivot": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.5.1"}
            facts = {code: {"signatures": signatures} for code in study.languages[1:]}
            write_json(path / "summary.json", {"task": "generation", "languages": facts})
            found[f"translation-{model}"] = path
        path = study.stage("evaluate", f"retrieval-{model}", {**labels, "task": "retrieval"})
        write_table(path / "scores.parquet", [], pa.schema([("task", pa.string()), ("metric", pa.string())]))
        for code in study.languages[1:]:
            level = _level("retrieval", "zeroshot", arm)
            rows = [
                {"id": f"r{i}", "site": SITES[-1], "margin": margin, "forward_hit": study.random.random() < level,
                 "backward_hit": study.random.random() < level}
                for i in range(300)
                for margin in ("cosine", "centred_margin")
            ]  # fmt: skip
            write_table(path / "predictions" / f"{code}.parquet", rows)
        found[f"retrieval-{model}"] = path
    return found


def _comparison(study: StudyFolder) -> Path:
    path = study.stage("compare", "models", {})
    models = study.models()
    keys = {"measure": "cka", "estimator": "unbiased", "stderr": 0.012, "n": 300, "backend": "reference"}
    rows = []
    for i, (a, arm_a, _) in enumerate(models):
        for b, arm_b, _ in models[i + 1 :]:
            for x, site_a in enumerate(SITES):
                for y, site_b in enumerate(SITES):
                    near = 0.2 if "random" in (arm_a, arm_b) else 0.7 if ("mt" in (arm_a, arm_b)) else 0.95
                    value = max(0.0, near - 0.11 * abs(x - y) - 0.03 * y)
                    rows.append(
                        {**keys, "model_a": a, "site_a": site_a, "language_a": "eng_Latn", "model_b": b,
                         "site_b": site_b, "language_b": "eng_Latn", "value": value}
                    )  # fmt: skip
        for x, site in enumerate(SITES):
            for j, one in enumerate(study.languages):
                for k, other in enumerate(study.languages[j + 1 :]):
                    value = 0.2 + 0.02 * j + (0.1 * x if arm_a == "mt" else 0.04 * x) - 0.01 * k
                    rows.append(
                        {**keys, "model_a": a, "site_a": site, "language_a": one, "model_b": a, "site_b": site,
                         "language_b": other, "value": value}
                    )  # fmt: skip
    write_table(path / "similarity.parquet", rows)
    return path


def _spectra(study: StudyFolder, model: str, arm: str, seed: int) -> Path:
    path = study.stage("spectra", model, {"model": model, "arm": arm, "train_seed": seed})
    rows = []
    for layer in range(3):
        for index, pattern in enumerate(TYPES):
            for kind in ("weight", "delta") if arm not in ("random", "base") else ("weight",):
                values = [(3.0 if kind == "weight" else 1.0) * math.exp(-i / (40 + 3 * index)) for i in range(128)]
                square = sum(v * v for v in values)
                change = 0.22 + 0.02 * index + (0.08 if arm == "mt" else 0.0) + 0.004 * seed
                rows.append(
                    {"matrix": pattern.format(layer), "kind": kind, "rows": 128, "cols": 128,
                     "stable_rank": square / values[0] ** 2, "effective_rank": 70.0 + index, "frobenius": square**0.5,
                     "spectral": values[0], "nuclear": sum(values),
                     "relative_change": change if kind == "delta" else None,
                     "subspace_overlap": 0.9 - change if kind == "delta" else None, "singular_values": values}
                )  # fmt: skip
    write_table(path / "spectra.parquet", rows)
    return path


def _separability(study: StudyFolder, model: str, arm: str, seed: int) -> Path:
    path = study.stage("separability", model, {"model": model, "arm": arm, "train_seed": seed})
    rows = []
    for x, site in enumerate(SITES):
        down = 0.12 * x if arm == "mt" else 0.04 * x
        for metric, value, chance in (
            ("fisher_ratio", 2.1 - 3 * down, math.nan),
            ("probe_accuracy", 0.99 - down, 1 / 6),
        ):
            rows.append(
                {"target": "language", "site": site, "language": "all", "metric": metric,
                 "value": value + 0.01 * seed, "stderr": 0.01, "n": 1800, "chance": chance}
            )  # fmt: skip
        for code in study.languages:
            rows.append(
                {"target": "label", "site": site, "language": code, "metric": "probe_accuracy",
                 "value": 0.5 + 0.05 * x + 0.01 * seed, "stderr": 0.02, "n": 500, "chance": 0.024}
            )  # fmt: skip
    write_table(path / "separability.parquet", rows)
    return path


def _transfer(study: StudyFolder) -> Path:
    path = study.stage("transfer", "transfer", {})
    seeds: list[dict[str, Any]] = []
    for (task, mode), metrics in METRICS.items():
        for site in SITES if task == "retrieval" else ("",):
            for metric in metrics:
                for _, arm, seed in study.models():
                    for tuning in (None,) if task == "retrieval" else (0, 1, 2):
                        seeds += _single_scores(study, (task, mode, metric, site), arm, seed, tuning)
    write_table(path / "seeds.parquet", seeds)
    write_table(path / "transfer.parquet", summarise(seeds))
    return path


def _single_scores(study: StudyFolder, keys: Any, arm: str, seed: int, tuning: int | None) -> list[dict[str, Any]]:
    task, mode, metric, site = keys
    level = _level(task, mode, arm) * (1 if metric in ("macro_accuracy", "centred_margin", "span_f1") else 0.8)
    level *= 0.4 + 0.2 * SITES.index(site) if site else 1
    base = {"task": task, "mode": mode, "metric": metric, "site": site, "arm": arm}
    values = {
        code: level * (1.3 - 0.5 * i / len(study.languages)) + study.random.gauss(0, 0.003)
        for i, code in enumerate(study.languages[1:])
    }
    values["zero-shot"] = fmean(values.values())
    if task != "retrieval":
        values["source"] = 0.85 + study.random.gauss(0, 0.004)
    return [
        {**base, "target_lang": code, "train_seed": seed, "finetune_seed": tuning, "value": value}
        for code, value in values.items()
    ]


def summarise(seeds: list[dict[str, Any]], reference: str = "denoise") -> list[dict[str, Any]]:
    """transfer.parquet's rows from single scores; intervals are two standard errors, which is enough to draw."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in seeds:
        key = (row["task"], row["mode"], row["metric"], row["site"], row["arm"], row["target_lang"])
        groups.setdefault(key, []).append(row["value"])
    rows = []
    for (task, mode, metric, site, arm, target), values in groups.items():
        ours, theirs = fmean(values), fmean(groups[task, mode, metric, site, reference, target])
        sd = (sum((v - ours) ** 2 for v in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else None
        is_reference = arm == reference
        half = 2 * max(sd or 0.0, 0.004)
        rows.append(
            {"task": task, "mode": mode, "metric": metric, "site": site, "arm": arm, "target_lang": target,
             "value": ours, "seed_sd": sd, "num_seeds": len(values), "n": 500, "difference": ours - theirs,
             "ci_low": None if is_reference else ours - theirs - half,
             "ci_high": None if is_reference else ours - theirs + half,
             "p_value": None if is_reference else min(1.0, math.exp(-abs(ours - theirs) / half * 3)),
             "p_holm": None if is_reference else min(1.0, 3 * math.exp(-abs(ours - theirs) / half * 3)),
             "floor": FLOORS[task]}
        )  # fmt: skip
    return rows
