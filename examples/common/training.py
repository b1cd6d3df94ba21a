"""Starting and continuing a run, in both frameworks and examples: `start`, `resume`."""

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
"""The options that may be changed in a resumed run."""
Asked = TypeVar("Asked", bound=TrainingOptions)
Make = Callable[[Any, Path | None], Task]
"""A function that makes a task from its options and a folder for decoded images."""


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
    """The options of a run, with the given changes; raises `RunError` for a forbidden change."""
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
    """Continue an unfinished run with its options; `given` are those that were typed now.

    A run that ended at its largest number of epochs is unfinished if `given` has more epochs.
    Raises `RunError` for a run that ended for another reason, for other options, for fewer epochs
    than it has, and for other images.
    """
    run = Run.open(folder, kind)
    capped = run.config["stopped"].startswith("the cap")
    more = capped and given.get("epochs", 0) > run.config["epochs"]
    if run.finished and not more and not is_child():
        raise RunError(f"{folder}: this run is finished ({run.config['stopped']})")
    options = options_of(kind, run, given)
    done = len(run.history())
    if done > options.epochs:  # best.* may be of an epoch that the run would then not have
        raise RunError(f"{folder}: this run has {done} epochs already, not {options.epochs}")
    _prepare(options)
    task = make(options, cache)
    images, anywhere = task.described(), {"source": ""}  # the folder may have been moved
    if images | anywhere != run.config["data"] | anywhere:
        raise RunError(f"{folder}: other images than those this run was started with")
    trainer = _trainer(task)
    with _alone(folder):
        if not is_child():
            run.clear_leftovers()
            run.config |= {"options": options.as_dict(), "data": images}
            run.config |= {"finished": False, "stopped": ""}
            run.write_config()
        trainer.train(run)
    return run


def _alone(folder: Path) -> AbstractContextManager[None]:
    """Holds the lock of the folder: no other process, but children of this one, may train in it."""
    if is_child():
        return nullcontext()
    return held_alone(folder / LOCK, f"{folder}: another process trains this run")


def is_child() -> bool:
    """Whether this process was started by Lightning, for one of several devices."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def _prepare(options: TrainingOptions) -> None:
    """Check that the framework is installed; choose Keras's backend and device before import."""
    absent = missing(options)
    if absent:
        backend = f" --backend {options.backend}" if options.framework == "keras" else ""
        raise RunError(f"--framework {options.framework}{backend} needs {absent}: not installed")
    if options.framework == "keras":
        from examples.common.keras_training import prepare

        prepare(options)


def _trainer(task: Task) -> Any:
    """The trainer of the framework, checked and built; nothing has been written yet."""
    if task.options.framework == "torch":
        from examples.common.torch_training import TorchTrainer

        return TorchTrainer(task)
    from examples.common.keras_training import KerasTrainer

    return KerasTrainer(task)
