"""Compare two runs.

1. The final weights of a Keras run, put into the PyTorch network, give that run's raw outputs for
   all validation images.
2. Two runs with SGD or RMSprop, without dropout and otherwise with the same options, have the same
   loss at each of the first steps, with the tolerance of `segact-parity train`.
3. The histories of other runs are only printed side by side.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from examples.cats_vs_dogs.network import preprocessing, torch_network
from examples.cats_vs_dogs.options import Options
from examples.cats_vs_dogs.task import CatsVsDogs
from examples.common.agreement import print_histories, print_steps
from examples.common.batches import in_batches
from examples.common.runs import Run, RunError
from examples.common.training import options_of
from parity import weights
from parity.common.tolerance import Difference, difference
from parity.report.console import print_line

TOLERANCE = 1e-4
"""The absolute bound for raw outputs."""
_COLUMNS = ("loss", "accuracy", "val_loss", "val_accuracy", "clipped", "val_clipped")


@dataclass(frozen=True)
class Ported:
    """The raw outputs of a Keras run, and those of the PyTorch network with its weights."""

    difference: Difference
    worst: str
    keras: float
    torch: float


def ported(run: Run, data: Path | None = None, cache: Path | None = None) -> Ported:
    """Put the final weights of a Keras run into the PyTorch network and run all images.

    Raises `RunError` if the two networks differ, or the images are others.
    """
    from examples.common.torch_training import raw_outputs

    options = options_of(Options, run, {"data": str(data)} if data else {})
    if "mixed" in options.precision:
        raise RunError(f"{run.folder}: --precision {options.precision}; wanted one of 32 or 64")
    if options.model == "inception_v3":
        raise RunError(
            f"{run.folder}: --model inception_v3 averages at the borders of an image otherwise in "
            "torchvision than in Keras; wanted another model"
        )
    theirs = run.outputs("full")
    task = CatsVsDogs(options, cache)
    if task.described() != run.config["data"]:
        raise RunError(f"{run.folder}: other images than those this run was trained on")
    network = torch_network(options.model, options.size, options.dropout, preprocessing(options))
    if options.precision == "64":
        network.double()
    weights.load(run.need("final.safetensors"), network, settings="copy")
    every = in_batches(np.arange(task.counts["validation"]), options.batch_size)
    inputs = (task.batch("validation", at, None)[0] for at in every)
    ours = raw_outputs(network, inputs)[:, 0]
    found = difference(theirs["validation_raw"], ours, rtol=0.0, atol=TOLERANCE)
    at = found.index[0]
    return Ported(found, task.splits["validation"].names[at], found.left, found.right)


def compare(
    left: Run, right: Run, out: Console, data: Path | None = None, cache: Path | None = None
) -> bool:
    """Print the comparisons; returns whether everything agrees that must.

    Raises `RunError` for runs that have no history yet, and the errors of `ported`.
    """
    for run in (left, right):
        run.need("history.csv")
    passed = True
    ports = [run for run in (left, right) if run.options["framework"] == "keras"]
    if len(ports) == 1:
        passed = _print_ported(out, ports[0], ported(ports[0], data, cache))
    else:
        out.print("raw outputs: not compared; wanted one run of Keras and one of PyTorch")
    passed = print_steps(out, left, right) and passed
    print_histories(out, left, right, _COLUMNS)
    return passed


def _print_ported(out: Console, run: Run, found: Ported) -> bool:
    verdict = "ok" if found.difference.passed else "FAIL"
    print_line(
        out,
        f"raw outputs: {verdict}: the weights of {run.folder} in PyTorch, "
        f"{found.difference.count:,} validation images; worst {found.worst}: "
        f"{found.keras:.9g} in Keras, {found.torch:.9g} in PyTorch, "
        f"{abs(found.keras - found.torch):.2g} apart, bound {TOLERANCE:g}",
    )
    return found.difference.passed
