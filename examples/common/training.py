"""Starting and continuing a run, whatever the framework and the example: `start`, `resume`."""

import dataclasses
import os
import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from examples.common.files import held_alone
from examples.common.options import TrainingOptions, missing
from examples.common.runs import LOCK, Run, RunError, all_versions
from examples.common.task import Task

_MAY_CHANGE = ("data", "device", "epochs")
"""What a resumed run may be given anew."""
Asked = TypeVar("Asked", bound=TrainingOptions)
Make = Callable[[Any, Path | None], Task]
"""A task from its options and a folder for decoded images."""


def start(make: Make, options: TrainingOptions, folder: Path, cache: Path | None = None) -> Run:
    """Train from the beginning; returns the finished run."""
    child = is_child()
    if not child:
        Run.check_new(folder)
    _prepare(options)
    task = make(options, cache)
    trainer = _trainer(task)
    if child:
        run = Run.open(folder)
    else:
        config = {
            "options": options.as_dict(),
            "data": task.described(),
            "device": trainer.device,
            "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "versions": all_versions(),
        }
        run = Run.create(folder, config)
    with _alone(folder):
        trainer.train(run)
    return run


def options_of(
    kind: type[Asked], run: Run, given: Mapping[str, Any] = MappingProxyType({})
) -> Asked:
    """Those of a run, with what is given anew; raises `RunError` for what cannot be changed."""
    asked = run.options
    if set(asked) != {field.name for field in dataclasses.fields(kind)}:
        raise RunError(f"{run.folder}: a run of another example, or of another version of this one")
    for name, value in given.items():
        if name not in _MAY_CHANGE and value != asked[name]:
            option = f"--{name.replace('_', '-')}"
            raise RunError(f"{run.folder}: this run has {option} {asked[name]}, not {value}")
    try:
        return kind(**(asked | dict(given)))
    except (TypeError, ValueError) as error:
        raise RunError(f"{run.folder}: {error}") from error


def resume(
    make: Make,
    kind: type[TrainingOptions],
    folder: Path,
    given: Mapping[str, Any],
    cache: Path | None = None,
) -> Run:
    """Go on with an unfinished run, with its own options; `given` are those that were typed.

    A run that the cap on epochs has ended is unfinished where `given` has more of them. Raises
    `RunError` for a run that has ended otherwise, for options that it does not have, and for images
    that are not its own.
    """
    run = Run.open(folder, kind)
    capped = run.config["stopped"].startswith("the cap")
    more = capped and given.get("epochs", 0) > run.config["epochs"]
    if run.finished and not more and not is_child():
        raise RunError(f"{folder}: this run is finished ({run.config['stopped']})")
    options = options_of(kind, run, given)
    _prepare(options)
    task = make(options, cache)
    if task.described() != run.config["data"]:
        raise RunError(f"{folder}: other images than those this run was started with")
    trainer = _trainer(task)
    with _alone(folder):
        if not is_child():
            run.clear_leftovers()
            run.config |= {"options": options.as_dict(), "finished": False, "stopped": ""}
            run.write_config()
        trainer.train(run)
    return run


def _alone(folder: Path) -> AbstractContextManager[None]:
    """No other process trains in the folder; the children of this one do."""
    if is_child():
        return nullcontext()
    return held_alone(folder / LOCK, f"{folder}: another process trains this run")


def is_child() -> bool:
    """Whether this is one of the other processes that Lightning starts for several devices."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def _prepare(options: TrainingOptions) -> None:
    """See that the framework is there; of Keras, choose backend and device before its import."""
    absent = missing(options)
    if absent:
        backend = f" --backend {options.backend}" if options.framework == "keras" else ""
        raise RunError(f"--framework {options.framework}{backend} needs {absent}: not installed")
    if options.framework == "keras":
        from examples.common.keras_training import prepare

        prepare(options)


def _trainer(task: Task) -> Any:
    """What trains in the framework; it is checked and built, but nothing has been written."""
    if task.options.framework == "torch":
        from examples.common.torch_training import TorchTrainer

        return TorchTrainer(task)
    from examples.common.keras_training import KerasTrainer

    return KerasTrainer(task)
