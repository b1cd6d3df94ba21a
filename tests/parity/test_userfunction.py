"""A user's own functions on the command line: `record`, `compare`, `run --implementation`."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from parity.functions.nearest import nearest
from parity.functions.recorded import FunctionError, compare_pair, evaluate, losses_of_gradient
from parity.functions.remote import RemoteError, Server
from parity.suite.inputs import case_inputs
from tests.parity.conftest import Run

MODULE = '''
import numpy as np
import torch
from torch.nn import functional as F

def focal(x, y, gamma=2):
    ce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    p = torch.sigmoid(x)
    return (ce * (y * (1 - p) + (1 - y) * p) ** gamma).mean()

def dice(x, y):
    p = 0.5 + torch.atan(x) / torch.pi
    return 1 - 2 * (p * y).sum() / (p + y).sum()

def clipped(x, y):
    p = torch.sigmoid(x).clamp(1e-7, 1 - 1e-7)
    return -(y * p.log() + (1 - y) * torch.log1p(-p))

def squared(x, y):
    """With a head that is none of the judge's."""
    return ((torch.tanh(x) - y) ** 2).mean()

def clipped_mean(x, y):
    return clipped(x, y).mean()

def summed(x, y):
    return focal(x, y) * x.numel()

def detached(x, y):
    return focal(x.detach(), y)

def by_hand(x, y):
    return np.mean(np.logaddexp(0, x) - x * y)

def noisy(x, y):
    print("noise on standard output")
    return focal(x, y) * (1 + 1e-3)

def broken(x, y):
    return x.reshape(7, 7, 7)

def whole(x, y):
    return (x > 0).long().sum()

def random(x, y):
    return focal(x * torch.rand_like(x), y)

def undefined(x, y):
    return focal(x, y) * float("nan")

def mean_difference(x, y):
    return np.mean(x - y)

def ends(x, y):
    import os
    os._exit(7)

class Focal(torch.nn.Module):
    def forward(self, x, y):
        return focal(x, y)
'''


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A package with functions, in the folder that commands run in."""
    package = tmp_path / "mypkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "losses.py").write_text(MODULE)
    (package / "absent.py").write_text("import a_package_that_is_not_there")
    return tmp_path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A process that finds `mypkg`."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "own_module.py").write_text(MODULE)
    found = Server(ahead=str(folder))
    yield found
    found.close()


needs_torch = pytest.mark.needs("torch")


@needs_torch
@pytest.mark.parametrize(
    ("name", "cases", "found"),
    [
        ("focal", "segmentation", ("sigmoid", "binary_focal_cross_entropy(gamma=2)")),
        ("focal(gamma=1.5)", "volumes", ("sigmoid", "binary_focal_cross_entropy(gamma=1.5)")),
        ("Focal", "classification", ("sigmoid", "binary_focal_cross_entropy(gamma=2)")),
        ("dice", "segmentation", ("arctan", "dice")),
        ("clipped", "tails", ("sigmoid", "binary_cross_entropy")),
        ("clipped_mean", "tails", ("sigmoid", "binary_cross_entropy")),
        ("by_hand", "volumes", ("sigmoid", "binary_cross_entropy")),
    ],
)
def test_the_nearest_loss_is_found(
    server: Server, name: str, cases: str, found: tuple[str, str]
) -> None:
    function = evaluate("mine", f"own_module:{name}", cases, server)
    best = nearest(function, None, None)
    measurements = best.measurements
    assert best.note("mine") == ""
    assert {(m.activation, m.quantity) for m in measurements} == {found}
    assert all(m.passed for m in measurements) == (not name.startswith("clipped"))
    assert {m.part for m in measurements} == (
        {"value"} if name == "by_hand" else {"value", "grad_x"}
    )


@needs_torch
def test_the_gradient_is_judged_too(server: Server) -> None:
    function = evaluate("mine", "own_module:focal", "segmentation", server)
    function.results["segmentation-soft-float32"]["grad_x"][0, 0, 2, 3] *= 1.001
    failed = [m for m in nearest(function, None, None).measurements if not m.passed]
    assert [(m.case, m.part, m.over) for m in failed] == [
        ("segmentation-soft-float32", "grad_x", 1)
    ]


@needs_torch
def test_the_loss_may_be_named(server: Server) -> None:
    function = evaluate("mine", "own_module:focal", "segmentation", server)
    as_dice = nearest(function, None, None, loss="dice", activation="sigmoid")
    assert (as_dice.case.activation, as_dice.case.quantity) == ("sigmoid", "dice")
    assert not any(m.passed for m in as_dice.measurements if m.part == "value")
    assert "mine is none of the judge's losses: the nearest, dice" in as_dice.note("mine")
    with pytest.raises(FunctionError, match=r"no loss of the judge gives a value of shape \(\)"):
        nearest(function, None, None, loss="lovasz")  # not judged on soft targets


@needs_torch
def test_a_constant_factor_is_noticed(server: Server) -> None:
    function = evaluate("mine", "own_module:summed", "segmentation", server)
    note = nearest(function, None, None).note("mine")
    assert note.startswith(
        "mine is binary_focal_cross_entropy(gamma=2) of sigmoid times a constant"
    )


@needs_torch
def test_a_lost_gradient_is_a_failure(server: Server) -> None:
    whole = evaluate("a", "own_module:focal", "segmentation", server)
    lost = evaluate("b", "own_module:detached", "segmentation", server)
    for measurements in (
        compare_pair(whole, lost, None, None),
        compare_pair(lost, whole, None, None),
        nearest(lost, None, None).measurements,
    ):
        assert {m.part for m in measurements if not m.passed} == {"grad_x"}
        assert "no gradient in x (detached" in losses_of_gradient(measurements)[0]
    by_hand = evaluate("c", "own_module:by_hand", "segmentation", server)
    assert {m.part for m in compare_pair(whole, by_hand, None, None)} == {"value"}


@needs_torch
def test_shapes_that_differ_are_told(server: Server) -> None:
    mean = evaluate("a", "own_module:focal", "classification-float32", server)
    each = evaluate("b", "own_module:clipped", "classification-float32", server)
    line = compare_pair(mean, each, None, None)[0].line()
    assert "function, of shape (), not (32, 1) value" in line


@needs_torch
def test_a_process_survives_an_error_and_noise(server: Server) -> None:
    inputs = case_inputs("classification-float32")["classification-soft-float32"]
    arrays = list(inputs.values())
    with pytest.raises(RemoteError, match=r"in broken \(torch\), given float32\[32, 1\]"):
        server.evaluate("own_module:broken", {}, arrays, [])
    noisy, _ = server.evaluate("own_module:noisy", {}, arrays, [])
    exact, _ = server.evaluate("own_module:focal", {}, arrays, [])
    assert noisy / exact == pytest.approx(1.001, rel=1e-5)


@needs_torch
def test_record_and_compare(segact_parity: Run, own: Path) -> None:
    for name in ("focal", "Focal", "noisy"):
        target = f"mypkg.losses:{name}" if name != "Focal" else "mypkg/losses.py:Focal"
        options = ("--cases", "segmentation", "-o", f"{name}.safetensors")
        done = segact_parity("record", target, *options)
        assert done.returncode == 0, done.stderr
    with safe_open(own / "noisy.safetensors", "numpy") as file:
        header = file.metadata()
    assert header["cases"] == "segmentation"
    assert header["implementation"] == "mypkg.losses:noisy"
    assert header["framework"] == "torch"
    assert {"format", "device", "seed", "versions", "platform"} < header.keys()
    assert "torch" in json.loads(header["versions"])

    same = segact_parity("compare", "focal.safetensors", "Focal.safetensors")
    assert same.returncode == 0, same.stdout
    other = segact_parity("compare", "focal.safetensors", "noisy.safetensors", "--json", "c.json")
    assert other.returncode == 1
    assert "mypkg.losses:focal against mypkg.losses:noisy" in other.stdout
    assert "FAILED: 6 of 6 comparisons" in other.stdout
    found = json.loads((own / "c.json").read_text())["measurements"]
    assert max(m["error"] for m in found) == pytest.approx(1e-3, rel=0.02)
    wide = segact_parity("compare", "focal.safetensors", "noisy.safetensors", "--rtol", "2e-3")
    assert wide.returncode == 0, wide.stdout

    tensors = load_file(own / "focal.safetensors")
    tensors["inputs/segmentation-soft-float32/x"][0, 0, 0, 0] += 1
    save_file(tensors, own / "moved.safetensors", metadata=header)
    save_file(tensors, own / "other.safetensors", metadata=header | {"cases": "tails"})
    del tensors["segmentation-soft-float32/function/value"]
    save_file(tensors, own / "less.safetensors", metadata=header)
    tensors = {k: v for k, v in tensors.items() if "soft-float32" not in k}
    save_file(tensors, own / "fewer.safetensors", metadata=header)
    shutil.copy(own / "less.safetensors", own / "less2.safetensors")
    for left, right, words in (
        ("focal", "moved", "the inputs of segmentation-soft-float32 differ"),
        ("focal", "other", "other cases; it holds tails, focal.safetensors holds segmentation"),
        ("less", "less2", "holds no value of the function on segmentation-soft-float32"),
        ("focal", "fewer", "the input sets differ"),
        ("focal", "reference", "other cases; it holds standard"),
    ):
        right = right if right == "reference" else f"{right}.safetensors"
        done = segact_parity("compare", f"{left}.safetensors", right)
        assert done.returncode == 2, (left, right)
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


@needs_torch
def test_run_judges_a_function(segact_parity: Run, own: Path) -> None:
    done = segact_parity("run", "--implementation", "mine=mypkg.losses:focal")
    assert done.returncode == 0, done.stdout + done.stderr
    what = "mine against binary_focal_cross_entropy(gamma=2) of sigmoid, in double precision"
    assert what in done.stdout
    assert "mine is mypkg.losses:focal (torch)" in done.stdout
    both = ("--implementation", "a=mypkg.losses:focal", "--implementation", "b=mypkg.losses:noisy")
    done = segact_parity("run", *both, "--json", "-")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert {(m["left"], m["right"]) for m in found["measurements"]} == {("a", "b")}
    assert not found["passed"]


@needs_torch
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("run --implementation m=mypkg.losses:squared", 1, "m is none of the judge's losses"),
        ("run --implementation m=mypkg.losses:whole", 1, "m has no gradient in x"),
        ("run --implementation m=mypkg.losses:random", 1, "m gives other values when it is call"),
        ("run --implementation m=mypkg.losses:undefined", 1, "m gives NaN or infinity at typical"),
        ("run --implementation m=mypkg.losses:mean_difference", 1, "is none of the judge's loss"),
        (
            "run --implementation m=mypkg.losses:ends",
            1,
            "losses:ends: the process ended, exit code 7",
        ),
        ("run --implementation m=mypkg.absent:f", 1, "in the import of mypkg.absent:f"),
        (
            "run --implementation m=mypkg.losses:focal --implementation n=mypkg.losses:clipped",
            1,
            "shape (2, 1, 6, 6)",
        ),
        ("run --cases tails", 2, "go with a function of your own"),
        ("record mypkg.losses:focal --backend jax -o a.safetensors", 2, "is of torch; --backend"),
        ("record mypkg.losses:focal(2) -o a.safetensors", 2, "wanted keywords with plain values"),
        ("run --implementation m=mypkg.losses:broken", 1, "in broken (torch), given float32"),
        ("run --implementation m=mypkg.losses:fokal", 2, "did you mean focal?"),
        ("run --implementation m=mypkg.losses:focal(gama=1.5)", 2, "did you mean gamma?"),
        (
            "record mypkg.losses:Focal(gamma=1) -o a.safetensors",
            2,
            "unexpected keyword argument 'gamma",
        ),
        ("run --implementation m=mypkg.loses:focal", 2, "there is no module mypkg.loses"),
        ("run --implementation torch=mypkg.losses:focal", 2, "wanted another name before the ="),
        ("run --implementation a=m:f --implementation torch", 2, "are judged separately"),
        ("run --implementation a=m:f --cases tail", 2, "did you mean tails?"),
        ("run --implementation a=m:f --loss dise", 2, "did you mean dice?"),
        ("run --implementation a=m:f --activation sigmoit", 2, "did you mean sigmoid?"),
        ("run --implementation a=m:f --rtol -1", 2, "--rtol is -1.0"),
        ("run --rtol 1", 2, "go with a function of your own"),
        ("record torch --cases tails -o a.safetensors", 2, "go with a function of your own"),
        ("record mypkg.losses:nothing -o a.safetensors", 2, "mypkg.losses has no nothing"),
        ("record mypkg.losses:broken -o a.safetensors", 1, "in broken (torch)"),
        ("compare reference reference --rtol 1", 2, "go with records of your own functions"),
    ],
)
def test_what_goes_wrong_is_said(
    segact_parity: Run, own: Path, arguments: str, code: int, words: str
) -> None:
    done = segact_parity(*arguments.split())
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list(own.glob("*.safetensors"))
