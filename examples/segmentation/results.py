"""The results of a sweep: reading them, their spread and their paired differences.

The folder of a sweep holds sweep.json with its options, and runs/*/result.json, one for each
finished run. The sweep may be unfinished; missing runs are counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from examples.common.runs import RunError, read_json
from examples.common.statistics import Interval, interval
from parity.suite.case import ACTIVATIONS

FORMAT, RESULT = 1, "result.json"
QUANTITIES = {
    "mean_dice": "mean Dice",
    "best_dice": "best Dice",
    "nll": "NLL",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}
"""The metrics of `Tally.result` that are compared."""
OVERLAP = ("mean_dice", "best_dice")
"""The metrics of which larger is better; of the others smaller is."""
BASE = "sigmoid"
MARGIN = 0.005
"""In Dice: frameworks whose difference surely lies within this margin count as equal."""


class Key(NamedTuple):
    """What identifies a run of a sweep."""

    data: str
    framework: str
    activation: str
    loss: str
    fold: int
    seed: int


@dataclass(frozen=True)
class Result:
    """A finished run; `found` is its result.json."""

    folder: Path
    key: Key
    found: dict[str, Any]

    def value(self, quantity: str) -> float:
        """A metric, as the mean over the classes."""
        return float(self.found["validation"][quantity])


@dataclass(frozen=True)
class Sweep:
    """The existing results, and the requested runs, in the order of the tables."""

    folder: Path
    results: dict[Key, Result]
    wanted: tuple[Key, ...]

    def axis(self, name: str, **chosen: str) -> list[str]:
        """The values of a part of the key, over the requested runs that are `chosen`."""
        keys = (key for key in self.wanted if _matches(key, chosen))
        return list(dict.fromkeys(getattr(key, name) for key in keys))

    def groups(self) -> list[dict[str, str]]:
        """Every data set with every framework for which runs were requested."""
        return [
            {"data": data, "framework": framework}
            for data in self.axis("data")
            for framework in self.axis("framework", data=data)
        ]

    def cell(self, **chosen: str) -> tuple[dict[tuple[int, int], Result], int]:
        """The chosen results, by fold and seed, and the number that was requested."""
        keys = [key for key in self.wanted if _matches(key, chosen)]
        found = {key[-2:]: self.results[key] for key in keys if key in self.results}
        return found, len(keys)


def _matches(key: Key, chosen: dict[str, str]) -> bool:
    return all(getattr(key, name) == value for name, value in chosen.items())


def read(folder: Path, *more: Path) -> Sweep:
    """The sweep in the first folder, with the runs of the others; files are written to the first.

    The requested runs are in sweep.json; without it, every activation is expected to have all folds
    and seeds that occur. Raises `RunError` if there is no sweep, a file of it is damaged, or a run
    occurs twice.
    """
    results: dict[Key, Result] = {}
    wanted: set[Key] = set()
    orders: tuple[list[str], list[str]] = ([], [])
    bases: list[tuple[Path, dict[str, Any]]] = []
    for one in (folder, *more):
        if not (one / "runs").is_dir():
            raise RunError(f"{one}: no sweep; it has no folder runs")
        mine = [_result(path) for path in sorted((one / "runs").glob(f"*/{RESULT}"))]
        for result in mine:
            if result.key in results:
                raise RunError(f"{result.folder}: the same run as {results[result.key].folder}")
            results[result.key] = result
        wanted |= {result.key for result in mine}
        path = one / "sweep.json"
        if path.is_file():
            asked = read_json(path)
            if asked.get("format") != FORMAT:
                raise RunError(f"{path}: not a sweep, format {FORMAT}")
            bases.append((one, asked.get("base", {})))
            wanted |= set(_asked(path, asked, mine))
            for order, name in zip(orders, ("activations", "losses"), strict=True):
                order += asked[name]
        else:
            pairs = {result.key[-2:] for result in mine}
            wanted |= {Key(*result.key[:4], *pair) for result in mine for pair in pairs}
    _check_same_options(bases)
    return Sweep(folder, results, tuple(sorted(wanted, key=lambda key: _order(key, *orders))))


def _check_same_options(bases: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Sweeps of the same data are compared run by run, so their other options must be equal."""
    for i, (one, mine) in enumerate(bases):
        for other, theirs in bases[:i]:
            if shown_data(mine.get("data") or "") != shown_data(theirs.get("data") or ""):
                continue
            for name in mine.keys() & theirs.keys() - {"data", "device"}:
                if mine[name] != theirs[name]:
                    option = f"--{name.replace('_', '-')}"
                    raise RunError(
                        f"{one}: {option} {mine[name]}, and {other}: {theirs[name]}; wanted the "
                        "same options"
                    )


def _result(path: Path) -> Result:
    found = read_json(path)
    if found.get("format") != FORMAT:
        raise RunError(f"{path}: not the result of a run, format {FORMAT}")
    try:
        found["data"] = shown_data(found["data"])
        key = Key(*(kind(found[name]) for name, kind in Key.__annotations__.items()))
        result = Result(path.parent, key, found)
        names = (*QUANTITIES, "best_threshold")
        broken = [name for name in names if not math.isfinite(result.value(name))]
        if not all("pixels" in one for one in found["validation"]["classes"]):
            raise KeyError("pixels")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    if broken:
        raise RunError(f"{path}: {broken[0]} is not finite")
    return result


def _asked(path: Path, asked: dict[str, Any], mine: Sequence[Result]) -> list[Key]:
    """All runs of a sweep.json; the name of the data is taken from its results."""
    try:
        data = {one.key.data for one in mine} or {shown_data(asked["base"]["data"] or "synthetic")}
        names = [asked[name] for name in ("implementations", "activations", "losses")]
        every = product(data, *names, range(asked["base"]["folds"]), asked["seeds"])
        return [Key(*values) for values in every]
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def shown_data(source: str) -> str:
    """The value of --data without the path to its folder.

    >>> shown_data("dsb2018:/home/me/nuclei"), shown_data("processed:ACDC/processed_training")
    ('dsb2018:nuclei', 'processed:ACDC')
    """
    layout, colon, place = source.partition(":")
    folder = Path(place)
    if folder.name == "processed_training" and folder.parent.name:
        folder = folder.parent
    return layout + colon + folder.name


def _order(key: Key, activations: Sequence[str], losses: Sequence[str]) -> tuple[Any, ...]:
    """The requested order, otherwise the usual order of activations; torch before Keras."""
    ranks = (
        activations or ACTIVATIONS,
        losses or ("binary_cross_entropy", "dice", "mean_squared_error"),
    )
    places = [
        (order.index(name) if name in order else len(order), name)
        for order, name in zip(ranks, (key.activation, key.loss), strict=True)
    ]
    return (key.data, key.framework != "torch", key.framework, *reversed(places), *key[-2:])


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of `count` values."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """From values; NaN if there are too few."""
        mean = float(np.mean(values)) if values else math.nan
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        return cls(mean, deviation, len(values))

    def __str__(self) -> str:
        if not self.count:
            return "-"
        return f"{self.mean:.4f}" + (f" ± {self.deviation:.4f}" if self.count > 1 else "")


@dataclass(frozen=True)
class Difference:
    """The difference of a metric between two cells, paired by fold and seed; of `wanted` pairs."""

    group: dict[str, str]
    loss: str
    activation: str
    quantity: str
    interval: Interval
    wanted: int

    def row(self, verdict: str) -> dict[str, Any]:
        """As a row of numbers."""
        mean, half = self.interval.mean, self.interval.half
        return {
            **self.group,
            "loss": self.loss,
            "activation": self.activation,
            "quantity": self.quantity,
            "pairs": self.interval.count,
            "wanted": self.wanted,
            "difference": mean,
            "low": mean - half,
            "high": mean + half,
            "verdict": verdict,
        }

    def __str__(self) -> str:
        return f"{'+' if self.interval.mean > 0 else ''}{self.interval}"


def _paired(
    sweep: Sweep, one: dict[str, str], other: dict[str, str], quantity: str
) -> tuple[Interval, int]:
    """One minus the other; raises `RunError` if the two were measured on different pixels."""
    (left, wanted), (right, also) = sweep.cell(**one), sweep.cell(**other)
    for pair in left.keys() & right.keys():
        pixels = [
            [k["pixels"] for k in side[pair].found["validation"]["classes"]]
            for side in (left, right)
        ]
        digests = [side[pair].found.get("sha256") for side in (left, right)]
        if pixels[0] != pixels[1] or digests[0] != digests[1]:
            raise RunError(
                f"{left[pair].folder} and {right[pair].folder}: not measured on the same pixels"
            )
    pairs = sorted(left.keys() & right.keys())
    values = [left[pair].value(quantity) - right[pair].value(quantity) for pair in pairs]
    return interval(values), min(wanted, also)


def differences(sweep: Sweep) -> list[Difference]:
    """Every activation minus sigmoid, in every metric; empty for a loss without sigmoid."""
    found = []
    for group in sweep.groups():
        for loss in sweep.axis("loss", **group):
            activations = sweep.axis("activation", **group, loss=loss)
            for activation in activations if BASE in activations else ():
                for quantity in QUANTITIES if activation != BASE else ():
                    cell = {**group, "loss": loss}
                    one, base = ({**cell, "activation": a} for a in (activation, BASE))
                    paired = _paired(sweep, one, base, quantity)
                    found.append(Difference(group, loss, activation, quantity, *paired))
    return found


def between_frameworks(sweep: Sweep) -> list[Difference]:
    """Torch minus each other framework, for mean and best Dice."""
    found = []
    for data in sweep.axis("data"):
        others = [name for name in sweep.axis("framework", data=data) if name != "torch"]
        for other in others:
            group = {"data": data, "framework": f"torch minus {other}"}
            for loss in sweep.axis("loss", data=data, framework=other):
                mine = {"data": data, "loss": loss}
                for activation in sweep.axis("activation", **mine, framework=other):
                    mine["activation"] = activation
                    one, another = ({**mine, "framework": name} for name in ("torch", other))
                    if not sweep.cell(**one)[1]:
                        continue
                    for quantity in OVERLAP:
                        paired = _paired(sweep, one, another, quantity)
                        found.append(Difference(group, loss, activation, quantity, *paired))
    return found


def within_margin(found: Interval, margin: float = MARGIN) -> str:
    """Whether two frameworks are equal, by the interval of their difference.

    >>> within_margin(Interval(0.001, 0.003, 5)), within_margin(Interval(0.01, 0.004, 5))
    ('within the margin', 'apart')
    """
    if not found.count or math.isnan(found.half):
        return "not decided"
    if abs(found.mean) + found.half <= margin:
        return "within the margin"
    return "apart" if abs(found.mean) - found.half > margin else "not decided"
