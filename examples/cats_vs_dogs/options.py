"""What a training is asked for."""

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examples.common.heads import check_loss

FRAMEWORKS = ("torch", "keras")
BACKENDS = ("tensorflow", "jax", "torch")
OPTIMIZERS = ("rmsprop", "sgd")
PRECISIONS = ("32", "64", "16-mixed", "bf16-mixed")
DEVICES = ("auto", "cpu", "cuda")
SMALLEST = {"convnet": 46, "vgg16": 32, "inception_v3": 75}
"""The least size, in pixels, of which something is left after the last convolution."""
MODELS = tuple(SMALLEST)
SIZE, EPOCHS = 150, 100
"""Those of the seed: the cap on epochs is never reached there."""
SYNTHETIC_SIZE, SYNTHETIC_EPOCHS = 64, 20
"""The synthetic set trains in under two minutes with these."""


@dataclass(frozen=True)
class Options:
    """Raises `ValueError`, naming the option as it is typed, for what cannot be."""

    framework: str = "torch"
    backend: str = "tensorflow"
    data: str | None = None
    size: int = SIZE
    batch_size: int = 20
    epochs: int = EPOCHS
    patience: int = 15
    checkpoint_epoch: int = 8
    activation: str = "sigmoid"
    loss: str = "binary_cross_entropy"
    convention: str | None = None
    dropout: float = 0.5
    optimizer: str = "rmsprop"
    learning_rate: float = 1e-4
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    precision: str = "32"
    model: str = "convnet"
    base_weights: str = "imagenet"

    def __post_init__(self) -> None:
        for name, known in (
            ("framework", FRAMEWORKS),
            ("backend", BACKENDS),
            ("optimizer", OPTIMIZERS),
            ("precision", PRECISIONS),
            ("device", DEVICES),
            ("model", MODELS),
        ):
            if getattr(self, name) not in known:
                raise self._error(name, f"one of {', '.join(known)}")
        for name in ("batch_size", "epochs", "patience", "checkpoint_epoch", "devices"):
            if getattr(self, name) < 1:
                raise self._error(name, "a whole number >= 1")
        if self.seed < 0:
            raise self._error("seed", "a whole number >= 0")
        if self.size < SMALLEST[self.model]:
            raise self._error("size", f"at least {SMALLEST[self.model]} pixels for {self.model}")
        if not 0 <= self.dropout < 1:
            raise self._error("dropout", "a share in [0, 1)")
        if not 0 < self.learning_rate < float("inf"):
            raise self._error("learning_rate", "a number > 0")
        if self.batch_size < self.devices:
            raise self._error("batch_size", f"a sample for each of {self.devices} devices")
        check_loss(self.loss, self.convention)

    def _error(self, name: str, wanted: str) -> ValueError:
        return ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; wanted {wanted}")

    @property
    def folder(self) -> Path | None:
        """Where the images are; None: the synthetic ones."""
        return Path(self.data) if self.data else None

    def as_dict(self) -> dict[str, Any]:
        """For the run's configuration."""
        return asdict(self)


def missing(options: Options) -> str:
    """The package that the framework needs and that is not there, or nothing."""
    needed = {"torch": ("torch", "lightning"), "keras": ("keras", options.backend)}
    absent = [m for m in needed[options.framework] if importlib.util.find_spec(m) is None]
    return ", ".join(absent)
