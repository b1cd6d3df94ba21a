"""Probabilities from a run: its network, with the weights of the best epoch, and its activation."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from examples.common.batches import in_batches
from examples.common.heads import KerasHead, TorchHead
from examples.common.images import DataError, read_image
from examples.common.runs import Run, RunError
from examples.common.training import options_of
from examples.segmentation import data
from examples.segmentation.layouts import IGNORE
from examples.segmentation.network import build
from examples.segmentation.options import Options
from examples.segmentation.task import BEST
from parity import weights
from parity.common.arrays import Array
from parity.common.files import write_atomically
from parity.report.console import console, print_line


class Model:
    """A trained network with its output activation.

    Args:
        folder: that of a run, finished or not, with at least one epoch.

    Raises `RunError` if there is none, and for a Keras run if Keras is already on another backend;
    `WeightsError` if its weights are damaged.
    """

    def __init__(self, folder: Path) -> None:
        run = Run.open(folder, Options)
        self.options = options = options_of(Options, run, {"device": "auto"})
        best = run.read_json(BEST)
        try:
            self.channels = int(run.config["data"]["shape"][-1])
            self.dtype = str(run.config["data"]["dtype"])
            classes = best["validation"]["classes"]
            self.thresholds = [float(found["best_threshold"]) for found in classes]
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{folder}: damaged ({type(error).__name__}: {error})") from error
        named = options.activation, options.loss, options.convention
        self.head: TorchHead | KerasHead
        if options.framework == "keras":
            from examples.common.keras_training import prepare, raw_outputs

            prepare(options)
            self._raw_outputs, self.head = raw_outputs, KerasHead(*named)
        else:
            from examples.common.torch_training import raw_outputs

            self._raw_outputs, self.head = raw_outputs, TorchHead(*named)
        self.network = build(options, self.channels)
        weights.load(run.need("best.safetensors"), self.network)

    def __call__(self, images: Array) -> Array:
        """Probabilities (N, H, W, K), float32, of images (N, H, W, C) of any size.

        uint8 images are divided by 255, others are not changed. With the activation `linear` the
        probabilities depend on the images of the batch. Raises `RunError` for images with another
        number of channels.
        """
        if images.ndim != 4 or images.shape[-1] != self.channels:
            raise RunError(f"images of shape {images.shape}; wanted (N, H, W, {self.channels})")
        count, height, width, _ = images.shape
        nothing = np.full((count, height, width, 1), IGNORE, np.uint8)
        names = [""] * count
        samples = data.padded(
            data.Samples(images, nothing, names, names, ""), 2**self.options.depth
        )
        found = []
        for at in in_batches(np.arange(count), self.options.batch_size):
            inputs, _ = data.batch(samples, at, seed=0, epoch=None, patch=None, augment=False)
            raw = self._raw_outputs(self.network, [inputs])[:, :height, :width]
            found.append(self.head.probabilities(raw))
        return np.concatenate(found)


def probabilities(folder: Path, images: Array) -> Array:
    """The probabilities of a run for images, by `Model`."""
    return Model(folder)(images)


def command(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.")],
    image: Annotated[list[Path], typer.Option(help="An image file; may be repeated.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write; by default RUN/predictions.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="The probability above which the mask is 1; by default the run's best one."
        ),
    ] = None,
) -> None:
    """Write, for each image, the probabilities and the mask as PNG (grey: 255 is 1).

    For a run with --size the image is resized, and its probabilities are resized back.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise RunError(f"--threshold is {threshold}; wanted a number in [0, 1]")
    model = Model(folder)
    mode = {1: "L", 3: "RGB"}.get(model.channels)
    if mode is None:
        raise RunError(f"{folder}: a network of {model.channels} channels; an image has 1 or 3")
    if model.dtype != "uint8":
        raise RunError(f"{folder}: trained on {model.dtype} arrays, which an image is not")
    if len({path.stem for path in image}) < len(image):
        raise RunError("--image: two files of the same name would be written to the same file")
    pictures = [_read(path, mode) for path in image]  # read all images before anything is written
    place = out or folder / "predictions"
    place.mkdir(parents=True, exist_ok=True)
    for path, picture in zip(image, pictures, strict=True):
        found = _stretched(model, picture)
        for k, best in enumerate(model.thresholds):
            stem = path.stem if len(model.thresholds) == 1 else f"{path.stem}_{k + 1}"
            level = best if threshold is None else threshold
            mask = found[..., k] > level
            written = _write(place / f"{stem}_probability.png", found[..., k])
            _write(place / f"{stem}_mask.png", mask.astype(np.float32))
            _tell(written, found[..., k], mask, level)


def _stretched(model: Model, picture: Array) -> Array:
    """Probabilities (H, W, K) of an image that is resized to the size of the training."""
    from PIL import Image

    size = model.options.size
    if size is None:
        return model(picture[None])[0]
    found = model(data.stretched(picture, size)[None])[0]
    back = picture.shape[1::-1]
    planes = [
        np.asarray(Image.fromarray(found[..., k]).resize(back, Image.Resampling.BILINEAR))
        for k in range(found.shape[-1])
    ]
    return np.clip(np.stack(planes, -1), 0, 1)


def _tell(written: Path, probability: Array, mask: Array, level: float) -> None:
    print_line(
        console(),
        f"{written}: probabilities from {probability.min():.3g} to {probability.max():.3g}, "
        f"{mask.mean():.1%} of the pixels above {level:g}",
    )


def _read(path: Path, mode: str) -> Array:
    if not path.is_file():
        raise DataError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}")
    found: Array = np.asarray(read_image(path, mode))
    return found if found.ndim == 3 else found[..., None]


def _write(path: Path, values: Array) -> Path:
    """A grey image of values in [0, 1]."""
    from io import BytesIO

    from PIL import Image

    content = BytesIO()
    Image.fromarray(np.round(values * 255).astype(np.uint8)).save(content, "PNG")
    write_atomically(path, content.getvalue())
    return path
