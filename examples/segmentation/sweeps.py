"""Many trainings: one run for each combination of framework, activation, loss, fold and seed.

    sweep.json      the options of the sweep
    runs/NAME/      the runs, NAME as torch_arctan_dice_fold0_seed0
    logs/NAME.txt   the output of each run

Dask's workers train them (`examples.common.scheduling`). A run is finished when it has its
result.json, which is written last and whole; so a sweep that was killed continues with the runs
that have none, and these continue from their last epoch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.common.files import held_alone, holds_something
from examples.common.runs import Row, RunError, counted, duration, read_json
from examples.segmentation.options import Options, between_commas
from examples.segmentation.results import FORMAT, RESULT, shown_data
from parity.common.extras import needs
from parity.common.files import json_text, write_atomically
from parity.report.console import print_line

PLAN = "sweep.json"
_OWN = ("framework", "backend", "activation", "loss", "fold", "seed")
"""The options that differ by run."""
_MAY_CHANGE = ("device",)


@dataclass(frozen=True)
class Plan:
    """The options of the sweep: all combinations are run; `base` has the options that all share.

    Args:
        implementations: torch, or keras-tensorflow and so on.
    """

    base: Options
    implementations: tuple[str, ...]
    activations: tuple[str, ...]
    losses: tuple[str, ...]
    seeds: tuple[int, ...]

    def runs(self) -> Iterator[Options]:
        """All runs, fold by fold and seed by seed: the first results are a sweep of few folds."""
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
        """As a dictionary, for sweep.json."""
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


def run(
    plan: Plan,
    out: Path,
    cache: Path | None,
    tell: Console,
    jobs: int | None = None,
    scheduler: str | None = None,
    dashboard: bool = False,
) -> list[str]:
    """Run all trainings that are not finished; returns a line for each that failed.

    Raises `RunError` if `out` holds a sweep with other options or something else, or if another
    process works on it.
    """
    with needs("segmentation", "sweep"):
        from examples.common import scheduling

    workers = scheduling.Workers(jobs, scheduler, dashboard)
    every = list(plan.runs())  # raises for wrong options, before anything is written
    if len({name_of(one) for one in every}) < len(every):
        raise RunError("--framework, --losses or --seeds: the same twice")
    asked = _asked(plan, out)
    out.mkdir(parents=True, exist_ok=True)
    with held_alone(out / ".lock", f"{out}: another sweep is at work there"):
        write_atomically(out / PLAN, json_text(asked).encode())
        missing = [
            scheduling.Job("examples.segmentation", one, name_of(one), out, cache)
            for one in every
            if not (out / "runs" / name_of(one) / RESULT).is_file()
        ]
        ended = len(every) - len(missing)
        print_line(tell, f"{out}: {len(every)} runs, {ended} of them ended before")
        return scheduling.train_all(missing, workers, out / PLAN, tell, _how, ended)


def _how(rows: Sequence[Row], _: int) -> str:
    """A line about a finished run."""
    dice = max(row["val_mean_dice"] for row in rows)
    took = duration(sum(row["seconds"] for row in rows))
    return f"mean Dice {dice:.4f}, {counted(len(rows), 'epoch')}, {took}"


def _asked(plan: Plan, out: Path) -> dict[str, Any]:
    """The plan and the runs of an existing sweep.json; raises `RunError` for other options."""
    path, asked = out / PLAN, plan.as_dict()
    if path.is_file():
        held = read_json(path)
        base = held.get("base", {})
        if held.get("format") != FORMAT:
            raise RunError(f"{path}: not a sweep, format {FORMAT}")
        for name, value in asked["base"].items():
            if name == "data" and shown_data(value or "") == shown_data(base.get(name) or ""):
                continue  # the folder may have been moved
            if base.get(name) != value and name not in _MAY_CHANGE:
                option = f"--{name.replace('_', '-')}"
                raise RunError(f"{out}: this sweep has {option} {base.get(name)}, not {value}")
        for name in ("implementations", "activations", "losses", "seeds"):
            asked[name] = list(dict.fromkeys([*held.get(name, []), *asked[name]]))
    elif holds_something(out):
        raise RunError(f"{out}: holds something else; choose another folder")
    return asked


def names(text: str, option: str, all_of: Sequence[str]) -> tuple[str, ...]:
    """Names separated by commas; `all` stands for these."""
    return tuple(all_of) if text.strip() == "all" else between_commas(text, option)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers separated by commas, each once."""
    words = between_commas(text, option)
    try:
        found = tuple(map(int, words))
    except ValueError:
        raise RunError(f"--{option}: {text!r}; wanted whole numbers between commas") from None
    if min(found) < 0:
        raise RunError(f"--{option}: {text!r}; wanted whole numbers >= 0")
    return found
