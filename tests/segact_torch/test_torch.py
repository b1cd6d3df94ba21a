"""What is PyTorch's own: compiling, transforms, export, modules, precision under the compiler."""

import copy
import inspect
import math
import pickle
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from names import ACTIVATIONS, ELEMENTWISE, RATIOS

torch = pytest.importorskip("torch")
import segact_torch  # noqa: E402

LOSSES = {
    "binary_cross_entropy": segact_torch.BinaryCrossEntropyLoss,
    "dice": segact_torch.DiceLoss,
    "mean_squared_error": segact_torch.MeanSquaredErrorLoss,
    "binary_focal_cross_entropy": segact_torch.BinaryFocalCrossEntropyLoss,
    "jaccard": segact_torch.JaccardLoss,
    "tversky": segact_torch.TverskyLoss,
    "focal_tversky": segact_torch.FocalTverskyLoss,
    "dice_cross_entropy": segact_torch.DiceCrossEntropyLoss,
    "lovasz": segact_torch.LovaszLoss,
    "lovasz_hinge": segact_torch.LovaszHingeLoss,
}
FIRST = list(LOSSES)[:3]
# The first three losses with every activation, the others with one: they are called alike.
PAIRS = [(loss, activation) for loss in FIRST for activation in ACTIVATIONS]
PAIRS += [(loss, "normal_cdf") for loss in LOSSES if loss not in FIRST]


def make(loss, activation, **options):
    return (
        LOSSES[loss](**options) if loss == "lovasz_hinge" else LOSSES[loss](activation, **options)
    )


@pytest.fixture(params=LOSSES)
def loss(request):
    return request.param


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request):
    return request.param


@pytest.fixture
def batch(rng):
    x = torch.tensor(rng.normal(0, 4, (2, 3, 4, 4)), dtype=torch.float32)
    return x, torch.tensor(rng.random((2, 3, 4, 4)) < 0.4).float()


def gradient(f, x, y):
    x = x.detach().clone().requires_grad_()
    value = f(x, y)
    return value.detach(), torch.autograd.grad(value, x)[0]


def assert_same(left, right, rel=1e-5):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=rel, atol=rel * b.abs().max().item())


@pytest.mark.parametrize("method", ["cdf", "sf", "logcdf", "logsf", "pdf"])
def test_gradcheck_of_activations(smooth, method):
    f = getattr(segact_torch.get_activation(smooth), method)
    x = torch.tensor([-30.0, -3.0, -0.5, 0.25, 2.0, 7.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f, x)
    assert torch.autograd.gradgradcheck(f, x)


def test_gradcheck_of_ppf(smooth):
    p = torch.tensor([0.01, 0.2, 0.4, 0.9], dtype=torch.float64, requires_grad=True)
    ppf = segact_torch.get_activation(smooth).ppf
    assert torch.autograd.gradcheck(ppf, p)
    assert torch.autograd.gradgradcheck(ppf, p)


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_ppf(smooth, dynamic):
    """The slope of `ppf` calls `ppf`."""
    torch._dynamo.reset()
    ppf = segact_torch.get_activation(smooth, epsilon=0.01).ppf
    compiled = torch.compile(ppf, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    p = torch.tensor([0.02, 0.2, 0.4, 0.9])
    f = lambda p, _: ppf(p).sum()  # noqa: E731
    assert_same(gradient(lambda p, _: compiled(p).sum(), p, None), gradient(f, p, None))


def test_gradcheck_of_losses(loss, activation, rng):
    x = torch.tensor(rng.uniform(0.05, 0.95, (2, 1, 2, 2)), requires_grad=True)
    y = torch.tensor(rng.uniform(0.05, 0.95, (2, 1, 2, 2)))
    y = y.round() if "lovasz" in loss else y.requires_grad_()
    f = make(loss, activation)
    assert torch.autograd.gradcheck(f, (x, y))
    assert torch.autograd.gradgradcheck(f, (x, y))


def test_gradcheck_of_options(loss, rng):
    """Weights, left-out elements and groups, twice differentiable as well."""
    x = torch.tensor(rng.uniform(-2, 2, (2, 2, 3)), requires_grad=True)
    y = torch.tensor(rng.random((2, 2, 3))).round()
    w = torch.tensor(rng.random((2, 2, 3)))
    y[0, 0, 0] = 255
    elementwise = "channel_axis" not in inspect.signature(LOSSES[loss]).parameters
    options = {} if elementwise else {"per_sample": True, "channel_axis": 1}
    f = make(loss, "arctan", ignore_index=255, **options)
    assert torch.autograd.gradcheck(lambda x: f(x, y, w), x)
    assert torch.autograd.gradgradcheck(lambda x: f(x, y, w), x)


@pytest.mark.parametrize("convention", segact_torch.CONVENTIONS[1:])
def test_gradcheck_of_conventions(convention, rng):
    p = torch.tensor(rng.uniform(0.1, 0.9, 6), requires_grad=True)
    y = torch.tensor(rng.random(6), requires_grad=True)
    f = segact_torch.BinaryCrossEntropyLoss(from_logits=False, convention=convention)
    assert torch.autograd.gradcheck(f, (p, y))
    assert torch.autograd.gradgradcheck(f, (p, y))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("axis", [None, 0, (1,)])
def test_linear_of_nothing(axis, compiled):
    """An empty tensor, as every other activation makes of one: it has no minimum."""
    torch._dynamo.reset()
    f = segact_torch.get_activation("linear", axis=axis)
    for method in (f.cdf, f.sf, f.logcdf, f.logsf):
        method = torch.compile(method, backend="aot_eager") if compiled else method
        x = torch.empty(0, 0, 3, requires_grad=True)
        value = method(x)
        value.sum().backward()
        assert value.shape == x.grad.shape == x.shape


@pytest.mark.parametrize("mirrored", [False, True])
def test_second_derivative_far_out(mirrored):
    """(log F)'' tends to -1 for the normal cdf, where the naive r (x + r) has no digit left."""
    x = torch.tensor([-3e3], requires_grad=True)
    f = segact_torch.normal_cdf.logsf if mirrored else segact_torch.normal_cdf.logcdf
    (first,) = torch.autograd.grad(f(-x if mirrored else x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.item() == pytest.approx(-1, rel=1e-3)


def test_second_derivative_at_zero(smooth):
    """Where abs(x) has no derivative: F''(0) = 0 for all but softsign, whose density has a kink."""
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    f = segact_torch.get_activation(smooth)
    (first,) = torch.autograd.grad(f.logcdf(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    slope = -1.0 if smooth == "softsign" else 0.0
    assert second.item() == pytest.approx(2 * slope - (2 * f.pdf(x).item()) ** 2, rel=1e-12)


def test_second_derivatives_where_the_first_is_zero():
    """At F(x) = y the squared error is flat, and not straight: an upstream of 0 is no constant."""
    x = torch.zeros(1, dtype=torch.float64)
    y = torch.full_like(x, 0.5)

    def loss(x):
        return segact_torch.mean_squared_error(x, y)

    hessian = torch.autograd.functional.hessian(loss, x)
    assert hessian.item() == pytest.approx(2 * 0.25**2, rel=1e-14)
    _, slope = torch.autograd.functional.jvp(segact_torch.sigmoid, x, torch.ones_like(x))
    assert slope.item() == 0.25


@pytest.mark.parametrize("y", [0.0, 0.5, 1.0])
def test_mixed_derivative_at_hard_targets(smooth, y):
    """d^2 loss / dx dy = -(log F - log(1 - F))', also where a weight is 0."""
    x = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([y], dtype=torch.float64, requires_grad=True)
    loss = segact_torch.binary_cross_entropy(x, y, smooth)
    (in_x,) = torch.autograd.grad(loss, x, create_graph=True)
    (mixed,) = torch.autograd.grad(in_x, y)
    f = segact_torch.get_activation(smooth)
    p, q, density = (g(x).item() for g in (f.cdf, f.sf, f.pdf))
    assert mixed.item() == pytest.approx(-density / p - density / q, rel=1e-13)


def test_compiles_into_one_graph(pair, batch):
    torch._dynamo.reset()
    f = make(*pair)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    assert_same(gradient(compiled, *batch), gradient(f, *batch))


def test_compiles_with_dynamic_shapes(loss, batch):
    torch._dynamo.reset()
    f = make(loss, "normal_cdf")
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (2, 1):
        part = [t[:n] for t in batch]
        assert_same(gradient(compiled, *part), gradient(f, *part))


def test_a_weight_may_follow_where_the_size_of_a_batch_is_a_variable(batch):
    torch._dynamo.reset()
    compiled = torch.compile(segact_torch.dice, fullgraph=True, backend="aot_eager")
    x, y = batch
    for n, options in ((2, {}), (1, {}), (2, {"weight": torch.rand(2, *[1] * (x.ndim - 1))})):
        found = gradient(partial(compiled, **options), x[:n], y[:n])
        assert_same(found, gradient(partial(segact_torch.dice, **options), x[:n], y[:n]))


NUMBERS = {
    "binary_cross_entropy": {"label_smoothing": 0.1, "pos_weight": 2.5},
    "binary_focal_cross_entropy": {"gamma": 1.5, "alpha": 0.3, "label_smoothing": 0.1},
    "dice": {"smooth": 1.5},
    "jaccard": {"smooth": 1.5},
    "tversky": {"alpha": 0.3, "beta": 0.6, "smooth": 1.5},
    "focal_tversky": {"alpha": 0.3, "beta": 0.6, "gamma": 1.5, "smooth": 1.5},
    "dice_cross_entropy": {"lambda_dice": 0.5, "lambda_ce": 0.7, "label_smoothing": 0.1},
}


@pytest.mark.parametrize("loss", NUMBERS)
@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
def test_numbers_that_change_in_compiled_code(loss, epsilon, batch):
    """The second value of a float makes it a variable of the graph, and then none is compiled.

    Operators of the loops (all but ratios of overlap with an epsilon) take each as a constant.
    """
    torch._dynamo.reset()
    graphs = []

    def counting(module, inputs):
        graphs.append(module)
        return module.forward

    function = getattr(segact_torch, loss)
    f = torch.compile(function, fullgraph=True, backend=counting)
    activation = segact_torch.get_activation("arctan", epsilon=epsilon)
    for factor in (1.0, 1.1, 1.2, 1.3):
        options = {name: value * factor for name, value in NUMBERS[loss].items()}
        found, expected = (
            gradient(partial(g, activation=activation, **options), *batch) for g in (f, function)
        )
        assert_same(found, expected)
    assert len(graphs) <= (2 if epsilon and loss in RATIOS else 4)


@pytest.mark.parametrize("epsilon", [None, 1e-3])
def test_recorded_heads(activation, epsilon, tmp_path):
    """TorchScript, torch.fx and torch.export give the values of eager code, for any shape."""
    torch.manual_seed(0)
    head = segact_torch.OutputActivation(activation, epsilon=epsilon)
    model = torch.nn.Sequential(torch.nn.Linear(4, 1), head).eval()
    x = 5 * torch.randn(8, 4)
    for record in (lambda m: torch.jit.trace(m, x), torch.jit.script):
        torch.jit.save(record(model), tmp_path / "model.pt")
        assert torch.equal(torch.jit.load(tmp_path / "model.pt")(x[:3]), model(x[:3]))
    scripted = torch.jit.script(head)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        images = 5 * torch.randn(2, 3, 4, 5, dtype=dtype)
        assert torch.equal(scripted(images), head(images))
    graph = torch.fx.symbolic_trace(model)
    of_graph, of_model = (gradient(lambda x, _, m=m: m(x).sum(), x, x) for m in (graph, model))
    assert_same(of_graph, of_model, 0)
    assert torch.equal(pickle.loads(pickle.dumps(graph))(x), model(x))
    assert torch.equal(torch.export.export(model, (x,)).module()(x), model(x))
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))  # scripting left no trace


def test_script_of_an_activation_of_ones_own():
    mine = segact_torch.register_activation("for_script", lambda x: torch.sigmoid(x))
    model = torch.nn.Sequential(segact_torch.OutputActivation(mine))
    x = torch.randn(3)
    with pytest.raises(TypeError, match=r"torch\.jit\.script takes an activation of segact_torch"):
        torch.jit.script(model)
    assert torch.equal(torch.jit.trace(model, x)(x), model(x))
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_losses(pair, batch):
    """With the tracer's own check, which traces twice and compares."""
    f = make(*pair)
    x, y = batch
    for recorded in (torch.jit.trace(f, batch), torch.jit.trace(lambda x, y: f(x, y), batch)):
        torch.testing.assert_close(recorded(-x, 1 - y), f(-x, 1 - y))


def test_forward_mode_without_transforms(pair, batch):
    """Dual numbers, and forward over reverse mode."""
    x, y = (t.double() for t in batch)
    f, tangent = make(*pair), torch.linspace(-1, 1, x.numel()).reshape(x.shape).double()
    _, slope = gradient(f, x, y)
    _, curved = torch.autograd.functional.hvp(lambda x: f(x, y), x, tangent)
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.clone().requires_grad_(), tangent)
        loss = f(dual, y)
        (grad,) = torch.autograd.grad(loss, dual, create_graph=True)
        of_value, of_grad = (forward_ad.unpack_dual(t).tangent for t in (loss, grad))
    assert_same([of_value, of_grad], [(slope * tangent).sum(), curved], 1e-10)


def test_forward_over_forward_mode(smooth, rng):
    """PyTorch itself finds 0 there, for a custom function."""
    x = torch.tensor(rng.normal(size=5))
    f = segact_torch.get_activation(smooth).logcdf
    ones = (torch.ones_like(x),)

    def slope(x):
        return torch.func.jvp(f, (x,), ones)[1]

    _, twice = torch.func.jvp(slope, (x,), ones)
    expected = torch.autograd.functional.hessian(lambda x: f(x).sum(), x).diagonal()
    torch.testing.assert_close(twice, expected)


def test_hessians_by_forward_mode_alone(loss, rng):
    """`jacfwd` twice: vmap has no rule for the operation that removes a tangent."""
    x, y = torch.tensor(rng.normal(size=(2, 2, 3))).unbind()
    f = partial(make(loss, "normal_cdf"), target=(y > 0).double())
    found = torch.func.jacfwd(torch.func.jacfwd(f))(x)
    torch.testing.assert_close(found, torch.func.hessian(f)(x))
    each = torch.func.vmap(torch.func.jacfwd(torch.func.jacfwd(f)))(x.expand(2, 2, 3))
    torch.testing.assert_close(each, found.expand(2, *found.shape))


@pytest.mark.skipif(shutil.which("c++") is None, reason="the compiler needs a C++ compiler")
@pytest.mark.parametrize("method", ["cdf", "logcdf", "pdf"])
def test_inductor_keeps_the_bounds(smooth, method, dense_error):
    """The compiler has its own exp and log: 4 ulp for values and 8 for gradients hold there too."""
    torch._dynamo.reset()
    compiled = torch.compile(getattr(segact_torch.get_activation(smooth), method), fullgraph=True)

    def evaluate(x):
        x = torch.tensor(x, requires_grad=True)
        value = compiled(x)
        value.sum().backward()
        return value.detach().numpy(), x.grad.numpy()

    value, grad = dense_error(evaluate, smooth, method)
    assert value <= 4
    assert grad <= 8


def test_func_transforms(pair, batch):
    x, y = batch
    f = make(*pair)
    _, expected = gradient(f, x, y)
    torch.testing.assert_close(torch.func.grad(f)(x, y), expected)
    each = torch.func.vmap(torch.func.grad(f))(x, y)
    for a, b, c in zip(each, x, y, strict=True):
        torch.testing.assert_close(a, gradient(f, b, c)[1], rtol=1e-5, atol=1e-9)


def test_layouts(loss, smooth, batch):
    x, y = batch
    f = make(loss, smooth)
    expected = gradient(f, x, y)
    last = x.to(memory_format=torch.channels_last), y.to(memory_format=torch.channels_last)
    assert_same(gradient(f, *last), expected)
    strided = torch.empty(2, 3, 4, 8)[..., ::2].copy_(x), torch.empty(2, 3, 4, 8)[..., ::2].copy_(y)
    assert not strided[0].is_contiguous()
    assert_same(gradient(f, *strided), expected)


def test_copies_and_state(pair, batch):
    f = make(*pair)
    for twin in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        twin.load_state_dict(f.state_dict(), strict=True)
        assert twin(*batch) == f(*batch)
    assert repr(f).startswith(type(f).__name__)
    head = segact_torch.OutputActivation(pair[1])
    assert copy.deepcopy(head).activation == head.activation


def test_export(pair, batch):
    f = make(*pair)
    program = torch.export.export(f, batch)
    torch.testing.assert_close(program.module()(*batch), f(*batch))


def test_export_to_onnx(activation, tmp_path, rng):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    head = torch.nn.Sequential(
        torch.nn.Linear(4, 1), segact_torch.OutputActivation(activation)
    ).eval()
    x = torch.tensor(rng.normal(0, 3, (8, 4)), dtype=torch.float32)
    path = tmp_path / "head.onnx"
    torch.onnx.export(head, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(path))
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    # the runtime's own matrix product differs in the last digit, near 0 of x in all of F(x)
    np.testing.assert_allclose(got, head(x).detach().numpy(), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions(loss, reduction, batch):
    overlap = "per_sample" in inspect.signature(LOSSES[loss]).parameters
    groups = {"per_sample": True, "channel_axis": 1} if overlap else {}
    each = make(loss, "arctan", reduction="none", **groups)(*batch)
    value = make(loss, "arctan", reduction=reduction, **groups)(*batch)
    assert each.shape == ((2, 3) if overlap else batch[0].shape)
    expected = {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("activation", ["arctan", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_change_in_place(loss, reduction, dtype, activation, kernels, batch, monkeypatch):
    """As by `loss /= 4`, of one batch in four that are accumulated."""
    if not kernels:
        monkeypatch.setattr(segact_torch._backends, "chosen", lambda batch: ())
    loss = make(loss, activation, reduction=reduction)
    x, y = (t.to(dtype) for t in batch)

    def changed(x, y):
        value = loss(x, y)
        value /= 4
        value += 1
        return value.sum()

    _, found = gradient(changed, x, y)
    _, expected = gradient(lambda x, y: loss(x, y).sum(), x, y)
    torch.testing.assert_close(4 * found, expected)


@pytest.mark.parametrize("name", ["cdf", *ELEMENTWISE])
def test_change_in_place_in_compiled_code(name, batch, monkeypatch):
    """Of what the formula computes: the operators of the loops return no views."""
    monkeypatch.setattr(segact_torch._backends.availability, "KERNELS", "0")

    loss = None if name == "cdf" else make(name, "arctan", reduction="none")

    def changed(x, y):
        value = segact_torch.arctan(x) if loss is None else loss(x, y)
        value /= 4
        return value.sum()

    torch._dynamo.reset()
    compiled = torch.compile(changed, backend="aot_eager", fullgraph=True)
    assert_same(gradient(compiled, *batch), gradient(changed, *batch))


def test_from_probabilities_clamps_the_log_as_pytorch_does():
    p = torch.tensor([0.0, 1.0, 0.25], requires_grad=True)
    y = torch.tensor([1.0, 0.0, 1.0])
    ours = segact_torch.binary_cross_entropy(p, y, from_logits=False, reduction="none")
    stock = torch.nn.functional.binary_cross_entropy(p, y, reduction="none")
    assert ours[:2].tolist() == [100, 100]
    torch.testing.assert_close(ours, stock, rtol=0, atol=0)
    gradients = [torch.autograd.grad(loss.sum(), p, retain_graph=True)[0] for loss in (ours, stock)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_values_are_not_asked_of_fakes_and_traces():
    from torch.fx.experimental.proxy_tensor import make_fx

    x, y = torch.zeros(3), torch.ones(3)
    traced = make_fx(lambda x, y: segact_torch.dice(x, y, "arctan"), tracing_mode="fake")(x, y)
    assert traced(x, y) == segact_torch.dice(x, y, "arctan")


def test_validate_in_compiled_code_says_why_it_cannot():
    torch._dynamo.reset()
    f = segact_torch.DiceLoss(validate=True)
    f = torch.compile(f, backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="validate=True reads target, which has no values"):
        f(torch.zeros(3), torch.zeros(3))


@pytest.mark.parametrize("wrong", [[1.0, 2.0], np.ones(2), "2"])
def test_a_pos_weight_of_another_kind_is_told_both_that_there_are(wrong):
    x = torch.zeros(2)
    for f in (
        lambda: segact_torch.BinaryCrossEntropyLoss(pos_weight=wrong),
        lambda: segact_torch.binary_cross_entropy(x, x, pos_weight=wrong),
    ):
        with pytest.raises(TypeError, match=r"^pos_weight must be a number or a torch.Tensor, got"):
            f()


@pytest.mark.parametrize("loss", ["DiceLoss", "BinaryCrossEntropyLoss", "LovaszLoss"])
def test_validate_keeps_a_loss_eager_without_fullgraph(loss):
    torch._dynamo.reset()
    f = torch.compile(getattr(segact_torch, loss)(validate=True), backend="aot_eager")
    x, y = torch.zeros(2**17), torch.ones(2**17)  # enough elements for a compiled operator
    assert f(x, y) == pytest.approx(getattr(segact_torch, loss)()(x, y))
    with pytest.raises(ValueError, match="target must lie in"):
        f(x, 255 * y)


def test_probabilities_under_autocast():
    x, y = torch.rand(4, 4), torch.rand(4, 4).round()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        head = torch.sigmoid(torch.nn.Linear(4, 4)(x))
        assert head.dtype == torch.bfloat16
        loss = segact_torch.binary_cross_entropy(head, y, from_logits=False)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_under_autocast(loss, dtype):
    """The head's output is of the narrow type; the sums are not."""
    x, y = torch.full((1, 1, 256, 512), 2.0), torch.ones(1, 1, 256, 512)
    f = make(loss, "arctan", reduction="sum" if loss in elementwise() else "mean")
    with torch.autocast("cpu", dtype=dtype):
        head = torch.nn.Conv2d(1, 1, 1)
        torch.nn.init.ones_(head.weight)
        torch.nn.init.zeros_(head.bias)
        raw = head(x)
        assert raw.dtype == dtype
        narrow = f(raw, y)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, f(x, y))
    (grad,) = torch.autograd.grad(narrow, head.weight)
    assert torch.isfinite(grad).all()


def elementwise():
    parameters = {name: inspect.signature(kind).parameters for name, kind in LOSSES.items()}
    return [name for name, found in parameters.items() if "per_sample" not in found]


def test_pos_weight_moves_with_the_module():
    f = segact_torch.BinaryCrossEntropyLoss(pos_weight=torch.tensor([2.0, 3.0]))
    assert [name for name, _ in f.named_buffers()] == ["pos_weight"]
    assert f.to(torch.float64).pos_weight.dtype == torch.float64
    assert copy.deepcopy(f)(torch.zeros(1, 2), torch.ones(1, 2)).item() == pytest.approx(
        2.5 * math.log(2)
    )
    assert f.to("meta").pos_weight.device.type == "meta"


def a_pos_weight_on_meta():
    with torch.device("meta"):
        return torch.tensor([2.0, 3.0])


def a_pos_weight_of_a_graph():
    return 1 * torch.tensor([2.0, 3.0], requires_grad=True)


@pytest.mark.parametrize(
    "weights",
    [
        a_pos_weight_on_meta,
        a_pos_weight_of_a_graph,
        lambda: torch.tensor([2, 3], dtype=torch.uint16),
        lambda: torch.tensor([2.0, 3.0], dtype=torch.float8_e4m3fn),
        lambda: torch.tensor([2.0, 3.0], dtype=torch.float16),
    ],
)
def test_modules_take_any_pos_weight(weights):
    """Also one without values, as in a model that is built on the meta device."""
    f = segact_torch.BinaryCrossEntropyLoss(pos_weight=weights())
    assert "pos_weight=" in repr(f)
    f = copy.deepcopy(f)
    if f.pos_weight.is_meta:
        f = f.to_empty(device="cpu")
        f.load_state_dict({"pos_weight": torch.tensor([2.0, 3.0])})
    assert float(f(torch.zeros(1, 2), torch.ones(1, 2))) == pytest.approx(2.5 * math.log(2))


def test_modules_under_fake_tensors():
    with torch._subclasses.FakeTensorMode():
        f = segact_torch.DiceCrossEntropyLoss(pos_weight=torch.ones(3))
        assert f(torch.randn(2, 3), torch.ones(2, 3)).shape == ()
        assert "pos_weight=" in repr(f)


def test_what_a_default_device_and_dtype_leave_alone():
    head, x = segact_torch.OutputActivation("arctan"), torch.tensor([1.234567])
    try:
        torch.set_default_device("meta")
        torch.set_default_dtype(torch.float16)
        domain = segact_torch.arctan.effective_domain(0.25)
        scripted = torch.jit.script(head)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert domain == pytest.approx((-1.0, 1.0))
    torch.testing.assert_close(scripted(x), head(x), rtol=1e-6, atol=0)


PACKED = {
    "sparse": lambda t: t.to_sparse(),
    "compressed": lambda t: t.to_sparse_csr(),
    "mkldnn": lambda t: t.to_mkldnn(),
    "nested": lambda t: torch.nested.nested_tensor(list(t)),
    "jagged": lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged),
    "quantized": lambda t: torch.quantize_per_tensor(t, 1.0, 0, torch.quint8),
}


@pytest.mark.filterwarnings("ignore")  # some of these are prototypes
@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("name", ["input", "target", "weight", "mask", "pos_weight"])
def test_tensors_that_are_not_dense_are_refused(name, kind):
    """A loop reads addresses, and such a tensor has none for its elements."""
    if kind == "mkldnn" and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no MKL-DNN")
    given = {"input": torch.zeros(2, 3), "target": torch.zeros(2, 3)}
    given[name] = PACKED[kind](torch.ones(2, 3))
    with pytest.raises(TypeError, match=f"^{name} must be a dense tensor, got one that is"):
        segact_torch.dice_cross_entropy(**given)
    if name == "pos_weight":
        with pytest.raises(TypeError, match=r"^pos_weight must be a dense tensor"):
            segact_torch.DiceCrossEntropyLoss(pos_weight=given[name])


def test_not_a_tensor():
    with pytest.raises(TypeError, match=r"input must be a torch\.Tensor, got ndarray"):
        segact_torch.dice(np.zeros(3), torch.zeros(3))
    with pytest.raises(TypeError, match=r"target must be a torch\.Tensor, got list"):
        segact_torch.dice(torch.zeros(3), [0, 1, 0])
    for name in ("weight", "mask"):
        with pytest.raises(TypeError, match=rf"{name} must be a torch\.Tensor, got list"):
            segact_torch.dice(torch.zeros(3), torch.zeros(3), **{name: [1, 1, 1]})


@pytest.mark.parametrize("name", ["target", "weight", "mask", "pos_weight"])
def test_tensors_of_another_device_are_named(name):
    """Loops would read addresses of that device, which ends the process."""
    given = {"input": torch.zeros(2, 3), "target": torch.zeros(2, 3)}
    given[name] = torch.ones(2, 3, device="meta")
    wanted = f"^{name} must be on the device of input, got {name} on meta and input on cpu$"
    with pytest.raises(ValueError, match=wanted):
        segact_torch.dice_cross_entropy(**given)


def test_targets_are_not_read_back_from_a_device():
    """On "meta", any look at a value would raise."""
    x, y = torch.zeros(3, device="meta"), torch.zeros(3, device="meta")
    assert segact_torch.dice(x, y).shape == ()


def test_bfloat16_sums_in_float32():
    x = torch.full((1024, 1024), 2.0, dtype=torch.bfloat16)
    p = 1 / (1 + math.exp(-2))
    loss = segact_torch.dice(x, torch.ones_like(x))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((1 - p) / (1 + p), rel=1e-6)


def test_import_loads_no_other_framework():
    others = ("keras", "tensorflow", "jax", "parity", "segact_tf")
    code = f"import sys, segact_torch; print([m for m in {others} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_subclasses_and_their_own_buffers(batch):
    class Deep(segact_torch.DiceLoss):
        def __init__(self, factors):
            super().__init__("arctan", smooth=1.0)
            self.register_buffer("factors", torch.tensor(factors))

        def forward(self, input, target):
            return self.factors.sum() * super().forward(input, target)

    expected = 1.5 * segact_torch.dice(*batch, "arctan", smooth=1.0)
    torch.testing.assert_close(Deep([1.0, 0.5])(*batch), expected)


def test_validate_reads_under_vmap():
    """Where it cannot, it says so."""
    f = torch.func.vmap(lambda x, y: segact_torch.dice(x, y, validate=True))
    with pytest.raises(RuntimeError):
        f(torch.zeros(2, 3), torch.full((2, 3), 5.0))


class Smoothed(segact_torch.DiceLoss):
    """A user's own, with a constructor of its own."""

    def __init__(self, amount=1.0):
        super().__init__("arctan", smooth=amount)


@pytest.mark.parametrize(
    "module",
    [Smoothed(2.0), segact_torch.BinaryCrossEntropyLoss(pos_weight=torch.tensor([2.0, 3.0]))],
    ids=["subclass", "tensor"],
)
def test_a_pickle_that_lacks_an_option_gets_its_default(module):
    x, y = torch.randn(4, 2), torch.tensor([[0.0, 1.0]] * 4)
    expected = module(x, y)
    loaded = pickle.loads(pickle.dumps(module))
    assert loaded.options == module.options
    assert torch.equal(loaded(x, y), expected)
    del module.options["ignore_index"]  # as if it were new
    assert "ignore_index" in pickle.loads(pickle.dumps(module)).options


def test_masks_of_0_and_255_make_a_compiled_loss_nan(loss, rng):
    """Compiled code cannot raise. A slight overshoot is taken for the nearest target in [0, 1]."""
    x = torch.from_numpy(rng.normal(size=(2, 6)).astype("float32"))
    y = (x > 0).float()
    f = make(loss, "normal_cdf")
    torch._dynamo.reset()
    run = torch.compile(f, backend="aot_eager", fullgraph=True)
    assert run(x, y) == pytest.approx(float(f(x, y)), rel=1e-6)
    torch.testing.assert_close(run(x, y * 1.2 - 0.1), run(x, y), rtol=1e-6, atol=0)
    for wrong in (255.0, -0.6, 2.0):
        bad = y.clone()
        bad[0, 2] = wrong
        assert run(x, bad).isnan()
        for validate in (None, True):
            with pytest.raises(ValueError, match=r"^target must lie in \[0, 1\], got values from"):
                make(loss, "normal_cdf", validate=validate)(x, bad)


def test_other_values_that_make_a_compiled_loss_nan(loss, rng):
    """Raw outputs where probabilities are wanted, and weights below 0."""
    x = torch.from_numpy(rng.normal(size=(2, 6)).astype("float32"))
    y, w = (x > 0).float(), torch.ones_like(x)
    torch._dynamo.reset()
    run = torch.compile(make(loss, "normal_cdf"), backend="aot_eager", fullgraph=True)
    assert run(x, y, w).isfinite()
    w[1, 3] = -1
    assert run(x, y, w).isnan()
    if loss != "lovasz_hinge":
        run = torch.compile(LOSSES[loss](from_logits=False), backend="aot_eager", fullgraph=True)
        assert run(y * 0.8 + 0.1, y).isfinite()
        assert run(x * 5, y).isnan()


@pytest.mark.parametrize("reduction", ["maen", None, 1])
def test_an_unknown_reduction_is_refused(loss, reduction):
    x = torch.zeros(2, 3)
    function = getattr(segact_torch, loss)
    makers = (partial(function, x, x), LOSSES[loss])
    for call in makers:
        with pytest.raises(ValueError, match=r"^reduction must be 'mean', 'sum' or 'none', got"):
            call(reduction=reduction)


def test_validate_false_leaves_targets_as_they_are(loss, rng):
    x = torch.from_numpy(rng.normal(size=(2, 6)).astype("float32"))
    y = (x > 0).float()
    y[0, 2] = 1.6
    f = make(loss, "normal_cdf", validate=False)
    torch._dynamo.reset()
    for run in (f, torch.compile(f, backend="aot_eager", fullgraph=True)):
        assert run(x, y).isfinite()
