"""A comparison of two sides in one part of one case."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from parity.accuracy import bounds
from parity.common.arrays import Array
from parity.common.tolerance import Difference, difference, round_up

_IN_JSON = (
    *("left", "right", "case", "dtype", "activation", "quantity", "part", "unit", "error", "bound"),
    *("x", "y", "got", "expected", "over", "count"),
)


@dataclass(frozen=True)
class Comparison:
    """The worst error of one part of one case between two sides, and where it is.

    `right` may be the reference or the oracle. `part` is "value", or a gradient: "grad_x" or, of
    any input of a user's functions, "gradient in x". `inside` holds the inputs at the worst element
    by name, where they have the shape of the part. `difference` is that of a user's functions,
    which have a tolerance; of an implementation, which has bounds, there is none.
    `without_gradient` names the side that has no gradient where the other has one.
    """

    left: str
    right: str
    case: str
    part: str
    dtype: str
    activation: str
    quantity: str
    unit: str
    error: float
    bound: float
    got: float
    expected: float
    over: int
    count: int
    inside: dict[str, float] = field(default_factory=dict)
    difference: Difference | None = None
    without_gradient: str = ""

    @classmethod
    def of_difference(
        cls,
        names: tuple[str, str],
        case: str,
        part: str,
        found: Difference,
        inputs: Mapping[str, Array],
        activation: str = "",
        quantity: str = "function",
    ) -> "Comparison":
        """A difference of two functions on the inputs; its error is the rtol that it needs."""
        alike = {n: a for n, a in inputs.items() if found.count and a.shape == found.shapes[0]}
        return cls(
            *(*names, case, part, found.dtype, activation, quantity, "relative"),
            error=found.needed_rtol,
            bound=found.rtol,
            got=found.left,
            expected=found.right,
            over=found.over if found.comparable else 1,
            count=max(1, found.count),
            inside={name: float(array[found.index]) for name, array in alike.items()},
            difference=found,
        )

    @classmethod
    def of_lost_gradient(
        cls,
        names: tuple[str, str],
        case: str,
        part: str,
        dtype: np.dtype[Any],
        without: str,
        activation: str = "",
        quantity: str = "function",
    ) -> "Comparison":
        """A comparison in which one side has a gradient and `without` has none."""
        nothing = np.array(np.nan, dtype if dtype.kind == "f" else np.float64)
        apart = difference(nothing, nothing)
        found = cls.of_difference(names, case, part, apart, {}, activation, quantity)
        return replace(found, without_gradient=without)

    @property
    def names(self) -> tuple[str, str]:
        """Both sides."""
        return self.left, self.right

    @property
    def x(self) -> float | None:
        """The raw output (or probability) at the worst element, if it has one."""
        return self.inside.get("x")

    @property
    def y(self) -> float | None:
        """The target there."""
        return self.inside.get("y")

    @property
    def against_exact(self) -> bool:
        """Whether it is against the reference or the oracle, not another implementation."""
        return self.right in bounds.TRUTHS

    @property
    def passed(self) -> bool:
        """Whether the error is within the bound, or every element within the tolerance."""
        return self.error <= self.bound if self.difference is None else self.difference.passed

    @property
    def described(self) -> str:
        """The quantity, and why it cannot be compared, if so."""
        if self.without_gradient:
            return f"{self.quantity}, whose gradient was lost:"
        if self.difference is None or self.difference.comparable:
            return self.quantity
        one, two = self.difference.shapes
        return f"{self.quantity}, of shape {one}, not {two}"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The key of aggregation over input sets: dtype, activation, quantity and part."""
        return self.dtype, self.activation, self.described, self.part

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {key: getattr(self, key) for key in _IN_JSON} | {"quantity": self.described}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Comparison":
        """The comparison of an implementation, from `as_dict`."""
        rest = dict(fields)
        inside = {name: value for name in ("x", "y") if (value := rest.pop(name)) is not None}
        return cls(**rest, inside=inside)

    def line(self) -> str:
        """One line with everything about it."""
        letter = "p" if self.quantity == "ppf" or "_convention" in self.activation else "x"
        at = "" if self.x is None else f" at {letter}={self.x:.9g}"
        at += "" if self.y is None else f", y={self.y:.9g}"
        part = "value" if self.part == "value" else f"gradient in {self.part[-1]}"
        return (
            f"{self.left} against {self.right}: {self.activation}{' ' if self.activation else ''}"
            f"{self.described} {part}{at}: "
            f"got {self.got:.9g}, expected {self.expected:.9g}, "
            f"error {self.error:.3g} {self.unit}, bound {self.bound:g} "
            f"({self.case}; {self.over} of {self.count} over)"
        )

    # For a user's functions

    @property
    def place(self) -> str:
        """The part and, if it has a name, the case."""
        return f"{self.part}, {self.case}" if self.case else self.part

    @property
    def problem(self) -> str:
        """Why the two cannot be compared: one has no gradient."""
        if not self.without_gradient:
            return ""
        return (
            f"{self.without_gradient} has none: its value does not depend on "
            f"{self.part.removeprefix('gradient in ')} as far as its framework can tell "
            "(detached, or computed outside)"
        )

    def lines(self) -> list[str]:
        """The place, and the difference there."""
        if self.problem or self.difference is None:
            return [f"{self.place}: {self.problem}"]
        where = ", ".join(f"{name} = {value:.9g}" for name, value in self.inside.items())
        told = self.difference.lines(self.names, where)
        return [f"{self.place}:", *(f"  {line}" for line in told)]

    def short(self) -> str:
        """One line."""
        d = self.difference
        if self.problem or d is None:
            return f"{self.place}: {self.problem}"
        if not d.comparable:
            return f"{self.place}: shapes {d.shapes[0]} and {d.shapes[1]}"
        needed = round_up(d.needed_rtol)
        return f"{self.place}: {d.over:,} of {d.count:,} miss, passes from rtol={needed} on"
