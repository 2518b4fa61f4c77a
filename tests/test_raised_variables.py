"""An error that is raised from a variable leaves no cycle: its traceback has the frame of that.

Such a cycle lives until the collector runs, and with it all that the frames of the call hold: the
caller's buffers, and the variables of the functions that it was made in. So the variable is deleted
in a `finally`, or the error is one that an `except` has just given its name, which Python deletes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import blockyard

PACKAGE = Path(blockyard.__file__).parent
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def variable(raised: ast.expr) -> str | None:
    """The variable that what is raised is, is in, or may be; None for what is made there."""
    match raised:
        case ast.Name(name):
            return None if name.lstrip("_")[:1].isupper() else name
        case ast.Attribute(inner, name):
            return None if name[:1].isupper() else variable(inner)
        case ast.Subscript(inner):
            return variable(inner)
        case ast.IfExp(_, one, other):
            return variable(one) or variable(other)
        case ast.BoolOp(_, values):
            return next(filter(None, map(variable, values)), None)
        case _:
            return None


def kept(node: ast.AST, gone: frozenset[str] = frozenset()) -> Iterator[tuple[int, str]]:
    """Lines and variables that are raised, and not among those that are `gone` with the frame."""
    if isinstance(node, ast.Raise) and node.exc is not None:
        name = variable(node.exc)
        if name is not None and name not in gone:
            yield node.lineno, name
    if isinstance(node, _FUNCTIONS):
        gone = frozenset()
    if isinstance(node, ast.ExceptHandler) and node.name is not None:
        gone |= {node.name}
    if isinstance(node, ast.Try):
        deleted = [each for each in node.finalbody if isinstance(each, ast.Delete)]
        names = {name.id for each in deleted for name in each.targets if isinstance(name, ast.Name)}
        gone |= names
    for child in ast.iter_child_nodes(node):
        yield from kept(child, gone)


def test_no_variable_keeps_the_error_that_is_raised_from_it() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if "testing" not in path.relative_to(PACKAGE).parts
        for line, name in kept(ast.parse(path.read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("raise error", ["error"]),
        ("raise Error", []),
        ("raise module.Error", []),
        ("raise found.error from None", ["found"]),
        ("raise errors[-1]", ["errors"]),
        ("raise a if a else b()", ["a"]),
        ("raise call.error or error()", ["call"]),
        ("raise made(error)", []),
        ("try: call()\nexcept OSError as error: raise error", []),
        ("try: raise error\nfinally: del error", []),
        ("try: raise error\nfinally: del other", ["error"]),
        ("try:\n  def inner(): raise error\nfinally: del error", ["error"]),
    ],
)
def test_what_keeps_one(source: str, names: list[str]) -> None:
    assert [name for _, name in kept(ast.parse(source))] == names
