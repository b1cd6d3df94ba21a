"""The options that every training has, and their command-line form."""

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from examples.common.heads import check_names
from examples.common.runs import RunError
from parity.suite.case import ACTIVATIONS, CONVENTIONS, REDUCED

FRAMEWORKS = ("torch", "keras")
BACKENDS = ("tensorflow", "jax", "torch")
OPTIMIZERS = ("rmsprop", "adam", "sgd")
PRECISIONS = ("32", "64", "16-mixed", "bf16-mixed")
DEVICES = ("auto", "cpu", "cuda")
RHO, EPSILON = 0.9, 1e-7
"""The settings of RMSprop and Adam that are no options: Keras's defaults."""


def implementation(framework: str, backend: str) -> str:
    """`torch` or `keras-jax`."""
    return f"keras-{backend}" if framework == "keras" else framework


IMPLEMENTATIONS = ("torch", *(implementation("keras", backend) for backend in BACKENDS))


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The options of a training; raises `RunError`, naming the option, for invalid values."""

    framework: str = "torch"
    backend: str = "tensorflow"
    data: str | None = None
    batch_size: int = 20
    epochs: int = 100
    patience: int = 15
    activation: str = "sigmoid"
    loss: str = "binary_cross_entropy"
    convention: str | None = None
    optimizer: str = "rmsprop"
    learning_rate: float = 1e-4
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    precision: str = "32"

    def __post_init__(self) -> None:
        for name, known in (
            ("framework", FRAMEWORKS),
            ("backend", BACKENDS),
            ("optimizer", OPTIMIZERS),
            ("precision", PRECISIONS),
            ("device", DEVICES),
        ):
            self.check_one_of(name, known)
        for name in ("batch_size", "epochs", "patience", "devices"):
            self.check_count(name)
        if not 0 <= self.seed < 2**32:  # Keras takes no larger one
            raise self.error("seed", f"a whole number from 0 to {2**32 - 1}")
        if not 0 < self.learning_rate < float("inf"):
            raise self.error("learning_rate", "a number > 0")
        if self.batch_size < self.devices:
            raise self.error("batch_size", f"a sample for each of {self.devices} devices")
        check_names(self.activation, self.loss, self.convention)

    def check_one_of(self, name: str, known: tuple[str, ...]) -> None:
        """Raises `RunError` for an option that is not one of these."""
        if getattr(self, name) not in known:
            raise self.error(name, f"one of {', '.join(known)}")

    def check_count(self, name: str, least: int = 1) -> None:
        """Raises `RunError` for an option below `least`."""
        if getattr(self, name) < least:
            raise self.error(name, f"a whole number >= {least}")

    def error(self, name: str, wanted: str) -> RunError:
        """The error to raise."""
        return RunError(f"--{name.replace('_', '-')} is {getattr(self, name)}; wanted {wanted}")

    @property
    def implementation(self) -> str:
        """`torch` or `keras-jax`."""
        return implementation(self.framework, self.backend)

    def as_dict(self) -> dict[str, Any]:
        """As a dictionary, for the run's configuration."""
        return asdict(self)


def missing(options: TrainingOptions) -> str:
    """The packages that the framework needs and that are missing; empty if none is."""
    needed = {"torch": ("torch", "lightning"), "keras": ("keras", options.backend)}
    absent = [m for m in needed[options.framework] if importlib.util.find_spec(m) is None]
    return ", ".join(absent)


def one_of(names: tuple[str, ...]) -> str:
    """Names as a list in words, for the help of an option."""
    return f"{', '.join(names[:-1])} or {names[-1]}."


# The options of the commands; each command has its own defaults.
Framework = Annotated[str, typer.Option(help=f"The framework: {one_of(FRAMEWORKS)}")]
Backend = Annotated[str, typer.Option(help=f"The backend of Keras: {one_of(BACKENDS)}")]
Cache = Annotated[Path | None, typer.Option(help="A folder in which decoded images are kept.")]
Out = Annotated[Path | None, typer.Option(help="The folder of the run; by default runs/FRAMEWORK.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the unfinished run in --out.")]
BatchSize = Annotated[int, typer.Option(help="The number of images in a batch.")]
Activation = Annotated[
    str, typer.Option(help=f"{', '.join(ACTIVATIONS)}; or module:name, your own.")
]
Loss = Annotated[str, typer.Option(help=one_of(tuple(REDUCED)))]
Convention = Annotated[
    str | None,
    typer.Option(
        help=f"Compute the loss from probabilities, as {one_of(CONVENTIONS)} Or exact: from raw "
        "outputs, as without this option."
    ),
]
Optimizer = Annotated[str, typer.Option(help=one_of(OPTIMIZERS))]
LearningRate = Annotated[float, typer.Option(help="The learning rate at the start.")]
Device = Annotated[str, typer.Option(help=f"Where to train: {one_of(DEVICES)}")]
Devices = Annotated[int, typer.Option(help="The number of devices that share each batch.")]
Precision = Annotated[str, typer.Option(help=f"The bits of a number: {one_of(PRECISIONS)}")]
Jobs = Annotated[
    int | None, typer.Option(help="The number of runs at a time on this machine; by default one.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="The address of a Dask scheduler whose workers train: tcp://HOST:8786."),
]
Dashboard = Annotated[
    bool, typer.Option("--dashboard", help="Show the work of --jobs on a local web page.")
]
