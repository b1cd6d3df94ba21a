"""Many trainings: every framework, activation, loss, fold and seed is a run of its own.

    sweep.json      what is asked for
    runs/NAME/      the runs, NAME as torch_arctan_dice_fold0_seed0
    logs/NAME.txt   what each has printed

Dask's workers train them (`examples.common.scheduling`). A run has ended when it has its
result.json, which is written last and whole; so a sweep that was killed goes on with the runs that
have none, and these go on from their own last epoch.
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


def run(
    plan: Plan,
    out: Path,
    cache: Path | None,
    tell: Console,
    jobs: int | None = None,
    scheduler: str | None = None,
    dashboard: bool = False,
) -> list[str]:
    """Train all that has not ended yet; returns a line for each that failed.

    Raises `RunError` where `out` holds a sweep with other options or something else, and where
    another process is at work on it.
    """
    with needs("segmentation", "sweep"):
        from examples.common import scheduling

    workers = scheduling.Workers(jobs, scheduler, dashboard)
    every = list(plan.runs())  # with options that make no sense, nothing is written
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
        scheduling.say(tell, f"{out}: {len(every)} runs, {ended} of them ended before")
        return scheduling.train_all(missing, workers, out / PLAN, tell, _how, ended)


def _how(rows: Sequence[Row], _: int) -> str:
    """A run that has ended, in words."""
    dice = max(row["val_mean_dice"] for row in rows)
    took = duration(sum(row["seconds"] for row in rows))
    return f"mean Dice {dice:.4f}, {counted(len(rows), 'epoch')}, {took}"


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
    elif holds_something(out):
        raise RunError(f"{out}: holds something else; choose another folder")
    return asked


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
