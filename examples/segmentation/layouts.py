"""One reader for each layout of a folder of images with masks, `LAYOUT:DIR`:

    dsb2018, kvasir   DIR/images/NAME.* and DIR/masks/NAME.*; each image is a case
    drive             as distributed: DIR/training and DIR/test with images, 1st_manual and mask
                      (the field of view: pixels outside are ignored); each image is a case
    processed         DIR/CASE/processed_K.npy: arrays (H, W, channels + 1), the labels last

A layout lists the files, then reads them one sample at a time; it resizes nothing.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.common.images import DataError, entries, read_image, wrong_folder
from parity.common.arrays import Array

IGNORE = 255
"""The mask value of a pixel that counts neither in the loss nor in a metric."""
GREY = range(32, 224)
"""Mask values that are near neither 0 nor 255."""
MOST_GREY = 0.005
"""The largest share of mask pixels that may be the centre of 3 x 3 grey ones.

Resizing and JPEG make borders grey, one or two pixels wide: none of the 670 masks of nuclei has a
single such pixel, photographs have a fifth and more.
"""


@dataclass(frozen=True)
class Item:
    """One sample of a folder, not read yet: its case and its files, the image first."""

    case: str
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the sample."""
        return self.files[0]


@dataclass(frozen=True)
class Layout:
    """`items` lists a folder; `read` gives image (H, W, C) and mask (H, W, K) for an item's files.

    An image is uint8 or float32; `read` gets the number of classes as well.
    """

    items: Callable[[Path], list[Item]]
    read: Callable[[Sequence[Path], int], tuple[Array, Array]]


# The files of a folder


def _entries(folder: Path, below: str, wanted: Sequence[str]) -> list[str]:
    """The names in `folder/below`, in natural order; raises if there are none."""
    try:
        found = entries(folder / below)
    except (FileNotFoundError, NotADirectoryError):
        raise wrong_folder(folder, below, wanted) from None
    if not found:
        raise DataError(f"{folder / below}: no images in this folder")
    return found


def _by_key(
    folder: Path, below: str, wanted: Sequence[str], key: Callable[[str], str]
) -> dict[str, str]:
    """The path (below `folder`) of each file of `folder/below`, by its key for pairing."""
    found: dict[str, str] = {}
    for name in _entries(folder, below, wanted):
        file = f"{below}/{name}"
        other = found.setdefault(key(name), file)
        if other != file:
            raise DataError(f"{folder / file}: {other} has the same name; wanted one of the two")
    return found


def _paired(
    folder: Path, images: Mapping[str, str], partners: Mapping[str, str], what: str
) -> None:
    """Raises `DataError` for an image without its partner (a mask, say), or the reverse."""
    for files, others, missing in ((images, partners, what), (partners, images, "image")):
        lonely = [file for key, file in files.items() if key not in others]
        if lonely:
            place = Path(next(iter(others.values()))).parent.as_posix()
            more = f"; {len(lonely) - 1} more have none" if len(lonely) > 1 else ""
            raise DataError(f"{folder / lonely[0]}: has no {missing} in {place}{more}")


def _image_folder(folder: Path) -> list[Item]:
    """`images` and `masks` with the same names, except for the suffix."""
    wanted = ("images", "masks")
    images, masks = (_by_key(folder, name, wanted, lambda file: Path(file).stem) for name in wanted)
    _paired(folder, images, masks, "mask")
    return [Item(key, (images[key], masks[key])) for key in images]


def _drive_folder(folder: Path) -> list[Item]:
    """DRIVE's `test` and `training`, paired by the number that each name begins with."""
    splits = ("test", "training")
    items = []
    for split in splits:
        if not (folder / split).is_dir():
            raise wrong_folder(folder, split, splits)
        places = [f"{split}/{name}" for name in ("images", "1st_manual", "mask")]
        images, vessels, fields = (_by_key(folder, place, places, _number) for place in places)
        _paired(folder, images, vessels, "mask of vessels")
        _paired(folder, images, fields, "field of view")
        items += [Item(f"{split}/{n}", (images[n], vessels[n], fields[n])) for n in images]
    return items


def _number(name: str) -> str:
    """The number with which a name begins, if any."""
    found = re.match(r"[0-9]+", name)
    return found.group() if found else name


def _processed_folder(folder: Path) -> list[Item]:
    """The case folders of the published code; cases without a slice and other files are skipped."""
    pattern = re.compile(r"processed_.*\.npy")
    try:
        cases = entries(folder)
    except FileNotFoundError:
        raise DataError(f"{folder}: no such folder") from None
    except NotADirectoryError:
        raise DataError(f"{folder}: not a folder; wanted one with CASE/processed_K.npy") from None
    items = []
    for case in cases:
        if (folder / case).is_dir():
            slices = [name for name in entries(folder / case) if pattern.fullmatch(name)]
            items += [Item(case, (f"{case}/{name}",)) for name in slices]
    if not items:
        line = f"{folder}: no CASE/processed_K.npy in it"
        if (folder / "processed_training").is_dir():
            line += f"; did you mean {folder / 'processed_training'}?"
        elif any(pattern.fullmatch(name) for name in cases):
            line += f", it is a case itself; did you mean {folder.parent}?"
        raise DataError(line)
    return items


# The contents of a file


def _values(array: Array) -> str:
    """The first few values of an array, for an error message."""
    values = np.unique(array)
    return ", ".join(f"{value:g}" for value in values[:6]) + (", ..." if values.size > 6 else "")


def _read_binary(path: Path) -> Array:
    """A mask (H, W) of 0 and 1; raises `DataError` naming a file that is not one."""
    grey = np.asarray(read_image(path, "L"))
    wanted = "wanted 0 and 255 (grey at borders alone), or 0 and 1"
    if grey.max() <= 1:
        return grey
    if grey.max() <= 127:
        raise DataError(f"{path}: not a binary mask, its values are {_values(grey)}; {wanted}")
    between = np.pad((grey >= GREY.start) & (grey < GREY.stop), 1)
    inside = np.lib.stride_tricks.sliding_window_view(between, (3, 3)).all((2, 3)).mean()
    if inside > MOST_GREY:
        raise DataError(f"{path}: not a binary mask, {inside:.1%} of it are grey areas; {wanted}")
    return (grey > 127).astype(np.uint8)


def _read_images(paths: Sequence[Path], classes: int) -> tuple[Array, Array]:
    """An image, its mask, and, for DRIVE, its field of view."""
    image = np.asarray(read_image(paths[0], "RGB"))
    mask, *fields = [_read_binary(path) for path in paths[1:]]
    for path, found in zip(paths[1:], (mask, *fields), strict=True):
        if found.shape != image.shape[:2]:
            sizes = f"{size_of(found)} (width x height), and its image {size_of(image)}"
            raise DataError(f"{path}: {sizes}; wanted the same")
    for field in fields:
        mask = np.where(field == 1, mask, np.uint8(IGNORE))
    return image, mask[..., None]


def size_of(image: Array) -> str:
    """Width and height in words."""
    return f"{image.shape[1]} x {image.shape[0]}"


def _read_processed(paths: Sequence[Path], classes: int) -> tuple[Array, Array]:
    """The channels of an array, and its labels as masks."""
    path = paths[0]
    try:
        with path.open("rb") as file:  # numpy does not close a damaged zip
            found = np.load(file, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be read; {error.strerror or error}") from error
    except Exception as error:  # a damaged file makes numpy and zipfile raise many kinds of errors
        raise DataError(f"{path}: not a file of one array, or a damaged one") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "buif":
        raise DataError(f"{path}: wanted one array of numbers")
    if found.ndim != 3 or found.shape[-1] < 2 or not found.size:
        raise DataError(
            f"{path}: shape {found.shape}; wanted (H, W, channels + 1), the labels last"
        )
    if not np.isfinite(found).all():
        raise DataError(f"{path}: has values that are not finite")
    image, labels = found[..., :-1], found[..., -1]
    if not np.isin(labels, np.arange(classes + 1)).all():
        wanted = "0 and 1" if classes == 1 else f"0 to {classes}"
        last = f"labels {_values(labels)} in its last channel"
        raise DataError(f"{path}: {last}; wanted {wanted} (--classes says how many there are)")
    masks = (labels[..., None] == np.arange(1, classes + 1)).astype(np.uint8)
    return image if image.dtype == np.uint8 else image.astype(np.float32), masks


LAYOUTS = {
    "dsb2018": Layout(_image_folder, _read_images),
    "kvasir": Layout(_image_folder, _read_images),
    "drive": Layout(_drive_folder, _read_images),
    "processed": Layout(_processed_folder, _read_processed),
}
