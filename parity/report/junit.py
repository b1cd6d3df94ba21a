"""The results of a run as JUnit XML: what CI systems show test by test."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parity.accuracy import bounds
from parity.accuracy.comparison import Comparison
from parity.accuracy.measurement import worst
from parity.judge.judgement import Judgement
from parity.judge.run import Outcome

if TYPE_CHECKING:
    from junitparser import TestCase, TestSuite

    from parity.training.run import Trainings

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _clean(words: str) -> str:
    """The text without characters that XML cannot hold, such as the colour codes of a terminal."""
    return _NOT_XML.sub("?", words)


def _case(suite: str, name: str, wrong: str = "", skipped: str = "", error: str = "") -> "TestCase":
    from junitparser import Error, Failure, Skipped, TestCase

    case = TestCase(_clean(name), _clean(suite))
    for kind, words in ((Failure, wrong), (Skipped, skipped), (Error, error)):
        if words:
            first, _, rest = _clean(words).partition("\n")
            result = kind(first)
            if rest:
                result.text = rest
            case.result = [result]
    return case


def _suite(name: str, cases: Iterable["TestCase"]) -> "TestSuite":
    from junitparser import TestSuite

    suite = TestSuite(name)
    suite.add_testcases(list(cases))
    return suite


def _measured(suite: str, found: Iterable[Comparison]) -> list["TestCase"]:
    """One case per precision, activation, quantity and part."""
    return [
        _case(
            f"{suite}.{m.dtype}",
            f"{m.activation} {m.described} {m.part}",
            "" if m.passed else m.line(),
        )
        for m in found
    ]


def _outcome_suite(
    outcome: Outcome, found: Iterable[Comparison], required: frozenset[str]
) -> "TestSuite":
    """The results of one implementation against the expected values."""
    name, asked = outcome.name, outcome.name in required
    cases = _measured(name, found)
    if outcome.error:
        cases.append(_case(name, "run", error=outcome.error))
    if outcome.skipped:
        words = f"skipped: {outcome.skipped}"
        cases.append(_case(name, "run", **{"wrong" if asked else "skipped": words}))
    return _suite(name, cases)


def _judgement_suites(judgement: Judgement) -> list["TestSuite"]:
    alone: dict[str, list[Comparison]] = {}
    pairs: dict[str, list[Comparison]] = {}
    for m in worst(judgement.measurements).values():
        if m.against_exact:
            alone.setdefault(m.left, []).append(m)
        else:
            pairs.setdefault(f"{m.left} against {m.right}", []).append(m)
    suites = [
        _outcome_suite(outcome, alone.pop(outcome.name, []), judgement.required)
        for outcome in judgement.outcomes
    ]
    suites += [_suite(name, _measured(name, found)) for name, found in alone.items()]
    suites += [_suite(name, _measured(name, found)) for name, found in pairs.items()]
    if judgement.losses:
        rows = [(f"{row.activation} {row.loss}", row) for row in judgement.losses]
        words = f"implementations differ by more than {bounds.FILE_AGREEMENT:g}"
        cases = [_case("file", name, "" if row.passed else words) for name, row in rows]
        suites.append(_suite("losses on the file", cases))
    if judgement.stale:
        cases = [_case("exceptions", line, line) for line in judgement.stale]
        suites.append(_suite("exceptions", cases))
    if not judgement.measurements:
        words = "nothing was judged: no implementation could run"
        suites.append(_suite("run", [_case("run", "judged", words)]))
    return suites


def _training_suite(trainings: "Trainings") -> "TestSuite":
    """One case per optimizer, precision and implementation."""
    cases = []
    for run in trainings.runs:
        lines = run.failures()
        for name in run.curves:
            wrong = "\n".join(line for line in lines if line.startswith(f"{name} "))
            cases.append(_case(f"training.{name}", f"{run.optimizer} {run.dtype}", wrong))
    for name, words in trainings.skipped.items():
        kind = "wrong" if name in trainings.required else "skipped"
        cases.append(_case(f"training.{name}", "run", **{kind: f"skipped: {words}"}))
    cases += [_case(f"training.{n}", "run", error=words) for n, words in trainings.failed.items()]
    if not trainings.implementations:
        cases.append(_case("training", "trained", "nothing was trained"))
    return _suite("training", cases)


def _check_suite(checks: Sequence[Mapping[str, Any]]) -> "TestSuite":
    """One case per check, in the order in which they were made."""
    cases = []
    for check in checks:
        wrong = "" if check["passed"] else str(check.get("message", "")) or "failed"
        cases.append(_case(str(check["name"]), str(check.get("what", "")), wrong))
    if not checks:
        cases.append(_case("checks", "checked", skipped="nothing was checked"))
    return _suite("checks", cases)


def text(
    judgement: Judgement | None = None,
    trainings: "Trainings | None" = None,
    checks: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The XML: a suite per implementation, per pair of them, for the training and for the checks.

    A case is one precision, activation, quantity and part, the worst over its input sets; where it
    fails, its message is the line of the terminal.
    """
    from junitparser import JUnitXml

    xml = JUnitXml("segact-parity")
    suites = _judgement_suites(judgement) if judgement else []
    suites += [_training_suite(trainings)] if trainings else []
    suites += [_check_suite(checks)] if checks is not None else []
    for suite in suites:
        xml.append(suite)
    xml.update_statistics()
    content = xml.tostring()
    return content.decode() if isinstance(content, bytes) else str(content)
