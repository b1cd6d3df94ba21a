"""The images: a folder of real ones, or drawn ones; decoded once, kept as bytes.

A folder holds `train/cats`, `train/dogs`, `validation/cats` and `validation/dogs`. Cats are class
0 and come first, then dogs, class 1, each in natural order (cat.9 before cat.10).
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.cats_vs_dogs import drawing
from examples.common.files import written_beside
from examples.common.progress import progress_display

SPLITS = ("train", "validation")
CLASSES = ("cats", "dogs")
SEED = 20190131
DRAWN = {"train": 400, "validation": 200}
"""How many images `synthetic` draws, half of them of each class."""

_WANTED = ", ".join(f"{split}/{name}" for split in SPLITS for name in CLASSES)
_NOT_IMAGES = {"thumbs.db", "desktop.ini"}  # what file managers leave; names with a dot likewise
_CACHE_FORMAT = 1


class DataError(ValueError):
    """Images that cannot be had; the message is one plain line."""


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

    `folder` None gives `synthetic(size)`. `cache` is a folder, made if it is missing, where the
    decoded images are kept; what is there is read if it was made from the same files (by name,
    size and time), and made anew otherwise.

    Raises `DataError`: a folder that is missing or laid out otherwise, a class without images, a
    file that is no image or a damaged one (it is named), a cache that cannot be written.
    """
    _check_size(size)
    if folder is None:
        return synthetic(size)
    files = {split: _files(folder, split) for split in SPLITS}
    if cache is None:
        return _decode(folder, files, size)
    path = cache / f"{folder.resolve().name}_{size}.npz"
    key = _key(folder, files, size)
    found = _read_cache(path, key, files)
    if found is None:
        found = _decode(folder, files, size)
        _write_cache(path, key, found)
    return found


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


def _natural(name: str) -> tuple[list[str | int], str]:
    """A sort key that takes digits as numbers; equal numbers (7 and 07) go by their spelling."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _files(folder: Path, split: str) -> list[tuple[str, int]]:
    """Path below `folder` and label of each of a split's images, in order."""
    found = []
    for label, name in enumerate(CLASSES):
        place = folder / split / name
        try:
            entries = sorted((entry.name for entry in place.iterdir()), key=_natural)
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(_layout_error(folder, f"{split}/{name}")) from None
        except OSError as error:
            raise DataError(f"{place}: cannot be read; {error.strerror or error}") from error
        images = [e for e in entries if not (e.startswith(".") or e.lower() in _NOT_IMAGES)]
        if not images:
            raise DataError(f"{place}: no images in this folder")
        found += [(f"{split}/{name}/{image}", label) for image in images]
    return found


def _layout_error(folder: Path, missing: str) -> str:
    """Why `folder` is not laid out as wanted, with what it holds, or where to look instead."""
    if not folder.exists():
        return f"{folder}: no such folder"
    if not folder.is_dir():
        return f"{folder}: not a folder; wanted one with {_WANTED}"
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in inside:
        if all((path / split / name).is_dir() for split in SPLITS for name in CLASSES):
            return f"{folder}: no {missing} in it; did you mean {path}?"
    held = ", ".join(path.name for path in inside[:8]) + (", ..." if len(inside) > 8 else "")
    return f"{folder}: no folder {missing} in it; wanted {_WANTED}; found {held or 'nothing'}"


def _decode_one(path: Path, size: int) -> NDArray[np.uint8]:
    """Read an image as RGB; raises `DataError` naming the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read; {error.strerror or error}") from error
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.verify()  # the checksums of a PNG, which decoding alone passes over
        with Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path}: {image.mode} pixels; wanted 8 bits a channel")
            rgb = image.convert("RGB")
        return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR))
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image") from None
    except Exception as error:  # a damaged file makes the decoders raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: a damaged image ({reason})") from error


def _decode(
    folder: Path, files: dict[str, list[tuple[str, int]]], size: int
) -> tuple[Split, Split]:
    """Decode all images, in parallel; raises `DataError` with the first bad file, after the last.

    So one who has several bad files learns how many.
    """
    splits = tuple(
        Split(
            images=np.empty((len(found), size, size, 3), np.uint8),
            labels=np.array([label for _, label in found], np.uint8),
            names=[name for name, _ in found],
        )
        for found in (files[split] for split in SPLITS)
    )
    jobs = [(split, i) for split in splits for i in range(len(split.names))]

    def decode(job: tuple[Split, int]) -> DataError | None:
        split, i = job
        try:
            split.images[i] = _decode_one(folder / split.names[i], size)
        except DataError as error:
            return error
        return None

    # Pillow's decoders run outside of Python's lock, so threads do
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress_display() as progress:
        outcomes = progress.track(pool.map(decode, jobs), len(jobs), description="decoding")
        try:
            errors = [error for error in outcomes if error]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if errors:
        more = f"; {len(errors) - 1} more cannot be read" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{more}") from errors[0]
    return splits[0], splits[1]


def _key(folder: Path, files: dict[str, list[tuple[str, int]]], size: int) -> str:
    """A digest of all that the decoded images depend on."""
    import PIL

    def stamp(name: str) -> list[Any]:
        try:
            found = (folder / name).stat()
        except OSError as error:
            raise DataError(f"{folder / name}: cannot be read; {error.strerror}") from error
        return [name, found.st_size, found.st_mtime_ns]

    stamps = [stamp(name) for split in SPLITS for name, _ in files[split]]
    text = json.dumps([_CACHE_FORMAT, PIL.__version__, size, stamps])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _write_cache(path: Path, key: str, splits: Iterable[Split]) -> None:
    arrays = {
        f"{name}_{part}": getattr(split, part)
        for name, split in zip(SPLITS, splits, strict=True)
        for part in ("images", "labels")
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as beside, beside.open("wb") as file:
            np.savez(file, key=np.array(key), **arrays)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: the decoded images cannot be kept there; {reason}") from error


def _read_cache(
    path: Path, key: str, files: dict[str, list[tuple[str, int]]]
) -> tuple[Split, Split] | None:
    """What the cache holds, or None if it is missing, of other files, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return None
            train, validation = (
                Split(
                    images=file[f"{split}_images"],
                    labels=file[f"{split}_labels"],
                    names=[name for name, _ in files[split]],
                )
                for split in SPLITS
            )
    except Exception:  # a damaged file makes numpy, zipfile and zlib raise almost anything
        return None
    return train, validation
