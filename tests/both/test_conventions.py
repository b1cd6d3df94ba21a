"""Each convention against its source, and against the framework that it names where installed."""

import importlib

import numpy as np
import pytest

NAMES = ["keras", "keras2", "keras_logit", "torch", "torch_legacy"]
RAW = np.unique(
    np.concatenate([np.linspace(-200, 200, 2001), np.linspace(-18, 18, 4001)]).astype("float32")
)
EPSILON = 1e-7


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def sigmoid(x):
    """Rounded once, from float64."""
    e = np.exp(-np.abs(x.astype("float64")))
    return np.where(x < 0, e / (1 + e), 1 / (1 + e)).astype(x.dtype)


def from_source(name, p, y):
    """Loss and gradient in p as the sources have them: sums rounded as theirs, then float64."""
    one = p.dtype.type(1)
    k = np.clip(p, p.dtype.type(EPSILON), p.dtype.type(1 - EPSILON))
    moves = (p >= k) & (p <= k)
    wide = lambda *arrays: [a.astype("float64") for a in arrays]  # noqa: E731
    with np.errstate(divide="ignore", invalid="ignore"):
        if name in ("keras", "keras2"):
            eps = p.dtype.type(EPSILON if name == "keras2" else 0)
            a, b = wide(k + eps, one - k + eps)
            return -(y * np.log(a) + (1 - y) * np.log(b)), moves * ((1 - y) / b - y / a)
        if name == "keras_logit":
            a, b = wide(k, one - k)
            z = np.log(a / b)
            loss = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
            return loss, moves * (1 / (1 + np.exp(-z)) - y) * (1 / a + 1 / b)
        if name == "torch":
            wide_p, q = wide(p, one - p)
            on, off = np.maximum(np.log(wide_p), -100), np.maximum(np.log1p(-wide_p), -100)
            return -(y * on + (1 - y) * off), (wide_p - y) / np.maximum(q * wide_p, 1e-12)
        tiny = p.dtype.type(1e-12)
        a, b = wide(p + tiny, one - p + tiny)
        return -(y * np.log(a) + (1 - y) * np.log(b)), (p - y.astype("float64")) / (a * b)


def in_ulp(got, expected):
    expected = expected.astype("float64")
    spacing = np.spacing(np.maximum(np.abs(expected), 1.2e-38).astype("float32")).astype("float64")
    return np.abs(got.astype("float64") - expected) / spacing


def judged(p):
    """What is no subnormal number, which some flush, and not exactly on a limit."""
    on = (p == np.float32(EPSILON)) | (p == np.float32(1 - EPSILON))
    return ~on & ((p == 0) | (p > 1.2e-38))


def ours(ns, p, y, convention):
    return ns.gradients(
        lambda p: ns.elementwise(
            "binary_cross_entropy", ns.array(y), p, from_logits=False, convention=convention
        ),
        p,
    )


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_against_the_source(ns, name, label):
    p = sigmoid(RAW)
    p = p[judged(p)]
    y = np.full_like(p, label)
    value, (grad,) = ours(ns, p, y, name)
    expected, slope = from_source(name, p, y)
    assert in_ulp(value, expected).max() <= 4
    # in float32 the original of keras_logit has 1/a + 1/b, which is 1 / (a b) up to a + b = 1
    assert in_ulp(grad, slope).max() <= 8


@pytest.mark.parametrize("label", [0.0, 0.3, 1.0])
def test_against_the_source_in_float64(ns, name, label):
    p = sigmoid(np.linspace(-40, 40, 801))
    p = p[(p != EPSILON) & (p != 1 - EPSILON)]
    y = np.full_like(p, label)
    value, (grad,) = ours(ns, p, y, name)
    expected, slope = from_source(name, p, y)
    np.testing.assert_allclose(value, expected, rtol=1e-7 if name == "keras_logit" else 1e-13)
    terms = np.abs(ours(ns, p, y * 0, name)[1][0]) + np.abs(ours(ns, p, y * 0 + 1, name)[1][0])
    assert np.all(np.abs(grad - slope) <= 1e-12 * terms + 2e-7 * terms * (name == "keras_logit"))


def test_where_they_saturate(ns):
    """In float32, for probability 1 and label 0, and for probability 0 and label 1."""
    expected = {
        "keras": (15.942385, 16.118095),
        "keras2": (15.333239, 15.424948),
        "keras_logit": (15.942385, 16.118095),
        "torch": (100.0, 100.0),
        "torch_legacy": (27.631021, 27.631021),
    }
    p, y = np.array([1.0, 0.0], "float32"), np.array([0.0, 1.0], "float32")
    for name, values in expected.items():
        value, (grad,) = ours(ns, p, y, name)
        np.testing.assert_allclose(value, values, rtol=2e-7)
        np.testing.assert_allclose(grad, [0, 0] if "keras" in name else [1e12, -1e12], rtol=1e-6)
    right, _ = ours(ns, p, 1 - y, "keras")
    np.testing.assert_allclose(right, 1.1920929e-07, rtol=3e-7)


def test_a_clipped_element_has_no_gradient(ns):
    """Strictly outside of the limits."""
    p = np.array([0.0, 1e-8, 9.9e-8, 1 - 2**-24, 1.0], "float32")
    for name in ("keras", "keras2", "keras_logit"):
        for label in (0.0, 1.0):
            _, (grad,) = ours(ns, p, np.full_like(p, label), name)
            np.testing.assert_array_equal(grad, 0)


def test_soft_targets(ns, name):
    """The loss is linear in y, and differentiable in it."""
    p = sigmoid(np.linspace(-20, 20, 41))
    y = np.linspace(0, 1, 41)
    value, (gy,) = ns.gradients(
        lambda y: ns.elementwise(
            "binary_cross_entropy", y, ns.array(p), from_logits=False, convention=name
        ),
        y,
    )
    at_0, at_1 = (ours(ns, p, np.full_like(p, label), name)[0] for label in (0.0, 1.0))
    np.testing.assert_allclose(value, y * at_1 + (1 - y) * at_0, rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(gy, at_1 - at_0, rtol=1e-13)


def test_names(ns):
    package, x, y = ns.package, ns.array(np.zeros(2)), ns.array(np.ones(2))
    assert ("exact", *NAMES) == package.CONVENTIONS
    half = ns.array(np.full(2, 0.5))
    bce = "binary_cross_entropy"
    assert float(ns.mean(bce, y, x, convention="exact")) == pytest.approx(np.log(2))
    default = {"torch": "torch"}.get(ns.name, "keras")
    assert float(ns.mean(bce, y, half, from_logits=False)) == float(
        ns.mean(bce, y, half, from_logits=False, convention=default)
    )
    with pytest.raises(ValueError, match="'keras' goes with probabilities, got from_logits=True"):
        ns.mean(bce, y, x, convention="keras")
    with pytest.raises(ValueError, match="'exact' goes with raw outputs: say from_logits=True"):
        ns.mean(bce, y, half, from_logits=False, convention="exact")
    for from_logits in (True, False):
        with pytest.raises(ValueError, match=r"unknown convention 'keras3'; did you mean 'keras"):
            ns.mean(bce, y, half, from_logits=from_logits, convention="keras3")
        with pytest.raises(ValueError, match="unknown convention 'jax'; known: exact, keras"):
            ns.mean(bce, y, half, from_logits=from_logits, convention="jax")
        with pytest.raises(ValueError, match=r"unknown convention \['keras'\]"):
            ns.mean(bce, y, half, from_logits=from_logits, convention=["keras"])
    with pytest.raises(ValueError, match="from_logits=True"):
        ns.loss_class(ns.classes[bce], convention="torch")
    loss = ns.loss_class(ns.classes[bce], from_logits=False, convention="torch_legacy")
    one = ns.array(np.ones(2, "float32"))
    assert float(loss(ns.array(np.zeros(2, "float32")), one)) == pytest.approx(27.631, abs=1e-3)


# --- the frameworks themselves


def assert_equals_stock(ns, stock, convention):
    """Value and gradient in p to 2 ulp, over raw outputs from -200 to 200, for both labels."""
    p = sigmoid(RAW)
    keep = judged(p)
    for label in (0.0, 1.0):
        y = np.full_like(p, label)
        value, (grad,) = ours(ns, p, y, convention)
        expected, (slope,) = ns.gradients(lambda p: stock(ns.array(y), p), p)  # noqa: B023
        assert in_ulp(value, expected)[keep].max() <= 2
        assert in_ulp(grad, slope)[keep].max() <= 2


def test_stock_pytorch(ns):
    if ns.name != "torch":
        pytest.skip("is the other package's")
    F = importlib.import_module("torch").nn.functional
    stock = lambda y, p: F.binary_cross_entropy(p, y, reduction="none")  # noqa: E731
    assert_equals_stock(ns, stock, "torch")


def test_stock_keras(ns):
    """Equal to 2 ulp on TensorFlow and JAX; on torch stock Keras has log1p(-k) for log(1 - k)."""
    if ns.name == "torch":
        pytest.skip("is the other package's")
    stock = lambda y, p: ns.keras.ops.binary_crossentropy(y, p)  # noqa: E731
    if ns.backend != "torch":
        assert_equals_stock(ns, stock, "keras")
        return
    p, y = sigmoid(RAW), np.zeros_like(RAW)
    value, (grad,) = ours(ns, p, y, "keras")
    expected, (slope,) = ns.gradients(lambda p: stock(ns.array(y), p), p)
    np.testing.assert_allclose(value, expected, rtol=3e-7, atol=2**-24)  # what rounding 1 - k costs
    assert in_ulp(grad, slope)[judged(p)].max() <= 2
    value, _ = ours(ns, p, y + 1, "keras")
    expected, _ = ns.gradients(lambda p: stock(ns.array(y + 1), p), p)
    assert in_ulp(value, expected).max() <= 2


@pytest.mark.parametrize("compiled", [False, True])
def test_tf_keras(ns, compiled):
    """Eagerly; in a graph TensorFlow itself adds 1 and epsilon first, and ours must not."""
    if ns.name != "keras-tensorflow":
        pytest.skip("tf-keras is TensorFlow's")
    tf_keras = pytest.importorskip("tf_keras")
    tf = importlib.import_module("tensorflow")
    stock = lambda y, p: tf_keras.backend.binary_crossentropy(y, p * 1.0)  # noqa: E731
    assert_equals_stock(ns, stock, "keras2")
    if compiled:
        y, p = np.zeros(1, "float32"), np.ones(1, "float32")
        graph = tf.function(lambda y, p: ours_in_graph(ns, y, p, "keras2"))
        assert float(graph(y, p)[0]) == pytest.approx(15.333239, rel=1e-7)
        assert float(tf.function(stock)(y, p)[0]) == pytest.approx(15.249238, rel=1e-6)


def ours_in_graph(ns, y, p, convention):
    return ns.elementwise("binary_cross_entropy", y, p, from_logits=False, convention=convention)


def test_compiled(ns, name):
    """A compiler moves constants: the sums inside of the logarithms must stay as they are."""
    if ns.name == "keras-tensorflow":
        tf = importlib.import_module("tensorflow")
        compilers = [tf.function, lambda f: tf.function(f, jit_compile=True)]
    elif ns.name == "keras-jax":
        compilers = [importlib.import_module("jax").jit]
    else:
        pytest.skip("tests/segact_torch compiles the torch package")
    p = sigmoid(np.linspace(-40, 40, 2001).astype("float32"))
    for label in (0.0, 1.0):
        y = np.full_like(p, label)
        eager, (grad,) = ours(ns, p, y, name)
        for compiler in compilers:
            f = compiler(lambda p: ours_in_graph(ns, ns.array(y), p, name))  # noqa: B023
            value, (slope,) = ns.gradients(f, p)
            assert in_ulp(value, eager).max() <= 4
            assert in_ulp(slope, grad).max() <= 4


def test_keras_follows_the_configured_epsilon(ns):
    if ns.name == "torch":
        pytest.skip("Keras's setting")
    before = ns.keras.config.epsilon()
    try:
        ns.keras.config.set_epsilon(1e-3)
        value, _ = ours(ns, np.ones(1), np.zeros(1), "keras")
    finally:
        ns.keras.config.set_epsilon(before)
    assert value[0] == pytest.approx(-np.log(1e-3), rel=1e-12)


def test_other_losses_take_a_convention(ns, name):
    """Focal and Dice + cross entropy from probabilities, so that the two packages can agree."""
    p, y = np.array([1.0, 0.2, 0.0]), np.array([0.0, 1.0, 1.0])
    options = {"from_logits": False, "convention": name}
    each, _ = ours(ns, p, y, name)
    focal = float(ns.mean("binary_focal_cross_entropy", ns.array(y), ns.array(p), **options))
    assert focal == pytest.approx(np.mean(np.abs(y - p) ** 2 * each), rel=1e-12)
    dice = float(ns.mean("dice", ns.array(y), ns.array(p), from_logits=False))
    both = float(ns.mean("dice_cross_entropy", ns.array(y), ns.array(p), **options))
    assert both == pytest.approx(dice + np.mean(each), rel=1e-12)
    with pytest.raises(ValueError, match="goes with probabilities"):
        ns.mean("binary_focal_cross_entropy", ns.array(y), ns.array(p), convention=name)
