"""`xbridge cka A B`: CKA between files of activations, without a config.

xbridge cka base.safetensors mt.safetensors --stderr
xbridge cka x.npy y.npy --kernel rbf --permutations 1000 --json
"""

import argparse
import json
import warnings
from typing import Any

import numpy as np

from xbridge.core.errors import UserError


def add_command(commands: Any) -> None:
    """Declare the command's arguments."""
    text = "CKA between all layers of two files of activations (.npy, .safetensors, extract folders)"
    sub = commands.add_parser("cka", help=text, description=f"{text}; FILE:NAME takes one of several.")
    sub.add_argument("a", help="rows (n, d): x.npy, x.safetensors, x.safetensors:encoder.3, or an extract folder")
    sub.add_argument("b", nargs="?", help="the same examples in other states (default: the layers of A themselves)")
    sub.add_argument("--kernel", choices=("linear", "cosine", "rbf", "laplacian"), default="linear")
    sub.add_argument("--bandwidth", default="median", help="of rbf and laplacian: median (default) or a width")
    sub.add_argument("--estimator", choices=("unbiased", "biased"), default="unbiased")
    sub.add_argument("--engine", choices=("auto", "moments", "gram", "minibatch"), default="auto")
    sub.add_argument("--batch-size", type=int, help="rows per batch of --engine minibatch (default 256)")
    sub.add_argument("--backend", choices=("auto", "native", "triton", "reference"), default="auto")
    sub.add_argument("--stderr", action="store_true", help="also the standard error over examples")
    sub.add_argument("--permutations", type=int, default=0, metavar="N", help="also p-values from N permutations")
    sub.add_argument("--json", action="store_true", help="print JSON instead of a table")
    sub.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Compute and print."""
    from xbridge.analysis.files import open_layers

    a = open_layers(options.a)
    b = open_layers(options.b) if options.b else None
    n, m = (int(next(iter(layers.values())).shape[0]) for layers in (a, b or a))
    if n != m:
        raise UserError(f"{options.b} has {m} rows, {options.a} has {n}: row i must be the same example in both")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = _compute(a, b, options)
    except ValueError as error:
        raise UserError(str(error)) from None
    columns = list(a if b is None else b)
    if options.json:
        print(json.dumps(_as_json(options, list(a), columns, n, results)))
    else:
        print(_as_text(options, list(a), columns, n, results))
    for message in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)):
        print(f"note: {message}")
    return 0


def _compute(a: Any, b: Any, options: argparse.Namespace) -> dict[str, np.ndarray]:
    from xbridge.similarity import cka_matrix, cka_matrix_permutation_test

    shared = {"kernel": options.kernel, "estimator": options.estimator, "bandwidth": _bandwidth(options.bandwidth)}
    results: dict[str, np.ndarray] = {}
    engine = {"engine": options.engine, "batch_size": options.batch_size, "backend": options.backend}
    found = cka_matrix(a, b, **shared, **engine, return_stderr=options.stderr)
    results["cka"], results["stderr"] = found if options.stderr else (found, np.empty(0))
    if options.permutations:
        count = options.permutations
        results["p_value"] = cka_matrix_permutation_test(a, b, **shared, num_permutations=count)[1]
    return {key: value for key, value in results.items() if value.size}


def _bandwidth(text: str) -> float | str:
    try:
        return text if text == "median" else float(text)
    except ValueError:
        raise UserError(f"--bandwidth must be median or a number, not {text!r}") from None


def _as_json(
    options: argparse.Namespace, rows: list[str], columns: list[str], n: int, results: dict[str, np.ndarray]
) -> dict[str, Any]:
    def plain(matrix: np.ndarray) -> list[list[float | None]]:
        return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]

    settings = {key: getattr(options, key) for key in ("kernel", "bandwidth", "estimator", "engine", "permutations")}
    return {"n": n, **settings, "a": rows, "b": columns, **{key: plain(value) for key, value in results.items()}}


def _as_text(
    options: argparse.Namespace, rows: list[str], columns: list[str], n: int, results: dict[str, np.ndarray]
) -> str:
    from xbridge.study.status import table

    header = f"{options.kernel} CKA, {options.estimator}, n = {n}"
    if len(rows) == len(columns) == 1:
        extra = f" ± {results['stderr'][0, 0]:.4f}" if "stderr" in results else ""
        p = f", p = {results['p_value'][0, 0]:.4g}" if "p_value" in results else ""
        return f"{results['cka'][0, 0]:.4f}{extra}{p}  ({header})"
    cells = [
        (name, *(_cell({key: value[i, j] for key, value in results.items()}) for j in range(len(columns))))
        for i, name in enumerate(rows)
    ]
    return f"{header}\n" + table(("", *columns), cells, right=tuple(range(1, len(columns) + 1)))


def _cell(values: dict[str, float]) -> str:
    text = f"{values['cka']:.4f}"
    if "stderr" in values:
        text += f" ± {values['stderr']:.4f}"
    return text + (f" p={values['p_value']:.3g}" if "p_value" in values else "")
