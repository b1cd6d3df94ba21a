"""Which losses call the kernels, and as which operators compiled code does."""

import itertools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", "3.2", reason="Triton is not installed, or old")

from kernels import F, batch, interpreted  # noqa: E402

import segact_torch  # noqa: E402
from segact_torch import _backends, _sums  # noqa: E402
from segact_torch._backends import compact, operators  # noqa: E402

PER_CHANNEL = torch.tensor([0.5, 3.0]).reshape(2, 1, 1)
SERVED = {
    "binary_cross_entropy": ({}, {"reduction": "none"}, {"pos_weight": PER_CHANNEL}),
    "binary_focal_cross_entropy": ({}, {"gamma": 0.5, "alpha": 0.25, "label_smoothing": 0.125}),
    "mean_squared_error": ({},),
    "dice": ({}, {"per_sample": True, "channel_axis": 1, "smooth": 1.0}),
    "jaccard": ({"channel_axis": 1},),
    "tversky": ({"alpha": 0.25, "beta": 0.75},),
    "focal_tversky": ({"per_sample": True},),
    "dice_cross_entropy": ({"per_sample": True, "pos_weight": PER_CHANNEL},),
}


@interpreted
@pytest.mark.parametrize(
    ("loss", "options"),
    [(loss, options) for loss, all in SERVED.items() for options in all],
    ids=str,
)
def test_kernels_serve_all_that_loops_do(loss, options, monkeypatch):
    """But `linear`, float64 and the steepest focal losses: no formula is asked for."""
    f = F("arctan", epsilon=0.01)

    def step(x):
        x = x.clone().requires_grad_()
        value = getattr(segact_torch, loss)(x, y.to(x.dtype), f, **options)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    x, y = batch(hard=False)
    expected = step(x.double())
    monkeypatch.setattr(_backends.availability, "KERNELS", "triton")
    formulas = ("cross_entropy", "focal_cross_entropy", "squared_error", "overlap", "ratio")
    for module, name in itertools.product((_sums, compact), formulas):
        monkeypatch.setattr(module, name, None, raising=False)
    for part, exact, bound in zip(step(x), expected, (1e-6, 1e-5), strict=True):
        atol = bound * float(exact.abs().max())
        torch.testing.assert_close(part.double(), exact, rtol=0, atol=atol)


@pytest.fixture
def compiled_calls_the_kernels(monkeypatch):
    monkeypatch.setattr(_backends.availability, "KERNELS", "triton")
    monkeypatch.setattr(operators, "LARGE", 1)
    torch._dynamo.reset()


@interpreted
def test_operators_are_registered_as_they_behave(compiled_calls_the_kernels):
    """Shapes, strides, aliases and gradients, in PyTorch's own check."""
    x = torch.linspace(-3, 3, 60).reshape(2, 2, 3, 5).requires_grad_()
    y, w = (x.detach() > 1).float(), torch.linspace(0, 2, 60).reshape(x.shape)
    elements = operators.elements_operator
    torch.library.opcheck(elements, (x, y, w, [1, 2, 3], True, 2, 2, 0.0, 0.25, 0.75, 1.5, 0.125))
    torch.library.opcheck(elements, (x, y, None, [], True, 0, 2, 0.0, 1.5, 1.0, 0.0, 0.125))


@interpreted
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("binary_cross_entropy", {"pos_weight": 2.5, "label_smoothing": 0.125}),
        ("binary_cross_entropy", {"reduction": "none"}),
        ("mean_squared_error", {}),
        ("binary_focal_cross_entropy", {"gamma": 1.5, "alpha": 0.25}),
        ("binary_focal_cross_entropy", {"gamma": 1100.0}),
    ],
    ids=str,
)
def test_compiled_code_calls_the_kernels(compiled_calls_the_kernels, loss, options):
    x, y = batch()
    w, graphs = torch.linspace(0, 2, 33).expand(1, 1, 1, 33), []

    def of(x):
        return getattr(segact_torch, loss)(x, y, "arctan", weight=w, **options).sum()

    def note(graph, inputs):
        graphs.append(graph.code)
        return aot_eager(graph, inputs)

    aot_eager = torch._dynamo.backends.registry.lookup_backend("aot_eager")
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    value, expected = torch.compile(of, backend=note, fullgraph=True)(leaf), of(other)
    assert "torch.ops.segact" in graphs[0]
    (found,) = torch.autograd.grad(65536 * value, leaf, retain_graph=True)
    (slope,) = torch.autograd.grad(65536 * expected, other)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(found, slope, rtol=0, atol=1e-5 * float(slope.abs().max()))
    # twice, and where a scaled loss of half precision has overflown: what weighs 0 stays 0
    (again,) = torch.autograd.grad(torch.inf * value, leaf)
    assert torch.equal(again, torch.where(found == 0, 0.0, torch.inf * found.sign()))


@interpreted
@pytest.mark.parametrize(("loss", "from_here"), [("mean_squared_error", 1 << 24), ("dice", 1)])
def test_other_compiled_code_is_the_compilers(
    compiled_calls_the_kernels, monkeypatch, loss, from_here
):
    monkeypatch.setattr(operators, "LARGE", from_here)
    graphs = []

    def note(graph, inputs):
        graphs.append(graph.code)
        return graph

    torch.compile(getattr(segact_torch, loss), backend=note, fullgraph=True)(*batch())
    assert "torch.ops.segact" not in graphs[0]
