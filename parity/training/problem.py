"""The training problem: a small network, its initial weights, its images, and optimizer settings.

Everything is made here, with NumPy, and passed to every implementation in a file.

The network finds ellipses. Its result depends on every convention of padding: its strided
convolution pads with `same`, that is one row and column only at the end, and its transposed
convolution is cropped there. Its activations are ELUs: at the kink of a ReLU, a rounding error in
float32 may switch a unit on or off, after which two correct trainings diverge, some by more than
1e-4 in the loss.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from parity.common.arrays import Array
from parity.common.files import write_atomically
from parity.suite.inputs import SEED

SIZE = 16
"""The height and width of an image, in pixels."""
BATCH = 8
"""Images in a batch: a power of two, so that the division of a mean is exact."""
_IMAGES = 64
_SHAPES = {
    "encode": (3, 3, 1, 8),
    "down": (3, 3, 8, 16),
    "up": (3, 3, 8, 16),
    "head": (1, 1, 8, 1),
}
"""The kernels in Keras's layout; that of `up` is transposed, (height, width, out, in)."""
LAYERS = tuple(_SHAPES)
"""The layers, in their order."""
KINDS = ("kernel", "bias")
"""The arrays of each layer."""

EPSILON = {"adam": 1e-7, "rmsprop": 1e-36}
"""Keras's epsilon of the judged trainings.

Adam's is the default of Keras. RMSprop's is so small that it makes no difference whether it is
added inside of the root, as in Keras, or outside, as in PyTorch; it only prevents 0 / 0, and is a
normal number in float32.
"""
RHO = 0.9
"""RMSprop's rho: the default of Keras; PyTorch calls it `alpha`, with the default 0.99."""
BETAS = (float(np.float32(0.9)), float(np.float32(0.999)))
"""Adam's betas: 0.9 and 0.999 rounded to float32.

On TensorFlow, Keras's Adam rounds its betas to float32 in the bias correction, in any precision,
but not elsewhere. With exact betas it would use two different values.
"""
LEARNING_RATE = {"sgd": 0.3, "adam": 2e-3, "rmsprop": 2e-3}
"""With these the loss halves within a hundred steps, and rounding errors stay small."""
OPTIMIZERS = tuple(LEARNING_RATE)


@dataclass(frozen=True)
class Setting:
    """An optimizer in one precision, with the options of the framework's own constructor.

    `keras_epsilon`, for PyTorch's Adam: its `eps` means what Keras's epsilon does. PyTorch adds it
    to the root of the corrected average, sqrt(v / (1 - beta_2^t)), Keras to that of v itself; so it
    is divided by sqrt(1 - beta_2^t) before each step.
    """

    label: str
    optimizer: str
    dtype: str
    options: dict[str, Any]
    keras_epsilon: bool = False


@dataclass
class Problem:
    """The input of the process of one implementation."""

    steps: int
    loss: str
    activation: str
    settings: list[Setting]
    weights: dict[str, Array] = field(repr=False)
    images: Array = field(repr=False)
    masks: Array = field(repr=False)

    def write(self, path: Path) -> None:
        """Write everything into one file."""
        plan = {"steps": self.steps, "loss": self.loss, "activation": self.activation}
        header = json.dumps(plan | {"settings": [asdict(s) for s in self.settings]})
        tensors = {"images": self.images, "masks": self.masks, **self.weights}
        write_atomically(path, save(tensors, metadata={"plan": header}))

    @classmethod
    def read(cls, path: Path) -> "Problem":
        """Read the file of `write`."""
        with safe_open(path, framework="numpy") as file:
            plan = json.loads(file.metadata()["plan"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        settings = [Setting(**setting) for setting in plan.pop("settings")]
        images, masks = tensors.pop("images"), tensors.pop("masks")
        return cls(**plan, settings=settings, weights=tensors, images=images, masks=masks)

    def batches(self, dtype: str) -> Iterator[tuple[Array, Array]]:
        """Images and masks of every step, of shape (BATCH, SIZE, SIZE, 1): channels last."""
        images, masks = self.images.astype(dtype), self.masks.astype(dtype)
        for step in range(self.steps):
            chosen = (step * BATCH + np.arange(BATCH)) % len(images)
            yield images[chosen], masks[chosen]


def initial_weights() -> dict[str, Array]:
    """Kernels and biases of every layer, `layer/kernel` and `layer/bias`, in Keras's layout.

    Uniform within sqrt(6 / inputs), He et al. (2015); no bias is 0, so a missing bias is noticed.
    """
    generator = np.random.default_rng(SEED)
    found = {}
    for layer, shape in _SHAPES.items():
        height, width, *channels = shape
        inputs, outputs = channels[::-1] if layer == "up" else channels
        limit = np.sqrt(6 / (height * width * inputs))
        found[f"{layer}/kernel"] = generator.uniform(-limit, limit, shape)
        found[f"{layer}/bias"] = generator.uniform(-0.1, 0.1, outputs)
    return found


def images_and_masks() -> tuple[Array, Array]:
    """Noisy ellipses on uneven ground, and where they are; of shape (images, SIZE, SIZE, 1)."""
    generator = np.random.default_rng(SEED + 1)
    place = np.linspace(-1, 1, SIZE)
    x, y = place[None, None, :], place[None, :, None]

    def each(low: float, high: float) -> Array:
        return generator.uniform(low, high, (_IMAGES, 1, 1))

    angle, left, up = each(0, np.pi), x - each(-0.4, 0.4), y - each(-0.4, 0.4)
    along = (left * np.cos(angle) + up * np.sin(angle)) / each(0.35, 0.7)
    across = (up * np.cos(angle) - left * np.sin(angle)) / each(0.25, 0.5)
    mask = (along**2 + across**2 < 1).astype(np.float64)
    ground = each(-0.5, 0.5) * x + each(-0.5, 0.5) * y
    noise = generator.normal(0, 0.3, mask.shape)
    return (mask + ground + noise)[..., None], mask[..., None]


def _torch_options(optimizer: str) -> dict[str, Any]:
    """The options with which PyTorch's optimizer equals that of `_keras_options`.

    RMSprop: PyTorch adds epsilon outside of the root, so for a gradient of 0 it is the root of
    Keras's. Adam: see `Setting.keras_epsilon`.
    """
    options: dict[str, Any] = {"lr": LEARNING_RATE[optimizer]}
    if optimizer == "adam":
        options |= {"betas": BETAS, "eps": EPSILON["adam"]}
    if optimizer == "rmsprop":
        options |= {"alpha": RHO, "eps": math.sqrt(EPSILON["rmsprop"])}
    return options


def _keras_options(optimizer: str) -> dict[str, Any]:
    """The options of Keras's optimizer."""
    options: dict[str, Any] = {"learning_rate": LEARNING_RATE[optimizer]}
    if optimizer == "adam":
        options |= {"beta_1": BETAS[0], "beta_2": BETAS[1], "epsilon": EPSILON["adam"]}
    if optimizer == "rmsprop":
        options |= {"rho": RHO, "epsilon": EPSILON["rmsprop"]}
    return options


def judged_settings(name: str, optimizers: Iterable[str], dtypes: Iterable[str]) -> list[Setting]:
    """Every optimizer in every precision, with the options of the implementation's framework."""
    options = _torch_options if name == "torch" else _keras_options
    return [
        Setting(f"{optimizer}-{dtype}", optimizer, dtype, options(optimizer), optimizer == "adam")
        for dtype in dtypes
        for optimizer in optimizers
    ]


@dataclass(frozen=True)
class Pair:
    """Settings that may look equivalent; options that are not named are the defaults."""

    optimizer: str
    torch: str
    torch_options: dict[str, Any]
    keras_epsilon: bool = False
    keras: str = "defaults"

    @property
    def torch_label(self) -> str:
        """The label of PyTorch's training."""
        return f"{self.optimizer}-float64, {self.torch}"

    @property
    def keras_label(self) -> str:
        """The label of Keras's training."""
        return f"{self.optimizer}-float64, {self.keras}"


# Keras's defaults are an epsilon of 1e-7 in both, PyTorch's one of 1e-8
GAPS = (
    Pair("adam", "defaults", {}),
    Pair("adam", "eps=1e-7", {"eps": 1e-7}),
    Pair("adam", "eps=1e-7/sqrt(1-beta_2^t)", {"eps": 1e-7}, keras_epsilon=True),
    Pair("rmsprop", "defaults", {}),
    Pair("rmsprop", "alpha=0.9, eps=1e-7", {"alpha": 0.9, "eps": 1e-7}),
    Pair("rmsprop", "alpha=0.9, eps=sqrt(1e-7)", {"alpha": 0.9, "eps": math.sqrt(1e-7)}),
)
"""Settings that are shown but not judged, with the judged learning rates, in float64."""


def gap_settings(name: str, optimizers: Iterable[str]) -> list[Setting]:
    """The trainings of an implementation that `GAPS` needs."""
    pairs = [pair for pair in GAPS if pair.optimizer in set(optimizers)]
    found = {}
    for pair in pairs:
        rate = LEARNING_RATE[pair.optimizer]
        if name == "torch":
            label, options = pair.torch_label, {"lr": rate, **pair.torch_options}
        else:
            label, options = pair.keras_label, {"learning_rate": rate}
        found[label] = Setting(label, pair.optimizer, "float64", options, pair.keras_epsilon)
    return list(found.values())
