"""Functions with given derivatives, and products in which 0 times infinity is 0.

Each has reverse mode, forward mode, and each of both differentiated again, in one
`torch.autograd.Function`. Compiled code does not support functions with forward mode and gets one
without; TorchScript and `torch.export`, which record code, get plain operations.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch import eager_transforms
from torch.autograd import forward_ad

Function = Callable[[Tensor], Tensor]
Some = TypeVar("Some", bound=Callable[..., Any])


def _eager_before_2_6(function: Some) -> Some:
    """The compiler of PyTorch 2.4 and 2.5 calls this function without compiling it.

    It does not know custom functions with a `setup_context` of constants, and 2.4 loses the
    gradient of one of another.
    """
    old = torch.torch_version.TorchVersion(torch.__version__) < "2.6"
    return torch.compiler.disable(function) if old else function


class _Differentiable(torch.autograd.Function):
    """f(x) elementwise, with a given derivative that is itself differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, f: Function, derivative: Function) -> Tensor:
        return f(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, ctx.derivative = inputs
        _save(ctx, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        # Either factor being 0 makes the product 0; 0 * inf would be NaN.
        return _weigh(grads[0], ctx.derivative(x)), None, None

    @staticmethod
    def push(ctx: Any, saved: Sequence[Tensor], *tangents: Any) -> Tensor:
        (x,) = saved
        return _weigh(tangents[0], ctx.derivative(x))


class _Given(torch.autograd.Function):
    """A value of x and its slope, both already computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()  # not a view, which autograd refuses to change in place

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return _weigh(grads[0], slope), None, None


class _Product(torch.autograd.Function):
    """weight * value; exactly 0 where either is 0, also if the other is infinity or NaN."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, value: Tensor) -> Tensor:
        return torch.where((weight == 0) | (value == 0), 0.0, weight * value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        weight, value = ctx.saved_tensors
        return _weigh(grads[0], value), _weigh(grads[0], weight)

    @staticmethod
    def push(ctx: Any, saved: Sequence[Tensor], *tangents: Tensor) -> Tensor:
        weight, value = saved
        return _weigh(tangents[0], value) + _weigh(tangents[1], weight)


def _save(ctx: Any, *tensors: Tensor) -> None:
    """Save tensors for both modes of differentiation; compiled code has only reverse mode."""
    ctx.save_for_backward(*tensors)
    if not torch.compiler.is_compiling():
        ctx.save_for_forward(*tensors)


@_eager_before_2_6
def _apply(function: Any, *args: Any) -> Any:
    """Call a custom function of this package, with forward mode if it has one."""
    if not torch.compiler.is_compiling() and not torch._C._is_tracing():
        return _with_forward_mode(function).apply(*args)
    # The compiler does not support functions with a `jvp`.
    return function.forward(*args) if _is_recorded() else function.apply(*args)


@functools.cache
def _with_forward_mode(function: Any) -> Any:
    def jvp(ctx: Any, *tangents: Any) -> Any:
        if not eager_transforms.JVP_NESTING > 1:
            return function.push(ctx, ctx.saved_tensors, *tangents)
        # PyTorch switches forward mode off in here: an outer forward mode would get a slope of 0.
        with forward_ad._set_fwd_grad_enabled(True):
            return function.push(ctx, [*map(_primal, ctx.saved_tensors)], *tangents)

    # PyTorch binds the arguments of each call to the signature, which takes long to determine.
    function.forward.__signature__ = inspect.signature(function.forward)
    return type(function.__name__, (function,), {"jvp": staticmethod(jvp)})


def _primal(x: Tensor) -> Tensor:
    """x without its tangent; vmap has no rule for `unpack_dual`."""
    if not _functorch.is_batchedtensor(x):
        return forward_ad.unpack_dual(x).primal
    inner, place = _primal(_functorch.get_unwrapped(x)), _functorch.maybe_get_bdim(x)
    return _functorch._add_batch_dim(inner, place, _functorch.maybe_get_level(x))


def _is_recorded() -> bool:
    """Whether TorchScript or `torch.export` is recording; it gets plain operations."""
    if torch.compiler.is_compiling():
        return not torch.compiler.is_dynamo_compiling() or _is_exporting()
    return torch.jit.is_tracing()


def _is_exporting() -> bool:
    known = getattr(torch.compiler, "is_exporting", None)  # since PyTorch 2.7
    return known is not None and known()


def _weigh(weight: Tensor, value: Tensor) -> Tensor:
    """weight * value; exactly 0 where either is 0, also if the other is infinity or NaN."""
    return _apply(_Product, weight, value)


@_eager_before_2_6
def _differentiate(x: Tensor, f: Function, derivative: Function) -> Tensor:
    """f(x) elementwise, with that derivative.

    In compiled code there are only first derivatives, passed as values: a compiler that turns
    numbers into variables, as with dynamic=True, cannot find them inside of a custom function.
    """
    plain = not torch.compiler.is_compiling() or _is_recorded()
    if plain or torch._C._are_functorch_transforms_active():
        return _apply(_Differentiable, x, f, derivative)
    if not torch.is_grad_enabled():  # as in the slope of another function
        return f(x)
    with torch.no_grad():
        value, slope = f(x), derivative(x)
    return _Given.apply(x, value, slope)
