"""The tables: everything is there, nothing is cut, and it fits in 80 columns and in 100."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from parity.frameworks.installed import IMPLEMENTATIONS
from parity.judge.judgement import BASELINE_NAMES, BaselineRow, Judgement, judge
from parity.judge.run import Outcome
from parity.judge.user_logits import LossRow
from parity.report import accuracy_tables as report
from parity.report.console import WIDTH
from parity.suite.case import ACTIVATIONS, METHODS, Case
from parity.suite.records import Record

Write = Callable[..., Path]


def judged(write: Write, change: Any = None) -> Judgement:
    """All four implementations, each as good as the reference, the last perhaps changed."""
    last = IMPLEMENTATIONS[-1]
    outcomes = [
        Outcome(name, Record.load(write(name, change=change if name == last else None)))
        for name in IMPLEMENTATIONS
    ]
    return judge(outcomes, swept=False)


def printed(judgement: Judgement, verbose: bool = False, width: int = WIDTH) -> list[str]:
    """The lines of the report."""
    out = Console(width=width, highlight=False, no_color=True)
    with out.capture() as text:
        report.print_report(out, judgement, verbose)
    return [line.rstrip() for line in text.get().splitlines()]


@pytest.mark.parametrize(("verbose", "width"), [(False, 100), (True, 100), (True, 80)])
def test_the_tables_are_whole_and_fit(perfect_record: Write, verbose: bool, width: int) -> None:
    lines = printed(judged(perfect_record), verbose, width)
    assert len(IMPLEMENTATIONS) == 4
    assert max(map(len, lines)) <= width
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
        "focal cross entropy",
        "focal tversky",
        "lovasz hinge",
        "torch_legacy",
    ):
        assert any(line.strip().startswith(word) for line in lines), word


def test_a_failure_is_named_at_the_end(perfect_record: Write) -> None:
    def change(case: Case, found: dict[str, Any]) -> None:
        if case.name == "grid-float32/softsign/sf":
            found["value"][100] = np.nan

    lines = printed(judged(perfect_record, change))
    assert any(line.split()[:2] == ["sf", "FAIL"] and "inf" in line for line in lines)
    narrow = printed(judged(perfect_record, change), width=40)
    assert "…" not in "\n".join(narrow)
    assert any(line.split()[:2] == ["sf", "FAIL"] and "inf" in line for line in narrow)
    end = lines[next(i for i, line in enumerate(lines) if line.startswith("FAILED")) :]
    assert end[1] == f"{IMPLEMENTATIONS[-1]} is out of bounds in softsign"
    assert "softsign sf value at x=" in end[2]
    assert "got nan" in end[2]


def test_a_failing_option_is_named(perfect_record: Write) -> None:
    def change(case: Case, found: dict[str, Any]) -> None:
        if case.name == "volume-weight-soft-float32/arctan/jaccard,weight":
            found["value"] *= np.float32(1.1)
        if case.name == "predictions-float64/keras2_convention/binary_cross_entropy,y=1":
            found["value"][0] = np.inf

    lines = printed(judged(perfect_record, change))
    for title, row in (("sums over", "jaccard"), ("cross entropy from prob", "keras2")):
        verdicts = [line.split()[1] for line in rows(lines, title) if line.split()[:1] == [row]]
        assert sorted(verdicts) == ["FAIL", "ok"]
    name = IMPLEMENTATIONS[-1]
    assert f"{name} is out of bounds in keras2_convention, arctan" in lines
    for start in (
        f"{name} against oracle: arctan jaccard,weight value: got ",
        f"{name} against reference: keras2_convention binary_cross_entropy,y=1 value at p=0, y=1: ",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, start


def test_losses_of_four_fit_80_columns_with_all_their_digits() -> None:
    values = dict.fromkeys(IMPLEMENTATIONS, 0.00576562621)
    loss = LossRow("inverse_square_root", "mean_squared_error,mean", 0.00576, values)
    for width, columns in ((80, 0), (100, 1)):
        out = Console(width=width, no_color=True)
        with out.capture() as text:
            report.print_table(out, report.loss_table(list(values), [loss]))
        lines = text.get().splitlines()
        assert max(map(len, lines)) <= width
        assert lines[-1].count("0.00576562621") == 4
        assert lines[3].count("difference") == columns


def test_what_is_shown_fits_80_columns() -> None:
    figures = (1.0, -1e4, 16.1, -4600, 1e4, 5.96e-08, 4600, 2.5e-09)
    found = [
        BaselineRow(formula, "keras-tensorflow", "inverse_square_root", *figures)
        for formula in BASELINE_NAMES.values()
    ]
    out = Console(width=80, no_color=True)
    with out.capture() as text:
        report.print_table(out, report.baseline_table(found))
    assert max(map(len, text.get().splitlines())) <= 80
    assert "16.1 from -4600" in text.get()


def rows(lines: list[str], title: str) -> list[str]:
    """The lines of the table under a title."""
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    return lines[start : lines.index("", start)]


def test_every_table_ends_with_its_own_bounds(perfect_record: Write) -> None:
    lines = printed(judged(perfect_record), width=80)
    keras, torch = ["8/16"] * 3, "4/8"
    single = rows(lines, "float32, element by element")
    assert [line.split() for line in single[-4:]] == [
        ["bound", *keras, torch],
        ["bound", "of", "squared", "error", *["16/16"] * 3, "8/8"],
        ["bound", "of", "focal", "cross", "entropy", *["25/32"] * 3, "13/16"],
        ["bound", "of", "ppf", "16", "16", "16", "8"],
    ]
    double = rows(lines, "float64, element by element")
    assert double[-4].split() == ["bound", *["1e-13/1e-12"] * 3, "1e-14/1e-13"]
    sums = rows(lines, "sums over all elements")
    conventions = rows(lines, "cross entropy from probabilities")
    for table, narrow, wide in (
        (sums, [*["2e-06/1e-05"] * 3, "1e-06/1e-05"], [*["1e-12/1e-12"] * 3, "1e-13/1e-12"]),
        (conventions, [*keras[:3], torch], [*["1e-13/1e-12"] * 3, "1e-14/1e-13"]),
    ):
        assert [line.split()[1:] for line in table if "bound" in line] == [narrow, wide]
    assert not any("e-" in line.partition("*")[0] for line in single[2:])  # ulp only


def test_the_star_marks_what_stands_at_x(perfect_record: Write) -> None:
    def change(case: Case, found: dict[str, Any]) -> None:
        if case.name == "grid-float32/softsign/sf":
            found["grad_x"][100] *= np.float32(1 + 1e-6)

    found = judged(perfect_record, change)
    x = found.outcomes[0].record.inputs("grid-float32")["x"][100]  # type: ignore[union-attr]
    (line,) = [
        row for row in rows(printed(found), "float32") if "*" in row and f"{x:.3g}" in row.split()
    ]
    assert line.split()[0] == "sf"
    assert line.split()[5].endswith("*")


def test_skipped_ones_are_counted_in_the_verdict(perfect_record: Write) -> None:
    found = judged(perfect_record)
    found.outcomes.append(Outcome("another", skipped="it is not installed"))
    assert printed(found)[-1].endswith(", all within bounds, 1 skipped")


def test_losses_are_printed_with_nine_digits() -> None:
    values = {"torch": 0.123456789, "keras-jax": 0.123456788}
    table = report.loss_table(list(values), [LossRow("arctan", "dice", 0.1, values)])
    out = Console(width=WIDTH, no_color=True)
    with out.capture() as text:
        report.print_table(out, table)
    assert text.get().split()[-5:] == ["dice", "ok", "0.123456789", "0.123456788", "8.1e-09"]
