"""`segact_torch` and `segact_tf` are mirrors: open side by side, they read line against line.

Read from the source alone; `mirror.py` beside this file says what counts as the same, and
`python tests/project/mirror.py --diff` shows what does not. What one package alone has stands here
with its reason, and an entry that is not needed any more fails.
"""

import ast

import mirror
import pytest

TORCH, KERAS = mirror.modules(mirror.TORCH), mirror.modules(mirror.KERAS)
SHARED = [name for name in TORCH if name in KERAS]

GOAL = 0.9

# Modules of one package, or folders of modules.
ONE_SIDED_MODULES = {
    "_fused.py": "the C loops serve PyTorch's CPU; Keras compiles with XLA",
}

SAVING = "Keras saves by config, PyTorch by pickle and state_dict"
XLA = "no Keras backend's own is exact, or XLA would add up one after the other"
DTYPE = "a dtype has another class on each Keras backend"
SHAPES = "a Keras shape may be known in part, or late"
MODULE = "what nn.Module asks for"
LAYER = "what keras.layers.Layer and keras.losses.Loss ask for"
UNTIL = "until the losses are written alike"

# By module, the names that one package alone has.
ONE_SIDED: dict[str, dict[str, str]] = {
    "_special.py": {
        **dict.fromkeys(["tiny", "largest"], DTYPE),
        **dict.fromkeys(["where", "at_most", "at_least"], "a bare number would be float64 on JAX"),
        **dict.fromkeys(["log1p", "atan_tail", "tan", "power"], XLA),
        **dict.fromkeys(["sum", "mean", "_count", "_restore", "_add", "_shorten", "_fold"], XLA),
        "axes": SHAPES,
    },
    "activations.py": {
        "Activation.from_config": SAVING,
        "_Custom.get_config": SAVING,
        "_Custom.from_config": SAVING,
        "OutputActivation.get_config": SAVING,
        "OutputActivation.from_config": SAVING,
        "OutputActivation.call": LAYER,
        "OutputActivation.compute_output_shape": LAYER,
        "OutputActivation.forward": MODULE,
        "OutputActivation.extra_repr": MODULE,
        "_stretch_gradient": "PyTorch has it as the backward of _Stretch",
        "Linear._axis": "Keras has it as _special.axes",
    },
    "conventions.py": {
        "_added": "XLA would add the numbers first",
        "_softplus_of_log": XLA,
    },
    "losses.py": {
        "_Loss.get_config": SAVING,
        "_Loss.from_config": SAVING,
        "_Loss.forward": MODULE,
        "_Loss.extra_repr": MODULE,
        "_Loss.call": LAYER,
        "_Loss.__call__": LAYER,
        **dict.fromkeys(["_Loss._mask", "_Apply", "_Apply.__init__", "_Apply.call"], LAYER),
        **dict.fromkeys(["_align", "_align_left"], "Keras hands a loss (N,) and (N, 1)"),
        **dict.fromkeys(["_are_of_groups", "_weigh_groups", "_average"], "sample_weight of a fit"),
        "_differ": SHAPES,
        "_is_traced": "torch.compiler.is_compiling, on every Keras backend",
        "_divide": "JAX's own gradient loses the denominator below 1e-19",
        "_check_tensor": "Keras takes whatever becomes a tensor",
        **dict.fromkeys(
            ["_check_reduction", "_reduce", "_reduce_groups"], "Keras's classes reduce"
        ),
        **dict.fromkeys(["_aligned", "_harmless", "_check_validate", "_look"], UNTIL),
        **dict.fromkeys(["_entropy", "_areas", "_overlap_of", "_sum", "_count"], UNTIL),
        "_is_looked_at": UNTIL,
        "_Mean": UNTIL,
    },
}

# Of `__all__`: the package's own modules, which Keras users write out.
ONE_SIDED_NAMES = {"activations", "conventions", "losses"}

# Options of a loss that one dialect alone has: PyTorch's functions reduce, and Keras's classes do.
OPTIONS = {"reduction", "axis"}
LOSSES = ("functional.py", "losses.py")


def test_the_same_modules():
    entries = {entry_of(module) or module for module in TORCH.keys() ^ KERAS.keys()}
    assert entries == {*ONE_SIDED_MODULES}


def entry_of(module: str) -> str | None:
    """The entry that a module of one package stands under, its own or that of its folder."""
    return next((entry for entry in ONE_SIDED_MODULES if module.startswith(entry)), None)


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [mirror.CLASSES.get(name, name) for name in ast.literal_eval(node.value)]
    return None


@pytest.mark.parametrize("module", SHARED)
def test_the_same_public_names(module):
    ours, theirs = exported(TORCH[module]), exported(KERAS[module])
    if module == "__init__.py":
        theirs = [name for name in theirs if name not in ONE_SIDED_NAMES]
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert sorted(ours) == sorted(theirs)


@pytest.mark.parametrize("module", SHARED)
def test_the_same_definitions(module):
    ours, theirs = mirror.both(module)
    assert {*ours} ^ {*theirs} == {*ONE_SIDED.get(module, {})}


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(
            name,
            marks=[pytest.mark.xfail(strict=True, reason="Activation._widen and ._without")]
            if name == "activations.py"
            else [],
        )
        for name in SHARED
    ],
)
def test_definitions_in_one_order(module):
    ours, theirs = mirror.both(module)
    assert [n for n in ours if n in theirs] == [n for n in theirs if n in ours]


def options(function: ast.FunctionDef) -> list[tuple[str, str | None]]:
    """The parameters with their defaults, in PyTorch's words."""
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [
        *zip(plain, defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return [
        (mirror.NAMES.get(a.arg, a.arg), default and ast.unparse(default)) for a, default in pairs
    ]


def is_public(name: str) -> bool:
    return not any(part.startswith("_") for part in name.removesuffix(".__init__").split("."))


PUBLIC = {
    f"{module}:{name}": (module, name)
    for module in SHARED
    for name in mirror.both(module)[0].keys() & mirror.both(module)[1].keys()
    if isinstance(mirror.both(module)[0][name], ast.FunctionDef) and is_public(name)
}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_the_same_options(name):
    module, name = PUBLIC[name]
    ours, theirs = (options(side[name]) for side in mirror.both(module))
    if ours[:2] == [("input", None), ("target", None)]:
        assert theirs[:2] == [("target", None), ("input", None)]
        theirs[:2] = ours[:2]
    if module in LOSSES:
        ours = [each for each in ours if each[0] not in OPTIONS]
        theirs = [each for each in theirs if each[0] not in OPTIONS]
    if module == "losses.py" and "." in name:  # what any Keras loss takes
        theirs = [each for each in theirs if each[0] not in ("name", "dtype")]
    assert ours == theirs


@pytest.mark.xfail(strict=True, reason="the losses are not written alike yet")
def test_line_for_line():
    print(mirror.described())  # shown by -rP
    _, share = mirror.table()
    assert share >= GOAL, (
        f"\n{mirror.described()}\npython tests/project/mirror.py --diff shows where they differ"
    )


def normalized(source: str) -> list[str]:
    return mirror.lines(ast.parse(source).body[0])


@pytest.mark.parametrize(
    ("torch", "keras"),
    [
        ("torch.where(x < 0, a, 1 - a)", "ops.where(x < 0, a, 1 - a)"),
        ("x.sum(axis, keepdim=True)", "_special.sum(x, axis, keepdims=True)"),
        ("torch.clamp(x, min=FAR)", "_special.at_least(x, FAR)"),
        ("torch.log1p(x.abs()).to(x.dtype)", "ops.cast(_special.log1p(ops.abs(x)), x.dtype)"),
        ("_Weigh.apply(w, x)", "_weigh(w, x)"),
        ("x.reshape(-1, *sizes)", "ops.reshape(x, (-1, *sizes))"),
        ("(a == 0) & (b == 0)", "ops.logical_and(a == 0, b == 0)"),
        ("range(x.ndim)", "range(len(x.shape))"),
        ("error(f'input is {tuple(x.shape)}')", "error(f'y_pred is {tuple(x.shape)}')"),
        ("aligned(input, target)", "aligned(y_true, y_pred)"),
    ],
)
def test_what_is_only_dialect(torch, keras):
    ours = normalized(f"def f(x: Tensor, w: Tensor | None) -> Tensor:\n    return {torch}")
    assert ours == normalized(f"def f(x: Any, w: Any) -> Any:\n    return {keras}")


@pytest.mark.parametrize(
    ("torch", "keras"),
    [
        ("torch.where(x < 0, a, b)", "ops.where(x <= 0, a, b)"),
        ("torch.where(x < 0, a, b)", "ops.where(x < 0, b, a)"),
        ("x.sum(axis)", "ops.mean(x, axis)"),
        ("x.sum(0)", "ops.sum(x, 1)"),
        ("torch.clamp(x, min=0.0)", "_special.at_most(x, 0.0)"),
        ("torch.clamp(x, min=0.0)", "_special.at_least(x, 1.0)"),
        ("x.detach()", "x"),
        ("x.to(x.dtype)", "x"),
        ("1 - f.cdf(x)", "f.sf(x)"),
        ("_Weigh.apply(w, x)", "w * x"),
        ("f(weight, input)", "f(input, weight)"),
        ("torch.log1p(x)", "ops.log(1 + x)"),
        ("error('must be >= 0')", "error('must be > 0')"),
        ("loss(x, alpha=0.3)", "loss(x, alpha=0.7)"),
    ],
)
def test_what_is_a_difference(torch, keras):
    ours = normalized(f"def f(x: Tensor) -> Tensor:\n    return {torch}")
    assert ours != normalized(f"def f(x: Any) -> Any:\n    return {keras}")
