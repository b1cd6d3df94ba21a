"""Locks: only one process at a time holds one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.common.runs import RunError


@contextmanager
def held_alone(path: Path, otherwise: str) -> Iterator[None]:
    """Holds a lock in a `with` block; raises `RunError(otherwise)` if another process holds it.

    The lock ends with the process, also if that is killed; the file stays.
    """
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(otherwise) from None
        yield


def holds_something(path: Path) -> bool:
    """Whether it exists and is not empty, without hidden names (locks, leftovers of a kill)."""
    if not path.is_dir():
        return path.exists()
    return any(not inside.name.startswith(".") for inside in path.iterdir())
