"""The steps, and how to read the files of each."""

import csv
import json
import re
import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scripts.gpu.steps import Command, Skip, Step

JUDGED: tuple[tuple[str, tuple[str, ...], float], ...] = (  # slowest first
    ("keras-jax", ("keras", "jax"), 330),
    ("keras-torch", ("keras", "torch"), 240),
    ("keras-tensorflow", ("keras", "tensorflow"), 240),
)
FRAMEWORKS = {
    "torch": (("--framework", "torch"), ("torch", "lightning")),
    "keras-jax": (("--framework", "keras", "--backend", "jax"), ("keras", "jax")),
    "keras-torch": (("--framework", "keras", "--backend", "torch"), ("keras", "torch")),
}
"""The frameworks of the examples; TensorFlow for CUDA is not the package for CPUs."""
EPOCHS = 2
IMAGES = {"cats_vs_dogs": "cats_and_dogs_filtered", "segmentation": "dsb2018_96"}
"""The folder of each example in the data folder."""
_OPTIONS = {
    # no dropout: each device has other random numbers
    "cats_vs_dogs": ("--dropout", "0", "--checkpoint-epoch", "1"),
    "segmentation": ("--loss", "dice", "--activation", "arctan"),
}
_SMALL = {
    "cats_vs_dogs": ("--size", "46", "--batch-size", "40"),
    "segmentation": ("--width", "2", "--depth", "2", "--batch-size", "24"),
}
"""Options of the interpreted run, which has only synthetic images."""
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
INTERPRETED = {"TRITON_INTERPRET": "1", "SEGACT_KERNELS": "triton"}
"""The environment for running the kernels without a GPU."""


@dataclass(frozen=True)
class Plan:
    """The device, and the amount of work.

    Args:
        device: "cuda" or "cpu".
        short: a little of everything, only to see that it runs.
        data: the folder with the images' folders, or None.
    """

    device: str = "cuda"
    short: bool = False
    data: Path | None = None

    def limit(self, seconds: float) -> float:
        """Of a step: a short run is for machines with few cores that have other work."""
        return 3 * seconds if self.short else seconds

    def module(self, *words: object) -> tuple[str, ...]:
        """The command line of a module of the repository."""
        return (sys.executable, "-m", *map(str, words))

    def steps(self, work: Path) -> list[Step]:
        """All steps, in the order in which they are started and shown."""
        return [
            self._machine(work),
            self._benchmarks(work),
            *self._judges(work),
            *(self._example(work, e, f) for f in FRAMEWORKS for e in IMAGES),
            self._two_devices(),
        ]

    def _two_devices(self) -> Step:
        """The losses over a process group of NCCL, against those of one process."""
        two = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2)
        words = self.module(*two, "scripts/local_and_global.py", "--device", "cuda")
        one = self.device != "cuda" or devices() < 2
        return Step(
            "two-devices",
            "losses over two devices",
            (Command(words),),
            limit=90,
            needs=("torch",),
            read=over_ranks,
            skipped="one device" if one else "",
        )

    def _machine(self, work: Path) -> Step:
        name = "machine"
        path = work / name / "machine.json"
        words = self.module("scripts.gpu.machine", path, self.device)
        return Step(
            name,
            "the machine",
            (Command(words, INTERPRETED if self.short else {}),),
            limit=self.limit(90),
            needs=("torch",),
            read=lambda folder: read(folder / "machine.json"),
            alone=True,
        )

    def _benchmarks(self, work: Path) -> Step:
        name = "benchmarks"
        path = work / name / "benchmarks.json"
        words: list[object] = ["benchmarks", "--device", self.device, "--json", path]
        words += ["--rounds", 5, "--seconds", 0]
        if self.short:
            words += ["--quick", "--threads", 1, "--framework", "torch"]
        return Step(
            name,
            "speed and memory",
            (Command(self.module(*words)),),
            limit=self.limit(200),
            needs=("torch",),
            read=lambda folder: read(folder / "benchmarks.json"),
            alone=True,
        )

    def _judges(self, work: Path) -> list[Step]:
        kernels = INTERPRETED if self.short else {}
        ways = {"torch": kernels, "torch, formulas": {"SEGACT_KERNELS": "0"}}
        found = [
            self._judge(
                *(work, "torch", ("torch",), 150),
                *(f"judge-{title.replace(', ', '-')}", title, environment),
            )
            for title, environment in ways.items()
        ]
        for name, needs, limit in JUDGED:
            if self.short and name != "keras-torch":
                step = Step(f"judge-{name}", f"the judge, {name}", skipped="left to the full run")
            else:
                step = self._judge(work, name, needs, limit)
            found.append(step)
        return found

    def _judge(
        self,
        work: Path,
        implementation: str,
        needs: tuple[str, ...],
        limit: float,
        name: str = "",
        title: str = "",
        environment: dict[str, str] | None = None,
    ) -> Step:
        name = name or f"judge-{implementation}"
        words: list[object] = ["parity", "run", "--implementation", implementation]
        words += ["--device", self.device]
        words += ["--json", work / name / "judge.json", "--markdown"]
        words += ["--no-dense"] if self.short else []
        return Step(
            name,
            f"the judge, {title or implementation}",
            (Command(self.module(*words), environment or {}),),
            limit=self.limit(limit),
            needs=("mpmath", *needs),
            read=judgement,
        )

    def _example(self, work: Path, example: str, framework: str) -> Step:
        name = f"{example}-{framework}"
        options, needs = FRAMEWORKS[framework]
        options = (*options, "--epochs", str(EPOCHS), *_OPTIONS[example])
        options += _SMALL[example] if self.short else self._images(example)
        commands = []
        for device in dict.fromkeys((self.device, "cpu")):  # at the same time
            words = (f"examples.{example}", "train", *options, "--device", device)
            commands.append(
                Command(
                    self.module(*words, "--out", work / name / device),
                    ON_CPU if device == "cpu" else {},
                    f"{device}.log",
                )
            )
        return Step(
            name,
            f"{example}, {framework}",
            tuple(commands),
            limit=self.limit(200),
            needs=("PIL", "tensorboard", *needs) if framework == "torch" else ("PIL", *needs),
            read=partial(trainings, devices=tuple(dict.fromkeys((self.device, "cpu")))),
        )

    def _images(self, example: str) -> tuple[str, ...]:
        folder = self.data / IMAGES[example] if self.data else None
        if folder is None or not folder.is_dir():
            return ()
        return ("--data", f"dsb2018:{folder}" if example == "segmentation" else str(folder))


def devices() -> int:
    """How many GPUs PyTorch sees."""
    if find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def over_ranks(folder: Path) -> dict[str, Any]:
    """The error of each loss's gradient over ranks; raises `ValueError` for one above 1e-12."""
    lines = (folder / "output.log").read_text(errors="replace").splitlines()
    rows = [re.match(r"(.+?) +[\d.]+% off +(\S+) off", line) for line in lines]
    found = {row[1]: float(row[2]) for row in rows if row}
    if not found or not all(error <= 1e-12 for error in found.values()):
        raise ValueError(f"gradients off by {found}; wanted 1e-12")
    return {"off": found}


def read(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def judgement(folder: Path) -> dict[str, Any]:
    """Whether it passed, the number of comparisons, the failures, the worst by activation.

    Raises `Skip` where the implementation could not run on this machine.
    """
    found = read(folder / "judge.json")
    (one,) = found["implementations"]
    if one["skipped"]:
        raise Skip(one["skipped"])
    lines = (folder / "output.log").read_text(errors="replace").splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    return {
        "passed": found["passed"],
        "error": one["error"],
        "seconds": one["seconds"],
        "judged": len(found["measurements"]),
        "failures": found["failures"],
        "worst": {row[0]: row[1] for row in cells[2:] if len(row) == 2},
    }


def table(path: Path) -> list[dict[str, float | None]]:
    """The rows of a CSV file of numbers; None for empty cells."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: float(v) if v else None for k, v in row.items()} for row in rows]


def trainings(folder: Path, devices: tuple[str, ...]) -> dict[str, Any]:
    """For each device: its name, the losses of the first steps, and every epoch."""
    found: dict[str, Any] = {}
    for device in devices:
        run = folder / device
        config = read(run / "config.json")
        if config["device"] != device:
            raise ValueError(f"trained on {config['device']}, not on {device}")
        found[device] = {
            "images": config["options"]["data"] or "synthetic",
            "steps": [row["loss"] for row in table(run / "steps.csv")],
            "history": table(run / "history.csv"),
        }
    return found
