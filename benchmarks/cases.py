"""What is measured: a loss of ours and its counterpart, which does the same in another library.

`benchmarks.torch_cases` and `benchmarks.keras_cases` have the lists, one line for each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

Loss = Callable[[Any, Any], Any]
"""A function of raw outputs and targets."""
Inputs = Callable[[Any, Any], tuple[Any, Any]]

FRAMEWORKS = {
    "torch": "PyTorch",
    "compile": "PyTorch, torch.compile",
    "keras-torch": "Keras, torch",
    "tensorflow": "Keras, TensorFlow",
    "xla": "Keras, TensorFlow, XLA",
    "jax": "Keras, JAX",
    "bandwidth": "compared with a copy of the same bytes",
}
"""Titles of the frameworks, by their names on the command line."""

SMALL, MIDDLE, LARGE = 64, 100_000, 2_000_000
USUAL = (SMALL, MIDDLE, LARGE)
SWEEP = (SMALL, 1_000, 10_000, MIDDLE, 1_000_000, LARGE, 10_000_000)
HUGE = 100_000_000
"""By an option, and for the cases that are swept."""

IGNORED = 255
STOCK = "F.binary_cross_entropy_with_logits"


def as_they_are(x: Any, y: Any) -> tuple[Any, Any]:
    """float32 raw outputs and hard targets, unchanged."""
    return x, y


@dataclass(frozen=True)
class Case:
    """Ours and theirs, each a function of raw outputs and targets.

    Args:
        loss: our function's name in the packages.
        options: the activation, and other options that are not the default.
        counterpart: theirs, by the name that a user knows.
        theirs: None if `needs` is not installed.
        same: whether both compute the same number; otherwise theirs has the sigmoid.
        inputs: makes other raw outputs and targets from float32 ones.
        sizes: numbers of elements.
        needs: the module that has the counterpart.
    """

    loss: str
    options: str
    ours: Loss
    counterpart: str
    theirs: Loss | None
    same: bool = True
    inputs: Inputs = as_they_are
    sizes: tuple[int, ...] = USUAL
    needs: str = ""

    @property
    def name(self) -> str:
        """The name of the row."""
        return f"{self.loss}, {self.options}" if self.options else self.loss

    @property
    def key(self) -> str:
        """Ours and theirs: a loss may have several counterparts."""
        return f"{self.name} / {self.counterpart}"


def installed(module: str) -> bool:
    """Whether it is installed and can be imported: torchvision cannot with another PyTorch."""
    if find_spec(module) is None:
        return False
    try:
        __import__(module)
    except (ImportError, RuntimeError):
        return False
    return True
