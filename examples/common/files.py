"""Locks: what one process alone may do at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.common.runs import RunError


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


def holds_something(path: Path) -> bool:
    """Whether a path is taken; hidden names in a folder are locks, and what a kill has left."""
    if not path.is_dir():
        return path.exists()
    return any(not inside.name.startswith(".") for inside in path.iterdir())
