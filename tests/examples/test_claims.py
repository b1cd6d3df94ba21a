"""`table`: the write-up's claims hold, or do not, as the raw outputs have it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from examples.cats_vs_dogs import claims
from examples.common.runs import Run, RunError

pytestmark = pytest.mark.needs("scipy")

LIKE_THE_SEED = {"epoch_8": [2.0] * 20, "full": [3.0] * 17 + [17.0, 20.0, -2.0]}


def by_claim(rows: list[claims.Row]) -> dict[str, claims.Row]:
    return {row.claim: row for row in rows}


def find(rows: list[claims.Row], words: str) -> claims.Row:
    (found,) = (row for row in rows if words in row.claim)
    return found


def test_a_run_like_the_seeds(make_run: Callable[..., Path]) -> None:
    rows = claims.table([make_run("run", LIKE_THE_SEED)])
    assert [row.verdict for row in rows] == ["yes", "yes", "yes", "-", "yes", "yes"]
    assert find(rows, "8 epochs").ours == "train [-2.0, 2.0]; validation [-2.0, 2.0]"
    assert find(rows, "past 16").ours.startswith("train 2 of 20, the highest 20.0; ")
    stops = find(rows, "stops").ours
    assert "1.19e-07 below, 15.942 (cats) and 16.118 (dogs) above" in stops
    assert "train 4 and 0 samples" in stops
    assert find(rows, "accuracy").ours == "train 95.0%; validation 95.0%"
    assert find(rows, "batches of 20").ours.startswith("train 0 of 2 (0.00%)")


def test_what_does_not_hold_is_said(make_run: Callable[..., Path]) -> None:
    wild = {"epoch_8": [-12.0, 2.0, 3.0, 4.0] * 5, "full": [15.0] * 19 + [-17.0]}
    rows = claims.table([make_run("run", wild)])
    assert find(rows, "8 epochs").holds is False
    assert find(rows, "past 16").holds is False
    assert "train 0 and 2 samples" in find(rows, "stops").ours


def test_batches_that_differ_are_counted_by_hand(make_run: Callable[..., Path]) -> None:
    rows = claims.table([make_run("run", {"full": [20.0] * 20})])
    found = find(rows, "batches of 4 ")
    assert found.holds is False
    apart = 2.0**-23 / np.log1p(np.exp(-20.0)) - 1
    assert found.ours.startswith(f"train 10 of 10 (100.00%), at most {apart:.2g} apart")


def test_too_few_samples_for_a_batch_are_not_judged(make_run: Callable[..., Path]) -> None:
    found = find(claims.table([make_run("run", {"full": [20.0] * 4})]), "batches of 20")
    assert (found.holds, "too few" in found.ours) == (None, True)


def test_an_unfinished_run_has_no_verdicts(make_run: Callable[..., Path]) -> None:
    rows = claims.table([make_run("run", {})])
    assert {(row.ours, row.verdict) for row in rows} == {("not kept", "-")}


def test_the_seeds_range_is_of_epoch_8_alone(make_run: Callable[..., Path]) -> None:
    folder = make_run("run", {"epoch_2": [2.0] * 20}, checkpoint_epoch=2)
    assert find(claims.table([folder]), "after 2 epochs").holds is None


def test_another_activation_is_refused(make_run: Callable[..., Path]) -> None:
    with pytest.raises(RunError, match="--activation arctan; the write-up's claims are of sigmoid"):
        claims.table([make_run("run", LIKE_THE_SEED, activation="arctan")])


def test_several_runs_stand_below_each_other(make_run: Callable[..., Path]) -> None:
    folders = [make_run("one", LIKE_THE_SEED), make_run("two", {}, synthetic=True)]
    rows = claims.table(folders)
    assert [row.run for row in rows[:2]] == ["one", "two (synthetic)"]
    text = claims.markdown(rows)
    assert {line.count(" | ") for line in text.splitlines()} == {5}
    assert len(text.splitlines()) == 2 + len(rows)
    out = Console(width=100, record=True, quiet=False)
    claims.print_claims(out, rows)
    shown = out.export_text()
    assert shown.count("accuracy after full training") == 1
    assert "segact-parity conventions" in shown


def test_the_training_command_says_what_is_not_usual(make_run: Callable[..., Path]) -> None:
    own = {"framework": "keras", "backend": "jax", "convention": "keras", "learning_rate": 3e-3}
    command = claims.training_command(Run.open(make_run("run", {}, **own)))
    head, _, out = command.rpartition(" --out ")
    assert head == (
        "python -m examples.cats_vs_dogs train --framework keras --backend jax --data DIR "
        "--convention keras --learning-rate 0.003"
    )
    assert out.endswith("/run")
    drawn = Run.open(make_run("drawn", {}, synthetic=True, size=64, epochs=20))
    assert "--framework torch --out" in claims.training_command(drawn)
