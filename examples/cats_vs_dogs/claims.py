"""The write-up's claims, compared with runs: its figure, ours, and the command."""

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from examples.cats_vs_dogs.clipping import (
    FULL,
    KERAS_LIMITS,
    Samples,
    batch_means,
    limits,
    moments,
    relative_difference,
    splits_of,
)
from examples.cats_vs_dogs.options import SYNTHETIC_EPOCHS, SYNTHETIC_SIZE, Options
from examples.common.runs import Run, RunError
from parity.common.files import write_atomically
from parity.report.console import console, print_line

SEED_EPOCH = 8
SEEN = (-3.0, 8.0)
"""The write-up's raw outputs after 8 epochs."""
SLACK = 2.0
"""The margin that "about" adds at each end."""
PAST = 16.0
VISIBLE = 0.01
"""The relative difference of two losses that is visible in a scatter plot."""
BATCH_SIZES = (4, 20)
_PROGRAM = "python -m examples.cats_vs_dogs"
Splits = dict[str, Samples]


@dataclass(frozen=True)
class Row:
    """One claim and one run; `holds` is None if there is nothing to compare."""

    claim: str
    run: str
    told: str
    ours: str
    holds: bool | None
    command: str

    @property
    def verdict(self) -> str:
        """`yes`, `no` or `-`."""
        return {True: "yes", False: "no", None: "-"}[self.holds]


def table(run_folders: Sequence[Path]) -> list[Row]:
    """One row for every claim and run, claim by claim.

    The losses are those of the sigmoid, clipped by the convention keras, for any loss that the run
    was trained with. Raises `RunError`: a folder without a run, one that was trained with another
    activation than the sigmoid, and the errors of `clipping.splits_of`.
    """
    columns = [_claims(Run.open(folder, Options)) for folder in run_folders]
    return [row for rows in zip(*columns, strict=True) for row in rows]


def _claims(run: Run) -> list[Row]:
    """All claims of one run, in order."""
    if run.options["activation"] != "sigmoid":
        raise RunError(
            f"{run.folder}: --activation {run.options['activation']}; the write-up's claims are of "
            "sigmoid"
        )
    early = f"epoch_{run.options['checkpoint_epoch']}"
    found = {when: splits_of(run, when) for when in moments(run)}
    at_first, at_last = found.get(early), found.get(FULL)
    epoch = run.options["checkpoint_epoch"]
    draw = f"{_PROGRAM} figures {shlex.quote(str(run.folder))}"
    trained = training_command(run)
    name = run.folder.resolve().name + (" (synthetic)" if run.config["data"]["synthetic"] else "")

    def row(
        claim: str,
        told: str,
        splits: Splits | None,
        judge: Callable[[Splits], tuple[str, bool | None]],
        command: str,
    ) -> Row:
        ours, holds = judge(splits) if splits else ("not kept", None)
        return Row(claim, name, told, ours, holds, command)

    low, high = SEEN
    return [
        row(
            f"after {epoch} epochs all raw outputs lie within about [{low:g}, {high:g}] "
            f"(at most {SLACK:g} beyond)",
            f"[{low:g}, {high:g}]",
            at_first,
            _range if epoch == SEED_EPOCH else lambda splits: (_range(splits)[0], None),
            draw,
        ),
        row(f"after full training some dogs are past {PAST:g}", "some", at_last, _past, draw),
        row(
            "the clipped loss stops at about 1e-7 and at 16.1",
            f"{KERAS_LIMITS[0]:.0e}, {KERAS_LIMITS[1]:.1f}",
            at_last,
            _stops,
            "segact-parity conventions",
        ),
        row("accuracy after full training", "not known", at_last, _accuracy, trained),
        *(
            row(
                f"in batches of {size} the two losses do not differ visibly "
                f"(by more than {VISIBLE:.0%})",
                "no difference",
                at_last,
                partial(_batches, size=size, seed=run.options["seed"]),
                draw,
            )
            for size in BATCH_SIZES
        ),
    ]


def training_command(run: Run) -> str:
    """The command that trains such a run; the data folder is called DIR."""
    options = run.options
    usual = Options().as_dict()
    if options["data"] is None:
        usual |= {"size": SYNTHETIC_SIZE, "epochs": SYNTHETIC_EPOCHS}
    words = ["--framework", options["framework"]]
    if options["framework"] == "keras":
        words += ["--backend", options["backend"]]
    known = {field.name for field in dataclasses.fields(Options)}
    for name in sorted(known - {"framework", "backend"}, key=list(options).index):
        if options[name] != usual[name]:
            value = "DIR" if name == "data" else str(options[name])
            words += [f"--{name.replace('_', '-')}", value]
    return f"{_PROGRAM} train {shlex.join([*words, '--out', str(run.folder)])}"


def _each(splits: Splits, of: Callable[[Samples], str]) -> str:
    return "; ".join(f"{name} {of(samples)}" for name, samples in splits.items())


def _range(splits: Splits) -> tuple[str, bool]:
    raw = np.concatenate([samples.raw for samples in splits.values()])
    inside = bool(raw.min() >= SEEN[0] - SLACK and raw.max() <= SEEN[1] + SLACK)
    return _each(splits, lambda s: f"[{s.raw.min():.1f}, {s.raw.max():.1f}]"), inside


def _past(splits: Splits) -> tuple[str, bool]:
    def dogs(samples: Samples) -> np.ndarray:
        return samples.raw[samples.labels == 1]

    some = any((dogs(samples) > PAST).any() for samples in splits.values())
    return _each(
        splits,
        lambda s: (
            f"{(dogs(s) > PAST).sum():,} of {dogs(s).size:,}, the highest {dogs(s).max():.1f}"
        ),
    ), some


def _stops(splits: Splits) -> tuple[str, bool | None]:
    """The limits of float32 losses, and the number of samples at them."""
    (low, high_cat), (_, high_dog) = limits("keras", 0), limits("keras", 1)
    ours = (
        f"{low:.3g} below, {high_cat:.3f} (cats) and {high_dog:.3f} (dogs) above; at these limits: "
    )

    def standing(samples: Samples) -> str:
        highest = np.where(samples.labels > 0, high_dog, high_cat)
        below = (samples.from_probability <= low).sum()
        above = (samples.from_probability >= highest).sum()
        return f"{below:,} and {above:,} samples"

    near = abs(low / KERAS_LIMITS[0] - 1) < 0.25 and abs(high_cat / KERAS_LIMITS[1] - 1) < 0.02
    some = any(standing(samples) != "0 and 0 samples" for samples in splits.values())
    return ours + _each(splits, standing), near if some else None


def _accuracy(splits: Splits) -> tuple[str, None]:
    return _each(splits, lambda s: f"{np.mean((s.raw > 0) == (s.labels > 0)):.1%}"), None


def _batches(splits: Splits, size: int, seed: int) -> tuple[str, bool | None]:
    """The largest difference of the means over batches, and the number of visible ones."""
    apart = {}
    for name, samples in splits.items():
        apart[name] = relative_difference(*batch_means(samples, size, seed))

    def said(found: np.ndarray) -> str:
        if not found.size:
            return "too few"
        many = f"{(found > VISIBLE).sum():,} of {found.size:,} ({np.mean(found > VISIBLE):.2%})"
        return f"{many}, at most {found.max():.2g} apart, relative"

    ours = "; ".join(f"{name} {said(found)}" for name, found in apart.items())
    # without clipped samples there is no claim
    clipped = any(samples.parted.any() for samples in splits.values())
    judged = clipped and all(found.size for found in apart.values())
    return ours, not any((found > VISIBLE).any() for found in apart.values()) if judged else None


_HEADS = ("claim", "run", "write-up", "ours", "holds")


def print_claims(out: Console, rows: Sequence[Row]) -> None:
    """The table, in the width of the terminal, and the commands below it."""
    shown = Table(*_HEADS, box=None, padding=(0, 2, 1, 0), pad_edge=False)
    last = ""
    for row in rows:
        claim, last = ("" if row.claim == last else row.claim), row.claim
        shown.add_row(claim, row.run, row.told, row.ours, row.verdict)
    out.print(shown, markup=False)
    out.print("commands", style="bold")
    for command in dict.fromkeys(row.command for row in rows):
        print_line(out, f"  {command}")


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown, with the command in a column."""
    lines = [(*_HEADS, "command"), ("---",) * 6]
    lines += [(r.claim, r.run, r.told, r.ours, r.verdict, f"`{r.command}`") for r in rows]
    return "".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
    )


def command(
    folders: Annotated[list[Path], typer.Argument(help="The folders of runs.")],
    to: Annotated[
        Path | None,
        typer.Option("--markdown", help="Also write the table to this file, as Markdown."),
    ] = None,
) -> None:
    """Compare the write-up's claims with runs."""
    rows = table(folders)
    print_claims(console(), rows)
    if to:
        write_atomically(to, markdown(rows).encode())
