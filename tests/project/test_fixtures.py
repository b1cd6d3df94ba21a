"""What an earlier version saved is read by this one, and gives the numbers that it gave.

`tests/fixtures/make.py` wrote the files and says how; `tests/fixtures/replay.py` reads them in a
process of its own, which has imported nothing before.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"

# Against the largest entry. A float32 result is within 8 ulp, 4.8e-7, of the exact one, so two of
# them differ by up to 1e-6; Keras's numbers are those of the same backend.
TOLERANCE = 1e-6

ONLY = os.environ.get("SEGACT_ONLY")
PACKAGES = [
    pytest.param("segact_torch", marks=pytest.mark.skipif(ONLY == "keras", reason="SEGACT_ONLY")),
    pytest.param("segact_tf", marks=pytest.mark.skipif(ONLY == "torch", reason="SEGACT_ONLY")),
]


@pytest.fixture(scope="module", params=PACKAGES)
def replayed(request, tmp_path_factory):
    """A package, the numbers that it saved, those of now, and the configs of now."""
    package = request.param
    if find_spec("torch" if package == "segact_torch" else "keras") is None:
        pytest.skip("its framework is not installed")
    out = tmp_path_factory.mktemp(package) / "numbers.npz"
    here = Path(find_spec(package).origin).parents[1]  # the package that this process tests
    done = subprocess.run(
        [sys.executable, str(FIXTURES / "replay.py"), package, str(out)],
        env={**os.environ, "PYTHONPATH": str(here)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    name = "numbers.npz"
    if package == "segact_tf":
        name = f"numbers-{os.environ.get('KERAS_BACKEND', 'tensorflow')}.npz"
    with np.load(FIXTURES / package / name) as saved, np.load(out) as now:
        return package, dict(saved), dict(now), out.with_suffix(".json")


def test_every_saved_number_is_given_again(replayed):
    _, saved, now, _ = replayed
    assert saved.keys() == now.keys()
    wrong = {}
    for name, array in saved.items():
        assert array.shape == now[name].shape, name
        assert array.dtype == now[name].dtype, name
        scale = np.abs(array[np.isfinite(array)]).max(initial=np.finfo(np.float32).tiny)
        close = np.isclose(now[name], array, rtol=0, atol=TOLERANCE * scale, equal_nan=True)
        if not close.all():
            wrong[name] = float(np.abs(now[name] - array).max() / scale)
    assert not wrong, wrong


def test_every_saved_option_is_read_and_written_again(replayed):
    package, _, _, configs = replayed
    if package == "segact_torch":
        pytest.skip("a PyTorch module has no config")
    saved = json.loads((FIXTURES / package / "configs.json").read_text())
    now = json.loads(configs.read_text())
    for case, each in saved.items():
        for option, value in each["config"].items():
            if option != "dtype":  # Keras's own words for it, which its versions may change
                assert now[case][option] == value, (case, option)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_loss_and_activation_is_frozen(package):
    """So that a case which is lost from the folder is missed."""
    losses = {path.stem.split("-")[0] for path in (FIXTURES / package / "losses").iterdir()}
    assert losses == {
        "binary_cross_entropy",
        "binary_focal_cross_entropy",
        "mean_squared_error",
        "dice",
        "jaccard",
        "tversky",
        "focal_tversky",
        "dice_cross_entropy",
        "lovasz",
        "lovasz_hinge",
    }
    size = sum(path.stat().st_size for path in FIXTURES.rglob("*") if path.is_file())
    assert size < 1_000_000
