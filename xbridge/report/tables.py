"""The headline table as plain text, for a terminal of 80 columns."""

from pathlib import Path

from xbridge.core.errors import UserError
from xbridge.core.files import read_rows
from xbridge.report.format import ABSENT, decimal, interval, shorten, signed
from xbridge.report.palette import ordered
from xbridge.report.readings import macro, primary_readings

WIDTH = 80


def headline(transfer_path: Path) -> str:
    """Arm by task: zero-shot macro mean, seed spread, difference to the reference with its 95 % interval.

    `transfer_path` is the folder of the transfer stage or its transfer.parquet.
    """
    path = transfer_path / "transfer.parquet" if transfer_path.is_dir() else transfer_path
    rows = read_rows(path)
    if not rows:
        raise UserError(f"{path}: holds no scores; was any task evaluated?")
    lines: list[str] = []
    for reading in primary_readings(rows):
        if reading.kind == "generation":
            continue
        mine = {row["arm"]: row for row in reading.rows(rows) if macro(row)}
        if not mine:
            continue
        lines += [
            "",
            shorten(reading.label, WIDTH),
            _line("arm", "mean", "seed sd", "runs", "difference", "95 % interval"),
        ]
        for arm in ordered(list(mine)):
            row = mine[arm]
            sd = decimal(row["seed_sd"])
            has_interval = row["ci_low"] is not None and row["difference"] != 0
            difference = signed(row["difference"]) if has_interval else ABSENT
            ci = interval(row["ci_low"], row["ci_high"]) if has_interval else ABSENT
            lines.append(_line(shorten(arm, 24), decimal(row["value"]), sd, str(row["num_seeds"]), difference, ci))
        floors = [row["floor"] for row in mine.values() if row["floor"] is not None]
        if floors:
            lines.append(_line("constant predictor", decimal(floors[0]), ABSENT, ABSENT, ABSENT, ABSENT))
    return "\n".join(["Zero-shot scores, macro mean over the target languages", *lines])


def _line(arm: str, mean: str, sd: str, seeds: str, difference: str, ci: str) -> str:
    return f"  {arm:<24}{mean:>8}{sd:>9}{seeds:>7}{difference:>12}{ci:>18}"
