"""What `keras.ops` does not offer, by the active backend's own operations.

Keras has already imported the active backend; no backend is imported at import of this module.
"""

import contextlib
import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops


def has_float64(x: Any) -> bool:
    """Whether the backend and the device of x have float64: JAX only with `jax_enable_x64`."""
    if keras.backend.backend() == "jax":
        return bool(sys.modules["jax"].config.jax_enable_x64)
    return "mps" not in str(x.device).lower()


def is_on_cpu(x: Any) -> bool:
    return "cpu" in str(x.device).lower()


def replica() -> Any:
    """The context of a replica of `tf.distribute`, if there are others; else None.

    Outside of `strategy.run`, as in the scope of a strategy, a loss sees the whole batch.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    distribute = sys.modules["tensorflow"].distribute
    context = distribute.get_replica_context() if distribute.has_strategy() else None
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def sizes(x: Any) -> tuple[int | None, ...]:
    """The sizes of x: None for one that is unknown or symbolic (as in JAX's shape polymorphism)."""
    return tuple(size if isinstance(size, int) else None for size in x.shape)


def least(x: Any, axis: tuple[int, ...]) -> Any:
    """The min over axes that are kept; infinity for an empty x, as a replica may have."""
    if keras.backend.backend() != "tensorflow":
        return ops.min(x, axis, keepdims=True, initial=math.inf if 0 in x.shape else None)
    return sys.modules["tensorflow"].reduce_min(x, axis=axis, keepdims=True)


def most(x: Any, axis: tuple[int, ...]) -> Any:
    """The max over axes that are kept; -infinity for an empty x."""
    if keras.backend.backend() != "tensorflow":
        return ops.max(x, axis, keepdims=True, initial=-math.inf if 0 in x.shape else None)
    return sys.modules["tensorflow"].reduce_max(x, axis=axis, keepdims=True)


def broadcast_to(x: Any, other: Any) -> Any:
    """x in the shape of another tensor; PyTorch's `is_grads_batched` has no rule for keras.ops."""
    if keras.backend.backend() == "torch":
        return x.expand(other.shape)
    return ops.broadcast_to(x, ops.shape(other))


def of_one_shape(y: Any, x: Any) -> Any:
    """y; a TensorFlow graph raises at run time if the shape of y is not that of x.

    XLA drops assertions; add_n is an operation that itself requires equal shapes.
    """
    symbolic = isinstance(y, keras.KerasTensor) or isinstance(x, keras.KerasTensor)
    if symbolic or keras.backend.backend() != "tensorflow":
        return y
    tensorflow = sys.modules["tensorflow"]
    y = tensorflow.cast(y, x.dtype) if y.dtype == tensorflow.bool else y
    return tensorflow.add_n([y, tensorflow.zeros_like(x, y.dtype)])


def mark_head(outputs: Any, activation: str) -> Any:
    """Marks outputs as those of an activation, for `head_of`."""
    with contextlib.suppress(AttributeError, TypeError):  # tensors without attributes
        outputs._segact_head = activation
    return outputs


def head_of(x: Any) -> str | None:
    """The activation that made x, if known: one of ours, or the sigmoid, which Keras marks."""
    keras_head = "a sigmoid" if getattr(x, "_keras_logits", None) is not None else None
    return getattr(x, "_segact_head", keras_head)


def is_traced(x: Any) -> bool:
    """Whether x, or what is computed from it here, has no values yet.

    So it is in compiled or transformed code. A constant or a variable in a compiled function has
    values there, but its minimum has none.
    """
    if _is_symbolic(x):
        return True
    if keras.backend.backend() == "tensorflow":
        return not sys.modules["tensorflow"].executing_eagerly()
    if keras.backend.backend() == "jax":
        return _is_symbolic(sys.modules["jax"].lax.neg(0.0))
    torch = sys.modules["torch"]
    functorch = torch._C._functorch
    while functorch.is_gradtrackingtensor(x):  # under torch.func.grad
        x = functorch.get_unwrapped(x)
    return torch.compiler.is_compiling() or functorch.is_batchedtensor(x)


def _is_symbolic(x: Any) -> bool:
    kinds = {kind.__name__ for kind in type(x).__mro__}
    return bool(kinds & {"KerasTensor", "SymbolicTensor", "Tracer", "FakeTensor"})


def bits(x: Any) -> Any:
    """The bits of a float32 or float64, as an integer."""
    backend = keras.backend.backend()
    kind = "int64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "int32"
    if backend == "jax":
        return sys.modules["jax"].lax.bitcast_convert_type(x, kind)
    if backend == "torch":
        return x.view(getattr(sys.modules["torch"], kind))
    return sys.modules["tensorflow"].bitcast(x, kind)


def sign(x: Any) -> Any:
    """-1 where x < 0, else 1; on torch -1 at -0, too."""
    if keras.backend.backend() == "torch":
        return sys.modules["torch"].copysign(x.new_ones(()), x)
    return ops.where(x < 0, ops.cast(-1.0, x.dtype), ops.cast(1.0, x.dtype))


def times(weight: Any, value: Any) -> Any:
    """weight * value; exactly 0 where the weight is 0, even if the value is not finite."""
    return weight * unless_zero(weight, value)


def unless_zero(weight: Any, value: Any) -> Any:
    """The value, but 0 where the weight is 0.

    On torch it is the gradient of a hard shrinkage at 0, which is faster on a CPU than a selection
    by a mask. The compiler has it for fixed shapes alone.
    """
    if keras.backend.backend() == "torch":
        torch = sys.modules["torch"]
        recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if not recorded and type(value) is torch.Tensor:
            return torch.ops.aten.hardshrink_backward(value, weight, 0.0)
    return ops.where(weight == 0, 0.0, value)


def atan2(y: float, x: Any) -> Any:
    """atan2 on torch, its own: keras.ops computes it in float32 for float64, too."""
    # filled on the device: a copy of a number to a GPU would be waited for
    return sys.modules["torch"].atan2(x.new_full((), y), x)


def sorts_bits(x: Any) -> bool:
    """Whether sorting the bits, as integers, is faster than sorting the numbers."""
    if keras.backend.backend() == "torch":
        return not _is_recorded()  # neither TorchScript nor ONNX has bits
    # TensorFlow outside of graphs sorts both in the same time.
    narrow = keras.backend.standardize_dtype(x.dtype) == "float32"
    return narrow and (keras.backend.backend() == "jax" or is_traced(x))


def sorts_indices() -> bool:
    """Whether sorting indices by bits is as fast as sorting both in one integer."""
    return keras.backend.backend() == "torch"


def wide_integers() -> contextlib.AbstractContextManager[Any]:
    """A `with` block in which int64 exists, on JAX also without `jax_enable_x64`."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    jax = sys.modules["jax"]
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return sys.modules["jax.experimental"].enable_x64()  # before JAX 0.8


def put_back(x: Any, order: Any) -> Any:
    """What was taken in this order over the last axis, where it stood before."""
    backend = keras.backend.backend()
    if backend == "torch":
        return x.scatter(-1, order, x)
    if backend == "jax":
        jnp = sys.modules["jax"].numpy
        others = [
            jnp.expand_dims(jnp.arange(size), range(1, x.ndim - a))
            for a, size in enumerate(x.shape[:-1])
        ]
        place = x.at[(*others, order)]
        return place.set(x, unique_indices=True, mode="promise_in_bounds")
    # In TensorFlow a gather takes a fifth of the time of a scatter.
    tensorflow = sys.modules["tensorflow"]
    rows = tensorflow.reshape(order, (-1, tensorflow.shape(order)[-1]))
    count, length = tensorflow.unstack(tensorflow.shape(rows))
    places = tensorflow.reshape(rows + length * tensorflow.range(count)[:, None], (-1,))
    back = tensorflow.math.invert_permutation(places)
    return tensorflow.reshape(
        tensorflow.gather(tensorflow.reshape(x, (-1,)), back), tensorflow.shape(x)
    )


def differentiable(
    f: Callable[..., Any], push: Callable[..., Any], pull: Callable[..., Any]
) -> Callable[..., Any]:
    """f of tensors, with both of its derivatives given, which are differentiable again.

    `push(arguments, tangents)` is the derivative of forward mode, `pull(arguments, upstream)` the
    gradients of reverse mode. JAX derives its reverse mode from `push`, which has to be linear in
    the tangents; TensorFlow has only reverse mode.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        known = sys.modules["jax"].custom_jvp(f)
        known.defjvp(lambda arguments, tangents: (known(*arguments), push(arguments, tangents)))
        return known
    if backend == "torch":
        return functools.partial(_apply, f, push, pull)

    @ops.custom_gradient
    def call(*arguments: Any) -> tuple[Any, Any]:
        return f(*arguments), lambda upstream: pull(arguments, upstream)

    return _of_this_graph(call)


def _apply(
    f: Callable[..., Any], push: Callable[..., Any], pull: Callable[..., Any], *arguments: Any
) -> Any:
    """Call a custom function of PyTorch, with forward mode if it has one."""
    torch = sys.modules["torch"]
    if _is_recorded():
        return f(*arguments)  # TorchScript and torch.export record plain operations
    # The compiler does not support functions with a `jvp`.
    forward_mode = not torch.compiler.is_compiling()
    return _torch_function(forward_mode=forward_mode).apply(f, push, pull, *arguments)


def _is_recorded() -> bool:
    """Whether TorchScript or `torch.export` is recording."""
    torch = sys.modules["torch"]
    compiling = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    return bool(torch.jit.is_tracing() or compiling)


@functools.cache
def _torch_function(forward_mode: bool) -> Any:
    """`differentiable` on PyTorch."""
    torch = sys.modules["torch"]
    forward_ad = torch.autograd.forward_ad

    def forward(f: Any, push: Any, pull: Any, *arguments: Any) -> Any:
        return f(*arguments)

    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        _, ctx.push, ctx.pull, *arguments = inputs
        ctx.save_for_backward(*arguments)
        if forward_mode:
            ctx.save_for_forward(*arguments)

    def backward(ctx: Any, upstream: Any) -> Any:
        gradients = ctx.pull(ctx.saved_tensors, upstream)
        return None, None, None, *(gradients if isinstance(gradients, tuple) else (gradients,))

    def jvp(ctx: Any, *tangents: Any) -> Any:
        if not torch._functorch.eager_transforms.JVP_NESTING > 1:
            return ctx.push(ctx.saved_tensors, tangents[3:])
        # PyTorch switches forward mode off in here: an outer forward mode would get a slope of 0.
        with forward_ad._set_fwd_grad_enabled(True):
            saved = [forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors]
            return ctx.push(saved, tangents[3:])

    methods: list[Any] = [forward, setup_context, backward, *[jvp] * forward_mode]
    members: dict[str, Any] = {method.__name__: staticmethod(method) for method in methods}
    kinds = (torch.autograd.Function,)
    return type("Differentiable", kinds, {**members, "generate_vmap_rule": True})


def given(
    both: Callable[..., Any], formula: Callable[..., Any], weigh: Callable[[Any, Any], Any]
) -> Callable[..., Any]:
    """f(x, *rest) of flat tensors; `both` computes its values and slopes in x together.

    The derivatives in `rest`, and those of the slopes, come from the formula; `weigh` is the
    product of reverse mode. Only on TensorFlow and torch: JAX cannot keep the slope of a slope
    that is 0.
    """
    torch = keras.backend.backend() == "torch"
    return (_given_torch if torch else _given_tensorflow)(both, formula, weigh)


def _of_this_graph(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function with a custom gradient on TensorFlow, given tensors of the graph that is built.

    Its gradient keeps the arguments. TensorFlow cannot differentiate it inside of a function, a
    `tf.cond` or a `tf.while_loop` if they belong to the graph around, or to that of the forward
    pass, as they do for a second derivative.
    """

    def known(*arguments: Any) -> Any:
        tensorflow = sys.modules["tensorflow"]
        if tensorflow.executing_eagerly():
            return call(*arguments)
        return call(*map(tensorflow.identity, arguments))

    return known


def _given_tensorflow(both: Any, formula: Any, weigh: Any) -> Callable[..., Any]:
    """With custom gradients; XLA shares the subexpressions of values and gradients."""
    tensorflow = sys.modules["tensorflow"]

    def as_list(values: Any) -> list[Any]:
        return list(values) if isinstance(values, tuple) else [values]

    def here(arguments: Any) -> list[Any]:
        """In a `tf.while_loop` a tape knows only tensors of the graph that is built."""
        return [tensorflow.identity(t) for t in arguments]

    @_of_this_graph
    @tensorflow.custom_gradient
    def slopes(*arguments: Any) -> Any:
        def pull(*upstream: Any) -> Any:
            x, *rest = known = here(arguments)
            with tensorflow.GradientTape() as outer:
                outer.watch(known)
                with tensorflow.GradientTape(persistent=True) as inner:
                    inner.watch(x)
                    values = as_list(formula(x, *rest))
                found = [inner.gradient(value, x) for value in values]
            if any(slope is None for slope in found):
                raise NotImplementedError(
                    "a tf.autodiff.ForwardAccumulator lets no tape record inside of it: "
                    "for a second derivative, nest two tf.GradientTape instead"
                )
            return outer.gradient(found, known, upstream, "zero")

        return both(*arguments)[1](), pull

    @_of_this_graph
    @tensorflow.custom_gradient
    def values(*arguments: Any) -> Any:
        def pull(*upstream: Any) -> Any:
            x, *rest = known = here(arguments)
            terms = zip(upstream, as_list(slopes(*known)), strict=True)
            with tensorflow.GradientTape() as tape:
                tape.watch(rest)
                found = as_list(formula(x, *rest))
            of_rest = tape.gradient(found, rest, upstream, "zero")
            return functools.reduce(ops.add, (weigh(u, slope) for u, slope in terms)), *of_rest

        return both(*arguments)[0], pull

    return values


def _given_torch(both: Any, formula: Any, weigh: Any) -> Callable[..., Any]:
    """With a function that saves the slopes; under transforms and compilers by the formula."""
    torch = sys.modules["torch"]

    def call(*arguments: Any) -> Any:
        plain = (
            torch.compiler.is_compiling()
            or torch.jit.is_tracing()
            or torch._C._are_functorch_transforms_active()
            or torch.autograd.forward_ad._current_level >= 0
            or any(t.requires_grad for t in arguments[1:])
            or any(type(t) not in (torch.Tensor, torch.nn.Parameter) for t in arguments)
        )
        if plain:
            return formula(*arguments)
        return _torch_values().apply(both, formula, weigh, *arguments)

    return call


@functools.cache
def _torch_values() -> Any:
    """Values computed together with their slopes."""
    torch = sys.modules["torch"]

    def forward(ctx: Any, both: Any, formula: Any, weigh: Any, *arguments: Any) -> Any:
        values, slopes = both(*arguments)
        ctx.formula, ctx.weigh, ctx.count = formula, weigh, len(arguments)
        if ctx.needs_input_grad[3]:
            found = slopes()
            found = found if isinstance(found, tuple) else (found,)
            ctx.save_for_backward(*arguments, *found)
        return values

    def backward(ctx: Any, *upstream: Any) -> Any:
        saved = ctx.saved_tensors  # once: a checkpoint gives them out only once
        x, *rest = saved[: ctx.count]
        again = torch.is_grad_enabled()  # the gradient will be differentiated again
        if again or torch._C._functorch.is_legacy_batchedtensor(upstream[0]):
            with torch.enable_grad():
                # not x itself, whose hooks would run here, too
                x = x.view_as(x) if again else x.detach().requires_grad_()
                values = ctx.formula(x, *rest)
            (found,) = torch.autograd.grad(values, x, upstream, create_graph=again)
        else:
            slopes = saved[ctx.count :]
            found = sum(map(ctx.weigh, upstream[1:], slopes[1:]), ctx.weigh(upstream[0], slopes[0]))
        return None, None, None, found, *[None] * len(rest)

    methods = {method.__name__: staticmethod(method) for method in (forward, backward)}
    return type("Values", (torch.autograd.Function,), methods)


def computed_once(x: Any) -> Any:
    """x itself; XLA on JAX computes it only once, for any number of uses."""
    if keras.backend.backend() == "jax":
        return sys.modules["jax"].lax.optimization_barrier(x)
    return x


def seen_anew(x: Any) -> Any:
    """x as a new value for XLA on JAX, which then computes again what it already has for x.

    Otherwise XLA would compute what two loops share, unless that is only a sum or a product, in a
    loop before them, which reads and writes as much as they do.
    """
    if keras.backend.backend() == "jax":
        jnp = sys.modules["jax"].numpy
        return jnp.where(x > jnp.inf, jnp.zeros_like(x), x)  # a condition that is never true
    return x


def sums_of_pairs(values: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    """Tensors of one shape, on JAX, with the halves of an axis added, in one loop.

    For several sums XLA makes a loop each, and one before them for what they share. With more than
    two additions in a row XLA would not vectorize the loop.
    """
    lax = sys.modules["jax"].lax
    shape = values[0].shape
    halves = (*shape[:axis], 2, shape[axis] // 2, *shape[axis + 1 :])

    def add(sums: Any, more: Any) -> Any:
        return tuple(a + b for a, b in zip(sums, more, strict=True))

    zeros = tuple(lax.full_like(x, 0, shape=()) for x in values)
    return tuple(lax.reduce(tuple(x.reshape(halves) for x in values), zeros, add, (axis,)))


def symbolic(function: Callable[..., Any], method: str | None = None) -> Callable[..., Any]:
    """A function, or a method of that name, that also takes symbolic inputs.

    The call is then one node of a Keras graph.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if not any(isinstance(a, keras.KerasTensor) for a in (*arguments, *options.values())):
            return function(*arguments, **options)
        if method is not None:
            return Node(arguments[0], method)(*arguments[1:], **options)
        return Node(call)(*arguments, **options)

    return call


@keras.saving.register_keras_serializable(package="segact")
class Node(keras.Operation):
    """A call of an object, or of one of its methods, in a Keras graph."""

    def __init__(self, owner: Any, method: str = "__call__", name: str | None = None) -> None:
        super().__init__(name)
        self.owner, self.method = owner, method

    def call(self, *arguments: Any, **options: Any) -> Any:
        return getattr(self.owner, self.method)(*arguments, **options)

    def get_config(self) -> dict[str, Any]:
        owner = keras.saving.serialize_keras_object(self.owner)
        return {"owner": owner, "method": self.method, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Node":
        owner = keras.saving.deserialize_keras_object(config["owner"])
        return cls(**{**config, "owner": owner})
