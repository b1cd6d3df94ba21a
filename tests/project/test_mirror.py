"""`segact_torch` and `segact_tf` are mirrors: their modules can be read side by side, line by line.

The test reads only the source; `mirror.py` in this folder defines what counts as the same, and
`python tests/project/mirror.py --diff` shows the differences. Names that only one package has are
listed here with the reason; an entry that is not needed any more fails.
"""

import ast

import mirror
import pytest

TORCH, KERAS = mirror.modules(mirror.TORCH), mirror.modules(mirror.KERAS)
SHARED = [name for name in TORCH if name in KERAS]

GOAL = 0.9

# Modules of one package, or folders of modules.
ONE_SIDED_MODULES = {
    "_backends/": "the loops and kernels of PyTorch; Keras compiles with XLA",
    "__main__.py": "says which of these backends are available",
    "_pairwise.py": "XLA may add one element after the other; PyTorch adds blocks",
    "_compact.py": "the compact formulas, which are one of the backends of PyTorch",
    "_engine.py": "what keras.ops does not offer and the backend has to do",
}

SAVING = "Keras saves by config, PyTorch by pickle and state_dict"
EXACT = "PyTorch's own is exact, those of Keras's other backends are not"
MODULE = "what nn.Module requires"
LAYER = "what keras.layers.Layer and keras.losses.Loss require"
MODES = "reverse and forward mode: of a torch.autograd.Function, or by _engine.differentiable"
RECORDS = "what torch.fx and TorchScript require"
BACKENDS = "what only the backends of PyTorch need"
RANKS = "PyTorch is told its process group, and a strategy of TensorFlow knows its replicas"
REDUCTION = "PyTorch's functions reduce, and Keras's classes do"
TENSORS = "Keras converts inputs to tensors, and may not know every size"

# By module, the names that only one package has.
ONE_SIDED: dict[str, dict[str, str]] = {
    "_batch.py": {
        **dict.fromkeys(["Batch.share", "Batch.x", "Batch.y", "Batch.w"], BACKENDS),
        **dict.fromkeys(["Batch._of_group", "Batch.cut"], RANKS),
        "Batch._is_traced": "by torch.compiler.is_compiling in PyTorch",
        "as_tensor": TENSORS,
        **dict.fromkeys(["_shapes_differ", "_plain"], TENSORS),
    },
    "_checks.py": {
        "check_reduction": REDUCTION,
        **dict.fromkeys(["check_tensor", "checked_tensor", "check_rank"], TENSORS),
        "check_device": "Keras moves tensors to one device",
    },
    "_special.py": {
        **dict.fromkeys(["where", "relu", "log1p", "tan", "power", "divide", "cumsum"], EXACT),
        "over_one_and": "for XLA; PyTorch has the quotient",
    },
    "_sums.py": {
        **dict.fromkeys(["reduce_groups", "scale_groups"], REDUCTION),
    },
    "_derivatives.py": {
        **dict.fromkeys(["_scale", "_push_product", "_pull_product"], MODES),
        **dict.fromkeys(["_differentiable", "_save", "_apply"], MODES),
        **dict.fromkeys(["_eager_before_2_6", "_primal"], MODES),
        **dict.fromkeys(["_with_forward_mode", "_is_recorded", "_is_exporting"], MODES),
    },
    "activations.py": {
        "Activation.from_config": SAVING,
        "_Custom.from_config": SAVING,
        "OutputActivation.get_config": SAVING,
        "OutputActivation.from_config": SAVING,
        "OutputActivation.call": LAYER,
        "OutputActivation.compute_output_shape": LAYER,
        "OutputActivation.forward": MODULE,
        "OutputActivation.extra_repr": MODULE,
        **dict.fromkeys(["_stretch_gradient", "_stretch_tangent"], MODES),
        **dict.fromkeys(["_cdf", "Activation.__fx_create_arg__"], RECORDS),
        "OutputActivation.__prepare_scriptable__": RECORDS,
        "OutputActivation.__getstate__": RECORDS,
        "Activation.__init_subclass__": LAYER,
    },
    "_distributed.py": {
        **dict.fromkeys(["check_group", "is_distributed"], RANKS),
        **dict.fromkeys(["_all_reduce", "_least"], "TensorFlow differentiates its own exchange"),
    },
    "conventions.py": {
        "_added": "XLA would add the numbers first",
    },
    "losses.py": {
        "_Loss.get_config": SAVING,
        "_Loss.from_config": SAVING,
        **dict.fromkeys(["_Loss.__setstate__", "_Loss.__getstate__"], SAVING),
        **dict.fromkeys(["_Loss.__copy__", "_Loss.__deepcopy__"], SAVING),
        "_Loss.forward": MODULE,
        "_Loss.extra_repr": MODULE,
        "_Loss.call": LAYER,
        "_Loss.__call__": LAYER,
        **dict.fromkeys(["_Loss._mask", "_Loss._replica_share"], LAYER),
        **dict.fromkeys(["_Apply", "_Apply.__init__", "_Apply.call"], LAYER),
        "_are_shared": RANKS,
        "_with_last_axis": "`fit` hands a loss (N,) and (N, 1)",
        **dict.fromkeys(["_from_left", "_are_of_groups"], "the sample_weight of `fit`"),
        **dict.fromkeys(
            ["_of_groups_or_elements", "_for_groups", "_mean_weight", "_over_weight"],
            "the sample_weight of `fit`",
        ),
        **dict.fromkeys(["_mean_of_all", "_sum_of_all", "_present"], REDUCTION),
    },
}

# Of `__all__`: the package's own modules, which Keras users write out; and what tells of the ways
# that PyTorch alone has (Keras's own is `keras.backend.backend()`).
ONE_SIDED_NAMES = {"activations", "conventions", "losses", "backends"}

# Options of a loss that one dialect alone has: PyTorch's functions reduce, and Keras's classes do;
# and Keras's strategies know their replicas.
OPTIONS = {"reduction", "axis", mirror.RANKS}
LOSSES = ("functional.py", "losses.py", "_batch.py", "_checks.py", "_distributed.py")


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
        assert ({*ours} ^ {*theirs}) == ONE_SIDED_NAMES
        ours, theirs = (
            [name for name in names if name not in ONE_SIDED_NAMES] for names in (ours, theirs)
        )
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert sorted(ours) == sorted(theirs)


@pytest.mark.parametrize("module", SHARED)
def test_the_same_definitions(module):
    ours, theirs = mirror.both(module)
    assert {*ours} ^ {*theirs} == {*ONE_SIDED.get(module, {})}


@pytest.mark.parametrize("module", SHARED)
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


# Functions with different options in each package.
OTHER_OPTIONS = {("_batch.py", "Batch.__init__"): "PyTorch's backends read the tensors as given"}

PUBLIC = {
    f"{module}:{name}": (module, name)
    for module in SHARED
    for name in mirror.both(module)[0].keys() & mirror.both(module)[1].keys()
    if isinstance(mirror.both(module)[0][name], ast.FunctionDef) and is_public(name)
    if (module, name) not in OTHER_OPTIONS
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


def test_line_for_line():
    """In each file; `pytest -rP` shows the figure for all together."""
    print(mirror.described())
    counts, _ = mirror.table()
    assert all(same >= GOAL * shared for same, shared in counts.values()), (
        f"\n{mirror.described()}\npython tests/project/mirror.py --diff shows where they differ"
    )


def normalized(source: str) -> list[str]:
    return mirror.lines(ast.parse(source).body[0])


@pytest.mark.parametrize(
    ("torch", "keras"),
    [
        ("torch.where(x < 0, a, 1 - a)", "ops.where(x < 0, a, 1 - a)"),
        ("x.sum(axis, keepdim=True)", "_pairwise.sum(x, axis, keepdims=True)"),
        ("x / torch.where(x == 0, 1.0, x)", "_special.divide(x, ops.where(x == 0, 1.0, x))"),
        ("x / (1 + w)", "_special.over_one_and(x, w)"),
        ("x.argsort(dim=-1, descending=True, stable=True)", "ops.argsort(-x, axis=-1)"),
        ("x.masked_fill(w == 0, 1.0)", "ops.where(w == 0, 1.0, x)"),
        ("batch.elements(reduction)", "batch.elements(axis)"),
        ("torch.log1p(x.abs()).to(x.dtype)", "ops.cast(_special.log1p(ops.abs(x)), x.dtype)"),
        ("_apply(_Product, w, x)", "_product(w, x)"),
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
        ("_special.at_least(x, 0.0)", "_special.at_most(x, 0.0)"),
        ("_special.at_least(x, 0.0)", "_special.at_least(x, 1.0)"),
        ("x / w", "_special.divide(w, x)"),
        ("x / (1 + w)", "_special.over_one_and(w, x)"),
        ("x / (2 + w)", "_special.over_one_and(x, w)"),
        ("x.argsort(dim=-1, stable=True)", "ops.argsort(-x, axis=-1)"),
        ("x.detach()", "x"),
        ("x.to(x.dtype)", "x"),
        ("1 - f.cdf(x)", "f.sf(x)"),
        ("_apply(_Product, w, x)", "w * x"),
        ("f(weight, input)", "f(input, weight)"),
        ("torch.log1p(x)", "ops.log(1 + x)"),
        ("error('must be >= 0')", "error('must be > 0')"),
        ("loss(x, alpha=0.3)", "loss(x, alpha=0.7)"),
    ],
)
def test_what_is_a_difference(torch, keras):
    ours = normalized(f"def f(x: Tensor) -> Tensor:\n    return {torch}")
    assert ours != normalized(f"def f(x: Any) -> Any:\n    return {keras}")
