"""The pytest plugin, in a pytest of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = """
import numpy as np
from parity import assert_parity

def double(x): return np.add(x, x)
def times(x): return np.multiply(x, 2)
def wrong(x): return np.multiply(x, 2.5)

X = [np.linspace(0, 3, 7)]

def test_agrees(parity):
    parity(double, times, inputs=X)

def test_imported():
    assert_parity(double, times, inputs=X)

def test_differs(parity):
    parity(double, wrong, inputs=X, rtol=np.float64(1e-5))
"""

Pytest = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_pytest(tmp_path: Path) -> Pytest:
    """Runs pytest on `TESTS`, with the plugin as the installed package registers it."""
    (tmp_path / "test_port.py").write_text(TESTS)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_the_message_ends_the_test(run_pytest: Pytest) -> None:
    done = run_pytest()
    assert done.returncode == 1
    assert "1 failed, 2 passed" in done.stdout
    assert "double and wrong differ in the value" in done.stdout
    assert "index (6,): x = 3" in done.stdout
    assert "assertions.py" not in done.stdout  # the traceback ends in the user's own file
    assert "parity report" not in done.stdout


@pytest.mark.parametrize("spread", [(), ("-n", "2"), ("-p", "no:xdist")])
def test_the_report_holds_every_check(
    run_pytest: Pytest, tmp_path: Path, spread: tuple[str, ...]
) -> None:
    if "-n" in spread:
        pytest.importorskip("xdist")
    done = run_pytest("--parity-report", "found/here", *spread)
    assert "1 failed, 2 passed" in done.stdout
    assert "index.html (3 checks)" in done.stdout
    folder = tmp_path / "found" / "here"
    assert sorted(p.name for p in folder.iterdir()) == ["index.html", "junit.xml", "report.json"]
    checks = {c["name"]: c for c in json.loads((folder / "report.json").read_text())["checks"]}
    assert {n: c["passed"] for n, c in checks.items()} == {
        "test_port.py::test_agrees": True,
        "test_port.py::test_imported": True,
        "test_port.py::test_differs": False,
    }
    assert "double and wrong differ" in checks["test_port.py::test_differs"]["message"]
    assert checks["test_port.py::test_differs"]["needed_rtol"] == pytest.approx(0.2)


OTHERS = """
import numpy as np
import pytest
from parity import ParityError, assert_parity, run_in_backend, weights

X = [np.ones(3)]

def test_is_expected(parity):
    with pytest.raises(ParityError):
        parity(np.sin, np.cos, inputs=X)

@pytest.mark.xfail(strict=True)
def test_is_known(parity):
    parity(np.sin, np.cos, inputs=X)

def test_breaks(parity):
    parity(np.sin, lambda x: np.reshape(x, (2, 2)), inputs=X)

def test_breaks_before(parity):
    raise RuntimeError("no data")

def test_of_nothing_here():
    raise RuntimeError("not ours")

def test_asks_for_nonsense():
    run_in_backend("jx", "a:b")

def test_expects_that():
    with pytest.raises(ValueError, match="unknown backend"):
        run_in_backend("jx", "a:b")

def test_carries_weights():
    raise weights.WeightsError("5 settings differ")

def test_through_a_helper():
    weights.copy(3, 4)

def test_of_a_cause():
    try:
        raise weights.WeightsError("5 settings differ")
    except weights.WeightsError as error:
        raise RuntimeError("my own words") from error

def test_expects_an_error_of_ours():
    with pytest.raises(weights.WeightsError):
        raise weights.WeightsError("refused")

@pytest.fixture
def loaded():
    weights.load("nowhere.safetensors", 3)

def test_fails_in_its_setup(loaded):
    pass
"""


def test_errors_are_no_passes_and_expected_differences_no_failures(
    run_pytest: Pytest, tmp_path: Path
) -> None:
    (tmp_path / "test_port.py").write_text(OTHERS)
    done = run_pytest("--parity-report", "found")
    assert "7 failed, 3 passed, 1 xfailed, 1 error" in done.stdout
    found = json.loads((tmp_path / "found" / "report.json").read_text())
    assert not found["passed"]
    checks = {c["name"].partition("::")[2]: c for c in found["checks"]}
    passed = {name: check["passed"] for name, check in checks.items()}
    wrong = ("test_breaks", "test_breaks_before", "test_asks_for_nonsense")
    wrong += ("test_carries_weights", "test_through_a_helper", "test_of_a_cause")
    wrong += ("test_fails_in_its_setup",)
    assert passed == {
        "test_is_expected": True,
        "test_is_known": True,
        **dict.fromkeys(wrong, False),
    }
    assert checks["test_is_known"]["what"] == "sin and cos, as expected"
    assert "ValueError: cannot reshape" in checks["test_breaks"]["message"]
    assert "RuntimeError: no data" in checks["test_breaks_before"]["message"]
    assert "unknown backend jx" in checks["test_asks_for_nonsense"]["message"]
    assert "5 settings differ" in checks["test_carries_weights"]["message"]
    assert "nowhere.safetensors" in checks["test_fails_in_its_setup"]["message"]


def test_a_run_without_checks_is_no_pass(run_pytest: Pytest, tmp_path: Path) -> None:
    (tmp_path / "test_port.py").write_text("def test_other(): pass")
    done = run_pytest("--parity-report", "found")
    assert done.returncode == 0
    assert "(0 checks)" in done.stdout
    found = json.loads((tmp_path / "found" / "report.json").read_text())
    assert (found["passed"], found["failures"]) == (False, ["nothing was checked"])
    assert "passed" not in (tmp_path / "found" / "index.html").read_text()
    assert "nothing was checked" in (tmp_path / "found" / "index.html").read_text()
    junit = (tmp_path / "found" / "junit.xml").read_text()
    assert 'skipped message="nothing was checked"' in junit


def test_a_file_in_the_way_is_refused(run_pytest: Pytest, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    done = run_pytest("--parity-report", "taken")
    assert done.returncode == 4
    assert "--parity-report taken: wanted a folder, it is a file" in done.stderr
    assert (tmp_path / "taken").read_text() == "mine"


def test_loading_it_imports_nothing_else() -> None:
    code = "import sys, parity.pytest_plugin; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
