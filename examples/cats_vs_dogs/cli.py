"""Cats against dogs: the clipped loss and the unclipped one, in Keras and in PyTorch.

Exit code 0: done. 1: a comparison that does not hold. 2: wrong usage, or something that cannot be
had, read or written; one line says what.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from examples.cats_vs_dogs import claims, experiment, figures, training
from examples.cats_vs_dogs import compare as comparison
from examples.cats_vs_dogs import download as archive
from examples.cats_vs_dogs.data import DataError
from examples.cats_vs_dogs.options import (
    BACKENDS,
    DEVICES,
    EPOCHS,
    FRAMEWORKS,
    MODELS,
    OPTIMIZERS,
    PRECISIONS,
    SIZE,
    SYNTHETIC_EPOCHS,
    SYNTHETIC_SIZE,
    Options,
)
from examples.common.heads import HeadError
from examples.common.runs import Run, RunError
from parity.report import console
from parity.weights import WeightsError

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
_APART = ("out", "resume", "cache", "download")
"""Options of `train` that are not the run's own."""


def _refuse(message: object) -> NoReturn:
    """One plain line and exit code 2."""
    print(f"cats_vs_dogs: {message}", file=sys.stderr)
    raise typer.Exit(2)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what a user can cause into one plain line and an exit code."""
    try:
        yield
    except (RunError, DataError, HeadError, WeightsError) as error:
        _refuse(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _refuse(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        print("cats_vs_dogs: interrupted", file=sys.stderr)
        raise typer.Exit(130) from None


@app.callback()
def _main() -> None:
    pass


def _one_of(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}."


@app.command()
def train(
    context: typer.Context,
    framework: Annotated[str, typer.Option(help=_one_of(FRAMEWORKS))] = "torch",
    backend: Annotated[str, typer.Option(help=f"Keras's: {_one_of(BACKENDS)}")] = Options.backend,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder with train/cats, train/dogs, validation/cats, validation/dogs."
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the images into --data if they are not there.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="A folder in which to keep the decoded images.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; by default runs/FRAMEWORK.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the unfinished run in --out.")
    ] = False,
    size: Annotated[
        int, typer.Option(help=f"Pixels; {SYNTHETIC_SIZE} for the synthetic set.")
    ] = SIZE,
    batch_size: Annotated[int, typer.Option(help="Images a batch.")] = Options.batch_size,
    epochs: Annotated[
        int, typer.Option(help=f"At most so many; {SYNTHETIC_EPOCHS} for the synthetic set.")
    ] = EPOCHS,
    patience: Annotated[
        int, typer.Option(help="Stop after so many epochs without a lower training loss.")
    ] = Options.patience,
    checkpoint_epoch: Annotated[
        int, typer.Option(help="Keep the weights and raw outputs of this epoch.")
    ] = Options.checkpoint_epoch,
    activation: Annotated[
        str, typer.Option(help="A name, or module:name, one of your own.")
    ] = Options.activation,
    loss: Annotated[str, typer.Option(help="Any of segact's.")] = Options.loss,
    convention: Annotated[
        str | None,
        typer.Option(help="Take the loss of probabilities, by this convention; exact: do not."),
    ] = None,
    dropout: Annotated[float, typer.Option(help="The share that is dropped.")] = Options.dropout,
    optimizer: Annotated[str, typer.Option(help=_one_of(OPTIMIZERS))] = Options.optimizer,
    learning_rate: Annotated[float, typer.Option(help="Of it.")] = Options.learning_rate,
    seed: Annotated[
        int, typer.Option(help="Of initial weights, order and dropout.")
    ] = Options.seed,
    device: Annotated[str, typer.Option(help=_one_of(DEVICES))] = Options.device,
    devices: Annotated[int, typer.Option(help="How many of them.")] = Options.devices,
    precision: Annotated[str, typer.Option(help=_one_of(PRECISIONS))] = Options.precision,
    model: Annotated[str, typer.Option(help=_one_of(MODELS))] = Options.model,
    base_weights: Annotated[
        str,
        typer.Option(help="Of vgg16 and inception_v3: imagenet, random, or a file of weights."),
    ] = Options.base_weights,
) -> None:
    """Train the network in one framework; without --data on a small synthetic set."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    typed = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in context.params.items()
        if name not in _APART and _is_typed(context, name)
    }
    with plain_errors():
        if download:
            _download(data)
        if resume:
            run = training.resume(out or Path("runs") / framework, typed, cache)
        else:
            options = _options(typed)
            run = training.start(options, out or Path("runs") / options.framework, cache)
    _tell(run)


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _options(typed: dict[str, Any]) -> Options:
    """What was typed, over the defaults, which are smaller for the synthetic set."""
    small = {"size": SYNTHETIC_SIZE, "epochs": SYNTHETIC_EPOCHS}
    try:
        return Options(**(({} if "data" in typed else small) | typed))
    except ValueError as error:
        raise RunError(str(error)) from error


def _download(folder: Path | None) -> None:
    """Fetch the images into the folder, unless it holds them."""
    if folder is None:
        _refuse("--download wants --data, the folder to put the images in")
    archive.download(folder)


def _tell(run: Run) -> None:
    last = run.history()[-1]
    options = run.options
    who = options["framework"] + (
        f" on {options['backend']}" if "keras" in options.values() else ""
    )
    images = "the synthetic set" if run.config["data"]["synthetic"] else options["data"]
    console().print(
        f"{run.folder}: {who}, {images} at {options['size']} x {options['size']}: "
        f"{run.config['epochs']} epochs, ended by {run.config['stopped']}; loss "
        f"{last['loss']:.4g}, validation loss {last['val_loss']:.4g}, accuracy "
        f"{last['val_accuracy']:.1%}",
        markup=False,
        soft_wrap=True,
    )


@app.command()
def compare(
    left: Annotated[Path, typer.Argument(help="The folder of a run.")],
    right: Annotated[Path, typer.Argument(help="That of another.")],
    data: Annotated[
        Path | None, typer.Option(help="Where the images are now, if they were moved.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="A folder in which to keep the decoded images.")
    ] = None,
) -> None:
    """Hold two runs against each other; exit code 1 where they should agree and do not."""
    with plain_errors():
        agree = comparison.compare(Run.open(left), Run.open(right), console(), data, cache)
    raise typer.Exit(0 if agree else 1)


@app.command()
def download(
    folder: Annotated[Path, typer.Argument(help="The folder to put the images in.")],
) -> None:
    """Fetch the images of the seed; goes on where an earlier try ended."""
    with plain_errors():
        archive.download(folder)


app.command("figures")(plain_errors()(figures.command))
app.command("table")(plain_errors()(claims.command))
app.command("experiment")(plain_errors()(experiment.command))


def main() -> None:
    """The program."""
    app()
