"""`compare`: the weights of a Keras run in PyTorch, and the losses of the first steps."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from examples.cats_vs_dogs import cli
from examples.common.runs import Run

pytestmark = pytest.mark.needs("torch", "lightning", "tensorboard", "keras", "PIL")

ROOT = Path(__file__).parents[2]
PLAIN = (
    *("--size", "46", "--epochs", "2", "--checkpoint-epoch", "1", "--dropout", "0"),
    *("--optimizer", "sgd", "--learning-rate", "0.05", "--precision", "64"),
)
"""In float64 no rounding error reaches a kink of ReLU within these steps."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `keras` and `torch`, trained alike on the synthetic set."""
    folder = tmp_path_factory.mktemp("compared")
    for framework in ("keras", "torch"):
        words = ["--framework", framework, "--out", folder / framework, *PLAIN]
        command = [sys.executable, "-m", "examples.cats_vs_dogs", "train", *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copies(runs: Path, tmp_path: Path) -> Path:
    """Copies of both, to plant something in."""
    return Path(shutil.copytree(runs, tmp_path / "copies"))


def compared(folder: Path, *more: str) -> tuple[int, str]:
    words = ["compare", str(folder / "keras"), str(folder / "torch"), *more]
    result = CliRunner().invoke(cli.app, words)
    return result.exit_code, result.output


def configure(folder: Path, **options: object) -> None:
    run = Run.open(folder)
    run.config["options"] |= options
    run.write_config()


def test_two_trainings_that_must_agree_do(runs: Path) -> None:
    code, text = compared(runs)
    assert code == 0
    assert "raw outputs: ok" in text
    assert "200 validation images; worst synthetic/validation/" in text
    assert "losses: ok: 40 steps" in text
    assert "bound 1e-09" in text
    steps = [Run.open(runs / name).steps() for name in ("keras", "torch")]
    assert steps[0] == pytest.approx(steps[1], rel=1e-12)
    assert len(set(steps[0])) == 40


def test_both_started_from_the_same_weights(runs: Path) -> None:
    from safetensors.numpy import load_file

    both = [load_file(runs / name / "initial.safetensors") for name in ("keras", "torch")]
    one, other = ([found[key] for key in sorted(found)] for found in both)
    assert len(one) == 12
    for left, right in zip(one, other, strict=True):
        assert left.dtype.kind == "f"
        assert np.array_equal(np.sort(left, axis=None), np.sort(right, axis=None))
    kernel = next(array for array in one if array.shape == (3, 3, 3, 32))
    assert np.abs(kernel).max() == pytest.approx(np.sqrt(6 / (9 * 35)), rel=1e-2)


def test_an_output_that_differs_is_named(copies: Path) -> None:
    run = Run.open(copies / "keras")
    found = run.outputs("full")
    found["validation_raw"][7] += 2e-4
    run.write_outputs("full", found)
    code, text = compared(copies)
    assert code == 1
    assert "raw outputs: FAIL" in text
    assert (
        f"worst {found['validation_names'][7]}: {found['validation_raw'][7]:.9g} in Keras" in text
    )


def test_losses_that_part_fail(copies: Path) -> None:
    run = Run.open(copies / "torch")
    steps = run.steps()
    steps[4] *= 1 + 1e-6
    run.write_history(run.history(), steps)
    code, text = compared(copies)
    assert code == 1
    assert "losses: FAIL: 40 steps; worst at step 5" in text
    assert "raw outputs: ok" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dropout": 0.5}, "--dropout 0.5"),
        ({"optimizer": "adam"}, "--optimizer adam"),
    ],
)
def test_what_is_random_or_not_the_same_claims_intervals_only(
    copies: Path, options: dict[str, object], words: str
) -> None:
    for name in ("keras", "torch"):
        configure(copies / name, **options)
    code, text = compared(copies)
    assert code == 0
    assert f"not compared step by step: {words}" in text
    assert "epoch by epoch, keras-tensorflow / torch" in text
    configure(copies / "torch", seed=9, **options)
    assert "--seed 0 and 9" in compared(copies)[1]


def test_what_cannot_be_compared_is_one_line(copies: Path) -> None:
    def line() -> str:
        code, text = compared(copies)
        assert code == 2
        (words,) = text.strip().splitlines()
        return words

    configure(copies / "keras", precision="16-mixed")
    assert "--precision 16-mixed; wanted" in line()
    configure(copies / "keras", precision="64", model="inception_v3", size=75)
    assert "averages at the borders" in line()
    configure(copies / "keras", model="convnet", size=46)
    run = Run.open(copies / "keras")
    run.config["data"]["sha256"] = "0"
    run.write_config()
    assert "other images than those" in line()
    run.path("outputs_full.npz").write_bytes(b"PK")
    assert "damaged" in line()
    run.path("outputs_full.npz").unlink()
    assert "has no outputs_full.npz" in line()
    run.path("config.json").write_text(json.dumps({"format": 9}))
    assert "not the configuration of a run" in line()
