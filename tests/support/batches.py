"""Random batches, and the losses of an implementation on them, as numbers."""


def batch(rng, shape, dtype):
    """Raw outputs, and targets of 0 and 1."""
    return rng.normal(0, 2, shape).astype(dtype), (rng.random(shape) < 0.4).astype(dtype)


def value(ns, loss, x, y, *args, **options):
    return float(ns.mean(loss, ns.array(y), ns.array(x), *args, **options))


def gradient(ns, loss, x, y, *args, **options):
    """The loss and its gradient in x."""
    f = lambda x: ns.mean(loss, ns.array(y), x, *args, **options)  # noqa: E731
    result, (grad,) = ns.gradients(f, x)
    return float(result), grad
