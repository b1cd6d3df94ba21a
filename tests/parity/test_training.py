"""Training takes the same course in every implementation, and a difference is seen at its step."""

import json
import math
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from parity.common.processes import progress_display
from parity.report.console import console
from parity.report.training_tables import print_trainings
from parity.suite.records import RecordError
from parity.training import run as training
from parity.training import worker as trainer
from parity.training.problem import BATCH, GAPS, LAYERS, OPTIMIZERS, Problem, Setting
from parity.training.run import OptimizerGap, Options, Training, Trainings

Run = Callable[..., subprocess.CompletedProcess[str]]

TORCH = pytest.mark.needs("torch")
BOTH = pytest.mark.needs("torch", "keras", "tensorflow")
STEPS = 50
"""Enough for every loss to halve."""


@pytest.fixture(scope="module")
def trained() -> Trainings:
    """PyTorch and Keras on TensorFlow, both precisions, each in its own process."""
    with progress_display(console(stderr=True)) as progress:
        return training.run(["torch", "keras-tensorflow"], Options(STEPS), progress)


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_keras_takes_the_course_of_torch(trained: Trainings, optimizer: str, dtype: str) -> None:
    assert (trained.failed, trained.skipped) == ({}, {})
    (run,) = [r for r in trained.runs if (r.optimizer, r.dtype) == (optimizer, dtype)]
    assert run.failures() == []
    assert run.bound == {"float32": 1e-4, "float64": 1e-9}[dtype]
    found = run.differences("keras-tensorflow")
    assert len(found) == STEPS
    assert max(found) <= {"float32": 1e-5, "float64": 1e-12}[dtype]  # far inside of the bounds
    assert 0 < run.halved("torch") < STEPS


@BOTH
def test_what_remains_with_other_settings(trained: Trainings) -> None:
    """The mapping of Adam's epsilon is exact up to the betas, which Keras on TensorFlow rounds."""
    found = {(r.optimizer, r.torch): r.differences["keras-tensorflow"] for r in trained.gaps}
    assert len(found) == len(GAPS)
    assert found["adam", "eps=1e-7/sqrt(1-beta_2^t)"] < found["adam", "eps=1e-7"] / 3
    assert found["rmsprop", "defaults"] > 0.01
    for name in ("alpha=0.9, eps=1e-7", "alpha=0.9, eps=sqrt(1e-7)"):
        assert 1e-9 < found["rmsprop", name] < found["rmsprop", "defaults"]


def given(optimizer: str, dtype: str = "float64") -> Problem:
    """What PyTorch's process is given, with one setting; too few steps to learn much."""
    return training.problem_of("torch", Options(5, (optimizer,), (dtype,)))


def beside(sound: Problem, planted: Problem) -> Training:
    """PyTorch's curve, and that of another implementation with something planted."""
    curves = {
        name: list(trainer.train_torch(problem, problem.settings[0]))
        for name, problem in (("torch", sound), ("other", planted))
    }
    setting = sound.settings[0]
    bound = training.BOUNDS[setting.dtype]
    return Training(setting.optimizer, setting.dtype, sound.loss, sound.activation, bound, curves)


def with_option(problem: Problem, **changed: Any) -> Problem:
    setting = problem.settings[0]
    return replace(problem, settings=[replace(setting, options={**setting.options, **changed})])


@TORCH
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_learning_rate_off_by_a_millionth_is_seen_after_one_step(optimizer: str) -> None:
    sound = given(optimizer)
    rate = sound.settings[0].options["lr"]
    run = beside(sound, with_option(sound, lr=rate * (1 + 1e-6)))
    assert run.parted("torch") is None
    assert run.parted("other") == 1
    line = run.failures()[0]
    assert line.startswith(f"other differs from torch in {optimizer} float64 at step 1: loss ")
    assert line.endswith("bound 1e-09")


@TORCH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_default_alpha_of_torch_is_seen_after_one_step(dtype: str) -> None:
    sound = given("rmsprop", dtype)
    run = beside(sound, with_option(sound, alpha=0.99))
    assert run.parted("other") == 1
    assert f"other differs from torch in rmsprop {dtype} at step 1" in run.failures()[0]


@TORCH
def test_a_wrong_initial_weight_is_seen_at_once() -> None:
    sound = given("sgd")
    kernel = sound.weights["down/kernel"].copy()
    kernel[2, 0, 3, 7] += 1e-4
    run = beside(sound, replace(sound, weights={**sound.weights, "down/kernel": kernel}))
    assert run.parted("other") == 0
    assert "in sgd float64 at step 0" in run.failures()[0]


@TORCH
def test_adams_epsilon_as_pytorch_has_it_is_seen() -> None:
    sound = given("adam")
    planted = [replace(sound.settings[0], keras_epsilon=False)]
    assert beside(sound, replace(sound, settings=planted)).parted("other") == 1


@pytest.fixture
def float64() -> Iterator[None]:
    """Leaves Keras as it was."""
    keras = pytest.importorskip("keras")
    before = keras.config.floatx(), keras.config.dtype_policy()
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.mark.needs("keras")
def test_kerass_losses_are_exact_and_from_before_the_step(float64: None) -> None:
    """Not rounded to float32, and that of this batch alone."""
    import keras

    import segact_tf

    problem = training.problem_of("keras", Options(2, ("sgd",), ("float64",)))
    losses = list(trainer.train_keras(problem, problem.settings[0]))
    model = trainer._keras_model(problem)
    loss = segact_tf.losses.DiceCrossentropy("arctan")
    batches = list(problem.batches("float64"))
    before = loss(batches[0][1], model(batches[0][0]))
    assert losses[0] == pytest.approx(float(keras.ops.convert_to_numpy(before)), rel=1e-14)
    model.compile(optimizer=keras.optimizers.SGD(problem.settings[0].options["learning_rate"]))
    model.compile(optimizer=model.optimizer, loss=loss)
    model.train_on_batch(*batches[0])
    after = loss(batches[1][1], model(batches[1][0]))
    assert losses[1] == pytest.approx(float(keras.ops.convert_to_numpy(after)), rel=1e-14)


@pytest.mark.needs("torch", "keras")
def test_the_two_networks_are_ports_of_each_other(float64: None) -> None:
    """By `parity.weights`, which checks strides and what `same` pads and cuts off."""
    import keras
    import torch

    from parity import weights

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    problem = given("sgd")
    ours = trainer._torch_model(problem, "float64")
    other = trainer._torch_model(
        replace(problem, weights={key: 0 * array for key, array in problem.weights.items()}),
        "float64",
    )
    assert len(weights.copy(trainer._keras_model(problem), other)) == len(LAYERS)
    for one, two in zip(ours.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_problem_goes_through_its_file(tmp_path: Path) -> None:
    problem = training.problem_of("torch", Options(3))
    problem.write(tmp_path / "problem")
    again = Problem.read(tmp_path / "problem")
    assert again.settings[0] == problem.settings[0]
    assert len(again.settings) == len({setting.label for setting in again.settings}) == 6 + 6
    assert again.weights.keys() == problem.weights.keys()
    for key, array in problem.weights.items():
        assert np.array_equal(again.weights[key], array)
        assert np.abs(array).min() > 0
    batches = again.batches("float64"), problem.batches("float64")
    for (image, mask), (x, y) in zip(*batches, strict=True):
        assert image.shape == mask.shape == (BATCH, 16, 16, 1)
        assert np.array_equal(image, x)
        assert np.array_equal(mask, y)
        assert set(np.unique(mask)) == {0, 1}


def test_batches_go_round() -> None:
    problem = replace(training.problem_of("torch", Options(9)))
    masks = [mask for _, mask in problem.batches("float32")]
    assert len(masks) == 9
    assert np.array_equal(masks[0], masks[8])
    assert not np.array_equal(masks[0], masks[1])


def made(**curves: list[float]) -> Training:
    """A training with these curves, the bound 0.1."""
    return Training("adam", "float32", "dice", "arctan", 0.1, curves)


def test_where_they_part_and_where_they_halve() -> None:
    run = made(other=[4.0, 3.0, 1.0], torch=[4.0, 2.5, 2.0])
    assert run.reference == "torch"
    assert run.differences("other") == [0.0, pytest.approx(0.2), 0.5]
    assert (run.parted("other"), run.parted("torch")) == (1, None)
    assert (run.halved("other"), run.halved("torch")) == (2, 2)
    assert not run.passed
    exact = made(other=[4.0, 2.75], torch=[4.0, 2.5])
    assert exact.parted("other") is None  # on the bound
    assert exact.passed  # too short to be judged on learning
    slow = made(other=[4.0, *99 * [2.75]], torch=[4.0, *99 * [2.5]])
    assert slow.failures() == [
        f"{name} does not learn in adam float32: in 100 steps the loss never halves, from 4 to "
        f"{last}"
        for name, last in (("other", 2.75), ("torch", 2.5))
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_number_agrees_with_nothing(bad: float) -> None:
    run = made(torch=[4.0, bad, 1.0], other=[4.0, bad, 1.0])
    assert run.parted("other") == 1
    assert made(torch=[4.0, 0.0], other=[4.0, 1e-300]).parted("other") == 1
    assert made(torch=[bad, 0.0]).halved("torch") is None


def test_without_torch_the_first_is_the_reference() -> None:
    assert made(b=[1.0], a=[1.0]).reference == "b"


def test_what_is_missing_or_failed_is_said() -> None:
    good = made(torch=[2.0, 1.0])
    alone = Trainings([good], skipped={"keras-jax": "jax is not installed"})
    assert alone.passed
    assert not alone.compared
    alone.required = frozenset({"keras-jax"})
    assert alone.failures() == ["keras-jax was asked for and skipped: jax is not installed"]
    broken = Trainings([good], failed={"keras-jax": "exit code 1"})
    assert broken.failures() == ["keras-jax failed: exit code 1"]
    assert Trainings().failures() == ["nothing was trained: no implementation could run"]


def shown(trainings: Trainings) -> str:
    out = StringIO()
    print_trainings(Console(file=out, width=100), trainings)
    return out.getvalue()


def test_the_table_says_who_parts_and_where() -> None:
    run = made(**{"torch": [4.0, 2.5, 2.0], "keras-jax": [4.0, 3.0, 1.0]})
    row = OptimizerGap("rmsprop", "defaults", "alpha=0.9", 3, {"keras-jax": 0.0123})
    text = shown(Trainings([run], gaps=[row], seconds={"torch": 1.0, "keras-jax": 2.0}))
    rows = [line.split() for line in text.splitlines()]
    assert ["keras-jax", "FAIL", "4", "1", "2", "5.0e-01", "1"] in rows
    assert ["torch", "ok", "4", "2", "2"] in rows
    assert "Keras defaults, PyTorch alpha=0.9 1e-02" in text
    assert "FAILED: 1 failure\nkeras-jax differs from torch in adam float32 at step 1" in text
    assert "passed: 1 trainings" not in text
    assert "nothing was compared: torch alone" in shown(Trainings([made(torch=[2.0, 1.0])]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps is 0; wanted a whole number >= 1"),
        ({"optimizers": ("adm",)}, "unknown optimizer adm; did you mean adam?"),
        ({"dtypes": ("float16",)}, "unknown dtype float16; did you mean float"),
        ({"loss": "dise"}, "unknown loss dise; did you mean dice?"),
        ({"loss": "lovasz_hinge"}, "unknown loss lovasz_hinge; did you mean lovasz?"),
        ({"activation": "arctangent"}, "unknown activation arctangent; did you mean arctan?"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Options(**options)


def test_bad_options_are_refused_in_one_line(segact_parity: Run) -> None:
    for option, value, words in (
        ("--steps", "-1", "steps is -1"),
        ("--optimizer", "adm", "did you mean adam?"),
        ("--implementation", "pytorch", "did you mean torch?"),
        ("--json", "nowhere/a.json", "cannot write there"),
        ("--report", "/dev/null", "cannot write there"),
    ):
        result = segact_parity("train", option, value)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.count("\n") == 1
        assert words in result.stderr


@TORCH
def test_one_alone_is_trained_and_compared_with_nothing(segact_parity: Run, tmp_path: Path) -> None:
    few = ("--optimizer", "sgd", "--dtype", "float32", "--implementation", "torch")
    result = segact_parity("train", "--steps", 20, *few, "--json", "-", "--report", "page")
    assert "sgd, float32" in (tmp_path / "page" / "index.html").read_text()
    assert result.returncode == 1
    assert "nothing was compared: torch alone was trained" in result.stderr
    found = json.loads(result.stdout)
    assert (found["passed"], found["compared"]) == (True, False)
    (run,) = found["trainings"]
    assert len(run["curves"]["torch"]) == 20
    assert run["halved"] == {"torch": 11}


@TORCH
def test_a_crash_is_shown_and_fails(
    segact_parity: Run, copy_of_package: Callable[[str], Path]
) -> None:
    package = copy_of_package("segact_torch")
    (package / "__init__.py").write_text("raise RuntimeError('the roof is on fire')\n")
    result = segact_parity("train", "--implementation", "torch", ahead=package.parent)
    assert result.returncode == 1
    assert "torch failed: exit code 1" in result.stdout
    assert "RuntimeError: the roof is on fire" in result.stdout


def test_less_than_every_loss_is_a_failure(tmp_path: Path) -> None:
    settings = [Setting("sgd-float32", "sgd", "float32", {})]
    problem = replace(training.problem_of("torch", Options(3)), settings=settings)
    path = tmp_path / "losses.json"
    with pytest.raises(RecordError, match="wrote no losses"):
        training._read(path, problem)
    path.write_text(json.dumps({"sgd-float32": [1.0, 2.0]}))
    with pytest.raises(RecordError, match="2 of 3 losses of sgd-float32"):
        training._read(path, problem)
    path.write_text(json.dumps({"sgd-float32": [1.0, 2.0, math.nan]}))
    assert len(training._read(path, problem)["sgd-float32"]) == 3
