"""What is measured: a loss of ours beside its counterpart, which is the same task by others.

`benchmarks.torch_cases` and `benchmarks.keras_cases` have the lists, a line of data for each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

Loss = Callable[[Any, Any], Any]
"""Of raw outputs and targets."""
Inputs = Callable[[Any, Any], tuple[Any, Any]]

FRAMEWORKS = {
    "torch": "PyTorch",
    "compile": "PyTorch, torch.compile",
    "keras-torch": "Keras, torch",
    "tensorflow": "Keras, TensorFlow",
    "xla": "Keras, TensorFlow, XLA",
    "jax": "Keras, JAX",
    "bandwidth": "beside a copy of as many bytes",
}
"""How a loss is reached, by its name on the command line."""

SMALL, MIDDLE, LARGE = 64, 100_000, 2_000_000
USUAL = (SMALL, MIDDLE, LARGE)
SWEEP = (SMALL, 1_000, 10_000, MIDDLE, 1_000_000, LARGE, 10_000_000)
HUGE = 100_000_000
"""By an option, and for the cases that are swept."""

IGNORED = 255
STOCK = "F.binary_cross_entropy_with_logits"


def as_they_are(x: Any, y: Any) -> tuple[Any, Any]:
    """float32 raw outputs and hard targets."""
    return x, y


@dataclass(frozen=True)
class Case:
    """Ours and theirs, each a function of raw outputs and targets.

    Args:
        loss: our function's name in the packages.
        options: the activation, and what else is not the default.
        counterpart: theirs, by the name that a user knows.
        theirs: None where `needs` is not installed.
        same: whether both compute the same number; else theirs has the sigmoid.
        inputs: makes other raw outputs and targets of float32 ones.
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
        """What the row is found by."""
        return f"{self.loss}, {self.options}" if self.options else self.loss

    @property
    def key(self) -> str:
        """Ours and theirs: a loss may have several counterparts."""
        return f"{self.name} / {self.counterpart}"


def installed(module: str) -> bool:
    """Whether it is there, and loads: torchvision does not beside another PyTorch."""
    if find_spec(module) is None:
        return False
    try:
        __import__(module)
    except (ImportError, RuntimeError):
        return False
    return True
