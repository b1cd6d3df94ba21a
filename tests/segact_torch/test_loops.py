"""Every loop in every precision and layout, against the formulas in float64."""

import ctypes
import functools
import itertools
import math
import shutil
import subprocess
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import segact_torch  # noqa: E402
from segact_torch import _backends  # noqa: E402
from segact_torch._backends import cpu  # noqa: E402

pytestmark = pytest.mark.skipif(
    cpu.LIBRARY is None or _backends.availability.KERNELS == "0",
    reason="the loops are not compiled or forbidden",
)

PIECEWISE = ("hardtanh", "linear")
# name: function, options, the bounds of value and slope in float32, in ulp
ELEMENTWISE = {
    "cross entropy": ("binary_cross_entropy", {}, 4, 8),
    "squared error": ("mean_squared_error", {}, 8, 8),
    "focal, 0": ("binary_focal_cross_entropy", {"gamma": 0}, 5, 8),
    "focal, 1/2": ("binary_focal_cross_entropy", {"gamma": 0.5}, 7, 10),
    "focal, 2": ("binary_focal_cross_entropy", {"gamma": 2}, 13, 16),
    "focal, 3.3": ("binary_focal_cross_entropy", {"gamma": 3.3, "alpha": 0.25}, 18.2, 21.2),
}
REDUCED = {
    "mean": ("binary_cross_entropy", {"label_smoothing": 0.125}),
    "sum": ("binary_focal_cross_entropy", {"reduction": "sum"}),
    "squares": ("mean_squared_error", {}),
    "dice": ("dice", {"per_sample": True, "smooth": 0.5}),
    "tversky": ("tversky", {"channel_axis": 1, "alpha": 0.25}),
    "dice + cross entropy": ("dice_cross_entropy", {"smooth": 0.5}),
}
LOSSES = {**{k: v[:2] for k, v in ELEMENTWISE.items()}, **REDUCED}
PRECISIONS = (torch.float32, torch.float64)


@pytest.fixture(params=[None, 1e-3], ids=["", "squeezed"])
def f(request, activation):
    return segact_torch.get_activation(activation, epsilon=request.param)


def by_the_formulas(loss, x, y, f, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backends.availability, "KERNELS", "0")
        patch.setattr(_backends.compact, "serves", lambda batch: False)
        return evaluate(loss, x, y, f, **options)


def by_the_loops(loss, x, y, f, **options):
    """The formulas are not asked."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cross_entropy", "focal_cross_entropy", "squared_error", "overlap"):
            patch.setattr(_backends._sums, name, None)
        patch.setattr(_backends.compact, "serves", lambda batch: False)
        return evaluate(loss, x, y, f, **options)


def evaluate(loss, x, y, f, reduction=None, **options):
    name, own = LOSSES[loss] if isinstance(loss, str) else loss
    own = {**own, "reduction": "none"} if loss in ELEMENTWISE else own
    x = x.detach().requires_grad_()
    value = getattr(segact_torch, name)(x, y, f, **own, **options)
    upstream = torch.linspace(0.5, 2, value.numel()).to(value.dtype).reshape(value.shape)
    (gradient,) = torch.autograd.grad(value, x, upstream)
    return value.detach(), gradient


@functools.cache
def dense(activation):
    """Raw outputs of every size up to 1e4, and for the piecewise linear ones around their ends."""
    generator = torch.Generator().manual_seed(5)
    size = torch.exp(torch.empty(6000).uniform_(-20, math.log(1e4), generator=generator))
    normal = torch.empty(6000).uniform_(-18, 18, generator=generator)
    ends = torch.empty(6000).uniform_(-0.1, 1.1, generator=generator)
    return ends if activation in PIECEWISE else torch.cat([size, -size, normal])


def error(found, exact, f):
    """In ulp; a density below the smallest normal number may be flushed, with what it carries."""
    limits = torch.finfo(found.dtype)
    lost = 64 * limits.tiny / (f.epsilon or 1)
    away = ((found.double() - exact).abs() - lost).clamp_min(0)
    return float((away / (exact.abs() * limits.eps).clamp_min(1e-320)).max())


@pytest.mark.parametrize("loss", ELEMENTWISE)
@pytest.mark.parametrize("hard", [0.0, 1.0])
def test_an_element_keeps_its_bounds(f, loss, hard):
    if f.name == "linear":
        pytest.skip("its slopes sum over the batch")
    x = dense(f.name)
    y = torch.full_like(x, hard)
    exact = by_the_formulas(loss, x.double(), y.double(), f)
    found = by_the_loops(loss, x, y, f)
    value, slope = ELEMENTWISE[loss][2:]
    assert error(found[0], exact[0], f) <= value
    assert error(found[1], exact[1], f) <= slope + 1  # for the product with upstream
    # two ways in float64, of which each has its bound of 1e-14 or 1e-13
    found = by_the_loops(loss, x.double(), y.double(), f)
    bound = 2e-14 if loss == "cross entropy" else 2e-13
    assert error(found[0], exact[0], f) <= bound / 2.0**-52
    assert error(found[1], exact[1], f) <= 2e-13 / 2.0**-52


def layouts(x):
    yield "contiguous", x
    yield "permuted", x.permute(1, 3, 0, 2)
    yield "strided", x[..., ::2]
    yield "expanded", x[:, :1].expand(-1, 3, -1, -1)


def soft_batch(dtype):
    generator = torch.Generator().manual_seed(11)
    x = torch.empty(2, 3, 10, 34).uniform_(-0.2, 1.2, generator=generator)
    y = torch.rand(x.shape, generator=generator)
    return x.to(dtype), y.to(dtype)


@pytest.mark.parametrize("loss", LOSSES)
def test_soft_targets_in_every_layout(f, loss):
    for dtype in PRECISIONS:
        for (name, x), (_, y) in zip(*map(layouts, soft_batch(dtype)), strict=True):
            found = by_the_loops(loss, x, y, f)
            exact = by_the_formulas(loss, x.double(), y.double(), f)
            bounds = (1e-6, 1e-5) if dtype == torch.float32 else (1e-13, 1e-12)
            for part, (a, b) in enumerate(zip(found, exact, strict=True)):
                rtol = bounds[part]
                torch.testing.assert_close(
                    a.double(), b, rtol=rtol, atol=rtol * float(b.abs().max()), msg=name
                )


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_read_as_it_is(f, loss):
    """The same as of these numbers in float32, with a gradient in their dtype."""
    for dtype in (torch.float16, torch.bfloat16):
        for (_, x), (_, y) in zip(*map(layouts, soft_batch(dtype)), strict=True):
            value, gradient = by_the_loops(loss, x, y, f)
            expected, slope = by_the_loops(loss, x.float(), y.float(), f)
            assert value.dtype == torch.float32
            # (the dimensions of an expanded tensor are added up in another order)
            torch.testing.assert_close(value, expected, rtol=3e-7, atol=0)
            assert gradient.dtype == dtype
            torch.testing.assert_close(
                gradient, slope.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=6e-8
            )


def test_every_half_number_is_converted_as_torch_does():
    """In by a weight, and out by the slope of a squared error, which is half of it."""
    bits = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        weight = bits.view(dtype)
        weight = weight[weight.isfinite() & (weight >= 0)]
        x = torch.full((len(weight),), 0.25, dtype=dtype)
        y = torch.zeros_like(x)
        _, slope = by_the_loops("squares", x, y, "hardtanh", weight=weight)
        _, wide = by_the_loops("squares", x.float(), y.float(), "hardtanh", weight=weight.float())
        assert torch.equal(slope, wide.to(dtype))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
)
def test_whole_targets_and_weights_are_read_as_they_are(loss, dtype):
    for precision in PRECISIONS:
        x, y = soft_batch(precision)
        y, w = y.round(), (x > 0.1).to(precision)
        expected = by_the_loops(loss, x, y, "arctan", weight=w)
        found = by_the_loops(loss, x, y.to(dtype), "arctan", weight=w.to(dtype))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (2, 1, 1, 1), (1, 3, 1, 1), (1, 1, 1, 34), (2, 1, 10, 1), (1, 1, 10, 34)],
    ids=str,
)
def test_expanded_weights_are_not_copied_and_count(loss, shape):
    raw, y = soft_batch(torch.float32)
    generator = torch.Generator().manual_seed(2)
    small = torch.rand(shape, generator=generator)
    small[(0,) * 4] = 0 if small.numel() > 1 else 1
    options = {"weight": small}
    for x in (raw, raw.contiguous(memory_format=torch.channels_last)):
        if "entropy" in LOSSES[loss][0] and "focal" not in LOSSES[loss][0]:
            options["pos_weight"] = 3 * small
        found = by_the_loops(loss, x, y, "arctan", **options)
        full = {k: v.expand(x.shape).contiguous() for k, v in options.items()}
        expected = by_the_loops(loss, x, y, "arctan", **full)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        wide = {k: v.double() for k, v in full.items()}
        exact = by_the_formulas(loss, x.double(), y.double(), "arctan", **wide)
        for a, b in zip(found, exact, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6 * float(b.abs().max()))


@pytest.mark.parametrize("loss", LOSSES)
def test_threads_change_no_bit(f, loss):
    threads = torch.get_num_threads()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x, y = soft_batch(dtype)
        x, y = x.repeat(1, 1, 10, 5), y.repeat(1, 1, 10, 5)
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(by_the_loops(loss, x, y, f))
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
def test_float64_repeats_its_gradient(loss):
    """`torch.autograd.gradcheck` wants the same bits."""
    x, y = soft_batch(torch.float64)
    name, options = LOSSES[loss]
    value = getattr(segact_torch, name)(x.requires_grad_(), y, **options).sum()
    first, again = (torch.autograd.grad(value, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("activation", ["sigmoid", "linear"])
@pytest.mark.parametrize("loss", ["binary_cross_entropy", "dice", "dice_cross_entropy"])
def test_a_gradient_that_is_not_finished_is_an_error(loss, activation, monkeypatch):
    x, y = soft_batch(torch.float32)
    value = getattr(segact_torch, loss)(x.requires_grad_(), y, activation=activation)
    monkeypatch.setattr(cpu, "_function", lambda name, dtype: lambda *arguments: 0)
    with pytest.raises(RuntimeError, match="did not compute all of a gradient"):
        value.backward()


def check_the_one_pass(f, soft, dtype):
    """Dice + cross entropy as the two by themselves, and as the formulas in float64."""
    passes, sums = [], cpu.Rows.sums

    def counted(self, *arguments, **options):
        passes.append(1)
        return sums(self, *arguments, **options)

    x, y = soft_batch(dtype)
    y = y if soft else y.round()
    loss, bounds = "dice + cross entropy", {4: (1e-6, 1e-5), 8: (1e-13, 1e-12)}[dtype.itemsize]
    options = {"lambda_dice": 0.75, "lambda_ce": 0.25, "pos_weight": 2.0}
    for groups in ({}, {"per_sample": True, "channel_axis": 1}):
        exact = by_the_formulas(loss, x.double(), y.double(), f, **options, **groups)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cpu.Rows, "sums", counted)
            passes.clear()
            one = by_the_loops(loss, x, y, f, **options, **groups)
            assert len(passes) == 1
            patch.setattr(cpu, "ratio_and_entropy", lambda *_: None)
            two = by_the_loops(loss, x, y, f, **options, **groups)
            assert len(passes) == 3
        for a, b, c, bound in zip(one, two, exact, bounds, strict=True):
            largest = float(c.abs().max())
            torch.testing.assert_close(a.double(), c, rtol=bound, atol=bound * largest)
            close = 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(a, b, rtol=close, atol=close * largest)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_dice_and_cross_entropy_are_one_pass(f, soft):
    for dtype in PRECISIONS:
        check_the_one_pass(f, soft, dtype)


# In the one pass: what is put for what, for soft targets and hard ones. (The judge runs it with
# hard targets alone: gradients in soft targets, which it asks for, are left to the formulas.)
PLANTED = {
    "values": {
        "elements.h": {
            "= cross_entropy(f, y[i], on": "= cross_entropy(f, y[i], R(1.0001) * on",
            "areas(f.off.mass, f.off.mass, f.on": "areas(f.off.mass, f.on.mass, f.on",
        }
    },
    "slopes": {
        "elements.h": {"total += weight * e.loss": "total += R(1.0001) * weight * e.loss"},
        "rows.h": {"t->upstream + t->rows, row)": "t->upstream, row)"},
    },
}


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_errors_of_the_one_pass_are_found(planted, tmp_path, monkeypatch):
    folder = shutil.copytree(Path(cpu.__file__).parent / "loops", tmp_path / "loops")
    for name, replaced in planted.items():
        source = (folder / name).read_text()
        for right, wrong in replaced.items():
            assert source.count(right) == 1
            source = source.replace(right, wrong)
        (folder / name).write_text(source)
    library = tmp_path / "_cpu.so"
    files = [folder / "float32.c", folder / "parallel.c"]
    flags = ["-O0", "-shared", "-fPIC", "-DSEGACT_SOURCE=0"]
    subprocess.run(["cc", *flags, *files, "-lm", "-o", library], check=True)
    loaded = ctypes.CDLL(str(library))
    for name, arguments in cpu._ARGUMENTS.items():
        getattr(loaded, f"segact_{name}_float32").argtypes = arguments
    monkeypatch.setattr(cpu, "LIBRARY", loaded)
    monkeypatch.setattr(cpu, "_function", cpu._function.__wrapped__)  # which remembers the other
    f = segact_torch.get_activation("arctan")
    for soft in (False, True):
        with pytest.raises(AssertionError):
            check_the_one_pass(f, soft, torch.float32)


class Wrapped(torch.Tensor):
    """As MONAI's MetaTensor and torchvision's Mask: no __torch_dispatch__ of its own."""


@pytest.mark.parametrize("loss", LOSSES)
def test_subclasses_are_unwrapped(loss):
    x, y = soft_batch(torch.float32)
    w = torch.rand_like(y)
    expected = by_the_loops(loss, x, y, "arctan", weight=w)
    for wrap in itertools.product([False, True], repeat=3):
        tensors = [
            t.as_subclass(Wrapped) if wrapped else t
            for t, wrapped in zip((x, y, w), wrap, strict=True)
        ]
        value, gradient = by_the_loops(loss, *tensors[:2], "arctan", weight=tensors[2])
        assert type(value) is torch.Tensor
        assert torch.equal(value, expected[0])
        assert torch.equal(gradient.as_subclass(torch.Tensor), expected[1])
