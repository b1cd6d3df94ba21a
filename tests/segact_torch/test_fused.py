"""The compiled loops against the formulas, which they must equal in all but speed and memory."""

import contextlib
import gc
import os
import re
import shutil
import subprocess
import sys
import types
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import segact_torch  # noqa: E402
from segact_torch import _backends  # noqa: E402
from segact_torch._backends import cpu, operators  # noqa: E402

needs_loops = pytest.mark.skipif(
    cpu.LIBRARY is None or _backends.availability.KERNELS == "0",
    reason="the loops are not compiled or forbidden",
)

# name: options, some of which say which groups there are
LOSSES = {
    "binary_cross_entropy": {},
    "binary_cross_entropy, options": {"pos_weight": 2.5, "label_smoothing": 0.125},
    "binary_cross_entropy, each": {"reduction": "none"},
    "dice": {"smooth": 0.5},
    "jaccard": {"per_sample": True},
    "tversky": {"alpha": 0.25, "beta": 0.75, "per_sample": True, "channel_axis": 1},
    "focal_tversky": {"channel_axis": -1},
    "dice_cross_entropy": {"per_sample": True, "pos_weight": 0.5},
}

# What has operators for compiled code.
COMPILED = {
    **LOSSES,
    "mean_squared_error": {},
    "binary_focal_cross_entropy": {},
    "binary_focal_cross_entropy, options": {"gamma": 1.5, "alpha": 0.25, "label_smoothing": 0.1},
}


@pytest.fixture(params=LOSSES)
def loss(request):
    return make(request.param)


def make(name, activation=None):
    function, options = getattr(segact_torch, name.split(",")[0]), COMPILED[name]

    def loss(x, y, activation, **more):
        return function(x, y, activation, **options, **more)

    loss.kept = 2 if name in ("dice_cross_entropy", "focal_tversky") else 1
    return loss


@pytest.fixture
def formulas(monkeypatch):
    """Without the loops."""
    monkeypatch.setattr(_backends.availability, "KERNELS", "0")


def value_and_gradient(loss, x, y, activation, **more):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = loss(x, y, activation, **more)
    upstream = torch.linspace(0.5, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    (gradient,) = torch.autograd.grad(value, x, upstream)
    return value.detach(), gradient


def is_fused(value):
    """Whether the gradient comes from the loops, by the graph behind the value."""
    pending, seen = [value.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        if node.name() == "_WithGradientBackward":
            return True
        seen.add(node)
        pending += [next_node for next_node, _ in node.next_functions]
    return False


def batch(hard=True, shape=(3, 2, 40, 33)):
    generator = torch.Generator().manual_seed(3)
    x = 4 * torch.randn(shape, generator=generator)
    y = torch.rand(shape, generator=generator)
    return x, (y < 1 / 3).float() if hard else y


@contextlib.contextmanager
def by_the_formulas():
    """Without loops and kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backends.availability, "KERNELS", "0")
        patch.setattr(_backends.compact, "serves", lambda batch: False)
        yield


def assert_equals_float64(loss, x, y, activation, **more):
    """The formulas in float64 are the reference, and the bounds are the design's."""
    value, gradient = value_and_gradient(loss, x, y, activation, **more)
    wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in more.items()}
    with by_the_formulas():
        exact, slope = value_and_gradient(loss, x.double(), y.double(), activation, **wide)
    tiny, largest = torch.finfo(torch.float32).tiny, float(slope.abs().max())
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=tiny)
    torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=1e-5 * largest)


@pytest.mark.skipif(
    not (shutil.which("cc") or shutil.which("gcc")) or sys.platform == "win32",
    reason="there is no C compiler",
)
@pytest.mark.skipif(os.environ.get("SEGACT_KERNELS") == "0", reason="they are switched off")
def test_the_loops_are_compiled_where_there_is_a_compiler():
    assert cpu.LIBRARY is not None


@needs_loops
@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_equal_the_formulas(loss, smooth, hard):
    x, y = batch(hard)
    assert is_fused(loss(x.requires_grad_(), y, smooth))
    assert_equals_float64(loss, x, y, smooth)


@needs_loops
@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_equal_the_formulas_with_weights(loss, smooth, hard):
    x, y = batch(hard)
    w = torch.linspace(0, 2, 33).expand(1, 1, 1, 33)  # 0 in the first column
    assert_equals_float64(loss, x, y, smooth, weight=w)
    spoilt, odd = x.clone(), y.clone()
    spoilt[..., 0], odd[..., 0] = torch.nan, 255
    assert is_fused(loss(spoilt.requires_grad_(), odd, smooth, weight=w))
    for a, b in zip(
        value_and_gradient(loss, spoilt, odd, smooth, weight=w),
        value_and_gradient(loss, x, y, smooth, weight=w),
        strict=True,
    ):
        assert torch.equal(a, b)


@needs_loops
def test_ignored_elements(loss, smooth):
    x, y = batch()
    y[..., :5] = 255
    assert_equals_float64(loss, x, y, smooth, ignore_index=255)


@needs_loops
@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_layouts(loss, hard):
    x, y = batch(hard)
    expected = value_and_gradient(loss, x, y, "arctan")
    last = x.to(memory_format=torch.channels_last)
    strided = torch.empty(3, 2, 40, 66)[..., ::2].copy_(x)
    for other in (last, strided):
        assert is_fused(loss(other.clone().requires_grad_(), y, "arctan"))
        value, gradient = value_and_gradient(loss, other, y, "arctan")
        torch.testing.assert_close(value, expected[0], rtol=2e-7, atol=0)
        torch.testing.assert_close(gradient, expected[1], rtol=1e-6, atol=1e-9)
    _, gradient = value_and_gradient(make("dice"), last, y, "arctan")
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@needs_loops
def test_blocks_and_threads_leave_no_seam(loss):
    """Lengths around those of a block; the same digits for any number of threads."""
    threads = torch.get_num_threads()
    for n in (1, 1023, 1024, 1025, 40_000):
        x, y = batch(shape=(1, 1, n, 1))
        assert_equals_float64(loss, x, y, "normal_cdf")
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(value_and_gradient(loss, x, y, "normal_cdf"))
        torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_loops
def test_backward_twice_and_second_derivatives(loss, smooth):
    x, y = batch()
    x.requires_grad_()
    value = loss(x, y, smooth).sum()
    first, again = (torch.autograd.grad(value, x, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, again, rtol=1e-5, atol=1e-9)

    def curvature(x, y):
        x = x.detach().requires_grad_()
        value = loss(x, y, smooth).sum()
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        return torch.autograd.grad((gradient * torch.arange(33)).sum(), x)[0]

    exact = curvature(x.double(), y.double())
    tolerance = 1e-5 * float(exact.abs().max())
    torch.testing.assert_close(curvature(x, y).double(), exact, rtol=0, atol=tolerance)


@needs_loops
def test_a_change_before_the_backward_pass_is_noticed():
    x, y = batch()
    value = segact_torch.dice(x.requires_grad_(), y)
    y[0] = 1 - y[0]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@needs_loops
@pytest.mark.parametrize("name", ["binary_cross_entropy", "dice_cross_entropy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_change_of_pos_weight_is_noticed(name, dtype):
    """As by a running mean of class counts: second derivatives would be those of the new one."""
    x, y = (t.to(dtype) for t in batch())
    pos_weight = torch.full((33,), 2.0, dtype=dtype)
    value = getattr(segact_torch, name)(x.requires_grad_(), y, pos_weight=pos_weight)
    pos_weight.mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(value, x, create_graph=True)


@needs_loops
@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "focal_tversky"])
@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_areas_of_the_piecewise_linear_activations(name, hard):
    loss = make(next(key for key in LOSSES if key.startswith(name)))
    x, y = batch(hard)
    x[0, 0, 0, :4], x[1, 1, 3, :3] = x.min(), x.max()  # several extremes
    for activation in ("hardtanh", "linear"):
        assert is_fused(loss(x.clone().requires_grad_(), y, activation))
        assert_equals_float64(loss, x, y, activation)
        assert_equals_float64(loss, x.to(memory_format=torch.channels_last), y, activation)
    constant = torch.full_like(x, 0.5)
    assert not is_fused(loss(constant.requires_grad_(), y, "linear"))
    weight = torch.linspace(0, 2, 33).expand(1, 1, 1, 33)
    assert_equals_float64(loss, x, y, "hardtanh", weight=weight)


@needs_loops
def test_other_defaults(loss):
    """The loops write float32, whatever the default is."""
    x, y = batch()
    expected = value_and_gradient(loss, x, y, "arctan")
    torch.set_default_dtype(torch.float64)
    try:
        found = value_and_gradient(loss, x, y, "arctan")
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@needs_loops
def test_tails(loss, smooth):
    """Everything far out, on the right side or the wrong one."""
    for spread in (30, 120, 1e4):
        x, y = batch()
        x = spread * x / 4
        for target in (y, (x > 0).float(), (x < 0).float()):
            assert_equals_float64(loss, x, target, smooth)


@pytest.mark.parametrize("raw", [np.nan, np.inf, -np.inf, 1e15, -3e38])
def test_any_raw_output(loss, smooth, raw, monkeypatch):
    """What the loops refuse is left to the formulas, and the rest equals them."""
    x, y = batch()
    x[0, 0, 0, 0] = raw
    value, gradient = value_and_gradient(loss, x, y, smooth)
    monkeypatch.setattr(_backends.availability, "KERNELS", "0")
    expected, slope = value_and_gradient(loss, x, y, smooth)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0, equal_nan=True)
    largest = float(slope.nan_to_num().abs().max())
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-5 * largest, equal_nan=True)


def test_what_the_loops_do_not_serve(loss):
    x, y = batch(shape=(2, 2, 3, 5))
    x.requires_grad_()
    gumbel = segact_torch.register_activation("gumbel_here", lambda x: torch.exp(-torch.exp(-x)))
    per_image = segact_torch.get_activation("linear", axis=(1, 2, 3))
    exact = segact_torch.get_activation("hardtanh", epsilon=0)  # with infinite losses
    for activation in (gumbel, per_image, exact):
        assert not is_fused(loss(x, y, activation))
    assert not is_fused(loss(x, y.clone().requires_grad_(), "arctan"))


@pytest.mark.parametrize("y", [-0.5, 1.5, np.nan])
def test_targets_out_of_range_are_named(loss, y):
    x, target = batch()
    target[0, 0, 0, 0] = y
    with pytest.raises(ValueError, match=r"target must lie in \[0, 1\]"):
        loss(x, target, "arctan")


def test_a_loss_that_is_kept_keeps_no_batch(loss):
    """As in a sum over an epoch of losses that were not detached."""
    x, y = batch()
    outputs = x.requires_grad_() * 1
    kept = weakref.ref(outputs), weakref.ref(y)
    value = loss(outputs, y, "arctan").sum()
    value.backward()
    del outputs, y
    assert [tensor() for tensor in kept] == [None, None]
    assert value.isfinite()


def of_size(tensors, x):
    return {t.data_ptr() for t in tensors if type(t) is torch.Tensor and t.numel() == x.numel()}


@needs_loops
def test_nothing_but_the_gradient_is_kept(loss):
    """One tensor of the size of the input between the passes, be it Python's or autograd's.

    Dice + cross entropy has two gradients, and where rows are not as in memory, y is copied.
    """
    x, y = batch(shape=(8, 1, 256, 256))
    saved = []

    def note(tensor):
        saved.append(tensor)
        return tensor

    gc.freeze()  # the objects that there are, which are then not among gc.get_objects()
    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            value = loss(x.requires_grad_(), y, "arctan")
        kept = of_size([*gc.get_objects(), *saved], x) - of_size([x, y, value], x)
    finally:
        gc.unfreeze()
    assert len(kept) == loss.kept


def test_the_formulas_keep_the_bounds_too(formulas, smooth, dense_error):
    """What a GPU and a machine without a compiler compute with."""

    def evaluate(x):
        x = torch.tensor(x, requires_grad=True)
        value = -segact_torch.binary_cross_entropy(x, torch.ones_like(x), smooth, reduction="none")
        value.sum().backward()
        return value.detach().numpy(), x.grad.numpy()

    value, gradient = dense_error(evaluate, smooth, "logcdf")
    assert value <= 4
    assert gradient <= 8


@needs_loops
@pytest.mark.parametrize(("kernels", "served"), [("0", False), ("", True)], ids=["off", "on"])
def test_switched_off_by_the_environment(kernels, served):
    code = (
        "import torch, segact_torch; from segact_torch._backends import cpu; cpu.Rows = None; "
        "print(segact_torch.binary_cross_entropy(torch.zeros(3), torch.ones(3)))"
    )
    env = {**os.environ, "SEGACT_KERNELS": kernels}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ("'NoneType' object" in done.stderr) is served, done.stderr
    assert ("tensor(0.6931)" in done.stdout) is not served, done.stderr


@needs_loops
@pytest.mark.parametrize("raw", [0.5, 1e15], ids=["served", "refused"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_code_calls_the_loops(name, weighted, raw):
    torch._dynamo.reset()
    loss = make(name)
    x, y = batch()
    x[0, 0, 0, 1] = raw
    more = {"weight": torch.linspace(0, 2, 33).expand(1, 1, 1, 33)} if weighted else {}
    graphs = []

    def note(graph, inputs):
        graphs.append(graph.code)
        return graph

    torch.compile(loss, backend=note, fullgraph=True)(x, y, "arctan", **more)
    assert "torch.ops.segact" in graphs[0]
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    value, gradient = value_and_gradient(compiled, x, y, "arctan", **more)
    expected, slope = value_and_gradient(loss, x, y, "arctan", **more)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-5 * float(slope.abs().max()))


FOCAL = "binary_focal_cross_entropy, options"
OPERATORS = ["binary_cross_entropy", "mean_squared_error", FOCAL, "tversky", "dice_cross_entropy"]
SUMS = ["cross_entropy", "focal_cross_entropy", "squared_error", "overlap"]
# What the loops serve besides the smooth activations in float32: activation, epsilon, precision.
BESIDES = [
    ("arctan", 1e-3, torch.float32),
    ("sigmoid", None, torch.float64),
    ("normal_cdf", 1e-7, torch.float64),
    ("hardtanh", None, torch.float32),
]


@needs_loops
@pytest.mark.parametrize(("name", "epsilon", "dtype"), BESIDES, ids=str)
def test_compiled_code_calls_the_loops_of_whatever_they_serve(name, epsilon, dtype):
    """Also where they refuse: then the operators differentiate the formula."""
    f = segact_torch.get_activation(name, epsilon=epsilon)
    bounds = {torch.float32: (1e-6, 1e-5), torch.float64: (1e-13, 1e-12)}[dtype]
    for loss in map(make, OPERATORS[: 3 if f.epsilon else None]):
        for raw in (0.5, 1e15 if dtype == torch.float32 else 1e110):
            x, y = (t.to(dtype) for t in batch(shape=(3, 2, 4, 5)))
            x[0, 0, 0, 1] = raw
            torch._dynamo.reset()
            with pytest.MonkeyPatch.context() as patch:
                for formula in SUMS if raw == 0.5 else ():
                    patch.setattr(_backends._sums, formula, None)
                compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
                found = value_and_gradient(compiled, x, y, f)
            with by_the_formulas():
                expected = value_and_gradient(loss, x, y, f)
            for a, b, bound in zip(found, expected, bounds, strict=True):
                torch.testing.assert_close(a, b, rtol=bound, atol=bound * float(b.abs().max()))


@needs_loops
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
def test_operators_are_registered_as_they_behave(weighted):
    """Shapes, strides, aliases and gradients, in PyTorch's own check."""
    x, y = batch(shape=(2, 2, 3, 5))
    w = torch.rand_like(y) if weighted else None
    activations = [(2, 0.0, torch.float32), (0, 1e-3, torch.float64), (5, 1e-7, torch.float32)]
    for *f, dtype in activations if weighted else activations[:1]:
        for axis in ([], [0, 1, 2, 3], [1, 2, 3], [2, 3]):
            tensors = [None if t is None else t.to(dtype) for t in (x, y, w)]
            arguments = (tensors[0].requires_grad_(), *tensors[1:], axis, True)
            torch.library.opcheck(
                operators.elements_operator, (*arguments, 2, *f, 1.5, 1.0, 2.0, 0.125)
            )
            if axis:
                overlap = (*arguments, 2, 2.0, 1.0, 0.5)
                torch.library.opcheck(operators.overlap_operator, overlap)
                both = (*overlap, 1.5, 0.125)
                torch.library.opcheck(operators.overlap_and_entropy_operator, both)


def small():
    x = torch.tensor([[0.3, -1.2, 2.0], [-0.4, 0.9, 1.1]], requires_grad=True)
    return x, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])


def test_hooks_run_once(loss):
    x, y = small()
    x.register_hook(lambda gradient: 2 * gradient)
    x, y = x.reshape(2, 3, 1, 1), y.reshape(2, 3, 1, 1)
    x.retain_grad()
    value = loss(x, y, "arctan").sum()
    passes = [{"retain_graph": True}, {"retain_graph": True}, {"create_graph": True}]
    found = []
    for options in passes:
        x.grad = None
        value.backward(**options)
        found.append(x.grad.detach().clone())
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


@needs_loops
@pytest.mark.parametrize("name", ["binary_cross_entropy", "dice", "dice_cross_entropy"])
def test_compiled_code_has_no_second_derivatives_and_says_so(name):
    torch._dynamo.reset()
    loss = make(name)
    x, y = small()
    value = torch.compile(loss, backend="aot_eager", fullgraph=True)(x, y, "arctan").sum()
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(value + gradient.pow(2).sum(), x)


@pytest.mark.parametrize("name", ["binary_cross_entropy, each", "jaccard"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_what_is_left_out_stays_out_under_an_infinite_upstream(name, compiled):
    torch._dynamo.reset()
    loss, (x, y) = make(name), small()
    loss = torch.compile(loss, backend="aot_eager") if compiled else loss
    w = torch.ones_like(y)
    w[0] = 0
    more = {"reduction": "none"} if name == "jaccard" else {}
    loss(x, y, "arctan", weight=w, **more).sqrt().sum().backward()
    assert x.grad[0].tolist() == [0, 0, 0]
    assert x.grad.isfinite().all()


def test_upstreams_that_are_views_of_opposite_sign(loss):
    """As the imaginary part of a conjugate, which is negated only when it is read."""
    x, y = small()
    x, y = x.reshape(2, 3, 1, 1), y.reshape(2, 3, 1, 1)
    value = loss(x, y, "arctan")
    upstream = torch.full_like(value, 0.5)
    expected = torch.autograd.grad(value, x, upstream)
    negated = torch.complex(upstream, -upstream).conj().imag
    assert negated.is_neg()
    found = torch.autograd.grad(loss(x, y, "arctan"), x, negated)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kernels", ["", "0"], ids=["loops", "operations"])
def test_inputs_that_are_views_of_opposite_sign(loss, kernels, monkeypatch):
    monkeypatch.setattr(_backends.availability, "KERNELS", kernels)
    x, y = small()
    x, y = x.detach().reshape(2, 3, 1, 1), y.reshape(2, 3, 1, 1)
    negated = torch.complex(x, -x).conj().imag
    assert negated.is_neg()
    for name in ("sigmoid", "normal_cdf"):
        expected = value_and_gradient(loss, x, y, name)
        value = loss(negated.requires_grad_(), y, name)
        upstream = torch.linspace(0.5, 2, value.numel()).reshape(value.shape)
        found = value.detach(), *torch.autograd.grad(value, negated, upstream)
        torch.testing.assert_close(found, expected)


def test_batched_upstreams_and_transforms_in_compiled_code(loss):
    torch._dynamo.reset()
    x, y = small()
    x, y = x.detach().reshape(2, 3, 1, 1).requires_grad_(), y.reshape(2, 3, 1, 1)

    def of(x):
        return loss(x, y, "arctan")

    rows = torch.autograd.functional.jacobian(of, x)
    at_once = torch.autograd.functional.jacobian(of, x, vectorize=True)
    torch.testing.assert_close(at_once, rows, rtol=1e-5, atol=1e-8)
    compiled = torch.compile(torch.func.grad(lambda x: of(x).sum()), backend="aot_eager")
    (expected,) = torch.autograd.grad(of(x).sum(), x)
    torch.testing.assert_close(compiled(x.detach()), expected, rtol=1e-5, atol=1e-8)


def test_smallest_areas_and_equal_elements():
    """F(x) is a normal number down to -87.336; equal values round in one direction."""
    x = torch.full((1000,), -87.1)
    assert segact_torch.dice(x, torch.zeros(1000)) == 1
    y = torch.arange(4096) % 2
    for raw in (-0.31372, -0.05986, -0.27156):
        for activation in ("sigmoid", "softsign", "arctan"):
            x = torch.full((4096,), raw)
            exact = segact_torch.dice(x.double(), y, activation).item()
            assert segact_torch.dice(x, y, activation).item() == pytest.approx(exact, rel=1e-6)


def test_a_library_that_does_not_load_is_done_without(tmp_path):
    (tmp_path / "_cpu.so").write_bytes(b"\x7fELF")
    library, why = cpu._load(tmp_path)
    assert library is None
    assert "does not load" in why


@needs_loops
@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF library")
def test_the_library_needs_neither_python_nor_openmp():
    """So that one file serves every Python, beside whatever threads torch has."""
    assert Path(cpu.LIBRARY._name).name == "_cpu.so"
    told = subprocess.run(["readelf", "-d", cpu.LIBRARY._name], capture_output=True, text=True)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", told.stdout)
    assert {name.split(".so")[0] for name in needed} <= {"libc", "libm"}
    names = subprocess.run(["nm", "-D", cpu.LIBRARY._name], capture_output=True, text=True).stdout
    assert re.findall(r"\bU _?(?:Py|omp_|GOMP_)\w*", names) == []


@needs_loops
@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10), reason="since torch 2.10"
)
def test_the_threads_are_those_of_torch():
    assert cpu._threads_of_torch() is not None


@needs_loops
def test_without_torchs_threads_there_is_one(loss):
    """As before torch 2.10: the same bits."""
    x, y = batch(shape=(1, 1, 40_000, 1))
    expected = value_and_gradient(loss, x, y, "arctan")
    cpu.LIBRARY.segact_parallel(None)
    try:
        found = value_and_gradient(loss, x, y, "arctan")
    finally:
        cpu.LIBRARY.segact_parallel(cpu._threads_of_torch())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@needs_loops
def test_loops_of_another_source_are_not_used(tmp_path):
    """As in a clone after `git pull`, until it is installed again."""
    (tmp_path / "_cpu.so").write_bytes(Path(cpu.LIBRARY._name).read_bytes())
    assert cpu._load(tmp_path)[0] is not None
    (tmp_path / "loops").mkdir()
    (tmp_path / "loops" / "float32.c").write_text("/* another */")
    library, why = cpu._load(tmp_path)
    assert library is None
    assert "was compiled before" in why


@pytest.fixture
def no_loops(monkeypatch):
    """As where they are not compiled, and not warned of yet."""
    monkeypatch.setattr(cpu, "LIBRARY", None)
    monkeypatch.setattr(cpu, "WHY_NOT", "they are not there")
    monkeypatch.setattr(_backends.availability, "KERNELS", "")
    cpu._warn.cache_clear()
    yield
    cpu._warn.cache_clear()


def missed(call):
    """What a call warns of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [one for one in found if "compiled loops" in str(one.message)]


def test_missing_loops_are_warned_of_once(no_loops, loss, smooth):
    x, y = batch(shape=(2, 2, 3, 5))
    (warning,) = missed(lambda: loss(x, y, smooth))
    assert warning.category is RuntimeWarning
    for part in ("they are not there", "SEGACT_KERNELS=0"):
        assert part in str(warning.message)
    assert warning.filename == __file__  # and no line of segact_torch or torch
    assert missed(lambda: loss(x, y, smooth)) == []


@pytest.mark.parametrize("activation", ["hardtanh", "linear"])
@pytest.mark.parametrize(
    "name", ["BinaryFocalCrossEntropyLoss", "MeanSquaredErrorLoss", "DiceLoss"]
)
def test_missing_loops_are_warned_of_at_the_line_of_a_module(no_loops, activation, name):
    x, y = batch(shape=(2, 2, 3, 5))
    (warning,) = missed(lambda: getattr(segact_torch, name)(activation)(x, y))
    assert warning.filename == __file__


def test_nothing_is_warned_of_where_no_loop_would_have_served(no_loops, loss, smooth, monkeypatch):
    x, y = batch(shape=(2, 2, 3, 5))
    per_image = segact_torch.get_activation("linear", axis=(1, 2, 3))
    calls = [
        lambda: loss(x, y, per_image),
        lambda: loss(x, y.clone().requires_grad_(), smooth),
        lambda: torch.func.grad(lambda x: loss(x, y, smooth).sum())(x),
        lambda: loss(x.to("meta"), y.to("meta"), smooth),
        lambda: segact_torch.lovasz(x, y.round(), smooth),
    ]
    for call in calls:
        assert missed(call) == []
    monkeypatch.setattr(_backends.availability, "KERNELS", "0")
    assert missed(lambda: loss(x, y, smooth)) == []


@pytest.mark.parametrize("name", ["binary_cross_entropy", "dice"])
def test_compiled_code_does_not_warn_of_missing_loops(no_loops, name):
    torch._dynamo.reset()
    x, y = batch(shape=(2, 2, 3, 5))
    compiled = torch.compile(make(name), backend="aot_eager", fullgraph=True)
    assert missed(lambda: compiled(x, y, "arctan")) == []
    torch.testing.assert_close(compiled(x, y, "arctan"), make(name)(x, y, "arctan"))


def test_what_is_active_is_told(no_loops, monkeypatch):
    assert segact_torch.backends()["cpu"] == "no: they are not there"
    monkeypatch.setattr(cpu, "WHY_NOT", "")
    assert segact_torch.backends()["cpu"] == "yes"
    monkeypatch.setattr(_backends.availability, "KERNELS", "0")
    told = "no: SEGACT_KERNELS=0 is in the environment"
    assert segact_torch.backends() == {"cpu": told, "triton": told}


@pytest.mark.parametrize(
    ("gpu", "installed", "fails", "told"),
    [
        (False, True, None, "no: torch sees no GPU"),
        (True, False, None, "no: triton is not installed"),
        (True, True, RuntimeError("no ptxas"), "no: RuntimeError('no ptxas')"),
        (True, True, None, "yes"),
    ],
)
def test_what_is_active_of_triton(monkeypatch, gpu, installed, fails, told):
    """Triton is imported only where there are a GPU and Triton."""
    loads = []

    def load(name):
        loads.append(name)
        if fails:
            raise fails
        return types.SimpleNamespace(probe=lambda: None)

    monkeypatch.setattr(_backends.availability, "KERNELS", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(
        _backends.availability.importlib.util, "find_spec", lambda name: installed or None
    )
    monkeypatch.setattr(_backends.availability.importlib, "import_module", load)
    _backends.availability.found_triton.cache_clear()
    try:
        assert segact_torch.backends()["triton"] == told
    finally:
        _backends.availability.found_triton.cache_clear()
    assert bool(loads) is (gpu and installed)


@pytest.mark.parametrize("folder", ["clone", "installed"])
def test_a_copy_without_the_loops_says_so(tmp_path, folder):
    """The package as in a clone, and as installed without a compiler; Python runs beside it."""
    package = tmp_path / "segact_torch"
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "*.c")
    shutil.copytree(Path(segact_torch.__file__).parent, package, ignore=ignored)
    if folder == "clone":
        (tmp_path / "setup.py").touch()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "SEGACT_KERNELS": ""}
    code = (
        "import torch, segact_torch\nx = torch.zeros(3)\n"
        "for _ in range(2): segact_torch.DiceLoss()(x, x)"
    )
    shown, used = (
        subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        for words in (["-m", "segact_torch"], ["-c", code])
    )
    advice = f"pip install -e {tmp_path}" if folder == "clone" else "install it again"
    assert "compiled loops for a CPU: no: " in shown.stdout, shown.stderr
    for text in (shown.stdout, used.stderr):
        assert advice in text
    assert used.stderr.count("RuntimeWarning") == 1
    assert "<string>:3: RuntimeWarning" in used.stderr
