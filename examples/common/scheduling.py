"""Trainings in parallel on the workers of Dask, which start here, or by hand on any machine.

A worker starts each training as a process. The process ends with its worker and with the client
that submitted it; if the client submits it again, to any worker, it continues from its last epoch.
The scheduler and the workers import this module, and need the same folders under the same paths.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from uuid import uuid4

from dask import config
from distributed import Client, KilledWorker, LocalCluster, Reschedule, as_completed, get_worker
from distributed.core import Status
from rich.console import Console

from examples.common.files import held_alone
from examples.common.options import TrainingOptions
from examples.common.progress import progress_display
from examples.common.runs import LOCK, Row, Run, RunError
from parity.report.console import print_line

ROOT = Path(__file__).parents[2]
_HOW = "start it in the clone, with PYTHONPATH=$PWD"
_POLL, _PATIENCE = 0.1, 60.0
"""Seconds between two checks of a training; and the time that a killed one has to end."""


@dataclass(frozen=True)
class Job:
    """A training in OUT/runs/NAME; its output goes to OUT/logs/NAME.txt."""

    module: str
    options: TrainingOptions
    name: str
    out: Path
    cache: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.out.absolute() / "runs" / self.name

    @property
    def log(self) -> Path:
        """The file with its output."""
        return self.out.absolute() / "logs" / f"{self.name}.txt"

    @property
    def words(self) -> list[str]:
        """The command line of the training, after `python -m`."""
        words = [self.module, "train", "--out", str(self.folder)]
        words += ["--cache", str(self.cache)] if self.cache else []
        for name, value in self.options.as_dict().items():
            option = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            elif value is not None:
                words += [f"--{option}", str(value)]
        return words


def train(words: list[str], folder: str, log: str, here: str) -> list[Row]:
    """On a worker: run a training from its last epoch to its end; returns its history.csv as rows.

    `here` is the working directory. Raises `RunError` with the last line that it printed.
    """
    run = Run(Path(folder))
    _wait_for(run.path(LOCK))
    if run.path("config.json").is_file():
        if Run.open(run.folder).finished:
            return run.history()
        words = [*words, "--resume"]
    else:
        run.clear_leftovers()  # left by a kill before the configuration was written
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    # Dask sets it for itself: with it the memory of large tensors would be mapped again each time
    environment.pop("MALLOC_TRIM_THRESHOLD_", None)
    with (
        open(log, "ab") as file,
        subprocess.Popen(
            [sys.executable, "-m", "examples.common.with_parent", *words],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            cwd=here,
            env=environment,
            start_new_session=True,  # only the client handles Ctrl-C
        ) as process,
    ):
        try:
            while process.poll() is None:
                _check_wanted()
                time.sleep(_POLL)
        finally:
            process.kill()
    if process.returncode:
        raise RunError(_last_line(Path(log), process.returncode))
    return run.history()


def _wait_for(lock: Path) -> None:
    """Wait until no process trains the run: one that lost its worker takes a moment to end."""
    until = time.monotonic() + _PATIENCE
    while lock.is_file():
        try:
            with held_alone(lock, f"{lock.parent}: another process trains this run"):
                return
        except RunError:
            if time.monotonic() > until:
                raise
        _check_wanted()
        time.sleep(_POLL)


def _check_wanted() -> None:
    """Ends the task if its client has cancelled it, or its worker closes."""
    worker = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    closes = worker.status in (Status.closing, Status.closed)
    if closes or task is None or task.state == "cancelled":
        raise Reschedule


def _last_line(log: Path, code: int) -> str:
    lines = log.read_bytes()[-4000:].decode(errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"{said}; signal {-code}" if code < 0 else said


@dataclass(frozen=True)
class Workers:
    """The workers of the scheduler at an address, or `jobs` workers on this machine."""

    jobs: int | None = None
    scheduler: str | None = None
    dashboard: bool = False

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise RunError(f"--jobs is {self.jobs}; wanted a whole number >= 1")
        if self.scheduler and (self.jobs or self.dashboard):
            option = "--jobs" if self.jobs else "--dashboard"
            raise RunError(f"{option}: not with --scheduler, which has its own workers and page")
        if self.dashboard and find_spec("bokeh") is None:
            raise RunError("--dashboard needs bokeh: not installed")

    @contextmanager
    def client(self, gpus: int) -> Iterator[Client]:
        """A client of these workers; workers started here end with it."""
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if self.scheduler is None:
            with self._cluster(gpus) as cluster, Client(cluster) as client:
                yield client
            return
        try:
            client = Client(self.scheduler)
        except (OSError, ValueError) as error:
            raise RunError(f"--scheduler {self.scheduler}: cannot be reached ({error})") from error
        with client:
            yield client

    def _cluster(self, gpus: int) -> LocalCluster:
        jobs = self.jobs or 1
        names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
        threads = dict.fromkeys(names, max(1, (os.cpu_count() or 1) // jobs))
        with config.set({"distributed.nanny.pre-spawn-environ": threads}):
            return LocalCluster(
                n_workers=jobs,
                threads_per_worker=1,
                dashboard_address=f"127.0.0.1:{8787 if self.dashboard else 0}",
                scheduler_kwargs={"dashboard": self.dashboard},
                resources={"GPU": gpus},  # all machines share it
                silence_logs=logging.CRITICAL,
            )


def train_all(
    jobs: Sequence[Job],
    workers: Workers,
    shared: Path,
    tell: Console,
    line: Callable[[list[Row], int], str],
    before: int = 0,
) -> list[str]:
    """Run all trainings; returns a line for each that failed.

    Args:
        shared: a file in the folder of all trainings, which every worker has to find.
        line: the line about a finished training, from the rows of its history.csv and the number
            of trainings in parallel.
        before: the number of trainings that had ended before.
    """
    if not jobs:
        return []
    for folder in {path.parent for job in jobs for path in (job.folder, job.log)}:
        folder.mkdir(exist_ok=True)
    options = jobs[0].options
    gpus = options.devices if options.device == "cuda" else 0
    failed = []
    with workers.client(gpus) as client, progress_display(console=tell) as progress:
        if workers.dashboard:
            print_line(tell, f"the workers' page: {client.dashboard_link}")
        _check(client, gpus, shared.absolute(), tell)
        task = progress.add_task("runs", total=len(jobs) + before, completed=before)
        for number, (job, rows, error) in enumerate(_trained(client, jobs, gpus), 1):
            side = sum(client.nthreads().values())
            how = f"FAILED: {error}; see {job.log}" if error else line(rows, side)
            failed += [f"{job.name}: {how}"] if error else []
            progress.advance(task)
            print_line(tell, f"{number} of {len(jobs)}: {job.name}: {how}")
    return failed


def _check(client: Client, gpus: int, shared: Path, tell: Console) -> None:
    """Raises `RunError` if scheduler or workers lack something that a training needs.

    The check uses only the standard library: if a scheduler cannot import a task, it does not tell
    the client.
    """
    if not client.nthreads():
        print_line(tell, "the scheduler has no workers yet; waiting for one")
        client.wait_for_workers(1)
    name = f"{__name__}:__name__"
    try:
        client.run_on_scheduler(resolve_name, name)
    except ImportError as error:
        raise RunError(f"the scheduler: {error}; {_HOW}") from error
    for address, found in client.run(resolve_name, name, on_error="return").items():
        if isinstance(found, ImportError):
            raise RunError(f"the worker at {address}: {found}; {_HOW}")
    for address, found in client.run(os.path.isfile, str(shared), on_error="return").items():
        if found is False:
            raise RunError(
                f"the worker at {address}: has no {shared}; wanted a folder that all share"
            )
    held = client.scheduler_info(n_workers=-1)["workers"].values()
    if gpus and not any(one["resources"].get("GPU", 0) >= gpus for one in held):
        raise RunError("--device cuda: no worker has a GPU; wanted dask worker --resources GPU=1")


def _trained(
    client: Client, jobs: Sequence[Job], gpus: int
) -> Iterator[tuple[Job, list[Row], str]]:
    """Each training when it ends: the rows of its history.csv, or its error."""
    keys = [f"train-{uuid4().hex}" for _ in jobs]
    futures = client.map(
        train,
        [job.words for job in jobs],
        [str(job.folder) for job in jobs],
        [str(job.log) for job in jobs],
        here=os.getcwd(),
        key=keys,
        pure=False,
        resources={"GPU": gpus} if gpus else None,
    )
    of = dict(zip(keys, jobs, strict=True))
    for future in as_completed(futures):
        job = of[future.key]
        if future.status == "finished":
            rows = future.result()
            future.release()  # without this it is submitted again if its worker dies
            yield job, rows, ""
        elif future.status == "cancelled":
            raise RunError("the scheduler has ended; run the same command again to continue")
        else:
            yield job, [], _reason(future.exception())


def _reason(error: Any) -> str:
    """Why a training failed."""
    if isinstance(error, KilledWorker):
        return "the workers that trained it died, one after the other"
    if isinstance(error, RunError):
        return str(error)
    return f"{type(error).__name__}: {error}"
