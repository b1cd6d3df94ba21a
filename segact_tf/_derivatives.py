"""Functions with given derivatives, and products in which 0 times infinity is 0.

Reverse mode on every backend, and forward mode on JAX and torch, by `_engine.differentiable`.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from segact_tf import _engine, _special

Function = Callable[[Any], Any]


def _given(both: Callable[..., Any], formula: Callable[..., Any], x: Any, *rest: Any) -> Any:
    """The values and slopes in x that `both` computes; all other derivatives by the formula.

    `both(x, *rest)` is one value, or several, and a function of nothing that makes the slopes.
    """
    return _engine.given(both, formula, _weigh)(x, *rest)


def _product(weight: Any, value: Any) -> Any:
    """weight * value; exactly 0 where either is 0, also if the other is infinity or NaN."""

    def forward(weight: Any, value: Any) -> Any:
        return _engine.unless_zero(value, weight) * _engine.unless_zero(weight, value)

    return _engine.differentiable(forward, _push_product, _pull_product)(weight, value)


def _scale(tangent: Any, factor: Any) -> Any:
    """The same product, except for NaN, by operations that are linear in the tangent."""

    def forward(tangent: Any, factor: Any) -> Any:
        # Infinity as a product: 0 for 0, and infinity for any other number.
        largest = _special.largest(factor)
        low = _special.clip(factor, -largest, largest)
        high = ops.where(low == factor, 1.0, largest)
        return ops.where(factor == 0, 0.0, tangent) * high * low

    return _engine.differentiable(forward, _push_product, _pull_product)(tangent, factor)


def _push_product(arguments: Any, tangents: Any) -> Any:
    (a, b), (of_a, of_b) = arguments, tangents
    return _scale(of_a, b) + _scale(of_b, a)


def _pull_product(arguments: Any, upstream: Any) -> tuple[Any, Any]:
    a, b = arguments
    return _product(upstream, b), _product(upstream, a)


def _weigh(weight: Any, value: Any) -> Any:
    """weight * value; exactly 0 where either is 0, also if the other is infinity or NaN."""
    return _product(ops.cast(weight, value.dtype), value)  # of one dtype, as TensorFlow requires


def _differentiate(x: Any, f: Function, derivative: Function) -> Any:
    """f(x) elementwise, with that derivative, which is differentiable in turn."""

    def push(arguments: Any, tangents: Any) -> Any:
        return _scale(tangents[0], derivative(*map(_engine.seen_anew, arguments)))

    def pull(arguments: Any, upstream: Any) -> Any:
        # Either factor being 0 makes the product 0; 0 * inf would be NaN.
        return _weigh(upstream, derivative(*arguments))

    return _engine.differentiable(f, push, pull)(x)
