"""Small changes of Python source, one at a time: each turns a decision into another one that the tests should notice.

Positions are those of the syntax tree, so the rest of the file stays as it is. Nothing is changed that does not decide
anything: annotations, decorators, docstrings, texts, log calls. (Positions inside f-strings are wrong in Python 3.11, so
they are left out too.)
"""

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change: the bytes from `start` to `end` of the source become `replacement`."""

    line: int
    start: int
    end: int
    replacement: str
    description: str

    def applied_to(self, source: str) -> str:
        """The source with this change."""
        data = source.encode()
        return (data[: self.start] + self.replacement.encode() + data[self.end :]).decode()


# Characters of a description: of each side, and around the difference.
_LINE, _AROUND = 100, 30

# The boundary for comparisons of order, the opposite for the others.
_COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
}  # fmt: skip
_FUNCTIONS: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
_LOGGERS: Final = ("logger", "logging", "warnings")
# Fields of nodes that are not walked into.
_SKIPPED_FIELDS: Final = ("annotation", "returns", "decorator_list")


def mutations(source: str) -> list[Mutation]:
    """All changes of a module, in the order of its lines."""
    offsets = [0]
    for line in source.encode().splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    found = []
    tree = ast.parse(source)
    # Conditions that no other change turns into their opposite.
    tests = {n.test for n in ast.walk(tree) if isinstance(n, ast.If | ast.IfExp | ast.While)}
    plain_tests = {test for test in tests if isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.NamedExpr)}
    for node in _decisions(tree):
        start = offsets[node.lineno - 1] + node.col_offset
        end = offsets[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        before = ast.unparse(node)
        for after in (*_variants(node), *([f"not ({before})"] if node in plain_tests else [])):
            # An expression keeps its place among its neighbours if it is in parentheses.
            replacement = f"({after})" if isinstance(node, ast.expr) else after
            found.append(Mutation(node.lineno, start, end, replacement, _difference(before, after)))
    return sorted(found, key=lambda mutation: (mutation.start, mutation.end))


def _difference(before: str, after: str) -> str:
    """The part of two texts that differs, with a little of what is around it."""
    before, after = (" ".join(text.split()) for text in (before, after))
    start = _common(before, after)
    same = _common(before[start:][::-1], after[start:][::-1])
    first = 0 if len(before) < _LINE else max(0, start - _AROUND)
    parts = (text[first : len(text) - same + _AROUND][:_LINE] for text in (before, after))
    return "  ->  ".join(parts)


def _common(one: str, other: str) -> int:
    """How many characters two texts have in common at their start."""
    return next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _decisions(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    if isinstance(node, ast.JoinedStr) or _is_log_call(node):
        return
    if isinstance(node, ast.expr | ast.stmt):
        yield node
    for field, value in ast.iter_fields(node):
        if field in _SKIPPED_FIELDS:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _decisions(child)


def _is_log_call(node: ast.AST) -> bool:
    call = node.value if isinstance(node, ast.Expr) else node
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    return isinstance(call.func.value, ast.Name) and call.func.value.id in _LOGGERS


def _variants(node: ast.expr | ast.stmt) -> Iterator[str]:
    for kind, variants in _VARIANTS.items():
        if isinstance(node, kind):
            yield from map(ast.unparse, variants(copy.deepcopy(node)))


def _comparison(node: ast.Compare) -> Iterator[ast.AST]:
    for index, operator in enumerate(node.ops):
        changed = copy.deepcopy(node)
        changed.ops[index] = _COMPARISONS[type(operator)]()
        yield changed


def _bool_op(node: ast.BoolOp) -> Iterator[ast.AST]:
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield node


def _unary_op(node: ast.UnaryOp) -> Iterator[ast.AST]:
    if isinstance(node.op, ast.Not):
        yield node.operand


def _bin_op(node: ast.BinOp) -> Iterator[ast.AST]:
    if (other := _ARITHMETIC.get(type(node.op))) is not None:
        node.op = other()
        yield node


def _constant(node: ast.Constant) -> Iterator[ast.AST]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
        yield ast.Constant(node.value - 1)


def _call(node: ast.Call) -> Iterator[ast.AST]:
    if isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        changed = copy.deepcopy(node)
        changed.func = ast.Name(_FUNCTIONS[node.func.id])
        yield changed
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            changed = copy.deepcopy(node)
            del changed.keywords[index]
            yield changed


def _return(node: ast.Return) -> Iterator[ast.AST]:
    if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
        yield ast.Return(ast.Constant(None))


def _statement(node: ast.Expr) -> Iterator[ast.AST]:
    if isinstance(node.value, ast.Call | ast.Await):
        yield ast.Pass()


def _raise(_node: ast.Raise) -> Iterator[ast.AST]:
    yield ast.Pass()


_VARIANTS: Final[dict[type[ast.AST], Callable[..., Iterator[ast.AST]]]] = {
    ast.Compare: _comparison,
    ast.BoolOp: _bool_op,
    ast.UnaryOp: _unary_op,
    ast.BinOp: _bin_op,
    ast.Constant: _constant,
    ast.Call: _call,
    ast.Return: _return,
    ast.Expr: _statement,
    ast.Raise: _raise,
}
