"""Many trainings: every framework, activation, loss, fold and seed is a run of its own.

    sweep.json      what is asked for
    runs/NAME/      the runs, NAME as torch_arctan_dice_fold0_seed0
    logs/NAME.txt   what each has printed

Each runs in a process of its own. A run has ended when it has its result.json, which is written
last and whole; so a sweep that was killed goes on with the runs that have none, and these go on
from their own last epoch.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.common.files import held_alone
from examples.common.progress import progress_display
from examples.common.runs import RunError, counted, read_json
from examples.segmentation.options import Options, between_commas
from examples.segmentation.results import FORMAT, RESULT, shown_data
from parity.common.files import json_text, write_atomically

PLAN = "sweep.json"
_OWN = ("framework", "backend", "activation", "loss", "fold", "seed")
"""Options that each run has of its own."""
_MAY_CHANGE = ("device",)


@dataclass(frozen=True)
class Plan:
    """What is asked for: all combinations; `base` has the options that the runs share.

    Args:
        implementations: torch, or keras-tensorflow and so on.
    """

    base: Options
    implementations: tuple[str, ...]
    activations: tuple[str, ...]
    losses: tuple[str, ...]
    seeds: tuple[int, ...]

    def runs(self) -> Iterator[Options]:
        """Fold by fold and seed by seed, so that what is there early is a sweep of few folds."""
        every = product(
            self.seeds,
            range(self.base.folds),
            self.implementations,
            self.losses,
            self.activations,
        )
        for seed, fold, implementation, loss, activation in every:
            framework, _, backend = implementation.partition("-")
            yield replace(
                self.base,
                framework=framework,
                backend=backend or self.base.backend,
                activation=activation,
                loss=loss,
                fold=fold,
                seed=seed,
            )

    def as_dict(self) -> dict[str, Any]:
        """For sweep.json."""
        base = {name: v for name, v in self.base.as_dict().items() if name not in _OWN}
        return {
            "format": FORMAT,
            "implementations": list(self.implementations),
            "activations": list(self.activations),
            "losses": list(self.losses),
            "seeds": list(self.seeds),
            "base": base,
        }


def name_of(options: Options) -> str:
    """The folder of a run: `torch_arctan_dice_fold0_seed0`."""
    activation = options.activation.replace(":", ".")
    parts = (options.implementation, activation, options.loss)
    return f"{'_'.join(parts)}_fold{options.fold}_seed{options.seed}"


def run(plan: Plan, out: Path, jobs: int, cache: Path | None, tell: Console) -> list[str]:
    """Train all that has not ended yet, `jobs` at a time; returns a line for each that failed.

    Raises `RunError` where `out` holds a sweep with other options or something else, and where
    another process is at work on it.
    """
    every = list(plan.runs())  # with options that make no sense, nothing is written
    if len({name_of(one) for one in every}) < len(every):
        raise RunError("--framework, --losses or --seeds: the same twice")
    asked = _asked(plan, out)
    for name in ("runs", "logs"):
        (out / name).mkdir(parents=True, exist_ok=True)
    with held_alone(out / ".lock", f"{out}: another sweep is at work there"):
        write_atomically(out / PLAN, json_text(asked).encode())
        missing = [one for one in every if not (out / "runs" / name_of(one) / RESULT).is_file()]
        _say(tell, f"{out}: {len(every)} runs, {len(every) - len(missing)} of them ended before")
        failed = []
        pool, workers = ThreadPoolExecutor(jobs), _Workers(out, cache, jobs)
        with progress_display() as progress:
            task = progress.add_task("runs", total=len(every), completed=len(every) - len(missing))
            try:
                waiting = {pool.submit(workers.train, one): one for one in missing}
                for number, future in enumerate(as_completed(waiting), 1):
                    line, error = future.result()
                    failed += [line] if error else []
                    progress.advance(task)
                    _say(progress.console, f"{number} of {len(missing)}: {line}")
            finally:
                workers.stop()
                pool.shutdown(cancel_futures=True)
    return failed


def _say(out: Console, line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _asked(plan: Plan, out: Path) -> dict[str, Any]:
    """What is asked for, with the runs asked for before; raises `RunError` for other options."""
    path, asked = out / PLAN, plan.as_dict()
    if path.is_file():
        held = read_json(path)
        base = held.get("base", {})
        if held.get("format") != FORMAT:
            raise RunError(f"{path}: not a sweep, format {FORMAT}")
        for name, value in asked["base"].items():
            if name == "data" and shown_data(value or "") == shown_data(base.get(name) or ""):
                continue  # a folder that was moved
            if base.get(name) != value and name not in _MAY_CHANGE:
                option = f"--{name.replace('_', '-')}"
                raise RunError(f"{out}: this sweep has {option} {base.get(name)}, not {value}")
        for name in ("implementations", "activations", "losses", "seeds"):
            asked[name] = list(dict.fromkeys([*held.get(name, []), *asked[name]]))
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: holds something else; choose another folder")
    return asked


class _Workers:
    """The processes that train; they end with this one, however it ends."""

    def __init__(self, out: Path, cache: Path | None, jobs: int) -> None:
        self.out, self.cache = out, cache
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
        self.environment = {name: threads for name in names if jobs > 1} | os.environ
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def train(self, options: Options) -> tuple[str, bool]:
        """One run to its end; a line that says how it went, and whether it failed."""
        try:
            return self._train(options)
        except (RunError, OSError) as error:
            return f"{name_of(options)}: FAILED: {error}", True

    def _train(self, options: Options) -> tuple[str, bool]:
        name, since = name_of(options), time.monotonic()
        folder, log = self.out / "runs" / name, self.out / "logs" / f"{name}.txt"
        words = command_line(options, folder, self.cache)
        with log.open("ab") as file:
            # it reads its standard input, and ends when this process is there no more
            process = subprocess.Popen(
                [*words, "--with-parent"],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env=self.environment,
            )
            self.running.add(process)
            if self.stopped:
                process.kill()
            code = process.wait()
            self.running.discard(process)
        if code:
            return f"{name}: FAILED: {_last_line(log)}; see {log}", True
        found = read_json(folder / RESULT)
        minutes = (time.monotonic() - since) / 60
        dice, epochs = found["validation"]["mean_dice"], counted(found["epochs"], "epoch")
        return f"{name}: mean Dice {dice:.4f}, {epochs}, {minutes:.1f} min", False

    def stop(self) -> None:
        """End all that still run."""
        self.stopped = True
        for process in list(self.running):
            process.kill()


def command_line(options: Options, folder: Path, cache: Path | None) -> list[str]:
    """What trains a run, or goes on with it."""
    words = [sys.executable, "-m", "examples.segmentation", "train", "--out", str(folder)]
    words += ["--cache", str(cache)] if cache else []
    if (folder / "config.json").is_file():
        words.append("--resume")
    usual = Options().as_dict()
    for name, value in options.as_dict().items():
        if value != usual[name] or name in _OWN:
            option = name.replace("_", "-")
            switch = f"--{option}" if value else f"--no-{option}"
            words += [switch] if isinstance(value, bool) else [f"--{option}", str(value)]
    return words


def _last_line(log: Path) -> str:
    lines = log.read_bytes()[-4000:].decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def names(text: str, option: str, all_of: Sequence[str]) -> tuple[str, ...]:
    """Names between commas; `all` stands for these."""
    return tuple(all_of) if text.strip() == "all" else between_commas(text, option)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers between commas, each once."""
    try:
        found = tuple(int(name) for name in between_commas(text, option))
    except ValueError:
        raise RunError(f"--{option}: {text!r}; wanted whole numbers between commas") from None
    if min(found) < 0:
        raise RunError(f"--{option}: {text!r}; wanted whole numbers >= 0")
    return found
