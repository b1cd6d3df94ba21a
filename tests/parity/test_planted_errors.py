"""An error planted in a copy of an implementation turns the exit code to 1, and is named."""

import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.suite.case import ACTIVATIONS
from parity.suite.inputs import DTYPES, grid

Run = Callable[..., subprocess.CompletedProcess[str]]

Copy = Callable[[str], Path]


def failed(result: subprocess.CompletedProcess[str], json_path: Path) -> list[dict[str, Any]]:
    """The measurements that failed, of a run that ended with code 1 as it should."""
    assert result.returncode == 1, result.stdout + result.stderr
    found = json.loads(json_path.read_text())
    assert found["passed"] is False
    return [m for m in found["measurements"] if not m["passed"]]


def append(package: Path, lines: str, module: str = "activations") -> None:
    """Adds lines to the end of a module of a copy, the activations if no other is said."""
    path = package / f"{module}.py"
    path.write_text(f"{path.read_text()}\n\n{lines}\n")


def replace_pi(package: Path) -> None:
    """In the class of arctan, and nowhere else, pi becomes 3.1416."""
    path = package / "activations.py"
    source = path.read_text()
    (body,) = re.findall(r"^class Arctan\(.*?(?=^class )", source, re.DOTALL | re.MULTILINE)
    assert "math.pi" in body
    path.write_text(source.replace(body, body.replace("math.pi", "3.1416")))


# activation, what is appended to the activations of segact_torch, what must be named with it
PLANTED = {
    "float32 cast in float64": (
        "softsign",
        "_right = Softsign.logcdf\n"
        "Softsign.logcdf = lambda self, x: _right(self, x.float()).to(x.dtype)",
        {("float64", "logcdf")},
    ),
    "sign": (
        "normal_cdf",
        "_right = NormalCDF.sf\nNormalCDF.sf = lambda self, x: _right(self, -x)",
        {("float32", "sf"), ("float64", "sf"), ("float32", "dice"), ("float64", "dice")},
    ),
    "constant in the last digits": (
        "sigmoid",
        "_right = Sigmoid.logsf\nSigmoid.logsf = lambda self, x: 1.000002 * _right(self, x)",
        {("float32", "logsf"), ("float32", "binary_cross_entropy,y=0"), ("float64", "logsf")},
    ),
    "gradient alone": (
        "inverse_square_root",
        "_right = InverseSquareRoot.pdf\n"
        "InverseSquareRoot.pdf = lambda self, x: _right(self, x.detach()) + 0 * x",
        {("float32", "pdf"), ("float64", "pdf")},
    ),
    "not a number far out": (
        "arctan",
        "_right = Arctan.logcdf\n"
        "Arctan.logcdf = lambda self, x: _right(self, x) + 0 * (x * x - x * x)",
        {("float32", "logcdf"), ("float64", "logcdf")},
    ),
    "wrong number far out": (
        "normal_cdf",
        "_right = NormalCDF.cdf\n"
        "NormalCDF.cdf = lambda self, x: torch.where(x > 1e4, 7 + 0 * x, _right(self, x))",
        {("float32", "cdf"), ("float64", "cdf")},
    ),
    "wrong number at infinity": (
        "softsign",
        "_right = Softsign.cdf\n"
        "Softsign.cdf = lambda self, x: torch.where(x.isinf(), 0.25, _right(self, x))",
        {("float32", "cdf"), ("float64", "cdf")},
    ),
    "gradient negated far out": (
        "arctan",
        "_right = Arctan.logcdf\n"
        "def _negated(self, x):\n"
        "    value = _right(self, x)\n"
        "    return torch.where(x < -1e4, 2 * value.detach() - value, value)\n"
        "Arctan.logcdf = _negated",
        {("float32", "logcdf"), ("float64", "logcdf")},
    ),
    "constant batch": (
        "linear",
        "_right = Linear.cdf\n"
        "Linear.cdf = lambda self, x: _right(self, x) + 1e-3 * (x.min() == x.max())",
        {(dtype, q) for dtype in DTYPES for q in ("cdf", "sf", "squared_error,y=soft")},
    ),
    "quantile": (
        "hardtanh",
        "_right = HardTanh.ppf\nHardTanh.ppf = lambda self, p: _right(self, p) + 1e-6",
        {("float32", "ppf"), ("float64", "ppf")},
    ),
    "minimum of the batch": (
        "linear",
        "_right = Linear.cdf\nLinear.cdf = lambda self, x: _right(self, x) + 1e-5 * (x == x.min())",
        {("float32", "cdf"), ("float64", "cdf"), ("float64", "dice")},
    ),
}


@pytest.mark.needs("torch")
@pytest.mark.parametrize("plant", PLANTED)
def test_error_is_found_and_named(
    segact_parity: Run, copy_of_package: Copy, tmp_path: Path, plant: str
) -> None:
    activation, lines, named = PLANTED[plant]
    package = copy_of_package("segact_torch")
    append(package, lines)
    result = segact_parity(
        *("run", "--implementation", "torch", "--no-dense", "--json", "all.json"),
        ahead=package.parent,
    )
    found = failed(result, tmp_path / "all.json")
    assert {m["activation"] for m in found} == {activation}
    assert named <= {(m["dtype"], m["quantity"]) for m in found}
    assert f"torch against reference: {activation} " in result.stdout


# in a file of the loops: what is put for what, and what must be named: dtypes, the activation if it
# is one alone, the quantity and the part
BOTH = ("float32", "float64")
PLANTED_IN_LOOPS = {
    "squared error, slope": (
        *("elements.h", "2 * off * (error * f.density)", "R(2.00002) * off * (error * f.density)"),
        *(BOTH, "", "squared_error,y=1", "grad_x"),
    ),
    "focal, value": (
        *("elements.h", "{error * error * f.on.loss,", "{R(1.00001) * error * error * f.on.loss,"),
        *(BOTH, "", "binary_focal_cross_entropy,y=0", "value"),
    ),
    "hard cross entropy, slope": (
        *("elements.h", "{f.on.loss, -f.on.hazard}", "{f.on.loss, R(-1.00001) * f.on.hazard}"),
        *(BOTH, "softsign", "binary_cross_entropy,y=1", "grad_x"),
    ),
    "cross entropy of two logarithms": (
        *("elements.h", "{a * f.on.loss + b", "{R(1.00001) * a * f.on.loss + b"),
        *(BOTH, "hardtanh", "binary_cross_entropy,y=1", "value"),
    ),
    "squeeze": (
        *("activations.h", "s.epsilon + s.scale * tail", "s.epsilon * R(1.01) + s.scale * tail"),
        *(BOTH, "inverse_square_root", "binary_cross_entropy,y=1", "value"),
    ),
    "Dice + cross entropy, slope": (
        *("elements.h", "weight * e.slope, density", "R(1.0001) * weight * e.slope, density"),
        *(("float32",), "", "dice_cross_entropy", "grad_x"),
    ),
    "a constant of one type": (
        *("float64.c", "NEXT(-0.3333333333333333)", "NEXT(-0.3333333333)"),
        *(("float64",), "arctan", "binary_cross_entropy,y=0", "value"),
    ),
    "half the digits": (
        *("float64.c", "#define HALF_MANTISSA 0x7ffffffu", "#define HALF_MANTISSA 0xfffu"),
        *(("float64",), "normal_cdf", "binary_cross_entropy,y=1", "grad_x"),
    ),
}


def compile_loops(package: Path) -> None:
    folder = package / "_backends" / "loops"
    source = zlib.crc32(b"".join(path.read_bytes() for path in sorted(folder.glob("*.[ch]"))))
    command = ["cc", "-O0", "-shared", "-fPIC", "-fvisibility=hidden", f"-DSEGACT_SOURCE={source}u"]
    files = [*map(str, folder.glob("*.c")), "-lm", "-o", str(folder.parent / "_cpu.so")]
    subprocess.run([*command, *files], check=True, capture_output=True)


@pytest.mark.needs("torch")
@pytest.mark.skipif(not shutil.which("cc") or sys.platform == "win32", reason="no C compiler")
@pytest.mark.skipif(os.environ.get("SEGACT_KERNELS") == "0", reason="they are switched off")
def test_errors_of_the_loops_are_found_and_named(
    segact_parity: Run, copy_of_package: Copy, tmp_path: Path
) -> None:
    package = copy_of_package("segact_torch")
    for file, right, wrong, *_ in PLANTED_IN_LOOPS.values():
        path = package / "_backends" / "loops" / file
        assert path.read_text().count(right) == 1, right
        path.write_text(path.read_text().replace(right, wrong))
    compile_loops(package)
    result = segact_parity(
        *("run", "--implementation", "torch", "--no-dense", "--json", "all.json"),
        ahead=package.parent,
    )
    keys = ("dtype", "activation", "quantity", "part")
    found = {tuple(m[k] for k in keys) for m in failed(result, tmp_path / "all.json")}
    for plant, (*_, dtypes, activation, quantity, part) in PLANTED_IN_LOOPS.items():
        for dtype in dtypes:
            named = [one for one in found if one[0] == dtype and one[2:] == (quantity, part)]
            assert [one for one in named if activation in ("", one[1])], (plant, dtype)


# in the kernels of a GPU: what is put for what, and what must be named of float32, likewise
PLANTED_IN_KERNELS = {
    "squared error, slope": (
        *("w * (2.0 * d * density)", "w * (2.00002 * d * density)"),
        *("", "squared_error,y=1", "grad_x"),
    ),
    "focal, value": (
        *("return w * unless_zero(power, loss)", "return w * 1.00001 * unless_zero(power, loss)"),
        *("", "binary_focal_cross_entropy,y=0", "value"),
    ),
    "a constant": (
        *("p * w - 0.10610329030077986", "p * w - 0.1061"),
        *("arctan", "binary_cross_entropy,y=0", "value"),
    ),
    "a hazard": (
        *("a * reciprocal(0.5 + t), inverse", "a * reciprocal(0.50001 + t), inverse"),
        *("softsign", "binary_cross_entropy,y=1", "grad_x"),
    ),
    "overlap, the gradient of what weighs 1 - y": (
        *("weigh(w * (1.0 - y), off)", "weigh(w * (1.0 - y), 1.0001 * off)"),
        *("", "dice", "grad_x"),
    ),
}


@pytest.mark.needs("torch")
def test_errors_of_the_kernels_are_found_and_named(
    segact_parity: Run, copy_of_package: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interpreted."""
    pytest.importorskip("triton", "3.2", reason="Triton is not installed, or old")
    package = copy_of_package("segact_torch")
    paths = [*(package / "_backends" / "triton").glob("*.py")]
    for right, wrong, *_ in PLANTED_IN_KERNELS.values():
        (path,) = [path for path in paths if right in path.read_text()]
        assert path.read_text().count(right) == 1, right
        path.write_text(path.read_text().replace(right, wrong))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("SEGACT_KERNELS", "triton")
    result = segact_parity(
        *("run", "--implementation", "torch", "--no-dense", "--json", "all.json"),
        ahead=package.parent,
    )
    keys = ("dtype", "activation", "quantity", "part")
    found = {tuple(m[k] for k in keys) for m in failed(result, tmp_path / "all.json")}
    assert {dtype for dtype, *_ in found} == {"float32"}
    for plant, (*_, activation, quantity, part) in PLANTED_IN_KERNELS.items():
        named = [one for one in found if one[2:] == (quantity, part)]
        assert [one for one in named if activation in ("", one[1])], plant


# what is appended to the losses of segact_torch, and the option that must be named, and no other
PLANTED_IN_LOSSES = {
    "dice,smooth": (
        "_dice = dice\ndef dice(*a, smooth=0.0, **k): return _dice(*a, smooth=2 * smooth, **k)"
    ),
    "jaccard,ignore_index": (
        "_jaccard = jaccard\n"
        "def jaccard(x, y, *a, ignore_index=None, **k):\n"
        "    return _jaccard(x.nan_to_num(0, 0, 0), torch.where(y == 255, 0.0, y), *a, **k)"
    ),
    "lovasz,channels_last": (
        "_lovasz = lovasz\n"
        "def lovasz(x, y, *a, channel_axis=None, **k):\n"
        "    return _lovasz(x, y, *a, channel_axis=1 if channel_axis == -1 else channel_axis, **k)"
    ),
    "keras_convention": (
        "_cross = binary_cross_entropy\n"
        "def binary_cross_entropy(x, y, *a, convention=None, **k):\n"
        "    clipped = x.clamp(2e-7) if convention == 'keras' else x\n"
        "    return _cross(clipped, y, *a, convention=convention, **k)"
    ),
}


@pytest.mark.needs("torch")
def test_errors_of_options_are_found_and_named(
    segact_parity: Run, copy_of_package: Copy, tmp_path: Path
) -> None:
    """With every activation, in both dtypes, and nothing else is."""
    package = copy_of_package("segact_torch")
    for lines in PLANTED_IN_LOSSES.values():
        append(package, lines, "losses")
    result = segact_parity(
        *("run", "--implementation", "torch", "--no-dense", "--json", "all.json"),
        ahead=package.parent,
    )
    found = failed(result, tmp_path / "all.json")
    conventions = {m["activation"] for m in found if "_convention" in m["activation"]}
    options = [m for m in found if m["activation"] not in conventions]
    assert conventions | {m["quantity"] for m in options} == set(PLANTED_IN_LOSSES)
    for option in PLANTED_IN_LOSSES.keys() - conventions:
        where = {(m["activation"], m["dtype"]) for m in options if m["quantity"] == option}
        assert where == set(product(ACTIVATIONS, DTYPES)), option
    assert "keras_convention binary_cross_entropy,y=1 value at p=" in result.stdout


PLAIN_RATIO = """
def ratio(error, hit, smooth):
    whole = error + hit + smooth
    empty = whole < _special.tiny(whole)
    return (error / whole.masked_fill(empty, math.inf)).masked_fill(empty, 0.0)
"""


@pytest.mark.needs("torch")
def test_slopes_that_cancel_are_found(
    segact_parity: Run, copy_of_package: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ratio as a plain quotient: it differs in the gradient of an empty mask alone."""
    package = copy_of_package("segact_torch")
    append(package, PLAIN_RATIO, "_sums")
    monkeypatch.setenv("SEGACT_KERNELS", "0")
    result = segact_parity(
        *("run", "--implementation", "torch", "--no-dense", "--json", "all.json"),
        ahead=package.parent,
    )
    found = failed(result, tmp_path / "all.json")
    quantities = {m["quantity"] for m in found}
    assert "dice,smooth" in quantities
    assert all(quantity.endswith(",smooth") for quantity in quantities)
    assert {(m["dtype"], m["part"]) for m in found} == {("float32", "grad_x")}


NEEDS = {
    "torch": ("torch",),
    "keras-torch": ("keras", "torch"),
    "keras-tensorflow": ("keras", "tensorflow"),
}


# not JAX, which takes a minute to compile and gets its copy in the same way
@pytest.mark.parametrize(
    "implementation",
    [pytest.param(name, marks=pytest.mark.needs(*modules)) for name, modules in NEEDS.items()],
)
def test_wrong_pi_is_found_on_a_users_file(
    segact_parity: Run, copy_of_package: Copy, tmp_path: Path, implementation: str
) -> None:
    """In any one implementation; the others are not needed to see it."""
    copy = copy_of_package("segact_torch" if implementation == "torch" else "segact_tf")
    replace_pi(copy)
    x = np.random.default_rng(6).normal(0, 4, (8, 5)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", logits=x, targets=x > 1)
    result = segact_parity(
        *("run", "--implementation", implementation, "--inputs", "mine.npz", "--json", "all.json"),
        ahead=copy.parent,
    )
    found = failed(result, tmp_path / "all.json")
    assert {m["activation"] for m in found} == {"arctan"}
    assert {m["left"] for m in found} == {implementation}
    assert f"{implementation} against reference: arctan " in result.stdout


@pytest.mark.needs("torch", "keras")
def test_two_implementations_are_held_against_each_other(
    segact_parity: Run, copy_of_package: Copy, tmp_path: Path
) -> None:
    package = copy_of_package("segact_torch")
    replace_pi(package)
    names = ("--implementation", "torch", "--implementation", "keras-torch")
    result = segact_parity(
        *("run", *names, "--no-dense", "--json", "all.json"), ahead=package.parent
    )
    found = failed(result, tmp_path / "all.json")
    assert {m["activation"] for m in found} == {"arctan"}
    assert {(m["left"], m["right"]) for m in found} == {
        ("torch", "reference"),
        ("torch", "oracle"),
        ("torch", "keras-torch"),
    }


@pytest.mark.needs("torch")
def test_dense_sweep_finds_what_lies_between_the_points_of_the_grid(
    segact_parity: Run, copy_of_package: Copy, tmp_path: Path
) -> None:
    low, high = 3.001, 3.002
    assert not np.any((grid("float32") > low) & (grid("float32") < high))
    package = copy_of_package("segact_torch")
    append(
        package,
        "_right = Arctan.pdf\n"
        "Arctan.pdf = lambda self, x: "
        f"_right(self, x) * (1 + 2e-6 * ((x > {low}) & (x < {high})))",
    )
    command = ("run", "--implementation", "torch", "--json", "all.json")
    assert segact_parity(*command, "--no-dense", ahead=package.parent).returncode == 0
    found = failed(segact_parity(*command, ahead=package.parent), tmp_path / "all.json")
    assert {(m["activation"], m["right"]) for m in found} == {("arctan", "oracle")}
    assert ("pdf", "value") in {(m["quantity"], m["part"]) for m in found}
    assert all(low < abs(m["x"]) < high for m in found)
