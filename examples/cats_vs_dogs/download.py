"""The public archive of the write-up's images, fetched into a folder as `data.load` wants it."""

from pathlib import Path

from examples.cats_vs_dogs.data import CLASSES, SPLITS, DataError
from examples.common.fetch import FetchError, check_sha256, fetch, unpacked

URL = "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"
SHA256 = "91af24e0be191e9380dafc8710d0933fa826ec8e51f26f85c1fddba4e8018e3f"
"""The SHA-256 of the archive, 68,606,236 bytes since 2020 at least. The source is the Git LFS
pointer of a copy with exactly that size: datasets/cats_and_dogs_filtered.zip in the repository
HubBucket-Team/depot on GitHub, at commit e0117ff79fc15df1574a9c063085f738e62df81f."""


def download(folder: Path, url: str = URL, sha256: str = SHA256, timeout: float = 30.0) -> None:
    """Download the archive, check its SHA-256 and unpack it: `folder` then holds `train/cats` etc.

    Nothing is downloaded if it holds them already. `folder` appears whole or not at all; only an
    interrupted download leaves a file in the folder above, from which the next call continues.

    Raises `DataError`: a folder that holds something else, and every other error; and
    `KeyboardInterrupt` with a line that says what is kept.
    """
    if _is_laid_out(folder):
        return
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder}: holds something else; wanted a new or an empty folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        # named by its digest, so that another archive is not mistaken for it
        archive = folder.parent / f"{folder.name}.{check_sha256(sha256)[:8]}.zip"
        fetch(url, archive, sha256, timeout)
        try:
            _place(archive, folder)
        finally:
            archive.unlink()
    except FetchError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"{folder}: cannot be written; {error.strerror or error}") from error


def _is_laid_out(folder: Path) -> bool:
    return all((folder / split / name).is_dir() for split in SPLITS for name in CLASSES)


def _place(archive: Path, folder: Path) -> None:
    """Unpack in the folder above `folder`, and rename the folder with the images to it."""
    with unpacked(archive, folder.parent) as found:
        inside = [path for path in (found, *found.glob("*")) if _is_laid_out(path)]
        if not inside:
            raise DataError(f"{archive}: holds no train/cats, train/dogs and so on")
        if folder.is_dir():
            folder.rmdir()
        inside[0].rename(folder)
