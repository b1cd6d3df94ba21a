"""What each module imports, read from the source: at its import, or late, inside of a function."""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
}


@dataclass(frozen=True)
class Import:
    """`module` imports `name`, which is a module, or a name inside of one."""

    module: str
    name: str
    late: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


@cache
def sources(package: str) -> dict[str, ast.Module]:
    """The modules of a package, by their dotted names; a package has the name of its folder."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text("utf-8"))
    return found


def _is_by_name(node: ast.AST) -> bool:
    if isinstance(node, ast.Subscript):
        return ast.unparse(node.value) == "sys.modules"
    return isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func)


def _statements(body: list[ast.AST], late: bool) -> Iterator[tuple[ast.AST, bool]]:
    """What imports, and whether a function holds it.

    Import statements, import_module("a.b"), and sys.modules["a.b"], imported elsewhere.
    """
    for node in body:
        inner = late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, late
        elif _is_by_name(node):
            yield node, inner
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _statements(node.orelse, late)
        else:
            yield from _statements([*ast.iter_child_nodes(node)], inner)


def path(module: str) -> Path:
    folder = ROOT.joinpath(*module.split("."))
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


@cache
def imports(package: str) -> tuple[Import, ...]:
    """All imports of a package but those of the standard library."""
    modules, found = sources(package), []
    for module, tree in modules.items():
        for node, late in _statements([*tree.body], late=False):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} imports relatively"
                # `from package import module` imports the module, `from module import name` it
                full = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                names = [name if name in modules else str(node.module) for name in full.values()]
            else:
                first = node.args[0] if isinstance(node, ast.Call) else node.slice
                known = isinstance(first, ast.Constant)
                names = [str(first.value)] if known else ["?" + ast.unparse(node)]
            found += [Import(module, name, late) for name in names]
    return tuple(each for each in found if each.top not in sys.stdlib_module_names)


def circles(package: str, late: bool = True) -> list[set[str]]:
    """Sets of modules that import each other; with `late`, also inside of functions."""
    modules = sources(package)
    after: dict[str, set[str]] = {module: set() for module in modules}
    for each in imports(package):
        if each.name in modules and each.name != each.module and (late or not each.late):
            after[each.module].add(each.name)
    reached = {module: _reached(module, after) for module in modules}
    found = []
    for module in modules:
        circle = {other for other in reached[module] if module in reached[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def _reached(module: str, after: dict[str, set[str]]) -> set[str]:
    """The modules that one leads to, itself only by a circle."""
    found: set[str] = set()
    ahead = [*after[module]]
    while ahead:
        each = ahead.pop()
        if each not in found:
            found.add(each)
            ahead += after[each]
    return found


def code_lines(source: str) -> int:
    """The lines of code: without blank ones, comments and docstrings."""
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            held |= {*range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if has_docstring(node):
            held -= {*range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)}
    return len(held)


def has_docstring(node: ast.AST) -> bool:
    documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    return documented and ast.get_docstring(node, clean=False) is not None


def function_lengths(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Each function or method and its lines without signature and docstring."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if has_docstring(node) else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            yield node.name, length
