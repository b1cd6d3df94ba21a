"""The options of a training."""

from dataclasses import dataclass
from pathlib import Path

from examples.common.options import TrainingOptions

SMALLEST = {"convnet": 46, "vgg16": 32, "inception_v3": 75}
"""The smallest image size, in pixels, for which the last convolution has an output."""
MODELS = tuple(SMALLEST)
SIZE, EPOCHS = 150, 300
"""The write-up's size, and more epochs than early stopping needs."""
SYNTHETIC_SIZE, SYNTHETIC_EPOCHS = 64, 20
"""The synthetic set trains in under two minutes with these."""


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """The options of a training; raises `RunError`, naming the option, for invalid values."""

    size: int = SIZE
    epochs: int = EPOCHS
    checkpoint_epoch: int = 8
    dropout: float = 0.5
    model: str = "convnet"
    base_weights: str = "imagenet"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_one_of("model", MODELS)
        self.check_count("checkpoint_epoch")
        if self.size < SMALLEST[self.model]:
            raise self.error("size", f"at least {SMALLEST[self.model]} pixels for {self.model}")
        if not 0 <= self.dropout < 1:
            raise self.error("dropout", "a share in [0, 1)")

    @property
    def folder(self) -> Path | None:
        """The folder of the images; None: the synthetic ones."""
        return Path(self.data) if self.data else None
