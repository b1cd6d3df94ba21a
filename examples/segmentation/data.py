"""Images and their masks: read from a folder or drawn; folds by case, patches, augmentation.

All random numbers depend only on the seed, the epoch and the sample, so both frameworks, and a
resumed run, get the same.
"""

import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.common.batches import as_input
from examples.common.images import (
    DataError,
    cache_key,
    cached,
    in_parallel,
    natural,
    raise_first,
)
from examples.segmentation import drawing
from examples.segmentation.layouts import IGNORE, LAYOUTS, Item, Layout, size_of
from parity.common.arrays import Array

SYNTHETIC = "synthetic"
DRAWN, DRAWN_SIZE, SEED = 120, 64, 20210903
_FORMAT = 1


@dataclass(frozen=True)
class Samples:
    """Images with their masks.

    Args:
        images: (N, H, W, C), uint8, or float32, which the network gets unchanged.
        masks: uint8, (N, H, W, K): 0, 1 or `IGNORE`, for each of K classes.
        cases: N names; samples of one case are never on both sides of a fold.
        names: N different names: paths below the data folder, with `/`.
        source: the --data option; "synthetic" for drawn images.
    """

    images: Array
    masks: Array
    cases: list[str]
    names: list[str]
    source: str


def load(
    source: str | None, size: int | None = None, cache: Path | None = None, classes: int = 1
) -> Samples:
    """The samples of `source`, "LAYOUT:DIR", in natural order; without one, `synthetic()`.

    Args:
        size: images are stretched to `size` x `size`, bilinearly (antialiased), masks by the
            nearest pixel. Without it all images must have one size.
        cache: a folder, created if it is missing, in which decoded images are kept; they are read
            from it if they were made from the same files (by name, size and time).
        classes: for `processed`, each of the labels 1 to `classes` becomes a binary mask.

    Grey masks are 1 above 127. Raises `DataError`: an unknown layout; a folder that is missing or
    has another layout; an image without a mask, or the reverse; a damaged file; a mask that is not
    binary, or of another size than its image; images of different sizes, without `size`.
    """
    if size is not None:
        _check_whole("size", size)
    _check_whole("classes", classes)
    layout, place = (SYNTHETIC, "") if source in (None, SYNTHETIC) else _split(str(source))
    if classes > 1 and layout != "processed":
        raise DataError(f"classes: {classes}; masks of {layout} have one, only processed has more")
    if layout == SYNTHETIC:
        return synthetic(size or DRAWN_SIZE)
    folder = Path(os.path.expanduser(place))
    items = LAYOUTS[layout].items(folder)

    def decode() -> dict[str, Array]:
        return _decode(folder, items, LAYOUTS[layout], size, classes)

    if cache is None:
        arrays = decode()
    else:
        path = cache / f"{layout}_{_label(folder)}_{size or 'full'}_{classes}.npz"
        files = [file for item in items for file in item.files]
        arrays = cached(path, cache_key(folder, files, _FORMAT, layout, size, classes), decode)
    cases, names = [item.case for item in items], [item.name for item in items]
    return Samples(arrays["images"], arrays["masks"], cases, names, str(source))


def _label(folder: Path) -> str:
    """The folder's name, with a number for repeated names (every set's processed_training)."""
    whole = folder.resolve()
    return f"{whole.name}_{zlib.crc32(os.fsencode(whole)):08x}"


def synthetic(size: int = DRAWN_SIZE, count: int = DRAWN, seed: int = SEED) -> Samples:
    """Drawn images `size` x `size`, RGB, of noisy ellipses on uneven background; each is a case.

    The same arguments give the same images. Raises `DataError` for a size or count below 1.
    """
    _check_whole("size", size)
    _check_whole("count", count)
    drawn = [drawing.draw(size, np.random.default_rng((seed, i))) for i in range(count)]
    images, masks = (np.stack(parts) for parts in zip(*drawn, strict=True))
    names = [f"{SYNTHETIC}/{i:03}" for i in range(count)]
    return Samples(images, masks, names, list(names), SYNTHETIC)


def folds(cases: Sequence[str], count: int) -> list[tuple[Array, Array]]:
    """Indices of the samples for training and for validation, for each of `count` folds.

    The different cases, in natural order, are divided into `count` parts of equal length (or the
    first parts have one more), each of which is for validation once.

    Raises `DataError` for fewer than two folds, or more than there are cases.

    >>> [validation.tolist() for _, validation in folds(["a10", "a9", "a9", "b"], 2)]
    [[0, 1, 2], [3]]
    """
    different = sorted(set(cases), key=natural)
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise DataError(f"folds: {count!r}; wanted a whole number, 2 or more")
    if count > len(different):
        raise DataError(f"folds: {count}, of {len(different)} cases; wanted as many at most")
    parts = np.array_split(np.arange(len(different)), count)
    fold_of = {different[i]: fold for fold, part in enumerate(parts) for i in part}
    fold = np.array([fold_of[case] for case in cases])
    return [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(count)]


def padded(samples: Samples, multiple: int) -> Samples:
    """Samples padded at the bottom and at the right, to sides that `multiple` divides.

    The images are continued by reflection, the masks are `IGNORE` there.
    """
    _check_whole("multiple", multiple)
    height, width = samples.images.shape[1:3]
    pads = ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0))
    if not np.any(pads):
        return samples
    images = np.pad(samples.images, pads, mode="reflect")
    masks = np.pad(samples.masks, pads, constant_values=IGNORE)
    return Samples(images, masks, samples.cases, samples.names, samples.source)


def check_patch(samples: Samples, patch: int | None) -> None:
    """Raises `DataError` for a patch that does not fit into the images; None is none."""
    if patch is None:
        return
    _check_whole("patch", patch)
    height, width = samples.images.shape[1:3]
    if patch > min(height, width):
        raise DataError(f"patch: {patch}; the images are {width} x {height}, which is smaller")


def batch(
    samples: Samples,
    indices: Iterable[int],
    *,
    seed: int,
    epoch: int | None,
    patch: int | None,
    augment: bool,
) -> tuple[Array, Array]:
    """Images and masks of some samples, float32: (B, H, W, C) and (B, H, W, K).

    Images of uint8 are divided by 255, others are not changed. `epoch` None is for validation:
    whole images without augmentation. In training a generator seeded with `seed`, `epoch` and the
    index of the sample chooses a random window `patch` x `patch` and, with `augment`, a rotation by
    right angles and a flip: one of the eight symmetries of a square, or of the four of a rectangle.
    No window has only `IGNORE` in it, unless the whole mask is so.

    Raises `DataError` for a patch that does not fit.
    """
    indices = np.asarray(list(indices), int)
    images, masks = samples.images[indices], samples.masks[indices]
    if epoch is not None:
        check_patch(samples, patch)
        pairs = []
        for index, image, mask in zip(indices, images, masks, strict=True):
            rng = np.random.default_rng((seed, epoch, 3, int(index)))
            if patch is not None:
                image, mask = _window(image, mask, patch, rng)
            pairs.append(_turned(image, mask, rng) if augment else (image, mask))
        images, masks = (np.stack(parts) for parts in zip(*pairs, strict=True))
    inputs = as_input(images) if images.dtype == np.uint8 else images.astype(np.float32)
    return inputs, masks.astype(np.float32)


def _window(image: Array, mask: Array, patch: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """The same random square of both; if no pixel in it counts, one around a pixel that does."""
    room = np.array(mask.shape[:2]) - patch
    top, left = rng.integers(0, room + 1)
    counts = (mask != IGNORE).any(-1)
    if not counts[top : top + patch, left : left + patch].any() and counts.any():
        pixel = rng.choice(np.argwhere(counts))
        top, left = np.clip(pixel - rng.integers(0, patch, 2), 0, room)
    place = (slice(top, top + patch), slice(left, left + patch))
    return image[place], mask[place]


def _turned(image: Array, mask: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Both flipped in the same way; a rotation by 90 degrees is a transposition and a flip."""
    upside, sideways, across = rng.integers(0, 2, 3)
    pair = []
    for array in (image, mask):
        turned = array[:: -1 if upside else 1, :: -1 if sideways else 1]
        if across and array.shape[0] == array.shape[1]:
            turned = turned.swapaxes(0, 1)
        pair.append(turned)
    return pair[0], pair[1]


def _check_whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(f"{name}: {value!r}; wanted a whole number, 1 or more")


def _split(source: str) -> tuple[str, str]:
    """Layout and folder of "LAYOUT:DIR"."""
    layout, colon, place = source.partition(":")
    known = ", ".join(LAYOUTS)
    if not colon or not place:
        raise DataError(f"data: {source!r}; wanted LAYOUT:DIR, with a LAYOUT of {known}")
    if layout not in LAYOUTS:
        raise DataError(f"data: unknown layout {layout!r}; wanted one of {known}")
    return layout, place


def stretched(image: Array, size: int) -> Array:
    """An image resized to `size` x `size`, channel by channel, in its dtype."""
    from PIL import Image

    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., i])).resize(
            (size, size), Image.Resampling.BILINEAR
        )
        for i in range(image.shape[-1])
    ]
    return np.stack([np.asarray(channel) for channel in channels], -1)


def _nearest(mask: Array, size: int) -> Array:
    """A mask resized to `size` x `size`, by the pixel under the centre of each new one."""
    rows, columns = (
        ((2 * np.arange(size) + 1) * length // (2 * size)) for length in mask.shape[:2]
    )
    return mask[rows[:, None], columns]


def _are_bytes(image: Array) -> bool:
    """Whether it holds whole numbers in 0..255, in any dtype."""
    return image.dtype == np.uint8 or bool(
        np.all((image >= 0) & (image <= 255) & (image == np.rint(image)))
    )


def _decode(
    folder: Path, items: Sequence[Item], layout: Layout, size: int | None, classes: int
) -> dict[str, Array]:
    """Read all samples; raises `DataError` with the first bad one, after trying all."""

    def read(item: Item) -> tuple[Array, Array, bool]:
        image, mask = layout.read([folder / file for file in item.files], classes)
        are_bytes = _are_bytes(image)
        if size is not None:
            image, mask = stretched(image, size), _nearest(mask, size)
        return image, mask, are_bytes

    images: list[Array] = []
    masks: list[Array] = []
    all_bytes = True
    errors: list[DataError] = []
    first = ""
    for item, outcome in zip(items, in_parallel(read, items), strict=True):
        if isinstance(outcome, DataError):
            errors.append(outcome)
        elif images and images[0].shape != outcome[0].shape:
            errors.append(_unlike(folder / item.name, outcome[0], first, images[0]))
        else:
            first = first or item.name
            images.append(outcome[0])
            masks.append(outcome[1])
            all_bytes = all_bytes and outcome[2]
    raise_first(errors)
    return {"images": _joined(images, all_bytes), "masks": np.stack(masks)}


def _unlike(path: Path, image: Array, other_name: str, other: Array) -> DataError:
    if image.shape[-1] != other.shape[-1]:
        counts = f"{image.shape[-1]} channels, and {other_name} {other.shape[-1]}"
        return DataError(f"{path}: {counts}; wanted as many in all")
    sizes = f"{size_of(image)} (width x height), and {other_name} {size_of(other)}"
    return DataError(f"{path}: {sizes}; give --size to stretch all to one")


def _joined(images: list[Array], all_bytes: bool) -> Array:
    """One array, uint8 if the numbers are bytes, in any stored dtype.

    The published code stores the bytes of some sets as floats. Floats up to 1 are not changed.
    """
    if {image.dtype for image in images} == {np.dtype(np.uint8)}:
        return np.stack(images)
    joined = np.stack([image.astype(np.float32) for image in images])
    return np.rint(joined).astype(np.uint8) if all_bytes and joined.max() > 1 else joined
