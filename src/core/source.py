"""Owns what the source text says of a target's arguments, so that a wrong key is refused before torch is imported.

In: a dotted path such as `src.model.heads.lstm.LSTMHead`. Out: what `annotations.signature_of` gives of the imported
target, or None where the text alone cannot tell. An annotation that is no plain type counts as Any, a
factory's as a bare Callable: this look may overlook a mistake, which the look at the imported target finds, but it
never sees one that is none.
"""

import ast
import copy
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional, Union

_ROOT = str(Path(__file__).resolve().parents[2])
_TYPES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (int, float, bool, str, list, dict, tuple)},
    "Any": Any,
    "Literal": Literal,
    "Optional": Optional,
    "Union": Union,
    "None": None,
    "Sequence": Sequence,
    "Mapping": Mapping,
    "Callable": Callable,
    "Path": Path,
}
_SAME = {"_defaults_from_env_vars"}
"""Decorators of libraries that leave a signature as it is (lightning.pytorch.Trainer)."""


def signature_from_source(path: str) -> tuple[dict[str, Any], bool] | None:
    """Parameters as name → annotation (or Any), and whether there is **kwargs; None: the text cannot tell."""
    module, _, name = path.rpartition(".")
    found = _definition(module, name)
    if isinstance(found, ast.ClassDef):
        found = next((one for one in found.body if getattr(one, "name", "") == "__init__"), None)
        skip = 1
    else:
        skip = 0
    if not isinstance(found, ast.FunctionDef):
        return None
    if any(not (isinstance(one, ast.Name) and one.id in _SAME) for one in found.decorator_list):
        return None
    given = found.args
    named = [*given.posonlyargs, *given.args][skip:] + given.kwonlyargs
    return {one.arg: _annotation(one.annotation) for one in named}, given.kwarg is not None


def _definition(module: str, name: str, depth: int = 0) -> ast.stmt | None:
    """The class or function `name` of `module`, followed through `from … import`; None where it is not plain."""
    file = _file(module)
    if file is None or depth > 4:
        return None
    hits = [one for one in _statements(file) if name in _bound(one)]
    if len(hits) != 1:
        return None
    hit = hits[0]
    if isinstance(hit, ast.ImportFrom):
        if hit.level:
            return None
        original = next(one.name for one in hit.names if (one.asname or one.name) == name)
        return _definition(hit.module or "", original, depth + 1)
    if isinstance(hit, ast.ClassDef) and (hit.decorator_list or hit.keywords):  # a dataclass, a metaclass
        return None
    return hit


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement at the top of a module gives a meaning."""
    if isinstance(statement, ast.ImportFrom | ast.Import):
        return {one.asname or one.name for one in statement.names}
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.If | ast.Try | ast.For | ast.With):
        return {one.id for one in ast.walk(statement) if isinstance(one, ast.Name)}
    return {getattr(statement, "name", "")}


def _file(module: str) -> Path | None:
    for root in dict.fromkeys([_ROOT, *sys.path]):
        base = Path(root or ".", *module.split("."))
        for file in (base / "__init__.py", base.with_suffix(".py")):
            if file.is_file():
                return file
    return None


@functools.cache
def _statements(file: Path) -> list[ast.stmt]:
    return ast.parse(file.read_text(encoding="utf-8")).body


class _FactoriesPlain(ast.NodeTransformer):
    """`Callable[..., Head]` → `Callable`: what a factory makes cannot be known without importing it."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:  # noqa: N802  ast's name
        if isinstance(node.value, ast.Name) and node.value.id == "Callable":
            return ast.copy_location(node.value, node)
        return self.generic_visit(node)


def _annotation(node: ast.expr | None) -> Any:
    """The type that an annotation of plain types means, else Any."""
    if node is None:
        return Any
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            node = ast.parse(node.value, mode="eval").body
        except SyntaxError:
            return Any
    node = _FactoriesPlain().visit(copy.deepcopy(node))
    inner = ast.walk(node)
    known = (ast.Name, ast.Subscript, ast.Tuple, ast.List, ast.BinOp, ast.BitOr, ast.Constant, ast.Load)
    if not all(isinstance(one, known) and getattr(one, "id", "None") in _TYPES for one in inner):
        return Any
    code = compile(ast.fix_missing_locations(ast.Expression(node)), "<annotation>", "eval")
    try:
        return eval(code, {"__builtins__": {}}, dict(_TYPES))  # noqa: S307  plain type names only, see above
    except TypeError:
        return Any
