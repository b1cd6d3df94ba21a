"""What the kernels compile to."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", "3.2", reason="Triton is not installed, or old")

from kernels import compiled

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "triton_resources", ROOT / "scripts" / "triton_resources.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@compiled
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize(
    ("kernel", "activation"),
    [
        *(("cross_entropy", "normal_cdf"), ("cross_entropy", "inverse_square_root")),
        *(("squared_error", "normal_cdf"), ("focal", "normal_cdf")),
        *(("overlap", "normal_cdf"), ("overlap_gradient", "sigmoid"), ("rescale", "")),
        *(("overlap and entropy", "normal_cdf"), ("gradient of both", "normal_cdf")),
        ("ratio", ""),
    ],
)
def test_no_register_is_spilled(script, kernel, activation, target):
    """The heaviest of each kernel; the script makes the table of all."""
    assert_nothing_is_spilled(script.resources(kernel, activation, target))


@compiled
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("kernel", ["cross_entropy", "focal"])
def test_no_register_is_spilled_by_options(script, kernel, target):
    options = dict.fromkeys(("SQUEEZED", "EACH_POSITIVE", "SMOOTHED", "WEIGHTED"), True)
    assert_nothing_is_spilled(script.resources(kernel, "normal_cdf", target, **options))


def assert_nothing_is_spilled(found):
    assert found.spilled == 0
    assert 0 < found.registers <= 256
    assert found.per_element > 1
