"""Large files, whole or not at all (`parity.common.files` serves small ones); locks."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.common.runs import RunError


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, which becomes `path` if all went well.

    The path keeps the suffix, since some writers go by it. Whatever is raised inside leaves `path`
    as it was and nothing beside it.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def held_alone(path: Path, otherwise: str) -> Iterator[None]:
    """Holds a lock while inside; raises `RunError` with the line `otherwise` where another does.

    The lock ends with the process, however that ends; the file stays.
    """
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(otherwise) from None
        yield
