"""Cats against dogs: the clipped loss and the unclipped one, in Keras and in PyTorch.

Exit code 0: done.
1: a comparison failed.
2: wrong usage, or what cannot be downloaded, read or written, in one line.
"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from examples.cats_vs_dogs import claims, experiment, figures
from examples.cats_vs_dogs import compare as comparison
from examples.cats_vs_dogs import download as archive
from examples.cats_vs_dogs.options import (
    MODELS,
    SYNTHETIC_EPOCHS,
    SYNTHETIC_SIZE,
    Options,
)
from examples.cats_vs_dogs.task import CatsVsDogs
from examples.common import options as asked
from examples.common import training
from examples.common.cli import plain_errors, typed_options, who
from examples.common.runs import Run, RunError, counted
from parity.report.console import console, print_line

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
_APART = ("out", "resume", "cache", "download")
"""Options of `train` that are not the run's own."""
_errors = partial(plain_errors, "cats_vs_dogs")


@app.command()
def train(
    context: typer.Context,
    framework: asked.Framework = Options.framework,
    backend: asked.Backend = Options.backend,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder with train/cats, train/dogs, validation/cats, validation/dogs."
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the images into --data if they are not there.")
    ] = False,
    cache: asked.Cache = None,
    out: asked.Out = None,
    resume: asked.Resume = False,
    size: Annotated[
        int,
        typer.Option(help=f"Height and width, in pixels; {SYNTHETIC_SIZE} for the synthetic set."),
    ] = Options.size,
    batch_size: asked.BatchSize = Options.batch_size,
    epochs: Annotated[
        int,
        typer.Option(
            help=f"The largest number of epochs; {SYNTHETIC_EPOCHS} for the synthetic set."
        ),
    ] = Options.epochs,
    patience: Annotated[
        int, typer.Option(help="Stop after this many epochs without a lower training loss.")
    ] = Options.patience,
    checkpoint_epoch: Annotated[
        int, typer.Option(help="Keep the weights and raw outputs of this epoch.")
    ] = Options.checkpoint_epoch,
    activation: asked.Activation = Options.activation,
    loss: asked.Loss = Options.loss,
    convention: asked.Convention = None,
    dropout: Annotated[float, typer.Option(help="The dropout rate.")] = Options.dropout,
    optimizer: asked.Optimizer = Options.optimizer,
    learning_rate: asked.LearningRate = Options.learning_rate,
    seed: Annotated[
        int, typer.Option(help="The seed of initial weights, sample order and dropout.")
    ] = Options.seed,
    device: asked.Device = Options.device,
    devices: asked.Devices = Options.devices,
    precision: asked.Precision = Options.precision,
    model: Annotated[
        str, typer.Option(help=f"The network: {asked.one_of(MODELS)}")
    ] = Options.model,
    base_weights: Annotated[
        str,
        typer.Option(
            help="Initial weights of vgg16 and inception_v3: imagenet, random, or a file."
        ),
    ] = Options.base_weights,
) -> None:
    """Train the network in one framework; without --data on a small synthetic set."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    typed = typed_options(context, _APART)
    with _errors():
        if download:
            _download(data)
        folder = out or Path("runs") / framework
        if resume:
            run = training.resume(CatsVsDogs, Options, folder, typed, cache)
        else:
            run = training.start(CatsVsDogs, _options(typed), folder, cache)
    if not training.is_child():
        _tell(run)


def _options(typed: dict[str, Any]) -> Options:
    """The typed options and the defaults, which are smaller for the synthetic set."""
    small = {"size": SYNTHETIC_SIZE, "epochs": SYNTHETIC_EPOCHS}
    try:
        return Options(**(({} if "data" in typed else small) | typed))
    except ValueError as error:
        raise RunError(str(error)) from error


def _download(folder: Path | None) -> None:
    """Fetch the images into the folder, unless it holds them."""
    if folder is None:
        raise RunError("--download wants --data, the folder to put the images in")
    archive.download(folder)


def _tell(run: Run) -> None:
    last = run.history()[-1]
    options = run.options
    images = "the synthetic set" if run.config["data"]["synthetic"] else options["data"]
    print_line(
        console(),
        f"{run.folder}: {who(options)}, {images} at {options['size']} x {options['size']}: "
        f"{counted(run.config['epochs'], 'epoch')}, ended by {run.config['stopped']}; loss "
        f"{last['loss']:.4g}, validation loss {last['val_loss']:.4g}, accuracy "
        f"{last['val_accuracy']:.1%}",
    )


@app.command()
def compare(
    left: Annotated[Path, typer.Argument(help="The folder of a run.")],
    right: Annotated[Path, typer.Argument(help="The folder of another run.")],
    data: Annotated[
        Path | None, typer.Option(help="The folder of the images, if they were moved.")
    ] = None,
    cache: asked.Cache = None,
) -> None:
    """Compare two runs; exit code 1 if they should agree and do not."""
    with _errors():
        runs = Run.open(left, Options), Run.open(right, Options)
        agree = comparison.compare(*runs, console(), data, cache)
    raise typer.Exit(0 if agree else 1)


@app.command()
def download(
    folder: Annotated[Path, typer.Argument(help="The folder to put the images in.")],
) -> None:
    """Download the write-up's images; an interrupted download is continued."""
    with _errors():
        archive.download(folder)


app.command("figures")(_errors()(figures.command))
app.command("table")(_errors()(claims.command))
app.command("experiment")(_errors()(experiment.command))


def main() -> None:
    """The program."""
    app()
