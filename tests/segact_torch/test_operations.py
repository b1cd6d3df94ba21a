"""What the losses cost on a device without loops or kernels: operations, and tensors moved."""

import sys
from pathlib import Path

import pytest
from names import ELEMENTWISE, LOSSES

torch = pytest.importorskip("torch")
from torch._subclasses.fake_tensor import (  # noqa: E402
    DataDependentOutputException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import segact_torch  # noqa: E402
from segact_torch import _backends, _special, _sums  # noqa: E402
from segact_torch._backends.compact import _constants  # noqa: E402
from segact_torch._batch import Batch  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks are not installed
counts = pytest.importorskip("benchmarks.counts", reason="needs a source checkout")

SHAPE = (4, 1, 64, 64)


@pytest.fixture
def bare():
    with counts.bare():
        yield


def count(loss, *args, **options):
    x = torch.linspace(-6, 6, 4 * 64 * 64).reshape(SHAPE).requires_grad_()
    y = (torch.arange(x.numel()).reshape(SHAPE) % 3 == 0).float()
    return counts.count(lambda x, y: loss(x, y, *args, **options), x, y)


def each(x, y, *args, **options):
    return segact_torch.binary_cross_entropy(x, y, *args, reduction="none", **options).sum()


def hinge(x, y, activation, **options):
    return segact_torch.lovasz_hinge(x, y, **options)


WEIGHT = torch.linspace(0, 1, 4 * 64 * 64).reshape(SHAPE)
CASES = {
    "cross entropy": (segact_torch.binary_cross_entropy, {}),
    "cross entropy, weight": (segact_torch.binary_cross_entropy, {"weight": WEIGHT}),
    "cross entropy, mask": (segact_torch.binary_cross_entropy, {"mask": WEIGHT > 0.5}),
    "cross entropy, pos_weight": (
        segact_torch.binary_cross_entropy,
        {"pos_weight": torch.tensor(2.0)},
    ),
    "cross entropy, each": (each, {}),
    "squared error": (segact_torch.mean_squared_error, {}),
    "focal": (segact_torch.binary_focal_cross_entropy, {}),
    "Dice": (segact_torch.dice, {}),
    "Dice, weight": (segact_torch.dice, {"weight": WEIGHT}),
    "Lovasz": (segact_torch.lovasz, {}),
    "Lovasz hinge": (hinge, {}),
    "Lovasz hinge, weight": (hinge, {"weight": WEIGHT}),
    "Lovasz hinge, mask": (hinge, {"mask": WEIGHT > 0.5}),
}
COLUMNS = ("sigmoid", "arctan", "softsign", "inverse_square_root", "normal_cdf")
# Operations and tensors moved, forward and backward; F.binary_cross_entropy_with_logits: 5 and 11.
LIMITS = {
    "cross entropy": [(13, 27.5), (20, 43.5), (16, 33.5), (19, 43.5), (52, 139.5)],
    "cross entropy, weight": [(18, 40.25), (26, 58.25), (21, 46.25), (24, 56.25), (58, 154.25)],
    "cross entropy, mask": [(21, 41.5), (29, 59.5), (24, 47.5), (27, 57.5), (61, 155.5)],
    "cross entropy, pos_weight": [(17, 37.75), (25, 55.75), (20, 43.75), (23, 53.75), (57, 151.75)],
    "cross entropy, each": [(14, 32.5), (21, 48.5), (17, 38.5), (20, 48.5), (53, 144.5)],
    "squared error": [(12, 25.5), (13, 27.5), (12, 25.5), (14, 32.5), (38, 96.5)],
    "focal": [(22, 54.5), (28, 67.5), (26, 63.5), (27, 68.5), (56, 146.5)],
    "Dice": [(10, 23), (13, 29), (14, 29.25), (16, 36.25), (40, 100.25)],
    "Dice, weight": [(16, 37.75), (19, 43.75), (20, 44), (22, 51), (46, 115)],
    "Lovasz": [(51, 115), (49, 110), (49, 109), (63, 143.5), (120, 285)],
    "Lovasz hinge": [(32, 75)],
    "Lovasz hinge, weight": [(53, 169.75)],
    "Lovasz hinge, mask": [(41, 89.75)],
}
ROWS = [
    (case, name, *limits)
    for case, figures in LIMITS.items()
    for name, limits in zip(COLUMNS, figures, strict=False)
]


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(("case", "activation", "operations", "moved"), ROWS)
def test_operations_are_few(case, activation, operations, moved):
    loss, options = CASES[case]
    counter = count(loss, activation, validate=False, **options)
    print(f"{case}, {activation}: {counter.operations}, {counter.moved:.1f}")
    assert counter.operations <= operations, counter.names
    assert counter.moved <= moved + 0.01


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("case", [case for case in CASES if "Lovasz" in case])
def test_a_lovasz_loss_sorts_once(case):
    """Integers, which PyTorch sorts by radix on a CPU; nothing is gathered for the gradient."""
    loss, options = CASES[case]
    names = count(loss, "sigmoid", validate=False, **options).names
    sorts = names.count("sort") + names.count("argsort")  # one name or the other
    gathered = 2 if "weight" in case else 1
    assert (sorts, names.count("gather"), names.count("scatter")) == (1, gathered, 1)
    assert "scatter_add" not in names


def test_areas_beyond_what_float32_counts():
    """The last targets of 2^24 + 8, also on devices without float64."""
    target = torch.zeros(2**24 + 8, dtype=torch.bool)
    target[-4:], e = True, torch.empty(target.shape)
    wanted = torch.tensor([1.0]) / target.numel()
    steps = _sums._steps(target, e)
    torch.testing.assert_close(steps[-1:], wanted, rtol=2e-7, atol=0)
    target[:] = True
    wanted = torch.tensor(1.0) / target.numel()
    steps = _sums._steps(target, e)
    torch.testing.assert_close(steps, wanted.expand_as(steps), rtol=2e-7, atol=0)


@pytest.mark.parametrize("axis", [(0, 1), (1,)])
def test_groups_with_a_valid_element_are_found_without_a_copy(axis):
    """PyTorch sums truth values in a copy of 8 bytes each, which the counter does not see."""
    from torch.profiler import ProfilerActivity, profile

    x, valid = torch.zeros(3, 4), torch.tensor([[True], [False], [True]]).expand(3, 4)
    batch = Batch(x, x, valid, valid, segact_torch.sigmoid)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        present = batch.present(axis)
    assert present.tolist() == (True if axis == (0, 1) else [True, False, True])
    assert "aten::_to_copy" not in {event.key for event in found.key_averages()}


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("activation", COLUMNS)
@pytest.mark.parametrize("case", ["cross entropy", "squared error", "focal", "Dice"])
def test_the_formulas_take_more(case, activation, monkeypatch):
    """What the compact way saves: at least half of the operations."""
    loss, options = CASES[case]
    few = count(loss, activation, validate=False, **options).operations
    monkeypatch.setattr(_backends, "chosen", lambda batch: [])
    counter = count(loss, activation, validate=False, **options)
    print(f"formula of {case}, {activation}: {counter.operations}, {counter.moved:.1f}")
    assert counter.operations >= 2 * few


def test_the_counter_counts():
    """The stock loss, which is a composite and its derivative."""
    stock = torch.nn.functional.binary_cross_entropy_with_logits
    counter = count(stock)
    assert counter.names[0] == "binary_cross_entropy_with_logits"
    assert counter.operations == 5
    assert counter.moved == pytest.approx(11, abs=0.1)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_compiled_code_without_loops(loss, dtype):
    """As on a GPU: one graph, and the values and gradients of what is not compiled."""
    torch._dynamo.reset()
    x = torch.linspace(-5, 5, 60).reshape(2, 5, 6).to(dtype).requires_grad_()
    y = (torch.arange(60).reshape(2, 5, 6) % 3 == 0).float()
    function = getattr(segact_torch, loss)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for name in ("inverse_square_root", "normal_cdf"):
        options = {} if loss == "lovasz_hinge" else {"activation": name}
        expected, found = (f(x, y, **options) for f in (function, compiled))
        slopes = [torch.autograd.grad(value, x)[0] for value in (expected, found)]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
        bound = max(1e-5, torch.finfo(dtype).eps)
        torch.testing.assert_close(*slopes, rtol=bound, atol=1e-8)


class NoFloat64(TorchDispatchMode):
    """A device that has no float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in counts.tensors_of(out):
            assert tensor.dtype != torch.float64, f"{func} makes float64"
        return out


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("left_out", [{}, {"ignore_index": 255}, {"mask": torch.ones(2, 1, 1)}])
@pytest.mark.parametrize("loss", LOSSES)
def test_devices_without_float64(loss, left_out, compact, monkeypatch):
    monkeypatch.setattr(_backends.availability, "KERNELS", "0")
    monkeypatch.setattr(_backends, "_is_traced", lambda *tensors: not compact)
    monkeypatch.setattr(_special, "NO_FLOAT64", ("cpu",))
    x = torch.linspace(-3, 4, 30).reshape(2, 3, 5).requires_grad_()
    y = (torch.arange(30).reshape(2, 3, 5) % 4 == 0).float()
    function = getattr(segact_torch, loss)
    for name in ("sigmoid", "normal_cdf", "arctan", "hardtanh", "linear"):
        options = left_out if loss == "lovasz_hinge" else {"activation": name, **left_out}
        with NoFloat64():
            value = function(x, y, **options)
            (gradient,) = torch.autograd.grad(value, x)
        exact = function(x.detach().double(), y.double(), **options)
        assert float(value) == pytest.approx(float(exact), rel=1e-5)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("option", ["", "mask", "weight", "ignore_index"])
@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_waits_for_a_device(loss, option, compact, monkeypatch):
    """No value is read and no shape depends on one, so that CUDA graphs can hold every loss."""
    monkeypatch.setattr(_backends.availability, "KERNELS", "0")
    monkeypatch.setattr(_backends, "_is_traced", lambda *tensors: not compact)
    for name in ("sigmoid", "normal_cdf", "hardtanh"):
        _constants.cache_clear()  # of another mode
        with FakeTensorMode():  # whose tensors have no values: to read one is an error
            x = torch.empty(2, 3, 5).requires_grad_()
            values = {"ignore_index": 255, "mask": torch.empty(2, 1, 5) > 0, "weight": x.detach()}
            options = {option: values[option]} if option else {}
            options |= {} if loss == "lovasz_hinge" else {"activation": name}
            value = getattr(segact_torch, loss)(x, torch.empty(2, 3, 5), validate=False, **options)
            (gradient,) = torch.autograd.grad(value, x)
        assert value.shape == ()
        assert gradient.shape == x.shape
    _constants.cache_clear()


def test_a_read_value_is_noticed():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.empty(2).sum().item()


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_a_target_of_nan_makes_value_and_gradient_nan(loss, smooth):
    """Of its element, and of no other."""
    x = torch.tensor([-2.0, 1.0, 3.0], requires_grad=True)
    y = torch.tensor([0.0, torch.nan, 1.0])
    each = getattr(segact_torch, loss)(x, y, smooth, reduction="none", validate=False)
    (gradient,) = torch.autograd.grad(each.sum(), x)
    assert each.isnan().tolist() == gradient.isnan().tolist() == [False, True, False]


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_an_infinite_upstream_leaves_zeros(loss, smooth):
    """As a GradScaler's first steps have it: 0 times infinity is no slope."""
    x = torch.tensor([-200.0, -1.0, 0.0, 2.0, 200.0], requires_grad=True)
    y = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    w = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])
    value = getattr(segact_torch, loss)(x, y, smooth, weight=w)
    (gradient,) = torch.autograd.grad(value, x, torch.tensor(torch.inf))
    assert not gradient.isnan().any()
    assert gradient[1] == 0
    assert gradient[2].isinf()


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("loss", [*ELEMENTWISE, "dice"])
def test_second_backward_accumulation_and_checkpoints(loss, smooth):
    from torch.utils.checkpoint import checkpoint

    function = getattr(segact_torch, loss)
    x = torch.linspace(-3, 3, 12, requires_grad=True)
    y = (torch.arange(12) % 3 == 0).float()
    (once,) = torch.autograd.grad(function(x, y, smooth), x)
    value = function(x, y, smooth)
    value.backward(retain_graph=True)
    value.backward()
    torch.testing.assert_close(x.grad, 2 * once, rtol=1e-5, atol=1e-8)
    for reentrant in (False, True):
        x.grad = None
        checkpoint(lambda x: function(x, y, smooth), x, use_reentrant=reentrant).backward()
        torch.testing.assert_close(x.grad, once, rtol=0, atol=0)
