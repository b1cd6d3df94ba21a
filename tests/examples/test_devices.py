"""`train --devices 2` gives the numbers of one device, and what it refuses."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from examples.common.options import TrainingOptions
from examples.common.runs import Run, RunError
from examples.common.task import Task

ROOT = Path(__file__).parents[2]
FRAMEWORKS = [
    pytest.param("torch", marks=pytest.mark.needs("torch", "lightning", "tensorboard")),
    pytest.param("keras", marks=pytest.mark.needs("keras", "tensorflow")),
]
# SGD in float64, so that nothing but the order of sums is left between one device and two.
COMMON = ("--device", "cpu", "--precision", "64", "--optimizer", "sgd", "--epochs", "1")
EXAMPLES = {
    # batch normalization; raw outputs of several batches
    "segmentation": ("--size", "16", "--width", "2", "--depth", "1", "--learning-rate", "0.1"),
    # what is counted, and the least and largest raw output
    "cats_vs_dogs": ("--size", "46", "--dropout", "0", "--learning-rate", "0.1"),
}
# PyTorch takes parts that differ in size.
BATCH = {("segmentation", "torch"): 25, ("segmentation", "keras"): 24}


def train(example: str, framework: str, devices: int, folder: Path) -> Run:
    size = BATCH.get((example, framework), 160)
    words = ["train", "--framework", framework, "--batch-size", size, "--devices", devices]
    words += [*COMMON, *EXAMPLES[example], "--out", folder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{example}", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Run.open(folder)


@pytest.mark.parametrize(
    ("example", "framework"),
    [
        pytest.param(example, param.values[0], marks=param.marks, id=f"{example}-{param.values[0]}")
        for example, param in itertools.product(EXAMPLES, FRAMEWORKS)
        if (example, param.values[0]) != ("cats_vs_dogs", "keras")  # a minute, and little more
    ],
)
def test_two_devices_train_to_the_numbers_of_one(
    example: str, framework: str, tmp_path: Path
) -> None:
    one, two = (train(example, framework, n, tmp_path / str(n)) for n in (1, 2))
    assert len(two.steps()) == len(one.steps()) >= 3
    # What is logged may go through float32.
    np.testing.assert_allclose(two.steps(), one.steps(), rtol=1e-6)
    for row, expected in zip(two.history(), one.history(), strict=True):
        for name in expected.keys() - {"seconds"}:
            assert row[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
    weights, expected = (load_file(run.path("final.safetensors")) for run in (two, one))
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(weights[name], values, rtol=1e-9, atol=1e-9, err_msg=name)


def refused(count: int, even: bool, **options: Any) -> str:
    task = SimpleNamespace(options=TrainingOptions(**options), counts={"train": count})
    with pytest.raises(RunError) as caught:
        Task.check_devices(task, even)  # type: ignore[arg-type]
    return str(caught.value)


def test_batches_that_cannot_be_shared_out() -> None:
    alone = refused(9, False, batch_size=4, devices=2)
    assert alone == ("--batch-size 4: of 9 samples a batch has 1, for --devices 2; wanted >= 2")
    assert "wanted a multiple of 2" in refused(10, True, batch_size=3, devices=2)
    assert "a batch has 3" in refused(11, True, batch_size=4, devices=2)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"devices": 0}, "--devices is 0; wanted a whole number >= 1"),
        ({"devices": 3, "batch_size": 2}, "--batch-size is 2; wanted a sample for each of 3"),
    ],
)
def test_options_that_cannot_be(given: dict[str, int], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        TrainingOptions(**given)  # type: ignore[arg-type]


@pytest.mark.needs("keras", "torch")
def test_keras_on_torch_has_one_device(tmp_path: Path) -> None:
    words = ("--framework", "keras", "--backend", "torch", "--devices", "2", "--out", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "examples.segmentation", "train", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Keras trains on one device on --backend torch; wanted" in done.stderr
