"""The verdict on a whole run: nothing that is wrong, absent or skipped passes unseen."""

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.accuracy import sweep as dense
from parity.accuracy.comparison import Comparison
from parity.accuracy.measurement import measure
from parity.common import processes
from parity.common.processes import progress_display
from parity.frameworks import installed as implementations
from parity.judge import judgement, worker
from parity.judge import run as runner
from parity.judge.judgement import Judgement
from parity.judge.run import Job, Outcome
from parity.judge.user_logits import LossRow
from parity.reference import REFERENCE_PATH
from parity.report.console import console
from parity.suite.case import Case
from parity.suite.cases import judged_cases
from parity.suite.inputs import Inputs
from parity.suite.records import Record

CDF = Case("grid", "float32", "arctan", "cdf")


def good() -> Judgement:
    """A judgement that passes."""
    exact = np.ones(1)
    m = measure("torch", "reference", CDF.bind({"x": exact}), "value", np.float32(exact), exact)
    return Judgement([Outcome("torch", Record.load(REFERENCE_PATH))], [m])


def test_every_part_of_a_judgement_counts() -> None:
    assert good().passed
    assert not Judgement([]).passed
    for change in (
        {"stale": ["stale exception: something"]},
        {"losses": [LossRow("arctan", "dice", 1.0, {"torch": 1.0, "keras-jax": 1.1})]},
        {"outcomes": [*good().outcomes, Outcome("keras-jax", error="exit code 1")]},
        {"measurements": [*good().measurements, replace(good().measurements[0], error=np.nan)]},
    ):
        found = replace(good(), **change)
        assert not found.passed
        assert len(found.failures()) == 1, found.failures()


def test_a_skip_fails_where_it_was_asked_for() -> None:
    found = good()
    found.outcomes.append(Outcome("keras-jax", skipped="jax is not installed"))
    assert found.passed
    assert found.skipped == ["keras-jax"]
    found = replace(found, required=frozenset({"torch", "keras-jax"}))
    assert not found.passed
    (line,) = found.failures()
    assert "keras-jax" in line
    assert "jax is not installed" in line


def test_stale_exceptions_are_looked_for_after_a_sweep_on_the_cpu(
    perfect_record: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judgement, "stale_exceptions", lambda found, names: [f"stale {names}"])
    record = Record.load(perfect_record())
    for device, swept, expected in (("cpu", True, 1), ("cpu", False, 0), ("cuda", True, 0)):
        outcome = Outcome("torch", replace(record, device=device))
        assert len(judgement.judge([outcome], swept).stale) == expected


def test_our_own_package_absent_is_broken_and_a_framework_absent_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without(*names: str) -> None:
        monkeypatch.setattr(implementations, "find_spec", lambda n: None if n in names else n)

    without("segact_tf", "jax")
    assert implementations.missing("keras-jax") == "jax is not installed"
    assert implementations.broken("keras-jax") == "segact_tf is not installed"
    assert implementations.broken("torch") == implementations.missing("torch") == ""
    monkeypatch.setattr(runner, "broken", lambda name: "segact_tf is not installed")
    with progress_display(console(stderr=True)) as progress:
        (outcome,) = runner.run(["keras-jax"], Job(Path("/nowhere")), progress)
    assert (outcome.skipped, outcome.error) == ("", "segact_tf is not installed")


def run_script(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """What the runner makes of a worker that runs this instead."""
    path = tmp_path / "worker.py"
    path.write_text(script)
    monkeypatch.setattr(Job, "command", lambda job, name: [sys.executable, str(path)])
    monkeypatch.setattr(runner, "missing", lambda name: "")
    with progress_display(console(stderr=True)) as progress:
        (outcome,) = runner.run(["torch"], Job(tmp_path, sweep=True), progress)
    return outcome


@pytest.mark.parametrize("code", [1, 3, 70])
def test_any_exit_code_is_a_failure(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = run_script(f"raise SystemExit({code})", tmp_path, monkeypatch)
    assert (outcome.skipped, outcome.error) == ("", f"exit code {code}")


def test_no_device_is_said_on_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"print({worker.NO_DEVICE!r} + 'jax sees no CUDA device')"
    outcome = run_script(line, tmp_path, monkeypatch)
    assert (outcome.skipped, outcome.error) == ("jax sees no CUDA device", "")
    outcome = run_script(line + "\nraise SystemExit(1)", tmp_path, monkeypatch)
    assert (outcome.skipped, outcome.error) == ("", "exit code 1")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("", "wrote no record"),
        ("open({record!r}, 'w').write('no record')", "not a safetensors file"),
        ("import shutil; shutil.copy({reference!r}, {record!r})", "wrote no sweep"),
        (
            "import shutil; shutil.copy({reference!r}, {record!r})\n"
            "import json; json.dump({{'measurements': [], 'curves': {{}}}}, open({sweep!r}, 'w'))",
            "the sweep lacks",
        ),
    ],
)
def test_a_worker_that_ends_well_with_less_than_everything_failed(
    script: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path)
    fields = {"record": str(job.record_path("torch")), "sweep": str(job.sweep_path("torch"))}
    script = script.format(reference=str(REFERENCE_PATH), **fields)
    outcome = run_script(script, tmp_path, monkeypatch)
    assert words in outcome.error
    assert outcome.record is None


def test_a_record_without_some_cases_failed(
    perfect_record: Callable[..., Path], tmp_path: Path
) -> None:
    path = perfect_record()
    assert runner._read_record(path, judged_cases())
    more = [*judged_cases(), Case("grid", "float32", "arctan", "else")]
    with pytest.raises(runner.RecordError, match="lacks 1 cases, first grid-float32/arctan/else"):
        runner._read_record(path, more)


def test_workers_import_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And this very package, after what the user has put in PYTHONPATH."""
    home = str(Path(processes.__file__).resolve().parents[2])
    monkeypatch.setenv("PYTHONPATH", f"/one{processes.os.pathsep}")
    monkeypatch.setattr(processes.sysconfig, "get_path", lambda kind: "/site-packages")
    assert processes.search_path().split(processes.os.pathsep) == ["/one", home]
    monkeypatch.setattr(processes.sysconfig, "get_path", lambda kind: home)
    assert processes.search_path() == "/one"
    assert "-P" in Job(tmp_path).command("torch")


def perfect(case: Case, inputs: Inputs) -> dict[str, Any]:
    """The oracle, rounded to float32."""
    with np.errstate(all="ignore"):
        found = dense.float64.evaluate(case.bind(inputs))
        return {part: np.nan_to_num(a.astype("f4"), posinf=np.inf) for part, a in found.items()}


def swept(
    monkeypatch: pytest.MonkeyPatch, evaluate: Callable[[Case, Inputs], dict[str, Any]]
) -> list[Comparison]:
    """A small sweep of two activations."""
    monkeypatch.setattr(dense, "COUNT", 1 << 10)
    monkeypatch.setattr(dense, "CHUNK", 1 << 9)
    monkeypatch.setattr(dense, "FAR_COUNT", 1 << 8)
    monkeypatch.setattr(dense, "ACTIVATIONS", ("arctan", "linear"))
    return [m for _, found in dense.sweep("torch", evaluate) for m in found]


def test_sweep_covers_what_is_wanted_near_and_far(monkeypatch: pytest.MonkeyPatch) -> None:
    found = swept(monkeypatch, perfect)
    assert dense.swept(found) == dense.wanted()
    assert all(m.passed for m in found), [m.line() for m in found if not m.passed]
    # both chunks, and what lies far out
    assert {m.count for m in found if m.quantity == "cdf"} == {1024, 1024 + 256}
    assert [m.part for m in found if m.quantity == "pdf"] == ["value", "grad_x"]
    assert asdict(found[0])["unit"] == "ulp"


@pytest.mark.parametrize(("part", "factor"), [("value", 7.0), ("grad_x", -1.0)])
def test_sweep_sees_errors_far_out_alone(
    monkeypatch: pytest.MonkeyPatch, part: str, factor: float
) -> None:
    def wrong(case: Case, inputs: Inputs) -> dict[str, Any]:
        found = perfect(case, inputs)
        if case.quantity == "logcdf" and part in found:
            found[part] = np.where(inputs["x"] < -1e4, factor * found[part], found[part])
        return found

    failed = [m for m in swept(monkeypatch, wrong) if not m.passed]
    assert {(m.activation, m.quantity, m.part) for m in failed} == {("arctan", "logcdf", part)}
