"""Two runs beside each other: what must agree, what does, and where only intervals can be claimed.

1. The final weights of a Keras run, put into the PyTorch network, give that run's raw outputs of
   all validation images.
2. Two runs with plain SGD, no dropout, and the same of everything else have the same loss at each
   of the first steps, as `segact-parity train` has it.
3. Otherwise their histories stand side by side.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from examples.cats_vs_dogs import training
from examples.cats_vs_dogs.network import preprocessing, torch_network
from examples.cats_vs_dogs.options import Options
from examples.common.runs import Row, Run, RunError
from parity import weights
from parity.difference import Difference, difference
from parity.report import print_table
from parity.training import BOUNDS, relative

TOLERANCE = 1e-4
"""Of raw outputs, absolute."""
_OF_PLACE = ("framework", "backend", "data", "device")
"""Options that may differ between runs whose losses must agree."""
_COLUMNS = ("loss", "accuracy", "val_loss", "val_accuracy", "clipped", "val_clipped")


@dataclass(frozen=True)
class Ported:
    """What PyTorch makes of the images with the weights of a Keras run."""

    difference: Difference
    worst: str
    keras: float
    torch: float


def name_of(run: Run) -> str:
    """`keras-jax` or `torch`."""
    options = run.options
    keras = options["framework"] == "keras"
    return f"keras-{options['backend']}" if keras else "torch"


def ported(run: Run, data: Path | None = None, cache: Path | None = None) -> Ported:
    """Put the final weights of a Keras run into the PyTorch network and look at all images.

    Raises `RunError` where the two networks are not the same one, or the images are others.
    """
    from examples.cats_vs_dogs.torch_run import raw_outputs

    asked = run.options | ({"data": str(data)} if data else {})
    options = Options(**asked)
    if "mixed" in options.precision:
        raise RunError(f"{run.folder}: --precision {options.precision}; wanted one of 32 or 64")
    if options.model == "inception_v3":
        raise RunError(
            f"{run.folder}: --model inception_v3 averages at the borders of an image otherwise in "
            "torchvision than in Keras; wanted another model"
        )
    theirs = run.outputs("full")
    splits = training.load(options, cache)
    if training.described(splits, options) != run.config["data"]:
        raise RunError(f"{run.folder}: other images than those this run was trained on")
    network = torch_network(options.model, options.size, options.dropout, preprocessing(options))
    if options.precision == "64":
        network.double()
    weights.load(run.need("final.safetensors"), network, settings="copy")
    ours = raw_outputs(network, splits["validation"].images, options.batch_size)
    found = difference(theirs["validation_raw"], ours, rtol=0.0, atol=TOLERANCE)
    at = found.index[0]
    return Ported(found, splits["validation"].names[at], found.left, found.right)


def differing(left: Run, right: Run) -> list[str]:
    """In what the runs differ, or have that makes them differ, so that only intervals remain."""
    one, other = left.options, right.options
    found = [
        f"--{name.replace('_', '-')} {one[name]} and {other[name]}"
        for name in one
        if name not in _OF_PLACE and one[name] != other[name]
    ]
    if left.config["data"] != right.config["data"]:
        found.append("other images")
    if not found:
        found += [f"--dropout {one['dropout']}"] if one["dropout"] else []
        found += [f"--optimizer {one['optimizer']}"] if one["optimizer"] != "sgd" else []
        found += [f"--precision {one['precision']}"] if "mixed" in one["precision"] else []
    return found


def compare(
    left: Run, right: Run, out: Console, data: Path | None = None, cache: Path | None = None
) -> bool:
    """Print what is found; returns whether all that must agree does.

    Raises `RunError` for runs that have no history yet, and what `ported` raises.
    """
    for run in (left, right):
        run.need("history.csv")
    passed = True
    ports = [run for run in (left, right) if run.options["framework"] == "keras"]
    if len(ports) == 1:
        passed = _print_ported(out, ports[0], ported(ports[0], data, cache))
    else:
        out.print("raw outputs: not compared; wanted one run of Keras and one of PyTorch")
    names = (name_of(left), name_of(right))
    reasons = differing(left, right)
    if reasons:
        _say(out, f"losses: only intervals can be claimed: {'; '.join(reasons)}")
    else:
        passed = _print_steps(out, names, left, right) and passed
    _print_histories(out, names, left, right)
    return passed


def _say(out: Console, line: str) -> None:
    out.print(line, markup=False, soft_wrap=True)


def _print_ported(out: Console, run: Run, found: Ported) -> bool:
    verdict = "ok" if found.difference.passed else "FAIL"
    _say(
        out,
        f"raw outputs: {verdict}: the weights of {run.folder} in PyTorch, "
        f"{found.difference.count:,} validation images; worst {found.worst}: "
        f"{found.keras:.9g} in Keras, {found.torch:.9g} in PyTorch, "
        f"{abs(found.keras - found.torch):.2g} apart, bound {TOLERANCE:g}",
    )
    return found.difference.passed


def _print_steps(out: Console, names: tuple[str, str], left: Run, right: Run) -> bool:
    """Whether the losses of the first steps are within the bound."""
    bound = BOUNDS["float64" if left.options["precision"] == "64" else "float32"]
    pairs = list(zip(left.steps(), right.steps(), strict=False))
    if not pairs:
        raise RunError(f"{left.folder} and {right.folder}: no steps that both have")
    apart = [relative(*pair) for pair in pairs]
    worst = int(np.argmax(apart))
    passed = apart[worst] <= bound
    _say(
        out,
        f"losses: {'ok' if passed else 'FAIL'}: {len(pairs)} steps; worst at step {worst + 1}: "
        f"{pairs[worst][0]:.9g} in {names[0]}, {pairs[worst][1]:.9g} in {names[1]}, "
        f"{apart[worst]:.2g} relative, bound {bound:g}",
    )
    if not passed and left.options["precision"] == "32":
        _say(
            out,
            "  past a kink of ReLU or max pooling a rounding error parts two sound trainings: try "
            "--precision 64, or a smaller --learning-rate",
        )
    epochs = list(zip(left.history(), right.history(), strict=False))
    found = max(relative(one["loss"], other["loss"]) for one, other in epochs)
    _say(
        out,
        f"epochs: the training loss of {len(epochs)} is {found:.2g} apart, relative; not judged",
    )
    return passed


def _print_histories(out: Console, names: tuple[str, str], left: Run, right: Run) -> None:
    rows: tuple[list[Row], list[Row]] = (left.history(), right.history())
    title = f"epoch by epoch, {names[0]} / {names[1]}"
    shown = Table("epoch", title=title, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in _COLUMNS:
        shown.add_column(column, justify="right", no_wrap=True)
    for epoch in range(max(map(len, rows))):
        cells = [" / ".join(_cell(side, epoch, column) for side in rows) for column in _COLUMNS]
        shown.add_row(str(epoch + 1), *cells)
    print_table(out, shown)


def _cell(rows: list[Row], epoch: int, column: str) -> str:
    value: Any = rows[epoch][column] if epoch < len(rows) else None
    if value is None:
        return "-"
    return str(value) if "clipped" in column else f"{value:.4g}"
