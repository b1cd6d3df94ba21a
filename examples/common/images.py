"""Reading folders of images: natural order, damaged files, threads, a cache.

It works for every layout; `DataError` is an error that a user can cause.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from examples.common.progress import progress_display
from parity.common.arrays import Array
from parity.common.files import written_whole

_NOT_IMAGES = {"thumbs.db", "desktop.ini"}
"""Files of file managers; names that begin with a dot are ignored, too."""
Job = TypeVar("Job")
Result = TypeVar("Result")


class DataError(ValueError):
    """Images that cannot be read; the message is one line."""


def natural(name: str) -> tuple[list[str | int], str]:
    """A sort key that compares digits as numbers, and equal numbers (7 and 07) as text.

    >>> sorted(["cat.10", "cat.9", "cat.09"], key=natural)
    ['cat.09', 'cat.9', 'cat.10']
    """
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def entries(folder: Path) -> list[str]:
    """The names in a folder in natural order, without the files of file managers.

    Raises `DataError` if it cannot be listed, and `FileNotFoundError` or `NotADirectoryError` if
    there is none: for these the layout has its own message (`wrong_folder`).
    """
    try:
        found = sorted((entry.name for entry in folder.iterdir()), key=natural)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise DataError(f"{folder}: cannot be read; {error.strerror or error}") from error
    return [name for name in found if not (name.startswith(".") or name.lower() in _NOT_IMAGES)]


def wrong_folder(folder: Path, missing: str, wanted: Sequence[str]) -> DataError:
    """The error for a folder of another layout: what it holds, or which folder may be meant.

    `wanted`: the folders that it should hold; `missing`: the one of them that it lacks.
    """
    names = ", ".join(wanted)
    if not folder.exists():
        return DataError(f"{folder}: no such folder")
    if not folder.is_dir():
        return DataError(f"{folder}: not a folder; wanted one with {names}")
    inside = entries(folder)
    for place in (*(folder / name for name in inside), folder.parent):
        if all((place / name).is_dir() for name in wanted):
            return DataError(f"{folder}: no folder {missing} in it; did you mean {place}?")
    held = ", ".join(inside[:8]) + (", ..." if len(inside) > 8 else "")
    found = held or "nothing"
    return DataError(f"{folder}: no folder {missing} in it; wanted {names}; found {found}")


def read_image(path: Path, mode: str) -> Any:
    """A Pillow image in a mode, "RGB" or "L"; raises `DataError` naming the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read; {error.strerror or error}") from error
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.verify()  # the checksums of a PNG, which decoding does not check
        with Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path}: {image.mode} pixels; wanted 8 bits a channel")
            return image.convert(mode)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image") from None
    except Exception as error:  # a damaged file makes the decoders raise many kinds of errors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: a damaged image ({reason})") from error


def in_parallel(
    decode: Callable[[Job], Result], jobs: Sequence[Job]
) -> Iterator[Result | DataError]:
    """The result of `decode` for each job, in order, or the `DataError` that it raised."""

    def outcome(job: Job) -> Result | DataError:
        try:
            return decode(job)
        except DataError as error:
            return error

    # Pillow's decoders release the GIL, so threads are enough
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress_display() as progress:
        outcomes = pool.map(outcome, jobs)
        try:
            yield from progress.track(outcomes, len(jobs), description="decoding")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def raise_first(errors: Sequence[DataError]) -> None:
    """Raises the first error, if there is one, and says how many more there are."""
    if errors:
        more = f"; {len(errors) - 1} more cannot be used" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{more}") from errors[0]


def cache_key(folder: Path, names: Sequence[str], *made_with: Any) -> str:
    """A digest of the files (name, size, time), of the other arguments, and of Pillow's version."""
    import PIL

    def stamp(name: str) -> list[Any]:
        try:
            found = (folder / name).stat()
        except OSError as error:
            raise DataError(f"{folder / name}: cannot be read; {error.strerror}") from error
        return [name, found.st_size, found.st_mtime_ns]

    text = json.dumps([PIL.__version__, *made_with, [stamp(name) for name in names]])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def cached(path: Path, key: str, made: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """The arrays in a cache file, if it has this key; otherwise they are made and written to it.

    The file is written whole or not at all; a missing or damaged one is made again. Raises
    `DataError` if it cannot be written.
    """
    arrays = _read_cache(path, key)
    if arrays is None:
        arrays = made()
        _write_cache(path, key, arrays)
    return arrays


def _write_cache(path: Path, key: str, arrays: Mapping[str, Array]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            np.savez(file, key=np.array(key), **arrays)  # type: ignore[arg-type]
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: the decoded images cannot be kept there; {reason}") from error


def _read_cache(path: Path, key: str) -> dict[str, Array] | None:
    """The arrays in the cache file, or None if it is missing, has another key, or is damaged."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return None
            return {name: file[name] for name in file.files if name != "key"}
    except Exception:  # a damaged file makes numpy, zipfile and zlib raise many kinds of errors
        return None
