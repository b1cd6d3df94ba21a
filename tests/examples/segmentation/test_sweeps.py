"""`sweep`: every combination once, killed and gone on with, and one failure alone."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from examples.common.files import held_alone
from examples.common.runs import RunError
from examples.segmentation import cli, sweeps
from examples.segmentation.options import Options
from parity.report.console import console

ROOT = Path(__file__).parents[3]
SMALL = ("--width", "2", "--depth", "2", "--size", "16", "--folds", "2", "--epochs", "2")


def plan(**changed: object) -> sweeps.Plan:
    asked = {
        "base": Options(folds=2, width=2, depth=2, size=16, epochs=2),
        "implementations": ("torch", "keras-jax"),
        "activations": ("sigmoid", "arctan"),
        "losses": ("dice",),
        "seeds": (0, 3),
    }
    return sweeps.Plan(**(asked | changed))  # type: ignore[arg-type]


def prepared(asked: sweeps.Plan, out: Path) -> None:
    """A sweep of which nothing is trained."""
    found = sweeps._asked(asked, out)
    out.mkdir(exist_ok=True)
    (out / "sweep.json").write_text(json.dumps(found))


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "examples.segmentation", *map(str, arguments)]


def test_every_combination_is_one_run() -> None:
    found = [sweeps.name_of(options) for options in plan().runs()]
    assert len(set(found)) == len(found) == 2 * 2 * 2 * 2
    assert found[0] == "torch_sigmoid_dice_fold0_seed0"
    assert found[-1] == "keras-jax_arctan_dice_fold1_seed3"
    mine = plan(activations=("mymod:act",), implementations=("torch",), seeds=(0,))
    assert next(map(sweeps.name_of, mine.runs())) == "torch_mymod.act_dice_fold0_seed0"


def test_a_command_line_asks_for_its_run(tmp_path: Path) -> None:
    scheduling = pytest.importorskip("examples.common.scheduling")
    options = next(plan(base=Options(folds=2, augment=False, size=32, data="drive:d")).runs())
    job = scheduling.Job("examples.segmentation", options, "run", tmp_path)
    assert job.words[:4] == ["examples.segmentation", "train", "--out", str(tmp_path / "runs/run")]
    assert json.loads(_options_of(job.words[1:])) == options.as_dict()


def _options_of(words: list[str]) -> str:
    """What `train` makes of a command line."""
    import typer

    found = {}
    command = typer.main.get_command(cli.app).commands["train"]  # type: ignore[attr-defined]
    with command.make_context("train", words[1:]) as context:
        typed = cli.typed_options(context, cli._APART)
        found = cli._options(typed).as_dict()
    return json.dumps(found)


def rows_of(run: Path) -> list[str]:
    history = run / "history.csv"
    return history.read_text().splitlines()[1:] if history.is_file() else []


@pytest.mark.needs("torch", "lightning", "tensorboard", "distributed")
def test_a_killed_worker_and_a_killed_sweep_go_on_where_they_were(tmp_path: Path) -> None:
    import psutil

    def trainings() -> dict[Path, psutil.Process]:
        """By the folder of the run."""
        found = {}
        for each in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "--out" in (words := each.cmdline()):
                    found[Path(words[words.index("--out") + 1])] = each
        return found

    out, asked = tmp_path / "out", (*SMALL, "--activations", "arctan", "--losses", "dice")
    words = command("sweep", "--out", out, *asked, "--epochs", 10, "--jobs", 2)
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
    until, before = time.monotonic() + 150, None
    while before is None or len(rows_of(before[0])) <= len(before[1]):
        assert process.poll() is None
        assert time.monotonic() < until
        for run, training in trainings().items():
            if before is None and len(rows := rows_of(run)) > 1:
                training.parent().kill()
                before = run, rows
        time.sleep(0.02)
    left = trainings()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(left.values(), timeout=60)  # they end with the sweep
    assert not any(map(psutil.Process.is_running, left.values()))
    held = {run: rows_of(run) for run in left} | dict([before])
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    found = sorted(out.glob("runs/*/result.json"))
    assert len(found) == 2
    # with their seconds, rows are the same where they were not made again, which the last may be
    for run, rows in held.items():
        assert rows_of(run)[: len(rows) - 1] == rows[:-1]
    assert json.loads((out / "sweep.json").read_text())["losses"] == ["dice"]


@pytest.mark.needs("torch", "lightning", "tensorboard", "distributed")
def test_one_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (*SMALL, "--activations", "nosuch:thing,sigmoid", "--losses", "mse", "--out", out)
    result = subprocess.run(
        command("sweep", *words, "--folds", 2, "--jobs", 2),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 1
    failed = [line for line in result.stderr.splitlines() if "FAILED" in line]
    assert len(failed) == 4  # both when they happen, and at the end
    assert "No module named 'nosuch'" in failed[0]
    assert len(list(out.glob("runs/torch_sigmoid_*/result.json"))) == 2


@pytest.mark.needs("distributed")
def test_names_that_mean_the_same_are_refused(tmp_path: Path) -> None:
    twice = plan(losses=("dice", "dice"))
    with pytest.raises(RunError, match="the same twice"):
        sweeps.run(twice, tmp_path / "out", None, console(stderr=True))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_was_moved_is_the_same_and_another_is_not(tmp_path: Path) -> None:
    def of(source: str) -> sweeps.Plan:
        return plan(base=Options(folds=2, data=source))

    prepared(of("drive:/here/DRIVE"), tmp_path / "out")
    prepared(of("drive:/there/DRIVE"), tmp_path / "out")
    with pytest.raises(RunError, match="this sweep has --data drive:/there/DRIVE, not kvasir"):
        prepared(of("kvasir:/there/DRIVE"), tmp_path / "out")
    with pytest.raises(RunError, match="this sweep has --data drive:/there/DRIVE, not None"):
        prepared(plan(base=Options(folds=2)), tmp_path / "out")


@pytest.mark.needs("distributed")
def test_a_sweep_of_something_else_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    prepared(plan(), out)
    prepared(plan(losses=("mean_squared_error",), seeds=(4,)), out)
    held = json.loads((out / "sweep.json").read_text())
    assert held["losses"] == ["dice", "mean_squared_error"]
    assert held["seeds"] == [0, 3, 4]
    with pytest.raises(RunError, match="this sweep has --width 2, not 8"):
        prepared(plan(base=Options(folds=2, depth=2, size=16, epochs=2)), out)
    with held_alone(out / ".lock", ""), pytest.raises(RunError, match="at work there"):
        sweeps.run(plan(), out, None, console(stderr=True))
    (tmp_path / "note").write_text("mine")
    with pytest.raises(RunError, match="holds something else"):
        prepared(plan(), tmp_path)


@pytest.mark.needs("distributed")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--framework", "jax"], "--framework: jax; wanted keras, torch, keras-tensorflow"),
        (["--activations", "sigmoid,,sigmoid"], "--activations: 'sigmoid,,sigmoid'; wanted diff"),
        (["--losses", ""], "--losses: ''; wanted different names"),
        (["--losses", "bce,dise"], "unknown loss dise; did you mean dice"),
        (["--activations", "arktan"], "arktan"),
        (["--seeds", "a"], "--seeds: 'a'; wanted whole numbers"),
        (["--seeds", "1,1"], "--seeds: '1,1'; wanted different names"),
        (["--jobs", "0"], "--jobs is 0; wanted a whole number >= 1"),
        (["--jobs", "2", "--scheduler", "tcp://h:1"], "--jobs: not with --scheduler"),
        (["--dashboard", "--scheduler", "tcp://h:1"], "--dashboard: not with --scheduler"),
        (["--width", "0"], "--width is 0; wanted a whole number >= 1"),
    ],
)
def test_what_makes_no_sense_is_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["sweep", "--out", str(tmp_path / "out"), *words])
    assert (result.exit_code, said in result.output) == (2, True), result.output
    assert not (tmp_path / "out").exists()
