"""The value and the gradients of a function in each framework, for NumPy arrays.

The judge, a user's functions and the conventions all use `differentiate` for gradients.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from parity.common.arrays import Array, without_bfloat16

Direction = Callable[[tuple[int, ...], str], Array]
Evaluation = tuple[Array, list[Array | None]]
Evaluate = Callable[[Sequence[Array]], Evaluation]


class NoDevice(RuntimeError):
    """The framework has no device of the requested kind."""


def _sees_cuda(framework: str) -> bool:
    if framework == "torch":
        import torch

        return torch.cuda.is_available()
    if framework == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    if framework == "jax":
        import jax

        try:
            return bool(jax.devices("gpu"))
        except (RuntimeError, AssertionError):  # by version: no backend, or none at all
            return False
    return False


def check_device(framework: str, device: str) -> None:
    """Raises `NoDevice` if the framework cannot use the device, "cpu" or "cuda"."""
    if device == "cuda" and not _sees_cuda(framework):
        raise NoDevice(f"{framework} sees no CUDA device")


def total(shape: tuple[int, ...], dtype: str) -> Array:
    """Ones, as the direction: the gradient of the sum."""
    return np.ones(shape, dtype)


def _dtype(tensor: Any) -> str:
    """The name of a tensor's precision in any framework."""
    found = getattr(tensor.dtype, "name", None) or str(tensor.dtype).removeprefix("torch.")
    return str(found)


_REAL = ("float", "longdouble", "bfloat", "int", "uint", "bool")


def _one(value: Any, kind: Any, framework: str, convert: Callable[[Any], Any]) -> Any:
    """The value as one tensor of real numbers, at least one; a number becomes a tensor. Raises
    otherwise."""
    if isinstance(value, int | float):
        value = convert(value)
    if not isinstance(value, kind):
        raise TypeError(
            f"the function returned {type(value).__name__}; wanted one {framework} tensor"
        )
    if not _dtype(value).startswith(_REAL):
        raise TypeError(f"the function returned {_dtype(value)}; wanted real numbers")
    shape = tuple(value.shape)
    if 0 in shape:
        raise ValueError(f"the function returned no number, its shape is {shape}; wanted some")
    return value


def _as_numpy(tensor: Any) -> Array:
    """A torch tensor as NumPy array; bfloat16 becomes float32."""
    tensor = tensor.detach().cpu()
    found: Array = (tensor.float() if _dtype(tensor) == "bfloat16" else tensor).numpy()
    return found


def _torch(
    function: Callable[..., Any],
    wanted: Sequence[int],
    direction: Direction,
    device: str,
    compiled: bool,
) -> Evaluate:
    """Gradients by autograd."""
    import torch

    def evaluate(arrays: Sequence[Array]) -> Evaluation:
        tensors = [torch.tensor(array, device=device) for array in arrays]
        inside = [tensors[i].requires_grad_() for i in wanted]
        value = _one(function(*tensors), torch.Tensor, "PyTorch", torch.tensor)
        found: Sequence[Any] = [None] * len(inside)
        if inside and value.requires_grad:
            ones = direction(tuple(value.shape), _dtype(value))
            along = torch.as_tensor(ones, device=value.device).to(value.dtype)
            found = torch.autograd.grad(value, inside, along, allow_unused=True)
        return _as_numpy(value), [None if g is None else _as_numpy(g) for g in found]

    return evaluate


def _tensorflow(
    function: Callable[..., Any],
    wanted: Sequence[int],
    direction: Direction,
    device: str,
    compiled: bool,
) -> Evaluate:
    """Gradients by a tape, eager or in a `tf.function`."""
    import tensorflow as tf

    def both(*tensors: Any) -> tuple[Any, list[Any]]:
        inside = [tensors[i] for i in wanted]
        with tf.GradientTape() as tape:
            tape.watch(inside)
            value = _one(function(*tensors), (tf.Tensor, tf.Variable), "TensorFlow", tf.constant)
        if not inside:
            return value, []
        along = tf.cast(direction(tuple(value.shape), _dtype(value)), value.dtype)
        return value, tape.gradient(value, inside, output_gradients=along)

    call = tf.function(both) if compiled else both

    def evaluate(arrays: Sequence[Array]) -> Evaluation:
        value, found = call(*(tf.constant(array) for array in arrays))
        gradients = [None if g is None else tf.convert_to_tensor(g).numpy() for g in found]
        return without_bfloat16(value.numpy()), gradients

    return evaluate


def _wide(arrays: Sequence[Array]) -> AbstractContextManager[Any]:
    """A block in which JAX keeps float64 arrays."""
    import jax

    if jax.config.jax_enable_x64 or not any(array.dtype == np.float64 for array in arrays):
        return nullcontext()
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # before JAX 0.8

    return enable_x64()


def _jax(
    function: Callable[..., Any],
    wanted: Sequence[int],
    direction: Direction,
    device: str,
    compiled: bool,
) -> Evaluate:
    """Gradients by `jax.vjp`; zeros if the value does not depend on an array."""
    import jax

    def both(*tensors: Any) -> tuple[Any, Sequence[Any]]:
        def of_wanted(*inside: Any) -> Any:
            given = list(tensors)
            for i, tensor in zip(wanted, inside, strict=True):
                given[i] = tensor
            return _one(function(*given), jax.Array, "JAX", jax.numpy.asarray)

        if not wanted:
            return of_wanted(), ()
        value, pull = jax.vjp(of_wanted, *(tensors[i] for i in wanted))
        along = jax.numpy.asarray(direction(tuple(value.shape), _dtype(value)), value.dtype)
        return value, pull(along)

    call = jax.jit(both) if compiled else both

    def evaluate(arrays: Sequence[Array]) -> Evaluation:
        with _wide(arrays):
            value, found = call(*(jax.numpy.asarray(array) for array in arrays))
            value = without_bfloat16(np.asarray(value))
            return value, [np.asarray(gradient) for gradient in found]

    return evaluate


def _numpy(
    function: Callable[..., Any],
    wanted: Sequence[int],
    direction: Direction,
    device: str,
    compiled: bool,
) -> Evaluate:
    """Only the value: NumPy has no gradients."""

    def evaluate(arrays: Sequence[Array]) -> Evaluation:
        copies = [array.copy() for array in arrays]  # a copy, since the function may change it
        value = _one(function(*copies), (np.ndarray, np.generic), "NumPy", np.asarray)
        return without_bfloat16(np.asarray(value)), [None] * len(wanted)

    return evaluate


_BY_FRAMEWORK: dict[str, Callable[..., Evaluate]] = {
    "torch": _torch,
    "tensorflow": _tensorflow,
    "jax": _jax,
    "numpy": _numpy,
}
FRAMEWORKS = tuple(_BY_FRAMEWORK)
"""The frameworks that compute; Keras uses that of its backend."""


def differentiate(
    framework: str,
    function: Callable[..., Any],
    wanted: Sequence[int] = (),
    *,
    direction: Direction = total,
    device: str = "cpu",
    compiled: bool = False,
) -> Evaluate:
    """Turns a function of tensors into one of arrays, which also returns the gradients.

    Args:
        framework: one of `FRAMEWORKS`.
        function: returns one tensor.
        wanted: the positions of the arrays whose gradients are returned. A gradient is None if the
            framework finds that the value does not depend on the array; NumPy has no gradients.
        direction: gives, for a shape and a precision, the array by which the value is multiplied
            before it is summed and differentiated.
        device: the device of PyTorch's tensors; others use the device of their process.
        compiled: compile with `jax.jit` or `tf.function`, once for each set of shapes and
            precisions: keep the returned function. The other frameworks are not compiled.

    bfloat16 is returned as float32.
    """
    return _BY_FRAMEWORK[framework](function, wanted, direction, device, compiled)
