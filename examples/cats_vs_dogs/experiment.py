"""The same training with the clipped and with the unclipped loss (not in the write-up).

For every seed and batch size two runs start from the same weights and take the same batches in
the same order; one has the loss from raw outputs, the other the loss from probabilities that are
clipped by the convention keras. A folder holds

    experiment.json     the options of the experiment
    runs/               the run folders: seed_0_batch_20_clipped, ...
    logs/               the output of each run
    epochs.csv          for every batch size, quantity and epoch: the mean over the seeds with each
                        loss, and of the paired differences, with intervals
    runs.csv            one row a run: its last epoch, and its unclipped loss
    results.md, epochs.png, epochs.svg

The last four are written again after each run, from the runs that are finished. Dask's workers
train (`examples.common.scheduling`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from examples.cats_vs_dogs.clipping import FULL, from_raw_outputs
from examples.cats_vs_dogs.options import Options
from examples.cats_vs_dogs.task import CatsVsDogs
from examples.common import options as asked
from examples.common.cli import who
from examples.common.files import held_alone, holds_something
from examples.common.runs import Row, Run, RunError, counted, csv_bytes, duration, read_json
from examples.common.statistics import LEVEL, Interval, interval
from parity.common.extras import needs
from parity.common.files import json_text, write_atomically
from parity.report.console import console, print_line, print_table
from parity.report.palette import BLACK, BLUE, VERMILLION

PLAN = "experiment.json"
BATCH_SIZES, SEEDS, SIZE, EPOCHS = (1, 4, 20), (0, 1, 2), 64, 20
LOSSES: dict[str, str | None] = {"clipped": "keras", "unclipped": None}
"""By name: the convention."""
QUANTITIES = {
    "loss": "training loss, its own",
    "val_loss": "validation loss, its own",
    "accuracy": "training accuracy",
    "val_accuracy": "validation accuracy",
    "clipped": "training samples clipped",
    "clipped_wrong": "of these wrong",
    "val_clipped": "validation samples clipped",
    "val_clipped_wrong": "of these wrong, validation",
}
"""Columns of history.csv. Training samples have the raw outputs that the loss got, with dropout."""
EXACT = {
    "exact_loss": "training loss, unclipped",
    "exact_val_loss": "validation loss, unclipped",
}
"""The unclipped loss of the final weights, without dropout: the same measure for both."""
_SPLITS = {"exact_loss": "train", "exact_val_loss": "validation"}


@dataclass(frozen=True)
class Plan:
    """The options of the experiment; `base` has the options that all runs share."""

    base: Options
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    seeds: tuple[int, ...] = SEEDS

    def __post_init__(self) -> None:
        for name, values, least in (
            ("batch-size", self.batch_sizes, 1),
            ("seed", self.seeds, 0),
        ):
            if not values or len(set(values)) < len(values) or min(values) < least:
                given = ", ".join(map(str, values)) or "nothing"
                raise RunError(f"--{name}: {given}; wanted different whole numbers >= {least}")
        if self.base.activation != "sigmoid" or self.base.loss != "binary_cross_entropy":
            raise RunError("the experiment is of the cross entropy of the sigmoid")

    def trainings(self) -> Iterator["Training"]:
        """All trainings, seed by seed; large batches first, which are quick."""
        for seed in self.seeds:
            for batch_size in sorted(self.batch_sizes, reverse=True):
                for loss in LOSSES:
                    yield Training(self, seed, batch_size, loss)

    def as_dict(self) -> dict[str, Any]:
        """For experiment.json: `base` without the options that differ by run."""
        base = self.base.as_dict()
        for name in ("seed", "batch_size", "convention"):
            del base[name]
        return {"batch_sizes": list(self.batch_sizes), "seeds": list(self.seeds), "base": base}


@dataclass(frozen=True)
class Training:
    """One of the runs."""

    plan: Plan
    seed: int
    batch_size: int
    loss: str

    @property
    def options(self) -> Options:
        """The options of its run."""
        own = {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "convention": LOSSES[self.loss],
        }
        return Options(**(self.plan.base.as_dict() | own))

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"seed_{self.seed}_batch_{self.batch_size}_{self.loss}"

    def found(self, out: Path) -> Run | None:
        """Its run, or None if it has not been started."""
        folder = out / "runs" / self.name
        return Run.open(folder) if (folder / "config.json").is_file() else None


def run(
    plan: Plan,
    out: Path,
    cache: Path | None = None,
    tell: Console | None = None,
    jobs: int | None = None,
    scheduler: str | None = None,
    dashboard: bool = False,
) -> list[str]:
    """Run all trainings that are not finished; returns a line for each that failed.

    A finished run is kept and an unfinished one is continued; after each, the results are written.
    Raises `RunError` if `out` holds an experiment with other options or something else.
    """
    with needs("cats_vs_dogs", "sweep"):
        from examples.common import scheduling

    workers = scheduling.Workers(jobs, scheduler, dashboard)
    tell = tell or console(stderr=True)
    _check(plan, out, CatsVsDogs(plan.base, cache).described())
    out.mkdir(parents=True, exist_ok=True)
    with held_alone(out / ".lock", f"{out}: another experiment is at work there"):
        write_atomically(out / PLAN, json_text(plan.as_dict()).encode())
        every = [(one, one.found(out)) for one in plan.trainings()]
        missing = [
            scheduling.Job("examples.cats_vs_dogs", one.options, one.name, out, cache)
            for one, found in every
            if not (found and found.finished)
        ]
        ended = len(every) - len(missing)
        print_line(tell, f"{out}: {len(every)} runs, {ended} of them ended before")

        def how(rows: Sequence[Row], side_by_side: int) -> str:
            write_results(plan, out)
            return f"{_last(rows)}; {left(plan, out, side_by_side)}"

        failed = scheduling.train_all(missing, workers, out / PLAN, tell, how, ended)
        write_results(plan, out)
    return failed


def _last(rows: Sequence[Row]) -> str:
    """A line about a finished run."""
    last, took = rows[-1], duration(sum(row["seconds"] for row in rows))
    return (
        f"loss {last['loss']:.4g}, validation loss {last['val_loss']:.4g}, accuracy "
        f"{last['val_accuracy']:.1%}, {last['clipped']} clipped, {took}"
    )


def _check(plan: Plan, out: Path, images: Mapping[str, Any]) -> None:
    """Check that an existing experiment has the same options and images; raises `RunError`."""
    path, asked = out / PLAN, plan.as_dict()
    if path.is_file():
        held = read_json(path)
        for name, value in asked["base"].items():
            if held.get("base", {}).get(name) != value and name not in ("data", "device"):
                was = held.get("base", {}).get(name)
                option = f"--{name.replace('_', '-')}"
                raise RunError(f"{out}: this experiment has {option} {was}, not {value}")
        for name in ("batch_sizes", "seeds"):
            if set(held.get(name, [])) - set(asked[name]):
                option = f"--{name.replace('_', '-').removesuffix('s')}"
                has = ", ".join(map(str, held[name]))
                raise RunError(f"{out}: this experiment has {option} {has}; give these, too")
    elif holds_something(out):
        raise RunError(f"{out}: holds something else; choose another folder")
    for one in plan.trainings():
        found = one.found(out)
        if found and found.config["data"] != images:
            raise RunError(f"{found.folder}: other images than those given now")
        if found and found.finished:
            _check_options(one, found)


def _check_options(one: Training, found: Run) -> None:
    """Raises `RunError` for a finished run with other options."""
    for name, value in one.options.as_dict().items():
        if name not in ("data", "device") and found.options.get(name) != value:
            was, option = found.options.get(name), f"--{name.replace('_', '-')}"
            raise RunError(f"{found.folder}: this run has {option} {was}, not {value}")


def left(plan: Plan, out: Path, side_by_side: int = 1) -> str:
    """An estimate of the remaining time, from the epochs so far; "at least" if a batch size has
    none yet."""
    seconds: dict[int, list[float]] = {size: [] for size in plan.batch_sizes}
    missing = dict.fromkeys(plan.batch_sizes, 0)
    for one in plan.trainings():
        found = one.found(out)
        rows = found.history() if found else []
        seconds[one.batch_size] += [row["seconds"] for row in rows]
        if not (found and found.finished):
            missing[one.batch_size] += plan.base.epochs - len(rows)
    known = {size: float(np.mean(found)) for size, found in seconds.items() if found}
    if not known:
        return "time left not known yet"
    total = sum(missing[size] * known.get(size, max(known.values())) for size in missing)
    least = "" if all(size in known for size in missing if missing[size]) else "at least "
    return f"{least}{duration(total / side_by_side)} left"


@dataclass(frozen=True)
class Pair:
    """Two finished runs that differ only in the loss."""

    batch_size: int
    seed: int
    runs: dict[str, Run]
    histories: dict[str, list[Row]]
    exact: dict[str, dict[str, float]]


def pairs(plan: Plan, out: Path) -> list[Pair]:
    """All pairs whose runs are both finished; raises `RunError` if their initial weights differ."""
    found = []
    for batch_size in sorted(plan.batch_sizes):
        for seed in plan.seeds:
            runs = {loss: Training(plan, seed, batch_size, loss).found(out) for loss in LOSSES}
            done = {loss: run for loss, run in runs.items() if run and run.finished}
            if len(done) == len(LOSSES):
                _check_same_start(list(done.values()))
                histories = {loss: run.history() for loss, run in done.items()}
                exact = {loss: exact_losses(run) for loss, run in done.items()}
                found.append(Pair(batch_size, seed, done, histories, exact))
    return found


def _check_same_start(runs: Sequence[Run]) -> None:
    from safetensors.numpy import load_file

    first, *others = (load_file(run.need("initial.safetensors")) for run in runs)
    for run, other in zip(runs[1:], others, strict=True):
        same = first.keys() == other.keys()
        if not same or any(not np.array_equal(first[name], other[name]) for name in first):
            raise RunError(f"{run.folder}: other initial weights than {runs[0].folder}")


def exact_losses(run: Run) -> dict[str, float]:
    """The unclipped loss of the final weights, for runs with either loss."""
    found = run.outputs(FULL)
    return {
        name: float(from_raw_outputs(found[f"{split}_raw"], found[f"{split}_labels"]).mean())
        for name, split in _SPLITS.items()
    }


@dataclass(frozen=True)
class Compared:
    """One quantity at one epoch over the seeds; `difference` is clipped minus unclipped, paired."""

    batch_size: int
    quantity: str
    epoch: int
    clipped: Interval
    unclipped: Interval
    difference: Interval


def compared(found: Sequence[Pair]) -> list[Compared]:
    """Every quantity at every epoch that all pairs of a batch size have; exact losses at the end.

    A run whose loss is no longer finite ends early; later epochs are then not compared.
    """
    rows = []
    for batch_size in sorted({pair.batch_size for pair in found}):
        mine = [pair for pair in found if pair.batch_size == batch_size]
        epochs = min(len(rows) for pair in mine for rows in pair.histories.values())
        for epoch in range(epochs):
            now = [{loss: pair.histories[loss][epoch] for loss in LOSSES} for pair in mine]
            rows += [_compared(batch_size, name, epoch + 1, now) for name in QUANTITIES]
        last = [pair.exact for pair in mine]
        rows += [_compared(batch_size, name, epochs, last) for name in EXACT]
    return rows


def _compared(
    batch_size: int, quantity: str, epoch: int, values: Sequence[dict[str, Row]]
) -> Compared:
    """A quantity compared, from one row for each loss and seed."""
    clipped, unclipped = ([rows[loss][quantity] for rows in values] for loss in LOSSES)
    differences = [one - other for one, other in zip(clipped, unclipped, strict=True)]
    intervals = (interval(numbers) for numbers in (clipped, unclipped, differences))
    return Compared(batch_size, quantity, epoch, *intervals)


def _as_row(one: Compared) -> dict[str, Any]:
    row: dict[str, Any] = {
        "batch_size": one.batch_size,
        "quantity": one.quantity,
        "epoch": one.epoch,
        "seeds": one.difference.count,
    }
    for name in ("clipped", "unclipped", "difference"):
        found: Interval = getattr(one, name)
        row |= {
            name: found.mean,
            f"{name}_low": found.mean - found.half,
            f"{name}_high": found.mean + found.half,
        }
    return row


def _run_rows(found: Sequence[Pair]) -> list[dict[str, Any]]:
    return [
        {
            "batch_size": pair.batch_size,
            "seed": pair.seed,
            "trained_with": loss,
            **pair.histories[loss][-1],
            **pair.exact[loss],
            "seconds": sum(row["seconds"] for row in pair.histories[loss]),
        }
        for pair in found
        for loss in LOSSES
    ]


def write_results(plan: Plan, out: Path) -> None:
    """Write the tables and the figure of all finished pairs, if there are any."""
    found = pairs(plan, out)
    if not found:
        return
    rows = compared(found)
    write_atomically(out / "epochs.csv", csv_bytes([_as_row(row) for row in rows]))
    write_atomically(out / "runs.csv", csv_bytes(_run_rows(found)))
    write_atomically(out / "results.md", markdown(found, rows).encode())
    for suffix in (".png", ".svg"):
        write_atomically(out / f"epochs{suffix}", draw(found, rows, suffix))


def _said(found: Sequence[Pair], rows: Sequence[Compared]) -> str:
    """A note: what was trained, where, and how long it took."""
    run = next(iter(found[0].runs.values()))
    options, data = run.options, run.config["data"]
    seconds = sum(row["seconds"] for p in found for rows in p.histories.values() for row in rows)
    images = "synthetic images" if data["synthetic"] else "photographs"
    count = len(_final(rows))
    return (
        f"{data['train']:,} training and {data['validation']:,} validation {images} at "
        f"{options['size']} x {options['size']} pixels; "
        f"{who(options)}, {run.config['device']}; "
        f"{options['epochs']} epochs at most, {counted(len(found), 'pair')} of runs, "
        f"{duration(seconds)} of training. "
        f"Means over the seeds ± half of the {LEVEL:.0%} interval of Student's t; differences are "
        f"paired by seed, clipped minus unclipped. Of {count} such intervals "
        f"{(1 - LEVEL) * count:.1f} exclude 0 by chance alone."
    )


def _final(rows: Sequence[Compared]) -> list[Compared]:
    """The last epoch of every quantity."""
    last = {row.batch_size: row.epoch for row in rows}
    return [row for row in rows if row.epoch == last[row.batch_size]]


_FINAL_HEADS = ("batch", "at the end", "clipped", "unclipped", "difference", "clipped is")


def _final_cells(rows: Sequence[Compared]) -> list[tuple[str, ...]]:
    names = QUANTITIES | EXACT
    return [
        (
            str(row.batch_size),
            names[row.quantity],
            str(row.clipped),
            str(row.unclipped),
            str(row.difference),
            row.difference.verdict,
        )
        for row in _final(rows)
    ]


def _epoch_cells(rows: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    """The number of clipped training samples at every epoch: heads and lines."""
    sizes = sorted({row.batch_size for row in rows})
    heads = ["epoch", *(f"{size}, {loss}" for size in sizes for loss in LOSSES)]
    by = {(row.batch_size, row.epoch): row for row in rows if row.quantity == "clipped"}
    lines = []
    for epoch in range(1, max(epoch for _, epoch in by) + 1):
        cells = [
            str(getattr(by[size, epoch], loss)) if (size, epoch) in by else "-"
            for size in sizes
            for loss in LOSSES
        ]
        lines.append([str(epoch), *cells])
    return heads, lines


_CLIPPED_TITLE = "training samples in the clipped region, by batch size and loss"


def print_results(out: Console, found: Sequence[Pair], rows: Sequence[Compared]) -> None:
    """Both tables, for the terminal."""
    print_line(out, _said(found, rows))
    final, lines = _final_cells(rows), _epoch_cells(rows)
    for title, heads, cells in (
        ("after the last epoch", _FINAL_HEADS, final),
        (_CLIPPED_TITLE, *lines),
    ):
        shown = Table(title=title, box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for head in heads:
            shown.add_column(head, justify="left" if head in _FINAL_HEADS[1::4] else "right")
        for line in cells:
            shown.add_row(*line)
        print_table(out, shown)


def markdown(found: Sequence[Pair], rows: Sequence[Compared]) -> str:
    """Both tables as Markdown."""

    def as_table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
        lines = [heads, ["---"] * len(heads), *cells]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    return (
        f"{_said(found, rows)}\n\n{as_table(_FINAL_HEADS, _final_cells(rows))}\n"
        f"{_CLIPPED_TITLE.capitalize()}:\n\n{as_table(*_epoch_cells(rows))}"
    )


_SHOWN = ("loss", "val_loss", "val_accuracy", "clipped")
_SUBTRACTED = "val_loss"
_STYLES: dict[str, dict[str, Any]] = {
    "clipped": {"color": VERMILLION, "marker": "o", "linestyle": "-"},
    "unclipped": {"color": BLUE, "marker": "^", "linestyle": "--"},
}
_DIFFERENCE: dict[str, dict[str, Any]] = {
    "difference": {"color": BLACK, "marker": "s", "linestyle": "-"}
}


def draw(found: Sequence[Pair], rows: Sequence[Compared], suffix: str) -> bytes:
    """Draw quantities by epoch, a column for every batch size; png or svg by the suffix."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    sizes = sorted({row.batch_size for row in rows})
    synthetic = next(iter(found[0].runs.values())).config["data"]["synthetic"]
    content = BytesIO()
    with rc_context({"font.size": 9, "svg.hashsalt": "segact"}):
        figure = Figure(figsize=(4 * len(sizes) + 1, 11), layout="constrained")
        seeds = len({pair.seed for pair in found})
        figure.suptitle(
            f"{'Synthetic images' if synthetic else 'Photographs'}: means over {seeds} seeds, "
            f"with {LEVEL:.0%} intervals"
        )
        shape = len(_SHOWN) + 1, len(sizes)
        grid = figure.subplots(*shape, squeeze=False, sharex="col", sharey="row")
        for line, quantity in zip(grid, (*_SHOWN, _SUBTRACTED), strict=True):
            difference = line[0] is grid[-1, 0]
            for axes, size in zip(line, sizes, strict=True):
                mine = [r for r in rows if r.batch_size == size and r.quantity == quantity]
                _curves(axes, mine, _DIFFERENCE if difference else _STYLES)
            said = "\nclipped minus unclipped, paired" if difference else ""
            line[0].set_ylabel(QUANTITIES[quantity] + said)
        for axes, size in zip(grid[0], sizes, strict=True):
            axes.set_title(f"batch size {size}")
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        grid[0, 0].legend(title="loss")
        named = {"Date": None} if suffix == ".svg" else {}
        figure.savefig(content, dpi=130, format=suffix.removeprefix("."), metadata=named)
    return content.getvalue()


def _curves(axes: Any, rows: Sequence[Compared], styles: dict[str, dict[str, Any]]) -> None:
    """Both losses with their intervals, or the difference with its interval and a line at 0."""
    epochs = [row.epoch for row in rows]
    if "difference" in styles:
        axes.axhline(0, color="0.5", linewidth=0.8)
    for loss, style in styles.items():
        found: list[Interval] = [getattr(row, loss) for row in rows]
        mean = np.array([one.mean for one in found])
        half = np.nan_to_num([one.half for one in found])
        axes.plot(epochs, mean, label=loss, markersize=4, markerfacecolor="none", **style)
        low, high = mean - half, mean + half
        if loss != "difference":  # no quantity can be below 0
            low = np.maximum(low, 0)
        if rows and rows[0].quantity == "val_accuracy":
            high = np.minimum(high, 1)
        axes.fill_between(epochs, low, high, facecolor=style["color"], alpha=0.15, linewidth=0)
        for edge in (low, high):
            how = {"color": style["color"], "linestyle": style["linestyle"]}
            axes.plot(epochs, edge, linewidth=0.5, **how)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


_BatchSizes = Annotated[
    list[int], typer.Option(help="The number of images in a batch; may be repeated.")
]
_Seeds = Annotated[
    list[int], typer.Option(help="The seed of weights and sample order; may be repeated.")
]


def command(
    out: Annotated[
        Path, typer.Option(help="The folder of the experiment; an unfinished one in it continues.")
    ],
    framework: asked.Framework = "torch",
    backend: asked.Backend = Options.backend,
    data: Annotated[
        Path | None, typer.Option(help="The folder of images; without it, the synthetic set.")
    ] = None,
    cache: asked.Cache = None,
    batch_size: _BatchSizes = list(BATCH_SIZES),  # noqa: B006
    seed: _Seeds = list(SEEDS),  # noqa: B006
    size: Annotated[int, typer.Option(help="Height and width of the images, in pixels.")] = SIZE,
    epochs: Annotated[int, typer.Option(help="The number of epochs of every run.")] = EPOCHS,
    learning_rate: Annotated[
        float, typer.Option(help="The learning rate of RMSprop.")
    ] = Options.learning_rate,
    device: asked.Device = Options.device,
    jobs: asked.Jobs = None,
    scheduler: asked.Scheduler = None,
    dashboard: asked.Dashboard = False,
) -> None:
    """Train with the clipped and with the unclipped loss, and compare the results."""
    try:
        base = Options(
            framework=framework,
            backend=backend,
            data=str(data) if data else None,
            size=size,
            epochs=epochs,
            patience=epochs,  # so that no run stops before the others
            learning_rate=learning_rate,
            device=device,
        )
    except ValueError as error:
        raise RunError(str(error)) from error
    plan = Plan(base, tuple(batch_size), tuple(seed))
    failed = run(plan, out, cache, None, jobs, scheduler, dashboard)
    found = pairs(plan, out)
    if found:
        print_results(console(), found, compared(found))
    for line in failed:
        print_line(console(stderr=True), line)
    raise typer.Exit(1 if failed else 0)
