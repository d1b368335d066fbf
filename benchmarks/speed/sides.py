"""One timed training in this process: xbridge's, the Trainer's, or a matrix product for the machine's peak rate.

python -m benchmarks.speed.sides SIDE SETTING        what benchmarks/throughput.py starts
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.apart import tell
from benchmarks.similarity.measure import Peak
from benchmarks.speed.prepare import SEED, Setting
from xbridge.core.console import set_sink

OPTIM = {"lr": 1e-4, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.01, "warmup_steps": 50, "clip_norm": 1.0}


class Clock:
    """CPU and wall seconds, and memory, between the ends of two updates. Also a console sink that `xbridge` reports to.

    Memory is RssAnon of the process, sampled, or on a GPU what is allocated there.
    """

    def __init__(self, setting: Setting):
        self._first, self._last = setting.warmup, setting.warmup + setting.updates
        self._cuda = setting.device == "cuda"
        self.facts: dict[str, Any] = {}

    def progress(self, label: str, done: int, total: int, unit: str, facts: dict[str, Any]) -> None:
        """An update has ended."""
        if label == "steps":
            self.update_ended(done)

    def log(self, label: str, facts: dict[str, Any]) -> None:
        """Nothing is shown."""

    def update_ended(self, done: int) -> None:
        """Start after the warm-up, stop after the last update."""
        if done == self._first and not self.facts:
            if self._cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            self._peak = Peak()
            self._peak.start()
            self.facts = {"seconds": -time.perf_counter(), "cpu_seconds": -cpu_seconds()}
        elif done == self._last and "peak_bytes" not in self.facts:
            if self._cuda:
                torch.cuda.synchronize()
            self.facts["seconds"] += time.perf_counter()
            self.facts["cpu_seconds"] += cpu_seconds()
            self.facts["peak_bytes"] = self._peak.stop()
            if self._cuda:
                self.facts["peak_bytes"] = torch.cuda.max_memory_allocated()


def xbridge(setting: Setting) -> dict[str, Any]:
    """The train stage, as a study runs it, without validation and checkpoints."""
    from xbridge.core.config import parse
    from xbridge.training import train
    from xbridge.training.metrics_log import read_metrics

    clock = Clock(setting)
    set_sink(clock)
    config = parse(
        train.Config,
        {
            "objective": {"type": "translation"},
            "budget": {"unit": "steps", "amount": setting.warmup + setting.updates},
            "pretrained": {"model": setting.model},
            "seed": SEED,
            "batch_tokens": setting.batch_tokens,
            "max_tokens": setting.max_tokens,
            "multiple_of": setting.multiple_of,
            "precision": setting.precision,
            "validation_rows": 0,
            "save_every": 0,
            "optim": OPTIM,
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        train.run(config, train.Inputs(corpus=Path(setting.corpus), tokenizer=Path(setting.tokenizer)), Path(folder))
        lines = [line for line in read_metrics(Path(folder) / "metrics.jsonl") if "loss" in line]
    timed = lines[setting.warmup :]
    return {
        **clock.facts,
        "updates": len(timed),
        "nonpad_tokens": sum(line["num_nonpad_tokens"] for line in timed),
        "padded_tokens": sum(line["num_padded_tokens"] for line in timed),
        "target_tokens": sum(line["num_tokens"] for line in timed),
        "loss": timed[-1]["loss"],
    }


def trainer(setting: Setting) -> dict[str, Any]:
    """Seq2SeqTrainer with its usual collator, grouped by length; nothing is logged, saved or validated."""
    import datasets
    from transformers import (
        AutoModelForSeq2SeqLM,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        TrainerCallback,
    )

    from xbridge.models.loading import load_tokenizer

    clock = Clock(setting)
    model = AutoModelForSeq2SeqLM.from_pretrained(setting.model, dtype="float32")
    multiple = setting.multiple_of if setting.multiple_of > 1 else None
    collate = DataCollatorForSeq2Seq(load_tokenizer(setting.tokenizer), model=model, pad_to_multiple_of=multiple)
    batches: list[dict[str, int]] = []

    def recorded(features: list[dict[str, Any]]) -> Any:
        for feature in features:
            del feature["source_length"], feature["both_length"]
        nonpad = sum(len(feature["input_ids"]) + len(feature["labels"]) for feature in features)
        target = sum(len(feature["labels"]) - 1 for feature in features)  # xbridge's count: not the language code
        batch = collate(features)
        padded = batch["input_ids"].numel() + batch["labels"].numel()
        batches.append({"nonpad_tokens": nonpad, "padded_tokens": padded, "target_tokens": target})
        return batch

    class Timed(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _arguments: Any, state: Any, _control: Any, **_others: Any) -> None:
            clock.update_ended(state.global_step)

    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=setting.batch_rows,
            max_steps=setting.warmup + setting.updates,
            train_sampling_strategy="group_by_length",
            length_column_name=setting.group_by,
            remove_unused_columns=False,  # with it the Trainer drops the lengths and measures every row again
            learning_rate=OPTIM["lr"],
            adam_beta1=OPTIM["betas"][0],
            adam_beta2=OPTIM["betas"][1],
            adam_epsilon=OPTIM["eps"],
            weight_decay=OPTIM["weight_decay"],
            max_grad_norm=OPTIM["clip_norm"],
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=OPTIM["warmup_steps"],
            bf16=setting.precision == "bf16",
            use_cpu=setting.device == "cpu",
            dataloader_pin_memory=setting.device == "cuda",
            dataloader_num_workers=2 if setting.device == "cuda" else 0,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        )
        done = Seq2SeqTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets.load_from_disk(setting.rows),
            data_collator=recorded,
            callbacks=[Timed()],
        ).train()
    timed = batches[setting.warmup : setting.warmup + setting.updates]
    facts = {key: sum(batch[key] for batch in timed) for key in timed[0]}
    return {**clock.facts, "updates": len(timed), **facts, "loss": done.training_loss}


def product(setting: Setting) -> dict[str, Any]:
    """The best of many matrix products: what MFU is a share of."""
    cuda = setting.device == "cuda"
    size = 8192 if cuda else 1024
    dtype = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=setting.device).to(dtype) for _ in range(2))
    best: dict[str, Any] = {"cpu_seconds": float("inf"), "seconds": float("inf")}
    for _ in range(20):
        cpu, wall = cpu_seconds(), time.perf_counter()
        for _ in range(4):
            a @ b
        if cuda:
            torch.cuda.synchronize()
        now = {"cpu_seconds": (cpu_seconds() - cpu) / 4, "seconds": (time.perf_counter() - wall) / 4}
        best = {key: min(best[key], now[key]) for key in best}
    device = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} thread(s) per process"
    return {**best, "flops": 2 * size**3, "size": size, "device": device}


def cpu_seconds() -> float:
    """User and system time of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


SIDES: dict[str, Callable[[Setting], dict[str, Any]]] = {"xbridge": xbridge, "trainer": trainer, "product": product}

if __name__ == "__main__":
    tell(SIDES[sys.argv[1]](Setting(**json.loads(sys.argv[2]))))
