"""The images: a folder of photographs, or drawn images; decoded once, kept as bytes.

A folder holds `train/cats`, `train/dogs`, `validation/cats` and `validation/dogs`. Cats are class
0 and come first, then dogs, class 1, each in natural order (cat.9 before cat.10).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.cats_vs_dogs import drawing
from examples.common.images import (
    DataError,
    cache_key,
    cached,
    entries,
    in_parallel,
    raise_first,
    read_image,
    wrong_folder,
)
from parity.common.arrays import Array

__all__ = ["CLASSES", "SPLITS", "DataError", "Split", "load", "synthetic"]

SPLITS = ("train", "validation")
CLASSES = ("cats", "dogs")
SEED = 20190131
DRAWN = {"train": 400, "validation": 200}
"""The number of images that `synthetic` draws, half of them of each class."""

_WANTED = [f"{split}/{name}" for split in SPLITS for name in CLASSES]
_FORMAT = 1
Files = dict[str, list[tuple[str, int]]]
"""By split: the path (below the folder) and the label of each image, in order."""


@dataclass(frozen=True)
class Split:
    """Labelled images.

    `images`: uint8, (N, size, size, 3), RGB. `labels`: uint8, (N,), 0 for a cat and 1 for a dog.
    `names`: N paths below the data folder, with `/`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    names: list[str]


def load(folder: Path | None, size: int, cache: Path | None = None) -> tuple[Split, Split]:
    """The images for training and for validation, `size` x `size`, stretched bilinearly.

    `folder` None gives `synthetic(size)`. `cache` is a folder, created if it is missing, in which
    the decoded images are kept; they are read from it if they were made from the same files (by
    name, size and time), and decoded again otherwise.

    Raises `DataError`: a folder that is missing or has another layout, a class without images, a
    file that is not an image or a damaged one (it is named), a cache that cannot be written.
    """
    _check_size(size)
    if folder is None:
        return synthetic(size)
    files = {split: _files(folder, split) for split in SPLITS}
    if cache is None:
        arrays = _decode(folder, files, size)
    else:
        path = cache / f"{folder.resolve().name}_{size}.npz"
        names = [name for found in files.values() for name, _ in found]
        key = cache_key(folder, names, _FORMAT, size)
        arrays = cached(path, key, lambda: _decode(folder, files, size))
    train, validation = (
        Split(
            arrays[split],
            np.array([label for _, label in files[split]], np.uint8),
            [name for name, _ in files[split]],
        )
        for split in SPLITS
    )
    return train, validation


def synthetic(size: int, seed: int = SEED) -> tuple[Split, Split]:
    """400 drawn images for training and 200 for validation: cats' ears are pointed, dogs' round.

    The same `size` and `seed` give the same images. Raises `DataError` for a size below 1.
    """
    _check_size(size)

    def split(name: str) -> Split:
        count = DRAWN[name]
        labels = np.repeat(np.arange(2, dtype=np.uint8), count // 2)
        rng = np.random.default_rng((seed, SPLITS.index(name)))
        images = np.stack([drawing.draw(bool(label), size, rng) for label in labels])
        names = [f"synthetic/{name}/{CLASSES[y]}/{i:03}" for i, y in enumerate(labels)]
        return Split(images, labels, names)

    return split("train"), split("validation")


def _check_size(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise DataError(f"size: {size!r}; wanted a whole number of pixels, 1 or more")


def _files(folder: Path, split: str) -> list[tuple[str, int]]:
    """The path (below `folder`) and the label of each image of a split, in order."""
    found = []
    for label, name in enumerate(CLASSES):
        place = folder / split / name
        try:
            images = entries(place)
        except (FileNotFoundError, NotADirectoryError):
            raise wrong_folder(folder, f"{split}/{name}", _WANTED) from None
        if not images:
            raise DataError(f"{place}: no images in this folder")
        found += [(f"{split}/{name}/{image}", label) for image in images]
    return found


def _decode_one(path: Path, size: int) -> NDArray[np.uint8]:
    """Read an image as RGB; raises `DataError` naming the file."""
    from PIL import Image

    rgb = read_image(path, "RGB")
    return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR))


def _decode(folder: Path, files: Files, size: int) -> dict[str, Array]:
    """All images of each split; raises `DataError` with the first bad file, after reading all.

    So the message can say how many files are bad.
    """
    found = {split: np.empty((len(files[split]), size, size, 3), np.uint8) for split in files}
    jobs = [(split, i) for split in files for i in range(len(files[split]))]

    def decode(job: tuple[str, int]) -> None:
        split, i = job
        found[split][i] = _decode_one(folder / files[split][i][0], size)

    outcomes: Sequence[DataError | None] = list(in_parallel(decode, jobs))
    raise_first([outcome for outcome in outcomes if outcome])
    return found
