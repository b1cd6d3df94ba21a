"""Trainings on Dask's workers, of which any is killed; with a stub whose epochs cost nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="the extra sweep is not installed")

import psutil
import stub_training
from dask import config
from distributed import KilledWorker
from typer.testing import CliRunner

from examples.cats_vs_dogs import cli as cats_vs_dogs
from examples.common import scheduling
from examples.common.runs import Run, RunError
from examples.segmentation import cli as segmentation

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
RUNS = 5


def until(holds: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def start(*words: object, importable: bool = True, **how: object) -> psutil.Popen:
    """A program; without the examples to import where it is not `importable`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": PATHS} if importable else {}
    return psutil.Popen([sys.executable, "-m", *map(str, words)], env=environment, **how)


class ByHand:
    """A scheduler and workers, started as by hand in other shells."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.processes: list[psutil.Popen] = []

    def start(self, what: str, *words: object, importable: bool = True) -> psutil.Popen:
        where = ("--scheduler-file", self.file, "--no-dashboard")
        with (self.folder / f"{what}.txt").open("ab") as log:
            module = f"distributed.cli.dask_{what}"
            how = {"stdout": log, "stderr": log, "cwd": self.folder}
            self.processes.append(start(module, *where, *words, importable=importable, **how))
        return self.processes[-1]

    def start_scheduler(self, **how: bool) -> psutil.Popen:
        self.file.unlink(missing_ok=True)
        started = self.start("scheduler", "--host", "127.0.0.1", "--port", 0, **how)
        until(lambda: self.address)
        return started

    @property
    def address(self) -> str:
        """Empty until the scheduler has written its file to the end."""
        with suppress(OSError, ValueError):
            return json.loads(self.file.read_text())["address"]
        return ""

    def stop(self) -> None:
        every = [one for each in self.processes if each.is_running() for one in family(each)]
        for process in every:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(every, timeout=30)


def family(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return []


@pytest.fixture
def by_hand(tmp_path: Path) -> Iterator[ByHand]:
    folder = tmp_path / "dask"
    folder.mkdir()
    found = ByHand(folder)
    yield found
    found.stop()


def trained(out: Path) -> dict[str, list[str]]:
    """By run, the epochs that were trained."""
    return {
        path.stem: [line.split()[0] for line in path.read_text().splitlines()]
        for path in out.glob("*.trained")
    }


def at_the_gate(out: Path) -> list[str]:
    """Runs in mid-run, after their second epoch."""
    return [
        folder.name
        for folder in out.glob("runs/*")
        if len(Run(folder).history()) == stub_training.GATE
    ]


def trainings(*above: psutil.Process) -> list[psutil.Process]:
    found = []
    for process in (one for each in above for one in family(each)):
        with suppress(psutil.Error):
            found += [process] if "examples.common.with_parent" in process.cmdline() else []
    return found


def check_all(out: Path, count: int = RUNS) -> None:
    """All are finished, and of each every epoch was trained once."""
    every = [str(epoch + 1) for epoch in range(stub_training.EPOCHS)]
    assert trained(out) == {f"seed{seed}": every for seed in range(count)}
    assert all(Run.open(folder).finished for folder in out.glob("runs/*"))


def test_whatever_is_killed_no_epoch_is_trained_again(by_hand: ByHand, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scheduler = by_hand.start_scheduler()
    workers = [by_hand.start("worker", "--nthreads", 1) for _ in range(2)]

    def client() -> psutil.Popen:
        return start("stub_training", "sweep", out, RUNS, by_hand.address)

    def in_mid_run() -> list[psutil.Process]:
        until(lambda: len(at_the_gate(out)) == len(trainings(*workers)) == 2)
        return trainings(*workers)

    first = client()
    training, other = in_mid_run()
    training.parent().kill()
    psutil.wait_procs([training], timeout=60)
    before = in_mid_run()  # the worker's nanny has started another
    assert other in before

    first.kill()
    psutil.wait_procs(before, timeout=60)
    assert trainings(*workers) == []

    second = client()
    before = in_mid_run()
    scheduler.kill()
    assert second.wait(60) == 2
    psutil.wait_procs([*workers, *before], timeout=60)
    assert not any(map(psutil.Process.is_running, [*workers, *before]))

    by_hand.start_scheduler()
    by_hand.start("worker", "--nthreads", 2)
    (out / "go").touch()
    assert client().wait(60) == 0
    check_all(out)


def test_ctrl_c_ends_the_trainings_which_go_on_when_asked_again(tmp_path: Path) -> None:
    out, words = tmp_path / "out", ("stub_training", "sweep", tmp_path / "out", 2)
    client = start(*words, stderr=subprocess.PIPE, start_new_session=True)
    until(lambda: at_the_gate(out))
    every = family(client)
    os.killpg(client.pid, signal.SIGINT)  # as a terminal does
    assert client.wait(60) == 130
    assert client.stderr.read().decode().splitlines()[-1] == "stub: interrupted"
    psutil.wait_procs(every, timeout=60)
    assert not any(map(psutil.Process.is_running, every))
    assert trained(out) == {"seed0": ["1", "2"]}
    (out / "go").touch()
    assert start(*words).wait(60) == 0
    check_all(out, 2)


@pytest.mark.usefixtures("own_environment")
def test_one_fails_and_the_others_go_on(tmp_path: Path) -> None:
    os.environ["PYTHONPATH"] = PATHS
    (tmp_path / "go").touch()
    (failed,) = stub_training.sweep(tmp_path, [0, 13, 1], jobs=2)
    log = tmp_path / "logs" / "seed13.txt"
    assert failed == f"seed13: FAILED: stub: seed 13 brings no luck; see {log}"
    check_all(tmp_path, 2)


def test_a_scheduler_and_workers_that_lack_something_are_named(
    by_hand: ByHand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(out: Path, words: str, **how: str) -> None:
        with pytest.raises(RunError, match=words):
            stub_training.sweep(out, [0], scheduler=by_hand.address, **how)
        assert not list(out.glob("runs/*"))

    plain = by_hand.start_scheduler(importable=False)
    worker = by_hand.start("worker", "--nthreads", 1)
    refused(tmp_path / "a", "the scheduler: No module named 'examples'; start it in the clone, wi")
    plain.kill()
    worker.wait(60)

    by_hand.start_scheduler()
    worker = by_hand.start("worker", "--nthreads", 1, importable=False)
    refused(tmp_path / "b", r"the worker at tcp://\S+: No module named 'examples'; start it in th")
    worker.terminate()
    worker.wait(60)

    by_hand.start("worker", "--nthreads", 1)
    refused(tmp_path / "c", "--device cuda: no worker has a GPU; wanted dask worker", device="cuda")
    monkeypatch.setattr(os.path, "isfile", no_file)
    refused(tmp_path / "d", r"the worker at tcp://\S+: has no \S+plan; wanted a folder that all")


def no_file(path: str) -> bool:
    """Sent to a worker in place of `os.path.isfile`, as of a machine that shares no folder."""
    return False


def test_a_training_on_a_gpu_is_one_of_a_worker_that_has_it(
    by_hand: ByHand, tmp_path: Path
) -> None:
    by_hand.start_scheduler()
    by_hand.start("worker", "--nthreads", 2)
    with_gpu = by_hand.start("worker", "--nthreads", 2, "--resources", "GPU=1")
    until(lambda: (by_hand.folder / "worker.txt").read_text().count("Registered to") == 2)
    out = tmp_path / "out"
    (tmp_path / "out").mkdir()
    (out / "go").touch()
    assert stub_training.sweep(out, range(3), "cuda", scheduler=by_hand.address) == []
    check_all(out, 3)
    parents = {
        int(line.split()[1])
        for path in out.glob("*.trained")
        for line in path.read_text().splitlines()
    }
    assert parents <= {one.pid for one in family(with_gpu)}


def test_what_a_task_ended_with_is_one_line() -> None:
    died = KilledWorker("train-1", None, allowed_failures=3)
    assert scheduling._reason(died) == "the workers that trained it died, one after the other"
    assert scheduling._reason(RunError("a line")) == "a line"
    assert scheduling._reason(OSError(28, "No space left")) == "OSError: [Errno 28] No space left"


@pytest.mark.parametrize("app", ["cats_vs_dogs", "segmentation"])
def test_a_scheduler_that_cannot_be_reached_is_one_line(app: str, tmp_path: Path) -> None:
    command = {"cats_vs_dogs": "experiment", "segmentation": "sweep"}[app]
    programs = {"cats_vs_dogs": cats_vs_dogs.app, "segmentation": segmentation.app}
    address = "tcp://127.0.0.1:1"
    words = [command, "--out", str(tmp_path / "out"), "--scheduler", address]
    with config.set({"distributed.comm.timeouts.connect": "0.2s"}):
        result = CliRunner().invoke(programs[app], words)
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"{app}: --scheduler {address}: cannot be reached (")
