"""What is counted of the raw outputs of an epoch, beside the loss; the columns of history.csv.

Of training samples these are the raw outputs that the loss has seen: with dropout, and while the
weights move. Of validation samples they are those of the epoch's last weights.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

Measure = Callable[[Any, Any, Any], Any]


def _clipped(head: Any, raw: Any, labels: Any) -> Any:
    return head.xp.sum(head.clipped(raw))


def _clipped_wrong(head: Any, raw: Any, labels: Any) -> Any:
    return head.xp.sum(head.xp.logical_and(head.clipped(raw), head.wrong(raw, labels)))


def _least(label: int) -> Measure:
    def least(head: Any, raw: Any, labels: Any) -> Any:
        return head.xp.min(head.xp.where(labels == label, raw, math.inf))

    return least


def _most(label: int) -> Measure:
    def most(head: Any, raw: Any, labels: Any) -> Any:
        return head.xp.max(head.xp.where(labels == label, raw, -math.inf))

    return most


MEASURES: Mapping[str, tuple[str, Measure]] = {
    "clipped": ("sum", _clipped),
    "clipped_wrong": ("sum", _clipped_wrong),
    "cat_min": ("min", _least(0)),
    "cat_max": ("max", _most(0)),
    "dog_min": ("min", _least(1)),
    "dog_max": ("max", _most(1)),
}
"""By column: how the batches of an epoch come together, and that of one batch, from a head, raw
outputs and labels of shape (N, 1)."""

_COLUMNS = ("loss", "accuracy", *MEASURES)
COLUMNS = (*_COLUMNS, *(f"val_{name}" for name in _COLUMNS))


def row(epoch: int, logs: Mapping[str, Any], seconds: float) -> dict[str, float]:
    """The row of an epoch, counted from 1, of what the framework has gathered."""
    found: dict[str, float] = {"epoch": epoch}
    for name in COLUMNS:
        value = float(logs[name])
        found[name] = int(value) if "clipped" in name else value
    return found | {"seconds": round(seconds, 3)}
