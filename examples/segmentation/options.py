"""The options of a training."""

from dataclasses import dataclass

from examples.common.options import IMPLEMENTATIONS, TrainingOptions
from examples.common.runs import RunError

LOSSES = {
    "bce": "binary_cross_entropy",
    "dice": "dice",
    "mse": "mean_squared_error",
}
"""Short names of losses; the full names work, too."""


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """The options of a training; raises `RunError`, naming the option, for invalid values.

    The schedule is the paper's: batches of 8, Adam at 1e-3, the learning rate divided by 10 after
    `cut_patience` epochs without a higher mean Dice, and the end after `patience`. (The published
    code waits one epoch longer for both.)
    """

    batch_size: int = 8
    epochs: int = 100
    patience: int = 10
    cut_patience: int = 5
    cut_factor: float = 0.1
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    loss: str = "dice"
    classes: int = 1
    size: int | None = None
    patch: int | None = None
    augment: bool = True
    folds: int = 5
    fold: int = 0
    width: int = 8
    depth: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", LOSSES.get(self.loss, self.loss))
        super().__post_init__()
        for name in ("cut_patience", "classes", "width", "depth"):
            self.check_count(name)
        for name in ("size", "patch"):
            if getattr(self, name) is not None:
                self.check_count(name, 2**self.depth)
                if getattr(self, name) % 2**self.depth:
                    raise self.error(
                        name, f"a multiple of {2**self.depth}, for --depth {self.depth}"
                    )
        self.check_count("folds", 2)
        if not 0 <= self.fold < self.folds:
            raise self.error("fold", f"one of 0 to {self.folds - 1}")
        if not 0 < self.cut_factor < 1:
            raise self.error("cut_factor", "a number in (0, 1)")


def between_commas(text: str, option: str) -> tuple[str, ...]:
    """Names separated by commas, each once."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found or len(set(found)) < len(found):
        raise RunError(f"--{option}: {text!r}; wanted different names between commas")
    return tuple(found)


def implementations(text: str) -> tuple[str, ...]:
    """From `torch,keras,keras-jax`; plain `keras` is on TensorFlow."""
    found = between_commas(text, "framework")
    whole = tuple("keras-tensorflow" if name == "keras" else name for name in found)
    for name in whole:
        if name not in IMPLEMENTATIONS:
            wanted = ", ".join(("keras", *IMPLEMENTATIONS))
            raise RunError(f"--framework: {name}; wanted {wanted}")
    return whole
