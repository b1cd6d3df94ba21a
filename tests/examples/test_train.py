"""`train` in both frameworks on a small set of files, as a user runs it; and `--resume`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from examples.cats_vs_dogs import cli, data
from examples.cats_vs_dogs.options import Options
from examples.common import batches, training
from examples.common.files import held_alone
from examples.common.heads import HeadError, KerasHead, TorchHead, check_names
from examples.common.runs import Run, RunError, stopped

ROOT = Path(__file__).parents[2]
FRAMEWORKS = [
    pytest.param("torch", marks=pytest.mark.needs("torch", "lightning", "tensorboard", "PIL")),
    pytest.param("keras", marks=pytest.mark.needs("keras", "PIL")),
]
BOUNCING = (
    *("--size", "48", "--batch-size", "4", "--epochs", "9", "--patience", "2"),
    *("--checkpoint-epoch", "2", "--learning-rate", "3e-3", "--seed", "5"),
)
"""Dropout and RMSprop, with a rate at which the loss goes up and down."""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "examples.cats_vs_dogs", *map(str, arguments)]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 and 16 of the synthetic images, as PNG files."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    for split, name in zip(data.synthetic(48), data.SPLITS, strict=True):
        for label, kind in enumerate(data.CLASSES):
            place = folder / name / kind
            place.mkdir(parents=True)
            chosen = split.images[split.labels == label][: 24 if name == "train" else 8]
            for number, image in enumerate(chosen):
                Image.fromarray(image).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def train(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Callable[[str], Run]:
    """The finished run of a framework, with the options `BOUNCING`."""
    found: dict[str, Run] = {}

    def trained(framework: str) -> Run:
        if framework not in found:
            out = tmp_path_factory.mktemp("runs") / framework
            words = ("--framework", framework, "--data", pictures, "--out", out, *BOUNCING)
            done = subprocess.run(
                command("train", *words), env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            found[framework] = Run.open(out)
        return found[framework]

    return trained


def without_seconds(run: Run) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.history()]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_holds_what_it_promises(framework: str, train: Callable[[str], Run]) -> None:
    run = train(framework)
    names = {path.name for path in run.folder.iterdir()}
    assert {
        *("config.json", "history.csv", "steps.csv", "tensorboard", "initial.safetensors"),
        *("epoch_2.safetensors", "best.safetensors", "final.safetensors"),
        *("outputs_epoch_2.npz", "outputs_full.npz"),
    } < names
    assert {name for name in names if name.startswith(".")} == {".lock"}  # nothing half-written
    assert run.finished
    assert run.config["data"]["train"] == 48
    assert not run.config["data"]["synthetic"]
    assert run.options["learning_rate"] == 3e-3
    assert run.config["versions"]["numpy"] == np.__version__


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_rows_are_those_of_the_raw_outputs(framework: str, train: Callable[[str], Run]) -> None:
    run = train(framework)
    for when, row in (("epoch_2", run.history()[1]), ("full", run.history()[-1])):
        found = run.outputs(when)
        raw, labels = found["validation_raw"], found["validation_labels"]
        assert list(found["validation_names"][[0, -1]]) == [
            "validation/cats/0.png",
            "validation/dogs/7.png",
        ]
        assert found["train_raw"].shape == (48,)
        assert raw.dtype == np.float32
        for name, label in (("cat", 0), ("dog", 1)):
            mine = raw[labels == label]
            assert row[f"val_{name}_min"] == pytest.approx(mine.min(), rel=1e-5)
            assert row[f"val_{name}_max"] == pytest.approx(mine.max(), rel=1e-5)
            assert row[f"{name}_min"] != row[f"val_{name}_min"]
        assert row["val_accuracy"] == pytest.approx(np.mean((raw > 0) == labels))
        signed = np.where(labels == 1, -raw, raw).astype(np.float64)
        assert row["val_loss"] == pytest.approx(np.mean(np.logaddexp(0, signed)), rel=1e-5)
        assert row["val_clipped"] == np.sum(np.abs(raw) > 16.118)
        assert row["val_clipped_wrong"] == np.sum(signed > 16.118)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_training_learns_and_ends_by_its_rule(framework: str, train: Callable[[str], Run]) -> None:
    run = train(framework)
    losses = [row["loss"] for row in run.history()]
    assert min(losses) < losses[0]
    assert not any(stopped(losses[:epoch], 2) for epoch in range(len(losses)))
    assert run.config["stopped"] == (stopped(losses, 2) or "the cap of 9 epochs")
    assert stopped(losses, 2) or len(losses) == 9


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    framework: str,
    train: Callable[[str], Run],
    pictures: Path,
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    whole, out = train(framework), tmp_path / "cut"
    words = ("--framework", framework, "--data", pictures, "--out", out, *BOUNCING)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command("train", *words), env=environment, **quiet)
    history, first = out / "history.csv", len(whole.history()) - 2
    try:
        while process.poll() is None:
            if history.is_file() and len(history.read_text().splitlines()) > max(first, 2):
                break
            time.sleep(0.002)
        time.sleep(0.03)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not Run.open(out).finished
    done = subprocess.run(
        command("train", "--resume", "--out", out), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    run = Run.open(out)
    assert without_seconds(run) == without_seconds(whole)
    assert run.steps() == whole.steps()
    assert run.config["stopped"] == whole.config["stopped"]
    for name in ("epoch_2.safetensors", "best.safetensors", "final.safetensors"):
        mine, theirs = (load_file(one.path(name)) for one in (run, whole))
        assert all(np.array_equal(mine[key], theirs[key]) for key in theirs), name


def refused(*arguments: object) -> str:
    """The one line of a call that is refused."""
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--framework", "tf"], "--framework is tf; wanted one of torch, keras"),
        (["--size", "40"], "--size is 40; wanted at least 46 pixels for convnet"),
        (["--dropout", "1"], "--dropout is 1.0; wanted a share"),
        (["--batch-size", "0"], "--batch-size is 0; wanted a whole number >= 1"),
        (["--loss", "dise"], "unknown loss dise; did you mean dice?"),
        (["--loss", "dice", "--convention", "keras"], "--convention keras goes with"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--download"], "--download wants --data"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused("train", "--out", "run", *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.needs("torch", "lightning")
def test_a_head_that_cannot_be_leaves_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = refused("train", "--size", 46, "--out", out, "--activation", "sigmoidd")
    assert "did you mean sigmoid" in line
    assert "No module named" in refused("train", "--out", out, "--activation", "nosuch:thing")
    assert not out.exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "holds something else" in refused("train", "--out", tmp_path)
    assert "no run" in refused("train", "--resume", "--out", tmp_path)
    options = Options(framework="torch", seed=3).as_dict()
    run = Run.create(tmp_path / "run", {"options": options, "data": {}})
    assert "--resume continues it" in refused("train", "--out", run.folder)
    line = refused("train", "--resume", "--out", run.folder, "--seed", 4)
    assert "this run has --seed 3, not 4" in line
    line = refused("train", "--resume", "--out", run.folder, "--epochs", 0)
    assert "--epochs is 0; wanted a whole number >= 1" in line
    run.write_history([{"epoch": epoch, "loss": 1.0} for epoch in (1, 2)], [])
    line = refused("train", "--resume", "--out", run.folder, "--epochs", 1)
    assert "this run has 2 epochs already, not 1" in line
    run.config["options"]["wings"] = 2
    run.write_config()
    assert "of another example" in refused("train", "--resume", "--out", run.folder)
    del run.config["options"]["wings"]
    dropout = run.config["options"].pop("dropout")
    run.write_config()
    for words in (["train", "--resume", "--out"], ["figures"], ["table"], ["compare", run.folder]):
        assert "version of this one; it has no option dropout" in refused(*words, run.folder)
    run.config["options"]["dropout"], run.config["finished"] = dropout, True
    run.write_config()
    assert "a finished run" in refused("train", "--out", run.folder)
    assert "finished" in refused("train", "--resume", "--out", run.folder)
    run.path("config.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        Run.open(run.folder)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_that_the_cap_has_ended_goes_on(
    framework: str,
    train: Callable[[str], Run],
    pictures: Path,
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    whole = train(framework)
    count = len(whole.history())

    def invoke(*words: object) -> Run:
        subprocess.run(command("train", *words, "--out", tmp_path), env=environment, check=True)
        return Run.open(tmp_path)

    first = invoke("--framework", framework, "--data", pictures, *BOUNCING, "--epochs", count - 2)
    assert first.config["stopped"] == f"the cap of {count - 2} epochs"
    assert "is finished" in refused("train", "--resume", "--out", tmp_path)
    run = invoke("--resume", "--epochs", 9)
    assert run.finished
    assert run.config["stopped"] == whole.config["stopped"]
    assert without_seconds(run) == without_seconds(whole)


def test_a_backend_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "missing", lambda options: options.backend)
    said = refused("train", "--framework", "keras", "--backend", "jax", "--out", tmp_path / "run")
    assert "--framework keras --backend jax needs jax: not installed" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"epoch,loss\n1,\xff\n", "damaged .*decode byte"),
        (b"epoch,loss\n1,0.5,3\n", "damaged .a row is longer than the head"),
        (b"epoch,loss\n1\n", "None where a number is wanted"),
        (b"epoch,val_loss\n1,0.5\n", "has no column loss"),
    ],
)
def test_a_damaged_history_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_bytes(content)
    with pytest.raises(RunError, match=rf"history\.csv: .*{words}"):
        Run(tmp_path).history("loss")


def test_two_processes_do_not_train_one_run(tmp_path: Path) -> None:
    with held_alone(tmp_path / ".lock", "taken"):
        with pytest.raises(RunError, match="taken"), held_alone(tmp_path / ".lock", "taken"):
            pass
        Run(tmp_path).clear_leftovers()
        assert (tmp_path / ".lock").exists()
    with held_alone(tmp_path / ".lock", "taken"):
        pass


@pytest.mark.needs("torch", "keras")
def test_rmsprop_is_that_of_keras() -> None:
    import keras
    import torch

    from examples.common.optimizers import RMSprop

    start = np.array([1.0, -2.0, 3.0])
    ours, theirs = torch.tensor(start, requires_grad=True), keras.Variable(start, dtype="float64")
    optimizers = RMSprop([ours], 1e-3, 0.9, 1e-7), keras.optimizers.RMSprop(1e-3, 0.9, epsilon=1e-7)
    for gradient in ([3e-4, 1e-2, 0.0], [1e-5, -1e-3, 2e-4], [0.0, 1.0, -3e-4]):
        ours.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizers[0].step()
        optimizers[1].apply([keras.ops.convert_to_tensor(np.array(gradient))], [theirs])
    found = keras.ops.convert_to_numpy(theirs)
    np.testing.assert_allclose(ours.detach().numpy(), found, rtol=1e-7)
    travelled = np.abs(found - start)
    np.testing.assert_allclose(np.abs(ours.detach().numpy() - start), travelled, rtol=1e-6)


def test_every_sample_comes_once_in_an_order_of_seed_and_epoch() -> None:
    found = batches.batches(45, 20, seed=1, epoch=3)
    assert [len(batch) for batch in found] == [20, 20, 5]
    assert sorted(np.concatenate(found)) == list(range(45))
    again = batches.batches(45, 20, seed=1, epoch=3)
    assert all(np.array_equal(*pair) for pair in zip(found, again, strict=True))
    for other in ({"seed": 2, "epoch": 3}, {"seed": 1, "epoch": 2}):
        assert not np.array_equal(batches.batches(45, 20, **other)[0], found[0])
    assert batches.dropout_seed(1, 3) != batches.dropout_seed(1, 2)


@pytest.mark.needs("torch", "keras")
@pytest.mark.parametrize(
    ("activation", "loss", "convention"),
    [
        ("sigmoid", "binary_cross_entropy", None),
        ("sigmoid", "binary_cross_entropy", "exact"),
        ("sigmoid", "binary_cross_entropy", "keras"),
        ("arctan", "dice", None),
        ("linear", "mean_squared_error", None),
        ("sigmoid", "lovasz_hinge", None),
    ],
)
def test_the_heads_are_mirrors(activation: str, loss: str, convention: str | None) -> None:
    import torch
    from keras import ops

    raw = np.array([[-30.0], [-2.0], [0.5], [17.0], [30.0]], np.float32)
    labels = np.array([[1.0], [0.0], [1.0], [0.0], [1.0]], np.float32)
    ours, theirs = (head(activation, loss, convention) for head in (TorchHead, KerasHead))
    tensors = torch.from_numpy(raw), torch.from_numpy(labels)
    one = float(ours.loss(*tensors))
    other = float(ops.convert_to_numpy(theirs.loss(ops.array(labels), ops.array(raw))))
    assert one == pytest.approx(other, rel=1e-6)
    if activation == "sigmoid" and loss == "binary_cross_entropy":
        clipped = convention == "keras"
        exact = np.mean(np.logaddexp(0, np.where(labels == 1, -raw, raw)))
        assert (one < exact - 2) if clipped else one == pytest.approx(exact, rel=1e-6)
    for method in ("wrong", "clipped"):
        given = (tensors, (ops.array(raw), ops.array(labels)))
        count = 2 if method == "wrong" else 1
        mine, others = (
            np.asarray(getattr(head, method)(*arrays[:count]))
            for head, arrays in zip((ours, theirs), given, strict=True)
        )
        assert np.array_equal(mine, others)
    if activation == "sigmoid":
        assert ours.limits == pytest.approx((-16.118, 16.118), abs=1e-3)
        assert mine.ravel().tolist() == [True, False, False, True, True]


def test_a_loss_without_logarithms_has_no_convention() -> None:
    check_names("sigmoid", "dice_cross_entropy", "keras2")
    with pytest.raises(HeadError, match="not with jaccard"):
        check_names("sigmoid", "jaccard", "keras")


@pytest.mark.needs("torch")
def test_an_activation_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    (tmp_path / "own_head.py").write_text("def half(x):\n    return 0.5 + 0.5 * x / (1 + abs(x))\n")
    monkeypatch.syspath_prepend(tmp_path)
    raw, labels = torch.tensor([[3.0], [-1.0]]), torch.tensor([[1.0], [1.0]])
    mine = TorchHead("own_head:half", "binary_cross_entropy").loss(raw, labels)
    known = TorchHead("softsign", "binary_cross_entropy").loss(raw, labels)
    assert float(mine) == pytest.approx(float(known), rel=1e-6)
    with pytest.raises(HeadError, match="wanted an Activation of segact_torch"):
        TorchHead("json:JSONDecoder", "dice")


@pytest.mark.needs("keras")
def test_a_frozen_base_stays_as_it_is() -> None:
    import keras

    from examples.cats_vs_dogs.network import initialise, keras_network

    options = Options(framework="keras", model="vgg16", size=32, base_weights="random")
    network = keras_network("vgg16", 32, 0.5)
    initialise(network, options)
    base = network.get_layer("vgg16")
    before = [np.array(w) for w in base.get_weights()]
    assert len(network.trainable_variables) == 4
    network.compile(keras.optimizers.SGD(0.1), "mean_squared_error")
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    outputs = network.predict_on_batch(images)
    assert np.std(outputs) > 1e-4
    network.train_on_batch(images, np.ones((4, 1), np.float32))
    assert all(np.array_equal(*pair) for pair in zip(before, base.get_weights(), strict=True))
    assert not np.allclose(network.predict_on_batch(images), outputs)


@pytest.mark.needs("torch", "lightning")
@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is there")
def test_a_base_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = refused("train", "--model", "vgg16", "--base-weights", "random", "--out", out)
    assert "torchvision cannot be imported" in line
    assert not out.exists()


def test_the_configuration_is_json(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"options": {"a": 1}, "data": {"loss": float("nan")}})
    assert json.loads(run.path("config.json").read_text())["finished"] is False


@pytest.mark.parametrize("command", ["train", "experiment"])
def test_the_help_names_the_defaults(command: str) -> None:
    import typer

    found = {p.name: p.default for p in typer.main.get_command(cli.app).commands[command].params}
    usual = Options().as_dict() | ({} if command == "train" else {"size": 64, "epochs": 20})
    for name in usual.keys() & found.keys():
        if command == "train" or name not in ("batch_size", "seed"):
            assert found[name] == usual[name], name
