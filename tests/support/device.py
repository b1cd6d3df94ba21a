"""The arithmetic of a GPU where it differs from NumPy, in Triton's interpreter."""

import contextlib

import numpy as np
from triton.runtime import interpreter

ULP = 2.0**-23


@contextlib.contextmanager
def arithmetic(ulp):
    """Fast quotients and square roots with an error of `ulp`, and products fused into sums.

    PTX allows `/` (div.full.f32) an error of two units in the last place and `tl.rsqrt` less.
    Compilers fuse a product with a following sum, so that the product is not rounded: here all such
    products are fused.
    """
    builder, Handle = interpreter.InterpreterBuilder, interpreter.TensorHandle

    def is_float32(*handles):
        return all(handle.data.dtype == np.float32 for handle in handles)

    def moved(exact):
        with np.errstate(all="ignore"):
            value = (exact * (1 + ulp * ULP)).astype(np.float32)
            fits = np.isfinite(value) & (exact != 0)
            return np.where(fits, value, exact.astype(np.float32))

    def fused(x, y, z):
        with np.errstate(all="ignore"):
            return Handle((x.astype(np.float64) * y + z).astype(np.float32), interpreter.tl.float32)

    def divide(self, left, right):
        if not is_float32(left, right):
            return self.binary_op(left, right, np.divide)
        with np.errstate(all="ignore"):
            return Handle(moved(left.data.astype(np.float64) / right.data), left.dtype.scalar)

    def rsqrt(self, x):
        with np.errstate(all="ignore"):
            return Handle(moved(1 / np.sqrt(x.data.astype(np.float64))), x.dtype.scalar)

    def fma(self, x, y, z):
        assert is_float32(x, y, z)
        return fused(x.data, y.data, z.data)

    def multiply(self, left, right):
        found = self.binary_op(left, right, np.multiply)
        found.attr["factors"] = left.data, right.data
        return found

    def add(self, left, right, sign=1):
        if is_float32(left, right) and "factors" in left.attr:
            return fused(*left.attr["factors"], sign * right.data)
        if is_float32(left, right) and "factors" in right.attr:
            x, y = right.attr["factors"]
            return fused(sign * x, y, left.data)
        return self.binary_op(left, right, np.add if sign == 1 else np.subtract)

    replaced = {
        **{"create_fdiv": divide, "create_rsqrt": rsqrt, "create_fma": fma},
        **{"create_fmul": multiply, "create_fadd": add},
        "create_fsub": lambda self, left, right: add(self, left, right, -1),
    }
    kept = {name: getattr(builder, name) for name in replaced}
    for name, function in replaced.items():
        setattr(builder, name, function)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(builder, name, function)
