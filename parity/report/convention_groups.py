"""The rows of the conventions' tables: lines of code with the same numbers are merged."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from rich.text import Text

from parity.conventions.results import Results, Row, off
from parity.conventions.worker import LABELS


@dataclass(frozen=True)
class Group:
    """Rows of one line of code with the same printed numbers."""

    line: str
    name: str
    row: Row


def number(x: float, digits: int = 5) -> str:
    """A few digits, or two of a small number; 0 for less than float32's smallest normal one."""
    if abs(x) < np.finfo(np.float32).tiny:
        return "0"
    text = f"{x:.{digits}g}" if abs(x) >= 1e-3 else f"{x:.1e}"
    return re.sub(r"e([+-])0*", lambda m: "e" + m[1].replace("+", ""), text)


def pair(loss: float, gradient: float) -> str:
    """`loss/gradient`."""
    return f"{number(loss)}/{number(gradient, 3)}"


def cell(results: Results, row: Row, x: float, label: int) -> Text:
    """`loss/gradient`, red and with a mark if either is wrong."""
    index, values = results.raw.index(x), row.labels[str(label)]
    text = pair(values["loss"][index], values["gradient"][index])
    bad = any(off(row, x, index, label))
    return Text(text + ("!" if bad else " "), "bold red" if bad else "")


def ends(row: Row, key: str) -> str:
    """A limit of the loss: label 0/label 1."""
    found = [row.labels[str(label)][key] for label in LABELS]
    digits = 5 if key in ("largest", "smallest") else 3
    texts = ["-" if value is None else number(value, digits) for value in found]
    return "/".join(texts)


def _name(members: list[Row], same_line: list[Row]) -> str:
    """The frameworks in a group, each with its mode if its other modes are in another group."""
    names = []
    for head in dict.fromkeys((row.framework, row.variant) for row in members):
        inside = [row.mode for row in members if (row.framework, row.variant) == head]
        everywhere = [row.mode for row in same_line if (row.framework, row.variant) == head]
        name = " on ".join(filter(None, head))
        names.append(name if inside == everywhere else f"{name} ({', '.join(inside)})")
    return ", ".join(names)


def groups(results: Results, texts: Callable[[Row], tuple[str, ...]]) -> list[Group]:
    """The rows, those with the same texts merged.

    The reshaped sigmoid is there only where the reshape makes a difference.
    """
    plain = {
        (r.framework, r.variant, r.mode): texts(r) for r in results.good if r.line == "sigmoid"
    }
    found = []
    for line in ("sigmoid", "hidden", "raw"):
        rows = [row for row in results.good if row.line == line]
        if line == "hidden":
            rows = [r for r in rows if plain.get((r.framework, r.variant, r.mode)) != texts(r)]
        for key in dict.fromkeys(map(texts, rows)):
            members = [row for row in rows if texts(row) == key]
            found.append(Group(line, _name(members, rows), members[0]))
    return found + _our_groups(results, texts)


def _our_groups(results: Results, texts: Callable[[Row], tuple[str, ...]]) -> list[Group]:
    """The conventions; an implementation has its own row only if it differs."""
    found = []
    for shown in results.ours:
        rows = [r for r in results.good if (r.line, r.variant) == ("segact", shown.variant)]
        for key in dict.fromkeys([texts(shown), *map(texts, rows)]):
            members = [row for row in rows if texts(row) == key]
            who = "" if key == texts(shown) else f": {_our_name(members, rows)}"
            found.append(Group("segact", shown.variant + who, members[0]))
    return found


def _our_name(members: list[Row], same_line: list[Row]) -> str:
    """Like `_name`, with our packages instead of the frameworks."""

    def packages(rows: list[Row]) -> list[Row]:
        return [replace(row, framework=package(row.framework), variant="") for row in rows]

    return _name(packages(members), packages(same_line))


def package(framework: str) -> str:
    """Our package on a framework: `segact_tf on jax`."""
    backend = framework.removeprefix("keras-")
    return "segact_torch" if framework == "torch" else f"segact_tf on {backend}"
