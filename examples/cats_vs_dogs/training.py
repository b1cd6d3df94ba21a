"""Starting and continuing a run, whatever the framework: `start`, `resume`."""

import dataclasses
import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.cats_vs_dogs import data
from examples.cats_vs_dogs.options import Options, missing
from examples.common.runs import Run, RunError, all_versions

_MAY_CHANGE = ("data", "device", "epochs")
"""What a resumed run may be given anew."""
Splits = Mapping[str, data.Split]


def load(options: Options, cache: Path | None = None) -> dict[str, data.Split]:
    """The images of both splits, by name."""
    return dict(zip(data.SPLITS, data.load(options.folder, options.size, cache), strict=True))


def described(splits: Splits, options: Options) -> dict[str, Any]:
    """What a run's configuration says of its images."""
    digest = hashlib.sha256()
    for split in splits.values():
        for part in (split.images.tobytes(), split.labels.tobytes(), "\n".join(split.names)):
            digest.update(part.encode() if isinstance(part, str) else part)
    counts = {name: len(split.names) for name, split in splits.items()}
    return {"synthetic": options.folder is None, **counts, "sha256": digest.hexdigest()}


def start(options: Options, folder: Path, cache: Path | None = None) -> Run:
    """Train from the beginning; returns the finished run."""
    child = _is_child()
    if not child:
        Run.check_new(folder)
    _check_installed(options)
    splits = load(options, cache)
    trainer = _trainer(options, splits)
    if child:
        run = Run.open(folder)
    else:
        config = {
            "example": "cats_vs_dogs",
            "options": options.as_dict(),
            "data": described(splits, options),
            "device": trainer.device,
            "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "versions": all_versions(),
        }
        run = Run.create(folder, config)
    trainer.train(run)
    return run


def resume(folder: Path, given: Mapping[str, Any], cache: Path | None = None) -> Run:
    """Go on with an unfinished run, with its own options; `given` are those that were typed.

    Raises `RunError` for a run that has ended, for options that it does not have, and for images
    that are not its own.
    """
    run = Run.open(folder)
    if run.finished and not _is_child():
        raise RunError(f"{folder}: this run is finished ({run.config['stopped']})")
    asked = run.options
    for name, value in given.items():
        if name not in _MAY_CHANGE and value != asked[name]:
            option = f"--{name.replace('_', '-')}"
            raise RunError(f"{folder}: this run has {option} {asked[name]}, not {value}")
    options = dataclasses.replace(Options(**asked), **given)
    _check_installed(options)
    splits = load(options, cache)
    found = described(splits, options)
    if found != run.config["data"]:
        raise RunError(f"{folder}: other images than those this run was started with")
    trainer = _trainer(options, splits)
    if not _is_child():
        run.clear_leftovers()
        run.config["options"] = options.as_dict()
        run.write_config()
    trainer.train(run)
    return run


def _is_child() -> bool:
    """Whether this is one of the other processes that Lightning starts for several devices."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def _check_installed(options: Options) -> None:
    absent = missing(options)
    if absent:
        raise RunError(f"--framework {options.framework} needs {absent}: not installed")


def _trainer(options: Options, splits: Splits) -> Any:
    """What trains in the framework; it is checked and built, but nothing has been written."""
    if options.framework == "torch":
        from examples.cats_vs_dogs.torch_run import TorchTrainer

        return TorchTrainer(options, splits)
    from examples.cats_vs_dogs.keras_run import KerasTrainer, prepare

    prepare(options)
    return KerasTrainer(options, splits)
