"""Segmentation with any output activation and any loss, in Keras and in PyTorch.

Exit code 0: done.
1: a comparison or a run of a sweep failed.
2: wrong usage, or what cannot be downloaded, read or written, in one line.
"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from examples.common import options as asked
from examples.common import training
from examples.common.agreement import print_histories, print_steps
from examples.common.cli import plain_errors, typed_options, who
from examples.common.runs import Run, RunError, counted
from examples.segmentation import figures, predict, published, sweeps, table
from examples.segmentation.layouts import LAYOUTS
from examples.segmentation.options import LOSSES, Options, implementations
from examples.segmentation.task import Segmentation
from parity.report.console import console, print_line
from parity.suite.case import ACTIVATIONS, REDUCED

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
_APART = ("out", "resume", "cache", "jobs", "scheduler", "dashboard")
"""Options of `train` that are not the run's own."""
_errors = partial(plain_errors, "segmentation")
Data = Annotated[
    str | None,
    typer.Option(
        help=f"LAYOUT:DIR, LAYOUT one of {', '.join(LAYOUTS)}; without it, synthetic images."
    ),
]
Epochs = Annotated[int, typer.Option(help="The largest number of epochs.")]
Patience = Annotated[
    int, typer.Option(help="Stop after this many epochs without a higher mean Dice.")
]
CutPatience = Annotated[
    int,
    typer.Option(
        help="Reduce the learning rate after this many epochs without a higher mean Dice."
    ),
]
CutFactor = Annotated[float, typer.Option(help="The factor by which the learning rate is reduced.")]
Classes = Annotated[
    int, typer.Option(help="The number of labels in the masks of processed arrays.")
]
Size = Annotated[
    int | None, typer.Option(help="Resize images and masks to this height and width, in pixels.")
]
Patch = Annotated[
    int | None, typer.Option(help="Train on random square windows of this size, in pixels.")
]
Augment = Annotated[
    bool, typer.Option(help="Flip and rotate (by right angles) the training images.")
]
Folds = Annotated[int, typer.Option(help="The number of folds into which the cases are divided.")]
Width = Annotated[int, typer.Option(help="Channels of the U-Net's first level.")]
Depth = Annotated[int, typer.Option(help="Levels of the U-Net below its first.")]


@app.callback()
def _main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@app.command()
def train(
    context: typer.Context,
    framework: asked.Framework = Options.framework,
    backend: asked.Backend = Options.backend,
    data: Data = None,
    cache: asked.Cache = None,
    out: asked.Out = None,
    resume: asked.Resume = False,
    activation: asked.Activation = Options.activation,
    loss: Annotated[
        str, typer.Option(help=f"{', '.join((*LOSSES, *(n for n in REDUCED if n not in LOSSES)))}.")
    ] = Options.loss,
    fold: Annotated[
        int, typer.Option(help="The fold to validate on, counted from 0.")
    ] = Options.fold,
    folds: Folds = Options.folds,
    seed: Annotated[
        int, typer.Option(help="The seed of initial weights, sample order and augmentation.")
    ] = Options.seed,
    epochs: Epochs = Options.epochs,
    patience: Patience = Options.patience,
    cut_patience: CutPatience = Options.cut_patience,
    cut_factor: CutFactor = Options.cut_factor,
    batch_size: asked.BatchSize = Options.batch_size,
    optimizer: asked.Optimizer = Options.optimizer,
    learning_rate: asked.LearningRate = Options.learning_rate,
    classes: Classes = Options.classes,
    size: Size = Options.size,
    patch: Patch = Options.patch,
    augment: Augment = Options.augment,
    width: Width = Options.width,
    depth: Depth = Options.depth,
    device: asked.Device = Options.device,
    devices: asked.Devices = Options.devices,
    precision: asked.Precision = Options.precision,
) -> None:
    """Train a U-Net in one framework on one fold."""
    typed = typed_options(context, _APART)
    with _errors():
        folder = out or Path("runs") / framework
        if resume:
            given = typed | ({"loss": LOSSES.get(loss, loss)} if "loss" in typed else {})
            run = training.resume(Segmentation, Options, folder, given, cache)
        else:
            run = training.start(Segmentation, _options(typed), folder, cache)
    if not training.is_child():
        _tell(run)


def _options(typed: dict[str, Any]) -> Options:
    try:
        return Options(**typed)
    except ValueError as error:
        raise RunError(str(error)) from error


def _tell(run: Run) -> None:
    options, rows = run.options, run.history()
    best = max(rows, key=lambda row: row["val_mean_dice"])
    print_line(
        console(),
        f"{run.folder}: {who(options)}, {run.config['data']['source']}, {options['activation']}, "
        f"{options['loss']}, fold {options['fold']} of {options['folds']}: "
        f"{counted(run.config['epochs'], 'epoch')}, ended by {run.config['stopped']}; best epoch "
        f"{best['epoch']}: mean Dice {best['val_mean_dice']:.4f}, best Dice "
        f"{best['val_best_dice']:.4f}",
    )


@app.command()
def sweep(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="The folder of the sweep; an unfinished sweep in it continues.")
    ],
    framework: Annotated[
        str,
        typer.Option(
            help="One or more of torch, keras, keras-jax, keras-torch, separated by commas."
        ),
    ] = "torch",
    activations: Annotated[
        str, typer.Option(help=f"all, or some of {', '.join(ACTIVATIONS)}, separated by commas.")
    ] = "all",
    losses: Annotated[
        str,
        typer.Option(help=f"{', '.join(LOSSES)}, or others of train --loss, separated by commas."),
    ] = "bce,dice,mse",
    seeds: Annotated[
        str,
        typer.Option(
            help="Seeds of initial weights, sample order and augmentation, separated by commas."
        ),
    ] = "0",
    jobs: asked.Jobs = None,
    scheduler: asked.Scheduler = None,
    dashboard: asked.Dashboard = False,
    data: Data = None,
    cache: asked.Cache = None,
    folds: Folds = Options.folds,
    epochs: Epochs = Options.epochs,
    patience: Patience = Options.patience,
    cut_patience: CutPatience = Options.cut_patience,
    cut_factor: CutFactor = Options.cut_factor,
    batch_size: asked.BatchSize = Options.batch_size,
    optimizer: asked.Optimizer = Options.optimizer,
    learning_rate: asked.LearningRate = Options.learning_rate,
    classes: Classes = Options.classes,
    size: Size = Options.size,
    patch: Patch = Options.patch,
    augment: Augment = Options.augment,
    width: Width = Options.width,
    depth: Depth = Options.depth,
    device: asked.Device = Options.device,
    precision: asked.Precision = Options.precision,
) -> None:
    """Train all combinations of framework, activation, loss, fold and seed, each as one run."""
    with _errors():
        own = ("framework", "activations", "losses", "seeds")
        base = _options(typed_options(context, (*_APART, *own)))
        plan = sweeps.Plan(
            base,
            implementations(framework),
            sweeps.names(activations, "activations", ACTIVATIONS),
            tuple(LOSSES.get(name, name) for name in sweeps.names(losses, "losses", [*LOSSES])),
            sweeps.numbers(seeds, "seeds"),
        )
        tell = console(stderr=True)
        failed = sweeps.run(plan, out, cache, tell, jobs, scheduler, dashboard)
        for line in failed:
            print_line(tell, line)
        raise typer.Exit(1 if failed else 0)


@app.command()
def compare(
    left: Annotated[Path, typer.Argument(help="The folder of a run.")],
    right: Annotated[Path, typer.Argument(help="The folder of another run.")],
) -> None:
    """Compare the losses of two runs; exit code 1 if they should agree and do not."""
    with _errors():
        runs = Run.open(left, Options), Run.open(right, Options)
        for run in runs:
            run.need("history.csv")
        agree = print_steps(console(), *runs)
        print_histories(console(), *runs, ("loss", "val_loss", "val_mean_dice", "val_best_dice"))
    raise typer.Exit(0 if agree else 1)


app.command("table")(_errors()(table.command))
app.command("figures")(_errors()(figures.command))
app.command("predict")(_errors()(predict.command))
app.command("published")(_errors()(published.command))


def main() -> None:
    """The program."""
    app()
