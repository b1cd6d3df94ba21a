"""The command line: exit codes, messages of one plain line, JSON that is whole or not there."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from parity.common.files import json_text
from parity.reference import REFERENCE_PATH
from parity.suite.cases import judged_cases, standard_cases
from parity.suite.records import Record

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """Standard error of a run that ended with code 2; one plain line."""
    code, error = result.returncode, result.stderr
    assert code == 2, (code, error)
    assert "Traceback" not in error
    assert error.count("\n") == 1
    return error


def test_version_and_help(segact_parity: Run) -> None:
    version = segact_parity("--version")
    assert version.returncode == 0
    assert version.stdout.startswith("segact-parity ")
    assert "run" in segact_parity("--help").stdout
    assert segact_parity("run", "--no-such-option").returncode == 2
    assert segact_parity("run", "--device", "abacus").returncode == 2


def test_bad_arguments_are_named(segact_parity: Run, tmp_path: Path) -> None:
    assert "unknown implementation theano" in refused(
        segact_parity("run", "--implementation", "theano")
    )
    assert "unknown implementation x" in refused(segact_parity("record", "x", "-o", "out"))
    assert "nowhere/a.json" in refused(segact_parity("run", "--json", "nowhere/a.json"))
    assert "nowhere/r" in refused(segact_parity("record", "torch", "-o", "nowhere/r"))
    assert "absent.npz: no such file" in refused(segact_parity("run", "--inputs", "absent.npz"))
    np.savez(tmp_path / "bad.npz", logits=np.zeros(3, int), targets=np.zeros(3))
    assert "bad.npz: logits are int64" in refused(segact_parity("run", "--inputs", "bad.npz"))
    (tmp_path / "r").write_bytes(b"no record")
    assert "r: truncated or not" in refused(segact_parity("compare", "r", REFERENCE_PATH))
    assert "gone: no such record" in refused(segact_parity("compare", REFERENCE_PATH, "gone"))


def test_messages_help(segact_parity: Run) -> None:
    near = refused(segact_parity("run", "--implementation", "pytorch"))
    assert "did you mean torch?" in near
    assert "--inputs nuclei.npz" in refused(segact_parity("run", "nuclei.npz"))
    both = segact_parity("run", "--markdown", "--json", "-")
    assert "--markdown and --json -" in refused(both)
    assert "--markdown" in refused(segact_parity("run", "--markdown", "--inputs", "a.npz"))


def test_unwritable_output_is_refused_before_the_work(segact_parity: Run, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in ("/proc/x.json", ".", "nowhere/x", "loop/x"):
        assert "cannot write there" in refused(segact_parity("run", "--json", path))
        assert "cannot write there" in refused(segact_parity("record", "torch", "-o", path))


def test_a_file_of_the_command_is_not_written_to(segact_parity: Run, tmp_path: Path) -> None:
    """One that it reads, or that it writes besides."""
    mine = tmp_path / "mine.py"
    mine.write_text("def loss(x, y): return x * y")
    (tmp_path / "link").symlink_to(mine)
    function = "mine.py:loss(a=':')"
    for command in (
        ("compare", "mine.py", REFERENCE_PATH, "--json", "./mine.py"),
        ("compare", REFERENCE_PATH, "link", "--json", "mine.py"),
        ("record", function, "-o", "link"),
        ("run", "--implementation", f"mine={function}", "--json", "mine.py"),
        ("run", "--inputs", "mine.py", "--json", "mine.py"),
        ("run", "--json", "r/report.json", "--report", "r"),
        ("train", "--json", "r/report.json", "--report", "r"),
        ("conventions", "--json", "a.png", "--figure", "a.png"),
    ):
        (tmp_path / "r").mkdir(exist_ok=True)
        assert "wanted another file" in refused(segact_parity(*command))
    assert mine.read_text().startswith("def loss")


def test_reference_is_the_shipped_record_on_either_side(
    segact_parity: Run, perfect_record: Callable[..., Path]
) -> None:
    good = perfect_record("torch")
    for sides in ((good, "reference"), ("reference", good), (REFERENCE_PATH, good)):
        result = segact_parity("compare", *sides)
        assert result.returncode == 0, result.stdout
        assert result.stdout.startswith(str(good))


@pytest.mark.needs("torch")
def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C: one plain line, code 130, and no worker goes on or starts."""
    command = [sys.executable, "-m", "parity", "run", "--no-dense"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell starts its background jobs deaf to Ctrl-C, and a test inherits that.
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=tmp_path, env=env, preexec_fn=heed, **pipes)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("segact-parity-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == ""
    assert error.split("\n")[-2] == "segact-parity: interrupted"
    assert "Traceback" not in error
    assert not list(tmp_path.glob("segact-parity-*"))


def test_compare_passes_and_fails(
    segact_parity: Run, perfect_record: Callable[..., Path], tmp_path: Path
) -> None:
    good = perfect_record("torch")
    result = segact_parity("compare", good, REFERENCE_PATH, "--json", "all.json")
    assert result.returncode == 0, result.stderr
    assert "passed" in result.stdout
    written = json.loads((tmp_path / "all.json").read_text())
    assert written["passed"] is True
    assert written["failures"] == []
    assert len({m["case"] for m in written["measurements"]}) == len(judged_cases())

    def change(case: object, found: dict[str, np.ndarray]) -> None:
        if getattr(case, "name", "") == "segmentation-soft-float32/normal_cdf/dice":
            found["value"] *= np.float32(1.00001)

    bad = perfect_record("keras-jax", change=change)
    result = segact_parity("compare", bad, good, "--json", "-")
    assert result.returncode == 1
    assert json.loads(result.stdout)["passed"] is False
    assert "normal_cdf dice value" in result.stderr
    assert "keras-jax against torch" in result.stderr


def test_record_reference_is_the_shipped_one(segact_parity: Run, tmp_path: Path) -> None:
    result = segact_parity("record", "reference", "-o", "again.safetensors")
    assert result.returncode == 0, result.stderr
    again, shipped = Record.load(tmp_path / "again.safetensors"), Record.load(REFERENCE_PATH)
    for case in standard_cases():
        kept = shipped.result(case)
        for part, array in again.result(case).items():
            assert array.tobytes() == kept[part].tobytes(), (case.name, part)


def test_nothing_judged_is_a_failure(segact_parity: Run, tmp_path: Path) -> None:
    """With the framework missing, the run says so and ends with code 1."""
    blocker = tmp_path / "blocked"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(
        "import importlib.util as u\nreal = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else real(name, *a)\n"
    )
    result = segact_parity("run", "--implementation", "torch", ahead=blocker)
    assert result.returncode == 1
    assert "skipped: torch is not installed" in result.stdout
    assert "nothing was judged" in result.stdout
    result = segact_parity("record", "torch", "-o", "r", ahead=blocker)
    assert "torch is not installed" in refused(result)


@pytest.mark.needs("torch")
def test_a_crash_is_shown_and_fails(
    segact_parity: Run, copy_of_package: Callable[[str], Path]
) -> None:
    package = copy_of_package("segact_torch")
    (package / "__init__.py").write_text("raise RuntimeError('the roof is on fire')\n")
    result = segact_parity("run", "--implementation", "torch", ahead=package.parent)
    assert result.returncode == 1
    assert "torch failed: exit code 1" in result.stdout
    assert "RuntimeError: the roof is on fire" in result.stdout


@pytest.mark.needs("torch")
def test_no_such_device_is_skipped(segact_parity: Run) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    result = segact_parity("run", "--implementation", "torch", "--device", "cuda")
    assert result.returncode == 1
    assert "skipped: torch sees no CUDA device" in result.stdout


@pytest.mark.needs("torch")
def test_record_then_compare(segact_parity: Run, tmp_path: Path) -> None:
    assert segact_parity("record", "torch", "-o", "mine.safetensors").returncode == 0
    assert not list(tmp_path.glob(".mine*"))
    result = segact_parity("compare", "mine.safetensors", REFERENCE_PATH)
    assert result.returncode == 0, result.stdout
    record = Record.load(tmp_path / "mine.safetensors")
    assert record.implementation == "torch"
    assert "torch" in record.versions


@pytest.mark.needs("torch")
def test_markdown_is_a_table(segact_parity: Run) -> None:
    result = segact_parity("run", "--implementation", "torch", "--no-dense", "--markdown")
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("torch: done, ")
    lines = result.stdout.splitlines()
    assert lines[0] == "| float32, ulp | torch |"
    assert lines[-1] == "| bound | 4 / 8 |"
    assert len(lines) == 2 + 7 + 1


def test_json_has_no_infinities() -> None:
    text = json_text({"a": [float("inf"), 1.0, float("nan")], "b": {"c": -float("inf")}})
    assert json.loads(text) == {
        "a": ["inf", 1.0, "nan"],
        "b": {"c": "-inf"},
    }
