"""`experiment`: intervals by hand, tables of made-up histories, and a tiny real one, resumed."""

import csv
import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from examples.cats_vs_dogs import data, experiment
from examples.cats_vs_dogs.experiment import EXACT, LOSSES, QUANTITIES, Pair, Plan
from examples.cats_vs_dogs.options import Options
from examples.common.runs import Run, RunError

pytestmark = pytest.mark.needs("scipy", "safetensors", "matplotlib")

ROOT = Path(__file__).parents[2]
IMAGES = {"synthetic": False, "sha256": "0"}
T_2 = 4.302652729911275
"""The 97.5 % quantile of Student's t with 2 degrees of freedom, from a printed table."""


def quiet() -> Console:
    return Console(quiet=True)


def test_the_interval_is_students() -> None:
    found = experiment.interval([1.0, 2.0, 6.0])
    assert found.mean == 3.0
    assert found.half == pytest.approx(T_2 * math.sqrt(7) / math.sqrt(3))
    assert str(experiment.interval([0.5])) == "0.5"
    assert str(experiment.interval([])) == "-"
    assert str(experiment.interval([0.0, 0.0])) == "0 ± 0"
    assert str(experiment.Interval(0.73211, 0.0123, 3)) == "0.732 ± 0.012"
    assert str(experiment.Interval(1234.5, 321.0, 3)) == "1234 ± 321"


def made(folder: Path, plan: Plan, start: float = 0.0, epochs: int = 2) -> None:
    """Finished runs: the clipped loss has 1 + seed more of all that is counted."""
    for one in plan.trainings():
        config = {
            "options": one.options.as_dict(),
            "data": {"synthetic": True, "train": 4, "validation": 4},
            "device": "cpu",
        }
        run = Run.create(folder / "runs" / one.name, config)
        more = (1 + one.seed) * (one.loss == "clipped")
        rows = [
            {"epoch": e + 1, **dict.fromkeys(QUANTITIES, 10 * e + one.batch_size + more)}
            | {"seconds": 60.0}
            for e in range(epochs)
        ]
        run.write_history(rows, [])
        weights = start if one.loss == "clipped" else 0.0
        save_file({"w": np.full(3, weights, np.float32)}, run.path("initial.safetensors"))
        raw = np.array([-1, 1, -20, 20], np.float32)
        arrays = {}
        for split in ("train", "validation"):
            arrays |= {f"{split}_raw": raw, f"{split}_labels": np.array([0, 1, 1, 1], np.uint8)}
        run.write_outputs("full", arrays)
        run.config["finished"] = True
        run.write_config()


@pytest.fixture
def plan() -> Plan:
    return Plan(Options(size=48, epochs=2, patience=2), (4, 20), (0, 1, 2))


def test_differences_are_paired_by_seed(plan: Plan, tmp_path: Path) -> None:
    made(tmp_path, plan)
    found = experiment.pairs(plan, tmp_path)
    rows = experiment.compared(found)
    assert len(rows) == 2 * (2 * len(QUANTITIES) + len(EXACT))
    one = next(r for r in rows if (r.batch_size, r.quantity, r.epoch) == (4, "val_loss", 2))
    assert one.unclipped == experiment.Interval(14.0, 0.0, 3)
    assert one.difference.mean == 2.0
    assert one.difference.half == pytest.approx(T_2 / math.sqrt(3))
    assert one.difference.verdict == "none shown"  # 2 ± 2.48
    exact = next(r for r in rows if r.quantity == "exact_loss")
    assert exact.clipped.mean == pytest.approx((2 * math.log1p(math.exp(-1)) + 20) / 4)


def test_a_difference_beyond_its_interval_is_named() -> None:
    zero = experiment.Interval(0.0, 0.0, 3)
    row = experiment.Compared(4, "loss", 1, zero, zero, experiment.Interval(2.0, 1.9, 3))
    assert row.difference.verdict == "higher"
    lower = experiment.Interval(-2.0, 1.9, 3)
    assert dataclasses.replace(row, difference=lower).difference.verdict == "lower"
    alone = experiment.Interval(-2.0, math.nan, 1)
    assert dataclasses.replace(row, difference=alone).difference.verdict == "-"


def test_results_are_written_from_what_is_finished(plan: Plan, tmp_path: Path) -> None:
    made(tmp_path, plan)
    unfinished = Run.open(tmp_path / "runs" / "seed_2_batch_4_clipped")
    unfinished.config["finished"] = False
    unfinished.write_config()
    experiment.write_results(plan, tmp_path)
    with (tmp_path / "epochs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["batch_size"], row["seeds"]) for row in rows} == {("4", "2"), ("20", "3")}
    row = next(
        r for r in rows if (r["batch_size"], r["quantity"], r["epoch"]) == ("20", "loss", "1")
    )
    assert float(row["difference_high"]) == pytest.approx(2 + T_2 / math.sqrt(3))
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 1 + 10
    text = (tmp_path / "results.md").read_text()
    assert "4 training and 4 validation synthetic images at 48 x 48 pixels" in text
    assert "| 20 | training loss, its own | 32.0 ± 2.5 | 30 ± 0 | 2.0 ± 2.5 | none shown |" in text
    assert (tmp_path / "epochs.png").read_bytes()[:4] == b"\x89PNG"
    out = Console(width=100, record=True, quiet=False)
    found = experiment.pairs(plan, tmp_path)
    experiment.print_results(out, found, experiment.compared(found))
    assert "epoch  4, clipped  4, unclipped  20, clipped  20, unclipped" in out.export_text()


def test_pairs_from_other_weights_are_refused(plan: Plan, tmp_path: Path) -> None:
    made(tmp_path, plan, start=1e-6)
    with pytest.raises(RunError, match="other initial weights than"):
        experiment.pairs(plan, tmp_path)


def test_the_time_left_is_by_batch_size(plan: Plan, tmp_path: Path) -> None:
    assert experiment.left(plan, tmp_path) == "time left not known yet"
    made(tmp_path, Plan(plan.base, (20,), (0,)))
    assert experiment.left(plan, tmp_path) == "at least 20.0 min left"  # 10 runs of 2 minutes
    made(tmp_path, Plan(plan.base, (4,), (0,)))
    assert experiment.left(plan, tmp_path) == "16.0 min left"
    assert experiment.left(plan, tmp_path, side_by_side=4) == "4.0 min left"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch_sizes": ()}, "--batch-size: nothing; wanted"),
        ({"seeds": (1, 1)}, "--seed: 1, 1; wanted different whole numbers >= 0"),
        ({"base": Options(activation="arctan")}, "of the cross entropy of the sigmoid"),
    ],
)
def test_plans_that_make_no_sense(plan: Plan, changed: dict, words: str) -> None:
    with pytest.raises(RunError, match=words):
        dataclasses.replace(plan, **changed)


def prepared(asked: Plan, out: Path) -> None:
    """An experiment of which nothing is trained."""
    experiment._check(asked, out, IMAGES)
    out.mkdir(exist_ok=True)
    (out / experiment.PLAN).write_text(json.dumps(asked.as_dict()))


def test_a_folder_of_another_experiment_is_refused(plan: Plan, tmp_path: Path) -> None:
    held = tmp_path / "held"
    prepared(plan, held)
    more = dataclasses.replace(plan, seeds=(0, 1, 2, 3))
    prepared(more, held)
    with pytest.raises(RunError, match="has --seed 0, 1, 2, 3; give these, too"):
        prepared(plan, held)
    with pytest.raises(RunError, match="this experiment has --size 48, not 64"):
        prepared(Plan(Options(size=64, epochs=2, patience=2)), held)
    first = held / "runs" / next(more.trainings()).name
    run = Run.create(first, {"options": {}, "data": {"synthetic": True}})
    with pytest.raises(RunError, match="other images than those given now"):
        prepared(more, held)
    run.config |= {"options": more.base.as_dict() | {"epochs": 3}, "data": IMAGES, "finished": True}
    run.write_config()
    with pytest.raises(RunError, match="this run has --epochs 3, not 2"):
        prepared(more, held)
    (tmp_path / "note").write_text("mine")
    with pytest.raises(RunError, match="holds something else"):
        prepared(plan, tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """16 of the synthetic images, as PNG files."""
    from PIL import Image

    folder = tmp_path / "pictures"
    for split, name in zip(data.synthetic(46), data.SPLITS, strict=True):
        for label, kind in enumerate(data.CLASSES):
            place = folder / name / kind
            place.mkdir(parents=True)
            for number, image in enumerate(split.images[split.labels == label][:4]):
                Image.fromarray(image).save(place / f"{number}.png")
    return folder


def without_seconds(run: Run) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.history()]


def trained_alone(options: Options, name: str, out: Path) -> Run:
    """As a worker trains it, in a process with one thread: the last bits hang on both."""
    from examples.common.scheduling import Job

    job = Job("examples.cats_vs_dogs", options, name, out)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", *job.words], env=environment, check=True)
    return Run.open(job.folder)


@pytest.mark.needs("torch", "lightning", "tensorboard", "PIL", "distributed")
@pytest.mark.usefixtures("own_environment")
def test_a_killed_experiment_goes_on_and_repeats_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # so that each worker has one thread
    base = Options(data=str(pictures), size=46, epochs=2, patience=2, device="cpu")
    plan, out = Plan(base, (4,), (5,)), tmp_path / "out"
    clipped, unclipped = plan.trainings()
    # as a kill leaves it: one epoch is behind the first run, the second is not there yet
    prepared(plan, out)
    cut = trained_alone(dataclasses.replace(clipped.options, epochs=1), clipped.name, out)
    cut.config |= {"finished": False, "stopped": "", "options": clipped.options.as_dict()}
    cut.write_config()
    first_row = cut.history()[0]
    (out / "runs" / unclipped.name).mkdir()
    (out / "runs" / unclipped.name / ".config.json.cut").write_text("{")

    assert experiment.run(plan, out, tell=quiet(), jobs=2) == []
    first, second = (one.found(out) for one in plan.trainings())
    assert [first.options["convention"], second.options["convention"]] == list(LOSSES.values())
    assert len(first.history()) == len(second.history()) == 2
    assert first.history()[0] == first_row
    whole = trained_alone(clipped.options, clipped.name, tmp_path / "whole")
    assert without_seconds(first) == without_seconds(whole)
    (pair,) = experiment.pairs(plan, out)
    assert isinstance(pair, Pair)
    # nothing is clipped this early, so that both losses train alike
    assert pair.histories["clipped"][0]["loss"] == pytest.approx(
        pair.histories["unclipped"][0]["loss"], rel=1e-3
    )
    before = [path.stat().st_mtime_ns for path in out.glob("runs/*/*")]
    experiment.run(plan, out, tell=quiet())
    assert [path.stat().st_mtime_ns for path in out.glob("runs/*/*")] == before
