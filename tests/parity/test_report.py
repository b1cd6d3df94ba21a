"""The tables: everything is there, and it fits in 100 columns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from parity import report
from parity.cases import ACTIVATIONS, METHODS, Case
from parity.implementations import IMPLEMENTATIONS
from parity.judgement import Judgement, judge
from parity.records import Record
from parity.runner import Outcome
from parity.userfile import LossRow

Write = Callable[..., Path]


def judged(write: Write, change: Any = None) -> Judgement:
    """All four implementations, each as good as the reference, the last perhaps changed."""
    last = IMPLEMENTATIONS[-1]
    outcomes = [
        Outcome(name, Record.load(write(name, change=change if name == last else None)))
        for name in IMPLEMENTATIONS
    ]
    return judge(outcomes, swept=False)


def printed(judgement: Judgement, verbose: bool = False) -> list[str]:
    """The lines of the report."""
    out = Console(width=report.WIDTH, highlight=False, no_color=True)
    with out.capture() as text:
        report.print_report(out, judgement, verbose)
    return [line.rstrip() for line in text.get().splitlines()]


@pytest.mark.parametrize("verbose", [False, True])
def test_the_tables_are_whole_and_fit(perfect_record: Write, verbose: bool) -> None:
    lines = printed(judged(perfect_record), verbose)
    assert max(map(len, lines)) <= report.WIDTH
    text = "\n".join(lines)
    assert "…" not in text
    assert "passed: " in text
    assert ("every pair" in text) is verbose
    for word in (
        *ACTIVATIONS,
        *METHODS,
        "ppf",
        "cross entropy",
        "squared error",
        "dice, per sample",
    ):
        assert any(line.strip().startswith(word) for line in lines), word


def test_a_failure_is_named_at_the_end(perfect_record: Write) -> None:
    def change(case: Case, found: dict[str, Any]) -> None:
        if case.name == "grid-float32/softsign/sf":
            found["value"][100] = np.nan

    lines = printed(judged(perfect_record, change))
    assert any(line.startswith("  sf") and line.endswith("FAIL") for line in lines)
    end = lines[next(i for i, line in enumerate(lines) if line.startswith("FAILED")) :]
    assert end[1] == f"{IMPLEMENTATIONS[-1]} is out of bounds in softsign"
    assert "softsign sf value at x=" in end[2]
    assert "got nan" in end[2]


def test_losses_are_printed_with_nine_digits() -> None:
    values = {"torch": 0.123456789, "keras-jax": 0.123456788}
    table = report.loss_table(list(values), [LossRow("arctan", "dice", 0.1, values)])
    out = Console(width=report.WIDTH, no_color=True)
    with out.capture() as text:
        report.print_table(out, table)
    assert text.get().split()[-5:] == ["dice", "0.123456789", "0.123456788", "8.1e-09", "ok"]
