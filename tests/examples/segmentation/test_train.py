"""The whole path on a few drawn images, in both frameworks."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from examples.common.batches import batches
from examples.common.runs import Recorder, Run, RunError, read_csv
from examples.segmentation import cli, data
from examples.segmentation.layouts import IGNORE
from examples.segmentation.metrics import MEANS
from examples.segmentation.options import Options
from examples.segmentation.predict import Model
from examples.segmentation.task import Segmentation

ROOT = Path(__file__).parents[3]
TORCH = pytest.param("torch", marks=pytest.mark.needs("torch", "lightning"))
KERAS = pytest.param("keras", marks=pytest.mark.needs("keras"))
WHOLE = ("--width", "2", "--depth", "2", "--folds", "4")
SMALL = (*WHOLE, "--size", "16")


def backend() -> str:
    return os.environ.get("KERAS_BACKEND", "tensorflow")


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def train(framework: str, out: Path, *arguments: object) -> Run:
    words = ("train", "--framework", framework, "--backend", backend(), "--out", out)
    small = () if set(WHOLE) <= set(arguments) else SMALL
    invoke(*words, *small, *arguments)
    return Run.open(out)


def command(*arguments: object) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "examples.segmentation", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=ROOT, env=environment, start_new_session=True)


@pytest.mark.parametrize("framework", [TORCH, KERAS])
def test_a_run_has_its_result_and_predicts(framework: str, tmp_path: Path) -> None:
    run = train(framework, tmp_path / "run", "--epochs", 3, "--activation", "arctan")
    assert run.finished
    assert run.config["stopped"] == "the cap of 3 epochs"
    result, history = run.read_json("result.json"), run.history()
    best = max(history, key=lambda row: row["val_mean_dice"])
    assert result["epoch"] == best["epoch"]
    assert result["epochs"] == 3
    assert result["seconds"] == pytest.approx(sum(row["seconds"] for row in history))
    assert (result["activation"], result["loss"], result["fold"]) == ("arctan", "dice", 0)
    for name in MEANS:
        assert result["validation"][name] == pytest.approx(best[f"val_{name}"])

    # the saved model gives the probabilities that were measured
    task = Segmentation(Options(**run.options))
    every = np.arange(task.counts["validation"])
    images, masks = task.batch("validation", every, None)
    found = Model(run.folder)(images)
    assert found.shape == masks.shape
    brier = np.mean((found - masks) ** 2)
    assert brier == pytest.approx(result["validation"]["brier"], rel=1e-4)


@pytest.mark.parametrize("framework", [TORCH, KERAS])
def test_predict_writes_probabilities_and_a_mask(framework: str, tmp_path: Path) -> None:
    from PIL import Image

    run = train(framework, tmp_path / "run", "--epochs", 1, *WHOLE)
    image = (data.synthetic(24).images[0]).astype(np.uint8)[:22, :19]  # no multiple of 4
    Image.fromarray(image).save(tmp_path / "x.png")
    line = invoke("predict", run.folder, "--image", tmp_path / "x.png", "--threshold", 0.5)
    place = run.folder / "predictions"
    found = np.asarray(Image.open(place / "x_probability.png"))
    mask = np.asarray(Image.open(place / "x_mask.png"))
    assert found.shape == mask.shape == (22, 19)
    model = Model(run.folder)(image[None])[0, ..., 0]
    np.testing.assert_array_equal(found, np.round(model * 255))
    np.testing.assert_array_equal(mask, np.where(model > 0.5, 255, 0))
    assert f"{(mask > 0).mean():.1%} of the pixels" in line
    refused = invoke("predict", run.folder, "--image", tmp_path / "none.png", code=2)
    assert "none.png: no such file" in refused
    again = ("--image", tmp_path / "x.png", "--image", tmp_path / "other" / "x.png")
    assert "two files of the same name" in invoke("predict", run.folder, *again, code=2)
    run.path("best.json").write_text('{"validation": {"classes": [{}]}}')
    refused = invoke("predict", run.folder, "--image", tmp_path / "x.png", code=2)
    assert f"{run.folder}: damaged (KeyError: 'best_threshold')" in refused


@pytest.mark.needs("torch", "lightning")
def test_predict_looks_at_an_image_in_the_size_of_the_training(tmp_path: Path) -> None:
    from PIL import Image

    run = train("torch", tmp_path / "run", "--epochs", 1)
    image = data.synthetic(64).images[0]
    Image.fromarray(image).save(tmp_path / "x.png")
    invoke("predict", run.folder, "--image", tmp_path / "x.png", "--out", tmp_path)
    found = np.asarray(Image.open(tmp_path / "x_probability.png")) / 255
    small = Model(run.folder)(data.stretched(image, 16)[None])[0, ..., 0]
    assert found.shape == (64, 64)
    blocks = found.reshape(16, 4, 16, 4).mean((1, 3))
    assert np.abs(blocks - small).mean() < 0.02


@pytest.mark.needs("torch", "lightning")
def test_an_activation_of_ones_own_can_be_used_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_act.py").write_text("def half(x):\n    return (1 + x / (1 + abs(x))) / 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = ("--epochs", 1, "--activation", "own_act:half")
    runs = [train("torch", tmp_path / name, *words).folder for name in ("a", "b")]
    images = data.synthetic(16).images[:2]
    one, other = (Model(run)(images) for run in runs)
    np.testing.assert_array_equal(one, other)


@pytest.mark.needs("torch", "lightning")
def test_an_activation_that_gives_no_probabilities_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no_act.py").write_text("def triple(x):\n    return 3 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = ("--activation", "no_act:triple", "--epochs", 1, "--out", tmp_path / "run")
    said = invoke("train", *SMALL, *words, code=2)
    assert re.search(r"--activation no_act:triple: .* probabilities are not in \[0, 1\]", said)


@pytest.mark.needs("torch", "lightning", "PIL")
def test_the_images_of_a_resumed_run_may_have_been_moved(tmp_path: Path) -> None:
    from PIL import Image

    drawn = data.synthetic(16, 4)
    for place in (tmp_path / "here" / "images", tmp_path / "here" / "masks"):
        place.mkdir(parents=True)
        for i, (image, mask) in enumerate(zip(drawn.images, drawn.masks, strict=True)):
            pixels = image if place.name == "images" else 255 * mask[..., 0]
            Image.fromarray(pixels).save(place / f"{i}.png")
    here, there = f"dsb2018:{tmp_path / 'here'}", f"dsb2018:{tmp_path / 'there'}"
    run = train("torch", tmp_path / "run", "--epochs", 1, "--data", here)
    again = ("train", "--resume", "--out", run.folder, "--epochs", 2, "--data", there)
    (tmp_path / "here").rename(tmp_path / "there")
    assert "ended by the cap of 2 epochs" in " ".join(invoke(*again).split())
    assert Run.open(run.folder).config["data"] == run.config["data"] | {"source": there}
    Image.fromarray(255 - drawn.images[0]).save(tmp_path / "there" / "images" / "0.png")
    assert "other images than those" in invoke(*again[:-4], "--epochs", 3, *again[-2:], code=2)


@pytest.mark.parametrize("framework", [TORCH, KERAS])
def test_a_training_that_is_lost_ends_in_one_line(framework: str, tmp_path: Path) -> None:
    words = ("--framework", framework, "--backend", backend(), *SMALL, "--epochs", 3)
    lost = ("--optimizer", "sgd", "--learning-rate", 1e30, "--loss", "bce")
    out = tmp_path / "run"
    said = invoke("train", *words, *lost, "--out", out, code=2)
    assert "no result; the training loss is no longer finite" in said.splitlines()[-1]
    assert not (out / "result.json").exists()
    said = invoke("train", "--resume", "--out", out, code=2)
    assert "no result; the training loss is no longer finite" in said.splitlines()[-1]


def test_what_is_lost_later_has_the_result_of_its_best_epoch(tmp_path: Path) -> None:
    task = Segmentation(Options(size=16, depth=2, epochs=9))
    run = Run.create(tmp_path / "run", {"options": {}, "data": {"sha256": "0"}})
    nothing = Recorder(run, task, lambda path: None, lambda split: np.zeros(0), 0, 1)
    for loss, dice in ((1.0, 0.4), (0.9, 0.6), (math.nan, math.nan)):
        assert not nothing.reason
        task.measured = {"mean_dice": dice}
        nothing.end_of_epoch({"loss": loss, "val_mean_dice": dice, "seconds": 1.0})
    assert nothing.reason == "the training loss is no longer finite"
    nothing.end()
    result = run.read_json("result.json")
    assert (result["epoch"], result["validation"]["mean_dice"]) == (2, 0.6)


@pytest.mark.needs("torch", "lightning", "keras")
@pytest.mark.parametrize(
    ("precision", "rate", "bound"),
    [
        ("64", 0.05, 1e-12 if backend() == "tensorflow" else 1e-3),  # see agreement._EXACT
        ("32", 0.002, 1e-4),  # at 0.05 a rounding error soon crosses a kink of ReLU
    ],
)
def test_the_first_50_steps_are_the_same_in_both_frameworks(
    precision: str, rate: float, bound: float, tmp_path: Path
) -> None:
    options = ("--epochs", 5, "--optimizer", "sgd", "--learning-rate", rate, "--loss", "bce")
    options = (*options, "--precision", precision)
    runs = [train(name, tmp_path / name, *options) for name in ("torch", "keras")]
    steps = np.array([run.steps() for run in runs])
    assert steps.shape[1] >= 50
    np.testing.assert_allclose(steps[0], steps[1], rtol=bound)
    if bound <= 1e-4:
        assert "losses: ok" in invoke("compare", *(run.folder for run in runs))
    assert steps[0, -5:].mean() < 0.98 * steps[0, :5].mean()  # and they do learn


@pytest.mark.needs("torch", "lightning", "keras")
def test_compare_finds_another_rate(tmp_path: Path) -> None:
    options = ("--epochs", 1, "--optimizer", "sgd", "--precision", 64)
    one = train("torch", tmp_path / "a", *options)
    other = train("keras", tmp_path / "b", *options, "--learning-rate", 0.01)
    assert "not compared step by step: --learning-rate" in invoke(
        "compare", one.folder, other.folder
    )
    steps = read_csv(other.path("steps.csv"))
    other.config["options"]["learning_rate"] = one.options["learning_rate"]  # a lie
    other.write_config()
    assert len(steps) == 12
    assert "losses: FAIL" in invoke("compare", one.folder, other.folder, code=1)


def test_runs_of_different_examples_are_not_compared(tmp_path: Path) -> None:
    from examples.cats_vs_dogs.options import Options as Others

    for name, options in (("a", Options()), ("b", Others())):
        run = Run.create(tmp_path / name, {"options": options.as_dict(), "data": {"sha256": "0"}})
        run.write_history([{"epoch": 1, "loss": 1.0}], [1.0])
    said = invoke("compare", tmp_path / "a", tmp_path / "b", code=2)
    assert f"{tmp_path / 'b'}: a run of another example" in said


def test_a_fold_of_which_nothing_counts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = data.synthetic(16, 4)
    drawn.masks[:2] = IGNORE
    monkeypatch.setattr(data, "load", lambda *arguments: drawn)
    with pytest.raises(RunError, match="every pixel of the validation images is ignored"):
        Segmentation(Options(size=16, depth=2, folds=2))
    with pytest.raises(RunError, match="every pixel of the train images is ignored"):
        Segmentation(Options(size=16, depth=2, folds=2, fold=1))


def test_the_rate_is_cut_and_training_stops(tmp_path: Path) -> None:
    task = Segmentation(Options(size=16, depth=2, cut_patience=2, cut_factor=0.1))
    dice = [0.5, 0.6, 0.6, 0.5, 0.55, 0.59, 0.7, 0.1]
    rates = [
        task.learning_rate([{"val_mean_dice": value} for value in dice[:n]])
        for n in range(len(dice) + 1)
    ]
    cuts = [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01]
    np.testing.assert_allclose(rates, np.multiply(cuts, 1e-3))


@pytest.mark.parametrize("framework", [TORCH, KERAS])
def test_a_rate_of_nothing_stops_after_patience(framework: str, tmp_path: Path) -> None:
    options = ("--epochs", 9, "--learning-rate", 1e-30, "--patience", 3, "--cut-patience", 2)
    run = train(framework, tmp_path / "run", *options, "--no-augment", "--optimizer", "sgd")
    history = run.history()
    best = int(run.read_json("result.json")["epoch"])
    assert run.config["stopped"] == "no higher mean Dice for 3 epochs"
    assert len(history) == best + 3 < 9
    assert history[best + 2]["learning_rate"] == pytest.approx(1e-31)


@pytest.mark.parametrize("framework", [TORCH, KERAS])
def test_a_kill_and_resume_is_the_unbroken_run(framework: str, tmp_path: Path) -> None:
    words = ("--framework", framework, "--backend", backend(), *SMALL, "--epochs", 4)
    words = (*words, "--cut-patience", 1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert command("train", *words, "--out", whole).wait() == 0
    process = command("train", *words, "--out", killed)
    until = time.monotonic() + 120
    while len(read_csv(killed / "history.csv")) < 2:  # in the middle of the third epoch, about
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if not Run.open(killed).finished:
        assert command("train", "--resume", "--out", killed).wait() == 0
    one, other = Run.open(killed), Run.open(whole)
    assert one.steps() == other.steps()
    for row, wanted in zip(one.history(), other.history(), strict=True):
        assert {**row, "seconds": 0} == {**wanted, "seconds": 0}
    found, unbroken = (run.read_json("result.json") for run in (one, other))
    assert found["validation"] == unbroken["validation"]


@pytest.mark.parametrize("framework", [TORCH, KERAS])
def test_what_is_left_out_does_not_train(framework: str, tmp_path: Path) -> None:
    """Images of 13 are padded to 16, with masks of 255; the loss must not see the padding."""
    task = Segmentation(Options(size=16, depth=2))
    head = _head(framework)
    masks = task.batch("train", np.arange(4), None)[1]
    raw = np.random.default_rng(0).normal(size=masks.shape).astype(np.float32)
    masks[:, 13:] = IGNORE
    whole = float(head.loss_of(head.tensor(raw), head.tensor(masks)))
    cut = float(head.loss_of(head.tensor(raw[:, :13]), head.tensor(masks[:, :13])))
    assert whole == pytest.approx(cut, rel=1e-6)


def _head(framework: str):  # type: ignore[no-untyped-def]
    from examples.common.heads import KerasHead, TorchHead

    make = TorchHead if framework == "torch" else KerasHead
    return make("arctan", "dice", **Segmentation.loss_options)


def test_both_frameworks_see_the_same_numbers() -> None:
    """What a task gives does not depend on the framework, but on seed, epoch and index."""
    task = Segmentation(Options(size=16, depth=2, patch=8))
    at = batches(task.counts["train"], 8, 0, 3)[0]
    first, again = (task.batch("train", at, 3) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert first[0].shape == (8, 8, 8, 3)
    other = task.batch("train", at, 4)
    assert not np.array_equal(first[0], other[0])


@pytest.mark.needs("torch", "lightning")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--loss", "dise"], "unknown loss dise; did you mean dice"),
        (["--activation", "sigmoyd"], "unknown activation sigmoyd; did you mean sigmoid"),
        (["--fold", "5"], "--fold is 5; wanted one of 0 to 4"),
        (["--size", "20"], "--size is 20; wanted a multiple of 16"),
        (["--patch", "128"], "patch: 128; the images are 64 x 64"),
        (["--data", "dsb2018:nowhere"], "nowhere: no such folder"),
        (["--data", "nowhere"], "nowhere"),
        (["--data", "acdc:nowhere"], "acdc"),
        (["--folds", "1"], "--folds is 1; wanted a whole number >= 2"),
        (["--folds", "500"], "500"),
        (["--seed", "4294967296", "--epochs", "1"], "--seed is 4294967296; wanted a whole number"),
        (["--size", "16", "--batch-size", "19"], "of one pixel at the bottom of the network"),
        (["--cut-factor", "2"], "--cut-factor is 2.0; wanted a number in (0, 1)"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = invoke("train", "--out", "run", *arguments, code=2)
    assert words in said
    assert re.fullmatch(r"segmentation: [^\n]+\n", said)
    assert not Path("run").exists()


@pytest.mark.skipif(not find_spec("torch"), reason="needs torch")
def test_the_networks_are_the_same() -> None:
    pytest.importorskip("keras")
    from examples.segmentation.network import build
    from parity import assert_model_parity

    images = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    networks = [
        build(Options(framework=name, width=2, depth=2, seed=1), 3) for name in ("keras", "torch")
    ]
    assert_model_parity(*networks, images)


def test_the_help_names_the_defaults() -> None:
    import typer

    found = {p.name: p.default for p in typer.main.get_command(cli.app).commands["train"].params}
    usual = Options().as_dict()
    assert len(usual.keys() & found.keys()) > 15
    for name in usual.keys() & found.keys():
        assert found[name] == usual[name], name
