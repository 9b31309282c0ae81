"""Arithmetic that shows a contradiction: a comparison of numbers, as in a suite, and whether it is true."""

import ast
import operator
from collections.abc import Callable
from itertools import pairwise

OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
LENGTH = 500  # characters of a comparison


def is_true(comparison: str) -> bool:
    """Whether a comparison such as ``4e6 * 4 < 80e6`` or ``0.3 < 1 - 0.5 < 0.6`` holds; ``and`` joins several.

    It may have numbers, ``+ - * /``, brackets and ``< <= > >= == !=``. Raises ValueError for anything else.
    """
    try:
        if len(comparison) > LENGTH:
            raise ValueError(f"longer than {LENGTH} characters")
        return _holds(ast.parse(comparison.strip(), mode="eval").body)
    except (ArithmeticError, RecursionError, SyntaxError, ValueError) as error:
        raise ValueError(f"{comparison!r:.80} is no comparison of numbers, such as `4e6 * 4 < 80e6`: {error}") from None


def _holds(node: ast.expr) -> bool:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            parts = [_holds(value) for value in values]  # each is read, also after a false one
            return all(parts)
        case ast.Compare(left=left, ops=ops, comparators=others):
            pairs = pairwise([_number(left), *map(_number, others)])
            parts = [_comparison(op)(*pair) for op, pair in zip(ops, pairs, strict=True)]
            return all(parts)
    raise ValueError("nothing is compared in it")


def _comparison(op: ast.cmpop) -> Callable[[float, float], bool]:
    if type(op) not in COMPARISONS:
        raise ValueError(f"unknown comparison {type(op).__name__}")
    return COMPARISONS[type(op)]


def _number(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=bool()):
            raise ValueError("True and False are no numbers")
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_number(left), _number(right))
    raise ValueError(f"unknown part {ast.unparse(node)!r}")
