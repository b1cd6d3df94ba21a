"""Losses over replicas equal the single device's with the whole batch.

One process goes through everything on two replicas of TensorFlow, `replicas.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras")
import keras

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.distribute is TensorFlow's", allow_module_level=True)

import replicas  # noqa: E402

# Value and gradient.
WIDE, NARROW = (1e-12, 1e-12), (2e-6, 1e-5)


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    """What the process found, by name."""
    folder = tmp_path_factory.mktemp("replicas")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    words = [sys.executable, str(SUPPORT / "replicas.py"), str(folder / "found.json")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "found.json").read_text())


def within(each, bounds):
    """Whether value and gradient are."""
    return all(error <= bound for error, bound in zip(each, bounds, strict=True))


@pytest.mark.parametrize("name", replicas.CASES)
def test_value_and_gradient_are_those_of_one_device(found, name):
    """With parts of one and of five samples."""
    assert within(found[f"{name}; uneven; float64"], WIDE)


@pytest.mark.parametrize("name", replicas.OTHERWISE)
def test_parts_that_add_nothing_and_float32(found, name):
    assert within(found[f"{name}; empty; float64"], WIDE)
    assert within(found[f"{name}; ignored; float64"], WIDE)
    assert within(found[f"{name}; uneven; float32"], NARROW)


@pytest.mark.parametrize("name", replicas.FITTED)
def test_fit_trains_to_the_weights_and_reports_the_loss_of_one_device(found, name):
    """SGD in float64; one replica has no sample of the last batch."""
    assert found["eager fit"][name] <= 1e-9


@pytest.mark.parametrize("name", replicas.COMPILED)
def test_fit_in_a_graph_does_the_same(found, name):
    assert found["fit"][name] <= 1e-9


@pytest.mark.parametrize("name", replicas.CHECKS)
def test_what_a_replica_does(found, name):
    assert found[name] <= 1e-12


@pytest.mark.parametrize(
    ("error", "name"),
    [(error, name) for error, names in replicas.PLANTED.items() for name in names],
)
def test_a_planted_error_is_found(found, error, name):
    assert max(found[f"planted: {error}; {name}"]) > 1e-3


def test_a_planted_error_is_found_in_fit(found):
    assert found["planted in fit"]["Dice"] > 1e-3
