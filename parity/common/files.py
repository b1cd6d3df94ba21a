"""Files that are written whole or not at all, and JSON with infinities and NaN."""

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: those become strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def json_text(found: dict[str, Any]) -> str:
    """The text of a JSON file; "inf", "-inf" and "nan" stand for the numbers that JSON lacks."""
    return json.dumps(_plain(found), indent=1, allow_nan=False) + "\n"


def why_unwritable(path: Path) -> str:
    """Why nothing can be written to this path; empty if it can."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe or a device
            return "" if os.access(path, os.W_OK) else "no permission"
        folder = path.resolve().parent
        if path.is_dir() or not folder.is_dir():
            return "wanted a file in a folder that exists"
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        return getattr(error, "strerror", None) or str(error)
    return ""


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A new file to write to, which becomes `path` if no error is raised.

    After an error `path` is as before and no other file is left. A link is kept and the file it
    points to is replaced; a pipe or a device is written to.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno is not None:  # a full disk gives no name, other errors name the new file
            error.filename = str(path)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write the whole content, or leave the old file: see `written_whole`."""
    with written_whole(path) as file:
        file.write(content)
