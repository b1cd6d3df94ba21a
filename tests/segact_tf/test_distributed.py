"""Losses over several devices equal the single device's with the whole batch.

On TensorFlow one process goes through everything on two replicas, `replicas.py`; on JAX one trains
on two devices, `data_parallel.py`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras")
import keras

BACKEND = keras.backend.backend()
if BACKEND == "torch":
    pytest.skip("Keras has no distribution on torch", allow_module_level=True)

import fitting  # noqa: E402

if BACKEND == "tensorflow":
    import replicas
else:
    from types import SimpleNamespace

    replicas = SimpleNamespace(CASES=(), OTHERWISE=(), COMPILED=(), CHECKS=(), PLANTED={})

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
PAGE = ROOT / "docs" / "scaling.md"
PROGRAM = {"tensorflow": "replicas.py", "jax": "data_parallel.py"}[BACKEND]
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of tf.distribute")

# Value and gradient.
WIDE, NARROW = (1e-12, 1e-12), (2e-6, 1e-5)


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    """What the process found, by name."""
    folder = tmp_path_factory.mktemp("replicas")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    words = [sys.executable, str(SUPPORT / PROGRAM), str(folder / "found.json")]
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


@pytest.mark.parametrize("name", fitting.FITTED)
def test_fit_trains_to_the_weights_and_reports_the_loss_of_one_device(found, name):
    """SGD in float64; on TensorFlow one replica has no sample of the last batch."""
    assert (found["eager fit"] if BACKEND == "tensorflow" else found)[name] <= 1e-9


@pytest.mark.skipif(BACKEND != "jax", reason="no replica can")
@pytest.mark.parametrize("name", fitting.WHOLE)
def test_jax_sorts_the_errors_of_all_devices(found, name):
    assert found[name] <= 1e-9


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


@on_tensorflow
def test_a_planted_error_is_found_in_fit(found):
    assert found["planted in fit"]["Dice"] > 1e-3


@on_tensorflow
@pytest.mark.skipif(not PAGE.exists(), reason="needs a source checkout")
def test_the_table_of_the_page(found):
    printed = re.search(r"global_keras.py\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    for line, wanted in zip(found["table"], printed.splitlines(), strict=True):
        exact = r"\de[-+]\d\d"  # what rounding makes of an exact gradient
        assert re.sub(exact, "", line) == re.sub(exact, "", wanted)
        assert all(float(error) < 1e-14 for error in re.findall(exact, line))
