"""How far `segact_torch` and `segact_tf` are mirrors: the same definitions, line for line.

    python tests/project/mirror.py              the measure, by file
    python tests/project/mirror.py --diff       and each shared definition that differs
    python tests/project/mirror.py --diff dice  that of one name

Both packages are read from their source; neither is imported. A definition is a function, a method,
or a class without its methods, known by its module and its qualified name. Two are the same when
their lines are, after what is only dialect has been written in one way. Docstrings and comments are
left out: they speak of each framework in its own words. The dialect is what this file rewrites,
and nothing else:

| PyTorch | Keras | both become |
| --- | --- | --- |
| `input`, `target`, `weight` | `y_pred`, `y_true`, `sample_weight` | PyTorch's, in messages too |
| `(input, target)` in a signature or a call | `(y_true, y_pred)` | PyTorch's order |
| `x: Tensor`, `Tensor` or None, or a number | `x: Any` | `Any` |
| `torch.f(x)`, `x.f()` | `ops.f(x)` | `ops.f(x)`, by Keras's name of f (`OPERATIONS`) |
| `torch.f(x)` | `_special.f(x)`, the same function, exact | `ops.f(x)` (`EXACT`) |
| `x.sum(axis)` | `_pairwise.sum(x, axis)`, the same, exact | `ops.sum(x, axis)` |
| `x.amin(axis, keepdim=True)` | `_engine.least(x, axis)`, also of nothing | PyTorch's |
| `x.masked_fill(c, a)` | `ops.where(c, a, x)` | Keras's |
| `a / b` | `_special.divide(a, b)`, with an exact gradient | PyTorch's |
| `a / (1 + b)` | `_special.over_one_and(a, b)`, which XLA moves into loops | PyTorch's |
| `x.argsort(descending=True, stable=True)` | `ops.argsort(-x)` | Keras's |
| `a & b` | `ops.logical_and(a, b)` | PyTorch's; so with "or" and "not" |
| `x` | `ops.convert_to_tensor(x)`, `checked_tensor(x)` | `x`: Keras takes all kinds |
| `x.shape`, `x.ndim` | `tuple(x.shape)`, `ops.shape(x)`, `len(x.shape)` | `x.shape`, `x.ndim` |
| `dim=`, `keepdim=` | `axis=`, `keepdims=` | Keras's; the axis by name, sizes as a tuple |
| `x ** a` | `_special.power(x, a)` | PyTorch's |
| `nn.Module` | `keras.layers.Layer`, `keras.losses.Loss` | `Layer` |
| `_apply(_Product, w, x)` | `_product(w, x)` | Keras's; so with every `torch.autograd.Function` |
| `frozenset(axis)` | `axis` | Keras's; such a function takes axes as a set |
| `*, from_logits=True` | `from_logits=True, axis=-1, *` | options by keyword |
| `reduction` in a function | `axis`, the class reduces | nothing (`REDUCTION`) |
| `process_group` | `tf.distribute` knows its replicas | nothing (`RANKS`) |
| `group: ProcessGroup` | `group: Any` | `Any` |
| `batch.across` | `batch.across(axis)` | PyTorch's |
| `batch.elements(reduction)` | `batch.elements(axis)` | PyTorch's |
| `DiceLoss` | `Dice` | Keras's name (`CLASSES`) |
| nothing | `@keras.saving.register_keras_serializable` | nothing |
| nothing | `@_engine.symbolic` | nothing |
"""

import argparse
import ast
import difflib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORCH, KERAS = "segact_torch", "segact_tf"

# Where the two have to be the same line for line.
MEASURED = ("functional.py", "_sums.py", "activations.py", "conventions.py")

NAMES = {"y_pred": "input", "y_true": "target", "sample_weight": "weight"}

# What Keras calls an operation that PyTorch has under another name, as a function or a method.
OPERATIONS = {
    "abs": "abs",
    "amax": "max",
    "amin": "min",
    "argsort": "argsort",
    "concat": "concatenate",
    "cumsum": "cumsum",
    "detach": "stop_gradient",
    "exp": "exp",
    "expand": "broadcast_to",
    "expm1": "expm1",
    "gather": "take_along_axis",
    "isinf": "isinf",
    "log": "log",
    "log1p": "log1p",
    "permute": "transpose",
    "relu": "relu",
    "reshape": "reshape",
    "sqrt": "sqrt",
    "sum": "sum",
    "tan": "tan",
    "to": "cast",
}

# What segact_tf has to write itself because no backend's own is exact, or because XLA adds in turn.
EXACT = {
    *(("_special", name) for name in ("cumsum", "log1p", "power", "relu", "tan", "where")),
    ("_pairwise", "sum"),
}

# Reducing what a function gives is the function's own work in PyTorch, the class's in Keras.
REDUCTION = {"check_reduction", "reduce_groups", "scale_groups"}

# Which ranks share a batch a loss is told in PyTorch, and asks in Keras.
RANKS, CHECKS_RANKS = "process_group", {"check_group", "check_lovasz_groups"}

# What a layer and a loss are in each framework.
BASES = {"nn.Module": "Layer", "keras.layers.Layer": "Layer", "keras.losses.Loss": "Layer"}

# Operations with the axis as the second argument, and those with sizes that may be a tuple.
AXIS = {"argsort", "cumsum", "max", "mean", "min", "sum"}
SIZES = {"broadcast_to", "reshape", "transpose"}

# Each framework spells a loss its own way.
CLASSES = {
    "BinaryCrossEntropyLoss": "BinaryCrossentropy",
    "BinaryFocalCrossEntropyLoss": "BinaryFocalCrossentropy",
    "MeanSquaredErrorLoss": "MeanSquaredError",
    "DiceLoss": "Dice",
    "JaccardLoss": "Jaccard",
    "TverskyLoss": "Tversky",
    "FocalTverskyLoss": "FocalTversky",
    "DiceCrossEntropyLoss": "DiceCrossentropy",
    "LovaszLoss": "Lovasz",
    "LovaszHingeLoss": "LovaszHinge",
}

DEFINITIONS = (ast.FunctionDef, ast.ClassDef)
Definition = ast.FunctionDef | ast.ClassDef


@cache
def modules(package: str) -> dict[str, ast.Module]:
    """The source of a package, by path within it."""
    folder = ROOT / package
    return {
        path.relative_to(folder).as_posix(): ast.parse(path.read_text("utf-8"))
        for path in sorted(folder.rglob("*.py"))
    }


def definitions(tree: ast.Module) -> dict[str, Definition]:
    """Functions, methods and classes by qualified name, in their order."""

    def inside(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.stmt]]:
        for node in body:
            if isinstance(node, DEFINITIONS):
                yield prefix + node.name, node
                if isinstance(node, ast.ClassDef):
                    yield from inside(node.body, f"{prefix}{node.name}.")

    return dict(inside(tree.body, ""))


def in_snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def is_call(node: ast.AST, module: str, names: set[str] | None = None) -> bool:
    """Whether it is `module.name(...)`."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == module
        and (names is None or node.func.attr in names)
    )


def ops(name: str, *args: ast.expr, keywords: list[ast.keyword] | None = None) -> ast.Call:
    function = ast.Attribute(ast.Name("ops", ast.Load()), name, ast.Load())
    return ast.Call(function, list(args), keywords or [])


class Annotations(ast.NodeTransformer):
    """`Tensor`, and whatever may be one, is Any."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, str):  # a name in quotes
            return self.visit(ast.parse(node.value, mode="eval").body)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name("Any", ast.Load()) if node.id in ("Tensor", "ProcessGroup") else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        sides = [side for side in (node.left, node.right) if getattr(side, "id", "") == "Any"]
        return sides[0] if sides else node


class Dialect(ast.NodeTransformer):
    """A definition of either package, in the words that the table above gives."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self._strip(node)
        self.generic_visit(node)
        self._options(node.args)
        if node.returns is not None:
            node.returns = Annotations().visit(node.returns)
        node.body = node.body or [ast.Pass()]
        return node

    def _options(self, arguments: ast.arguments) -> None:
        """Input and target first, then the options, by keyword; who reduces is left out."""
        found = arguments.args
        if sorted(a.arg for a in found[:2]) != ["input", "target"] or not arguments.kwonlyargs:
            return
        first, rest = sorted(found[:2], key=lambda a: a.arg), found[2:]
        defaults: list[ast.expr | None] = [None] * (len(rest) - len(arguments.defaults))
        options = [
            *zip(rest, [*defaults, *arguments.defaults], strict=True),
            *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
        ]
        kept = [(a, d) for a, d in options if a.arg not in ("reduction", "axis", RANKS)]
        arguments.args, arguments.defaults = first, []
        arguments.kwonlyargs, arguments.kw_defaults = [a for a, _ in kept], [d for _, d in kept]

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self._strip(node)
        self.generic_visit(node)
        node.name = CLASSES.get(node.name, node.name)
        node.bases = [ast.Name(BASES.get(b, b), ast.Load()) for b in map(ast.unparse, node.bases)]
        node.body = [n for n in node.body if not isinstance(n, DEFINITIONS)] or [ast.Pass()]
        return node

    def _strip(self, node: Definition) -> None:
        """Without its docstring and what registers it with Keras."""
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        node.decorator_list = [
            d
            for d in node.decorator_list
            if not re.search("register_keras_serializable|_engine.symbolic", ast.unparse(d))
        ]

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg = NAMES.get(node.arg, node.arg)
        if node.annotation is not None:
            node.annotation = Annotations().visit(node.annotation)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.annotation = Annotations().visit(node.annotation)
        self.generic_visit(node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(NAMES.get(node.id, node.id), node.ctx)

    def visit_keyword(self, node: ast.keyword) -> ast.keyword:
        self.generic_visit(node)
        names = {**NAMES, "dim": "axis", "keepdim": "keepdims"}
        node.arg = node.arg and names.get(node.arg, node.arg)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, str):
            text = node.value
            for keras, torch in NAMES.items():
                text = re.sub(rf"\b{keras}\b", torch, text)
            return ast.Constant(text)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == "torch":
            return ast.Attribute(ast.Name("ops", ast.Load()), self._operation(node.attr), node.ctx)
        if (getattr(node.value, "id", ""), node.attr) in EXACT:
            return ast.Attribute(ast.Name("ops", ast.Load()), node.attr, node.ctx)
        return node

    def _operation(self, name: str) -> str:
        return OPERATIONS.get(name, name)

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        if isinstance(node.value, ast.Call) and self._name(node.value) in REDUCTION | CHECKS_RANKS:
            return None
        self.generic_visit(node)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign | None:
        self.generic_visit(node)
        # what was `x = ops.convert_to_tensor(x)`
        return None if ast.unparse(node.targets[0]) == ast.unparse(node.value) else node

    def _name(self, call: ast.Call) -> str:
        return call.func.id if isinstance(call.func, ast.Name) else ""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        node.args = [a for a in node.args if getattr(a, "id", "") != RANKS]
        if self._name(node) in REDUCTION and node.args:
            return node.args[0]
        if is_call(node, "ops", {"convert_to_tensor"}) or self._name(node) == "checked_tensor":
            return node.args[0]
        if is_call(node, "ops", {"logical_and", "logical_or"}):
            operator = ast.BitAnd() if node.func.attr == "logical_and" else ast.BitOr()
            return ast.BinOp(node.args[0], operator, node.args[1])
        if is_call(node, "ops", {"logical_not"}):
            return ast.UnaryOp(ast.Invert(), node.args[0])
        if is_call(node, "_special", {"divide"}):
            return ast.BinOp(node.args[0], ast.Div(), node.args[1])
        if is_call(node, "_special", {"over_one_and"}):
            whole = ast.BinOp(ast.Constant(1), ast.Add(), node.args[1])
            return ast.BinOp(node.args[0], ast.Div(), whole)
        if is_call(node, "ops", {"argsort"}):
            return self._sorted(node)
        if is_call(node, "_engine", {"least", "most"}):
            kept = [ast.keyword("axis", node.args[1]), ast.keyword("keepdims", ast.Constant(True))]
            return ops({"least": "min", "most": "max"}[node.func.attr], node.args[0], keywords=kept)
        if is_call(node, "batch", {"across"}):
            return node.func
        if is_call(node, "batch", {"elements"}):
            return ast.Call(node.func, [ast.Name("reduction", ast.Load())], [])
        if is_call(node, "ops", {"power"}):
            return ast.BinOp(node.args[0], ast.Pow(), node.args[1])
        if is_call(node, "ops", AXIS | SIZES):
            return self._sized(node)
        if is_call(node, "ops", {"shape"}):
            return ast.Attribute(node.args[0], "shape", ast.Load())
        if self._name(node) in ("tuple", "len") and ast.unparse(node.args[0]).endswith(".shape"):
            shape = node.args[0]
            if self._name(node) == "tuple":
                return shape
            return ast.Attribute(shape.value, "ndim", ast.Load())
        if self._name(node) == "_apply":
            return self._applied(node)
        if self._name(node) == "frozenset":
            return node.args[0]
        if isinstance(node.func, ast.Attribute):
            owner = getattr(node.func.value, "id", "")
            if owner not in ("ops", "np", "math", "_special", "_pairwise", "self", "f"):
                return self._method(node)
        self._order(node)
        return node

    def _applied(self, node: ast.Call) -> ast.expr:
        """`_apply(_Some, ...)`, of a torch.autograd.Function, is `_some(...)`."""
        function = ast.Name(in_snake_case(ast.unparse(node.args[0])), ast.Load())
        return ast.Call(function, node.args[1:], node.keywords)

    def _method(self, node: ast.Call) -> ast.expr:
        """`x.f(...)` is `ops.f(x, ...)`."""
        if node.func.attr == "masked_fill":
            return ops("where", node.args[0], node.args[1], node.func.value)
        if node.func.attr not in OPERATIONS:
            return node
        call = ops(OPERATIONS[node.func.attr], node.func.value, *node.args, keywords=node.keywords)
        if node.func.attr == "gather":  # (axis, indices)
            call.args, call.keywords = (
                [call.args[0], call.args[2]],
                [ast.keyword("axis", call.args[1])],
            )
        if is_call(call, "ops", {"argsort"}):
            return self._sorted(call)
        return self._sized(call) if is_call(call, "ops", AXIS | SIZES) else call

    def _sized(self, node: ast.Call) -> ast.Call:
        """The axis by name; sizes as one tuple."""
        first, *rest = node.args
        if node.func.attr in AXIS and rest:
            node.args = [first]
            node.keywords = [ast.keyword("axis", rest[0]), *node.keywords]
        elif node.func.attr in SIZES and (len(rest) > 1 or isinstance(rest[0], ast.Starred)):
            node.args = [first, ast.Tuple(rest, ast.Load())]
        return node

    def _sorted(self, node: ast.Call) -> ast.Call:
        """Descending is ascending by -x; Keras's order is stable."""
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if given.get("descending") == given.get("stable") == "True":
            kept = [k for k in node.keywords if k.arg not in ("descending", "stable")]
            return ops("argsort", ast.UnaryOp(ast.USub(), node.args[0]), keywords=kept)
        return self._sized(node)

    def _order(self, node: ast.Call) -> None:
        first = [getattr(a, "id", "") for a in node.args[:2]]
        if first == ["target", "input"]:
            node.args[:2] = node.args[1::-1]


def lines(node: Definition) -> list[str]:
    """A definition in the words that both share."""
    copy = ast.parse(ast.unparse(node)).body[0]
    found = Dialect().visit(copy)
    return ast.unparse(ast.fix_missing_locations(found)).splitlines()


def is_autograd(node: ast.AST) -> bool:
    """Whether it is a torch.autograd.Function, which is a function for Keras."""
    return isinstance(node, ast.ClassDef) and "autograd.Function" in "".join(
        map(ast.unparse, node.bases)
    )


@cache
def both(module: str) -> tuple[dict[str, Definition], dict[str, Definition]]:
    """The definitions of a module in each package, by the name that segact_tf has."""
    torch, keras = (definitions(modules(package)[module]) for package in (TORCH, KERAS))
    ours = {}
    for name, node in torch.items():
        first, *rest = name.split(".")
        if rest and is_autograd(torch[first]):
            continue  # its methods are the inside of a function there
        if is_autograd(node) and in_snake_case(name) not in torch:
            ours[in_snake_case(name)] = node
        else:
            ours[".".join([CLASSES.get(first, first), *rest])] = node
    return ours, keras


@cache
def pairs(module: str) -> dict[str, tuple[list[str], list[str]]]:
    """The lines of each definition that both packages have in a module, PyTorch's first."""
    ours, theirs = both(module)
    return {
        name: (lines(node), lines(theirs[name]))
        for name, node in ours.items()
        if type(node) is type(theirs.get(name))
    }


def measured() -> list[str]:
    """The files of the measure that are there."""
    there = modules(TORCH).keys() & modules(KERAS).keys()
    return [name for name in MEASURED if name in there]


def table() -> tuple[dict[str, tuple[int, int]], float]:
    """By file, how many shared definitions are the same, of how many; and the share of all."""
    counts = {}
    for module in measured():
        found = pairs(module)
        counts[module] = (sum(a == b for a, b in found.values()), len(found))
    same, all_of_them = (sum(column) for column in zip(*counts.values(), strict=True))
    return counts, same / all_of_them


def described() -> str:
    counts, share = table()
    rows = [f"{n:16} {a:3} of {b:3} the same  {a / b:6.1%}" for n, (a, b) in counts.items()]
    same, shared = (sum(column) for column in zip(*counts.values(), strict=True))
    return "\n".join([*rows, f"{'together':16} {same:3} of {shared:3} the same  {share:6.1%}"])


def differences(name: str = "") -> Iterator[str]:
    for module in measured():
        for each, (torch, keras) in pairs(module).items():
            if torch != keras and name in each:
                head = f"{module}: {each}"
                diff = difflib.unified_diff(torch, keras, TORCH, KERAS, lineterm="", n=1)
                yield "\n".join([head, *list(diff)[2:], ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--diff", nargs="?", const="", metavar="NAME", help="what differs")
    options = parser.parse_args()
    if options.diff is not None:
        print(*differences(options.diff), sep="\n")
    print(described())


if __name__ == "__main__":
    main()
