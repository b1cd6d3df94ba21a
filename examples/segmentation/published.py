"""The activations and losses of the published code, in float32 as published, compared with ours.

Our own code for the formulas of arXiv:2109.00903 (github.com/lars76/segmentation_activations,
train.py), for comparison, not for training. Its epsilon e = 1e-7 keeps probabilities away from 0
and 1. Sigmoid has no epsilon; neither has the cross entropy of softsign and inverse square root,
which is computed from raw outputs. float32 rounds 1 - e to 1 - 1.19e-7 or 1 - 0.60e-7, so the
largest -log(1 - p) is 15.942 or 16.636 instead of 16.118.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from examples.common.runs import RunError
from parity.common.files import write_atomically
from parity.judge.user_logits import InputError, load_file
from parity.report.console import console, print_table
from parity.suite.case import ACTIVATIONS, Case, default_epsilon
from parity.suite.inputs import PUBLISHED_EPSILON, SEED, Inputs

LOSSES = {
    "bce": ("binary_cross_entropy", "mean"),
    "dice": ("dice", ""),
    "mse": ("mean_squared_error", "mean"),
}
"""Our quantity and option for each published loss, as in `parity.suite`."""
TOLERANCE = 1e-6
"""A published loss with a larger difference is marked; relative for losses above 1."""
FAR = 200.0
"""The range of the default batch: about the effective domain of softsign, the widest."""
MOST = 5_000
"""Up to this many raw outputs the reference has 50 digits; above, float64."""
WRONG = ("inverse_square_root", "bce")
"""The loss whose published formula is wrong."""
NOTES = {
    "wrong": "its log(z + sqrt z), z = 1 + x^2, has lost the x of log(z + x sqrt z): a target of 1 "
    "costs nothing at x = 0 and log 2 far out, on the right side as on the wrong one",
    "moved": "float32 rounds probabilities near 1: 1 - 1e-7 is 1 - 1.19e-7 (linear, arctan: "
    "1 - 0.60e-7), so -log(1 - p) ends at 15.942 (16.636) and not at 16.118",
    "cancels": "its z - |x| loses its digits far out, and past 2^24 all of them: infinite, or NaN",
}
"""The meaning of the marks in the table."""
Tensor = Any
"""A torch.Tensor; PyTorch is imported only where it computes."""


def _linear(x: Tensor) -> Tensor:
    low, high = x.min(), x.max()
    return PUBLISHED_EPSILON + (1 - 2 * PUBLISHED_EPSILON) * (x - low) / (high - low)


_HALF = 0.5 - PUBLISHED_EPSILON
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda x: x.sigmoid(),
    "normal_cdf": lambda x: 0.5 + _HALF * (x / 2**0.5).erf(),
    "arctan": lambda x: PUBLISHED_EPSILON + (1 - 2 * PUBLISHED_EPSILON) * (0.5 + x.atan() / np.pi),
    "softsign": lambda x: 0.5 + _HALF * (x / (1 + x.abs())),
    "inverse_square_root": lambda x: 0.5 + _HALF * x * (1 + x * x).rsqrt(),
    "hardtanh": lambda x: x.clamp(PUBLISHED_EPSILON, 1 - PUBLISHED_EPSILON),
    "linear": _linear,
}


def activation(name: str, x: Tensor) -> Tensor:
    """The published probability of a tensor of raw outputs, in its dtype; `linear` over all of it.

    Past |x| = 1.8e19 its inverse square root is 1/2 in float32, since x^2 overflows.
    """
    return _ACTIVATIONS[name](x)


def _rational(z: Tensor, plus: Tensor, minus: Tensor, y: Tensor) -> Tensor:
    """The cross entropy of p = plus / (2 z) and 1 - p = minus / (2 z)."""
    return (np.log(2) + z.log() - y * plus.log() - (1 - y) * minus.log()).mean()


def _softsign(x: Tensor, y: Tensor) -> Tensor:
    z = 1 + x.abs()
    return _rational(z, z + x, z - x, y)


def _inverse_square_root(x: Tensor, y: Tensor) -> Tensor:
    """As published: `z + root` where `z + x * root` is meant."""
    z = 1 + x * x
    root = z.sqrt()
    return _rational(z, z + root, z - x * root, y)


def _sigmoid(x: Tensor, y: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.binary_cross_entropy_with_logits(x, y)


_FROM_RAW: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigmoid": _sigmoid,
    "softsign": _softsign,
    "inverse_square_root": _inverse_square_root,
}
"""The cross entropies that are not computed from a probability."""


def loss(name: str, of: str, x: Tensor, y: Tensor) -> Tensor:
    """The published loss `of` ("bce", "dice", "mse") of an activation, over the whole batch.

    Shapes and dtypes of `x`, raw outputs, and `y`, targets, are the same; the result is a scalar.
    """
    from torch.nn import functional

    if of == "bce" and name in _FROM_RAW:
        return _FROM_RAW[name](x, y)
    p = activation(name, x)
    if of == "bce":
        return functional.binary_cross_entropy(p, y)
    if of == "mse":
        return functional.mse_loss(p, y)
    return 1 - 2 * (p * y).sum() / (p.sum() + y.sum())


def epsilon(name: str, of: str = "") -> float:
    """The epsilon of a published activation or loss: 1e-7; 0 for sigmoid and from raw outputs."""
    without = name == "sigmoid" or (of == "bce" and name in _FROM_RAW)
    return 0.0 if without else PUBLISHED_EPSILON


@dataclass(frozen=True)
class Row:
    """One loss of one activation on one batch.

    `epsilon`: that of the published loss. `squeezed`, `exact`: ours with an epsilon of 1e-7, and
    with its default, 0 except for hardtanh and linear. `reference`: the exact loss at `epsilon`.
    """

    activation: str
    loss: str
    epsilon: float
    published: float
    squeezed: float
    exact: float
    reference: float

    @property
    def ours(self) -> float:
        """Our loss with the epsilon of the published one."""
        return self.squeezed if self.epsilon else self.exact

    @property
    def difference(self) -> float:
        """The published loss minus ours."""
        return self.published - self.ours

    @property
    def mark(self) -> str:
        """One of `NOTES`, or empty if the published loss agrees with the reference."""
        if (self.activation, self.loss) == WRONG:
            return "wrong"
        bound = TOLERANCE * max(1.0, abs(self.reference))
        if abs(self.published - self.reference) <= bound:  # false for NaN
            return ""
        from_raw = self.loss == "bce" and self.activation in _FROM_RAW
        return "cancels" if from_raw else "moved"


def default_batch() -> Inputs:
    """2 x 1 x 16 x 16 seeded float32 raw outputs `x` and targets `y`.

    They are normal with a deviation of 3, but one in eight is uniform up to 200 from 0. Targets
    follow the raw outputs with noise, far out they are random, and the largest raw output is wrong.
    """
    rng = np.random.default_rng((SEED, 7))
    shape = (2, 1, 16, 16)
    x, noise, far = rng.normal(0, 3, shape), rng.normal(0, 3, shape), rng.uniform(-FAR, FAR, shape)
    out = rng.uniform(size=shape) < 1 / 8
    y = np.where(out, noise, x + noise) > 0
    x = np.where(out, far, x)
    y[x == x.max()] = 0  # otherwise the limit of `linear` has no effect
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}


def read(path: Path) -> Inputs:
    """`logits` and `targets` of an .npz as float32 `x` and `y`.

    Raises `RunError`: files that `user_logits.load_file` refuses, and logits beyond float32.
    """
    try:
        found = load_file(path)
    except InputError as error:
        raise RunError(str(error)) from None
    with np.errstate(over="ignore"):
        batch = {key: array.astype(np.float32) for key, array in found.items()}
    if not np.isfinite(batch["x"]).all():
        raise RunError(f"{path}: logits beyond the range of float32, which the published code uses")
    return batch


def rows(batch: Inputs | None = None) -> list[Row]:
    """Every activation and loss on a batch of float32 `x` and `y`; by default `default_batch()`."""
    batch = default_batch() if batch is None else batch
    return [_row(name, of, batch) for name in ACTIVATIONS for of in LOSSES]


def _row(name: str, of: str, batch: Inputs) -> Row:
    import torch

    import segact_torch

    x, y = (torch.from_numpy(batch[key]) for key in ("x", "y"))
    ours = getattr(segact_torch, LOSSES[of][0])
    squeezed, exact = (
        float(ours(x, y, segact_torch.get_activation(name, epsilon=e)))
        for e in (PUBLISHED_EPSILON, default_epsilon(name))
    )
    theirs = epsilon(name, of)
    exactly = reference_loss(name, of, batch, theirs)
    return Row(name, of, theirs, float(loss(name, of, x, y)), squeezed, exact, exactly)


def apart(batch: Inputs) -> dict[str, float]:
    """The largest difference of the published probabilities from ours with the same epsilon."""
    import torch

    import segact_torch

    x, found = torch.from_numpy(batch["x"]), {}
    for name in ACTIVATIONS:
        ours = segact_torch.get_activation(name, epsilon=epsilon(name))(x)
        found[name] = float((activation(name, x).double() - ours.double()).abs().max())
    return found


def reference_loss(name: str, of: str, batch: Inputs, epsilon: float) -> float:
    """The exact loss: with 50 digits for up to `MOST` raw outputs, else in float64."""
    from parity.reference import float64 as oracle
    from parity.reference import multiprecision as reference

    case = Case("published", "float32", name, *LOSSES[of], epsilon)
    evaluate = reference.evaluate if batch["x"].size <= MOST else oracle.evaluate
    return float(evaluate(case.bind(batch))["value"])


HEADS = (
    *("activation", "loss", "published", "ours, e=1e-7", "ours", "difference", "reference"),
    "mark",
)


def _cells(row: Row) -> tuple[str, ...]:
    values = (row.published, row.squeezed, row.exact)
    texts = (*(f"{v:.8g}" for v in values), f"{row.difference:.1e}", f"{row.reference:.8g}")
    return (row.activation, row.loss, *texts, row.mark)


def words(found: Sequence[Row], batch: Inputs) -> list[str]:
    """The notes of a table: the batch, the columns, and the marks that are in it."""
    x, y = batch["x"], batch["y"]
    digits = "50 digits" if x.size <= MOST else "float64"
    marks = {row.mark for row in found}
    probabilities = ", ".join(f"{name} {most:.1e}" for name, most in apart(batch).items())
    return [
        f"{x.size:,} raw outputs from {x.min():.4g} to {x.max():.4g}, {y.mean():.1%} positive",
        "published: in float32. ours: as it comes, an epsilon of 0, but 1e-7 for hardtanh and "
        "linear. difference: published less ours with the same epsilon, which is 0 for sigmoid and "
        f"for bce of softsign and inverse_square_root. reference: {digits}, with that epsilon",
        f"probabilities, published and ours with the same epsilon, at most apart: {probabilities}",
        *(f"{mark}: {note}" for mark, note in NOTES.items() if mark in marks),
    ]


def print_rows(out: Console, found: Sequence[Row], batch: Inputs) -> None:
    """Print the table and its notes."""
    table = Table(title="the published code", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for i, head in enumerate(HEADS):
        right = 2 <= i < len(HEADS) - 1
        table.add_column(head, justify="right" if right else "left", no_wrap=True)
    for row in found:
        cells = _cells(row)
        table.add_row(*cells, style="bold red" if row.mark else "")
    print_table(out, table)
    out.print()
    for line in words(found, batch):
        out.print(line, markup=False)


def markdown(found: Sequence[Row], batch: Inputs) -> str:
    """The table as Markdown, with marked published losses in bold."""
    lines: list[Sequence[str]] = [HEADS, ["---", "---", *["---:"] * 5, "---"]]
    for row in found:
        name, of, published, *others = _cells(row)
        lines.append((name, of, f"**{published}**" if row.mark else published, *others))
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return table + "\n" + "".join(f"- {line}\n" for line in words(found, batch))


def command(
    logits: Annotated[
        Path | None,
        typer.Option(
            help="An .npz file with logits and targets; without it, a seeded random batch."
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--markdown", help="Also write the table to this file, as Markdown."),
    ] = None,
) -> None:
    """Compare the losses of the published code with ours, on one batch."""
    absent = [module for module in ("torch", "scipy", "mpmath") if find_spec(module) is None]
    if absent:
        raise RunError(f"published needs {', '.join(absent)}: not installed")
    batch = default_batch() if logits is None else read(logits)
    found = rows(batch)
    print_rows(console(), found, batch)
    if to:
        write_atomically(to, markdown(found, batch).encode())
