"""Loops and compact formulas over many floats: what a grid of round numbers does not meet.

Errors add up in few of all numbers only: of 100 million, the squared error of the sigmoid once
passed its bound in a few hundred.
"""

import pytest

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import segact_torch  # noqa: E402
from segact_torch import _backends  # noqa: E402
from segact_torch._backends import cpu  # noqa: E402

# The design's bounds in ulp, of value and slope.
LOSSES = {
    "binary_cross_entropy": (4, 8),
    "mean_squared_error": (8, 8),
    "binary_focal_cross_entropy": (13, 16),
}
# Where an older form was beyond its bound, with the target 0.
ONCE_WRONG = (-2.691033363342285, -4.48911953, -2.781437635421753, -0.27736419439315796)
STRIDE = 2003  # of the numbers from 1/64 to 64


class OrderOfCuda(TorchDispatchMode):
    """addcmul and addcdiv as CUDA has them: the two tensors first, then the number.

    A product of two small tensors is lost then, whatever the number is.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name.rstrip("_") not in ("addcmul", "addcdiv"):
            return func(*args, **(kwargs or {}))
        added, a, b = args
        found = added + (kwargs or {}).get("value", 1) * (a * b if "mul" in name else a / b)
        return added.copy_(found) if name.endswith("_") else found


@pytest.fixture
def on_cuda(monkeypatch):
    """Compact formulas as on a GPU."""
    monkeypatch.setattr(_backends.availability, "KERNELS", "0")
    monkeypatch.setattr(_backends, "_is_traced", lambda *tensors: False)
    with OrderOfCuda():
        yield


def numbers():
    bits = (torch.tensor(limit).view(torch.int32).item() for limit in (1 / 64, 64.0))
    size = torch.arange(*bits, STRIDE, dtype=torch.int32).view(torch.float32)
    return torch.cat([torch.tensor(ONCE_WRONG), size, -size])


def evaluate(loss, x, y, activation):
    x = x.detach().requires_grad_()
    value = getattr(segact_torch, loss)(x, y, activation, reduction="none")
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def errors(found, exact):
    """In ulp of the exact number, where it is normal."""
    ulp = torch.exp2(torch.frexp(exact.abs()).exponent.double() - 24)
    normal = exact.abs() > 64 * torch.finfo(torch.float32).tiny
    return torch.where(normal, (found.double() - exact).abs() / ulp, 0.0)


@pytest.mark.parametrize("softened", [False, True], ids=["hard", "beside soft targets"])
@pytest.mark.parametrize("loss", LOSSES)
def test_bounds_over_many_floats(loss, softened, smooth, monkeypatch):
    """Of hard targets, and of hard ones that have soft ones beside them: another loop."""
    x = numbers()
    y = (torch.arange(len(x)) % 2).float()
    # each number with either target, and 16 to a soft one
    x, y = x.repeat(2), torch.cat([y, 1 - y])
    judged = torch.ones(len(x), dtype=torch.bool)
    if softened:
        judged[15::16] = False
        y[15::16] = 0.5
    monkeypatch.setattr(_backends, "chosen", lambda batch: [])
    exact = evaluate(loss, x.double(), y.double(), smooth)
    monkeypatch.undo()
    ways = {"loops": ""} if cpu.LIBRARY is not None else {}
    for way, kernels in (ways | {"compact": "0"}).items():
        monkeypatch.setattr(_backends.availability, "KERNELS", kernels)
        found = evaluate(loss, x, y, smooth)
        for name, got, want, bound in zip(
            ("value", "slope"), found, exact, LOSSES[loss], strict=True
        ):
            off = torch.where(judged, errors(got, want), 0.0)
            worst = int(off.argmax())
            where = f"{name} by {way} at x={x[worst]}, y={y[worst]}"
            assert off[worst] <= bound, f"{where}: {off[worst]:.2f} ulp, bound {bound}"


@pytest.mark.parametrize("loss", LOSSES)
def test_bounds_in_the_order_of_cuda(loss, smooth, on_cuda):
    x = numbers()
    for y in (torch.zeros_like(x), torch.ones_like(x)):
        found = evaluate(loss, x, y, smooth)
        exact = evaluate(loss, x.double(), y.double(), smooth)
        for got, want, bound in zip(found, exact, LOSSES[loss], strict=True):
            off = errors(got, want)
            assert off.max() <= bound, (x[off.argmax()], off.max())


@pytest.mark.parametrize("y", [0.0, 1e-6, 0.3, 1.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_compact_formulas_far_out(loss, y, smooth, monkeypatch):
    """Infinities, and soft targets beside squares that overflow: infinite where due.

    NaN comes from NaN only.
    """
    far = [0.0, 1e-40, 1e4, 2.7e19, 3e30, torch.finfo(torch.float32).max, torch.inf]
    if loss == "binary_focal_cross_entropy":
        # a soft target's entropy alone would overflow
        far = [x for x in far if x < 1e19 or (x == torch.inf and y in (0, 1))]
    x = torch.tensor([*far, *(-x for x in far), torch.nan])
    y = torch.full_like(x, y)
    monkeypatch.setattr(_backends, "chosen", lambda batch: [])
    exact = evaluate(loss, x.double(), y.double(), smooth)
    monkeypatch.undo()
    monkeypatch.setattr(_backends.availability, "KERNELS", "0")
    for got, want in zip(evaluate(loss, x, y, smooth), exact, strict=True):
        torch.testing.assert_close(got, want.float(), rtol=2e-6, atol=1e-7, equal_nan=True)
