"""Conditions of policy rules: expressions of CEL, the Common Expression Language, over integers.

A condition uses the part of CEL that needs only 64-bit integers and booleans: the names of NAMES,
integer and boolean literals, `+ - * / %`, comparisons, `&& || !`, `? :`, and `in` with a list of
integer literals. `check_condition` refuses everything else, with its place. A condition has neither
loops nor functions, so its length bounds its evaluation.

Evaluation follows CEL. An integer outside of 64 bits and a division by zero are errors. Division
truncates towards zero, and a remainder has the sign of the dividend. `&&` and `||` ignore an error
of one side if the other side alone decides. Tests compare the results with those of Google's
implementation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

if TYPE_CHECKING:
    from lark import Lark, Tree
    from lark.exceptions import UnexpectedInput

MAX_CONDITION_LENGTH = 1_000
MAX_NESTING = 64
"""Operators inside each other; a chain such as `a || b || c` nests once for each operator."""

NAMES: Final[dict[str, str]] = {
    "score": "the credit score, 0 to 100",
    "days_past_due": "days past due of the worst loan, 0 if none is overdue",
    "asset_class": "0 STANDARD, 1 SMA_0, 2 SMA_1, 3 SMA_2, 4 NPA",
    "active_loans": "number of ACTIVE loans",
    "loan_count": "number of all loans ever taken",
    "principal_outstanding": "principal not yet repaid of ACTIVE loans, in paise",
    "held": "principal held by open offers, in paise",
    "age": "age in years",
    "monthly_income": "monthly income in paise",
    "installment_share_bps": "all installments, the new one included, in basis points of the "
    "monthly income",
    "loan_amount": "the requested principal in paise",
    "tenure_months": "the requested tenure in months",
    "months_as_customer": "complete months since the customer was stored",
}
"""The names that a condition may use, with their meaning. All are integers, money in paise."""

MIN_INT = -(2**63)
MAX_INT = 2**63 - 1

# The names of rules start a tree, those of terminals a token. Text in quotes is left out of trees.
_GRAMMAR = r"""
?expression: or | or "?" or ":" expression         -> conditional
?or: and | or OR and                               -> logical
?and: relation | and AND relation                  -> logical
?relation: sum | relation COMPARISON sum           -> comparison
    | relation IN "[" [expression ("," expression)*] "]" -> membership
    | relation IN sum                              -> membership_of_other
?sum: product | sum (PLUS | MINUS) product         -> arithmetic
?product: unary | product (TIMES | DIVIDE | MODULO) unary -> arithmetic
?unary: primary | NOT+ primary                     -> negation | MINUS+ primary -> minus
?primary: NAME                                     -> name
    | INTEGER                                      -> integer
    | (TRUE | FALSE)                               -> boolean
    | "(" expression ")"
    | NAME "(" [expression ("," expression)*] ")"  -> function
    | (STRING | NUMBER | UNSIGNED | NULL)          -> unsupported

OR: "||"
AND: "&&"
COMPARISON: "==" | "!=" | "<=" | ">=" | "<" | ">"
IN.2: /in\b/
PLUS: "+"
MINUS: "-"
TIMES: "*"
DIVIDE: "/"
MODULO: "%"
NOT: "!"
TRUE.2: /true\b/
FALSE.2: /false\b/
NULL.2: /null\b/
NAME: /[A-Za-z_][A-Za-z0-9_]*/
NUMBER.3: /[0-9]+\.[0-9]+([eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+([eE][+-]?[0-9]+)?/
UNSIGNED.2: /(0x[0-9a-fA-F]+|[0-9]+)[uU]/
INTEGER: /0x[0-9a-fA-F]+|[0-9]+/
STRING: /[rRbB]{0,2}("[^"\n]*"|'[^'\n]*')/
%ignore /[ \t\n\f\r]+/
%ignore /\/\/[^\n]*/
"""


class ConditionError(ValueError):
    """A condition that is not accepted: the problem, and its place as 1-based line and column."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(f"has an error at line {line}, column {column}: {problem}")
        self.problem = problem
        self.line = line
        self.column = column


class EvaluationError(ArithmeticError):
    """A condition has no result for these values: an integer outside of 64 bits, or a division by
    zero."""


_Evaluate: TypeAlias = Callable[[Mapping[str, int]], int]


class _Type(Enum):
    INTEGER = "an integer"
    BOOLEAN = "true or false"


@dataclass(frozen=True, slots=True)
class Condition:
    """A checked condition. Conditions with the same text are equal."""

    text: str
    # The names in the text, in order of their first use.
    names: tuple[str, ...] = field(compare=False)
    _evaluate: _Evaluate = field(compare=False, repr=False)

    def holds(self, values: Mapping[str, int]) -> bool:
        """Return whether the condition holds for the values of its names.

        Raises EvaluationError if it has no result.
        """
        return bool(self._evaluate(values))


def check_condition(text: str) -> Condition:
    """Return the condition of a text of at most MAX_CONDITION_LENGTH characters.

    Raises ConditionError for the first problem: a syntax error, an unknown name, a wrong type, a
    part of CEL that conditions do not support, an integer outside of 64 bits, a division by a
    constant 0, or too much nesting.
    """
    if len(text) > MAX_CONDITION_LENGTH:
        raise ConditionError(
            f"has {len(text)} characters, at most {MAX_CONDITION_LENGTH} are allowed", 1, 1
        )
    checker = _Checker()
    result = checker.check(_parse(text), 0)
    if result.type is not _Type.BOOLEAN:
        raise ConditionError("must be true or false, but is an integer", 1, 1)
    return Condition(text, tuple(checker.names), result.evaluate)


@lru_cache(maxsize=1)
def _parser() -> "Lark":
    from lark import Lark  # noqa: PLC0415 - only processes that read a document with rules need it

    return Lark(_GRAMMAR, parser="lalr", start="expression", propagate_positions=True)


def _parse(text: str) -> "Tree[Any]":
    from lark.exceptions import UnexpectedInput  # noqa: PLC0415 - see _parser

    try:
        return _parser().parse(text)
    except UnexpectedInput as error:
        raise _syntax_error(error, text) from error


def _syntax_error(error: "UnexpectedInput", text: str) -> ConditionError:
    lines = text.split("\n")
    line, column = error.line, error.column
    token = getattr(error, "token", None)
    if token is not None and token.type == "$END":
        return ConditionError("ends where a value is expected", len(lines), len(lines[-1]) + 1)
    rest = lines[line - 1][column - 1 :]
    if not rest[0].isprintable():
        # Such as a non-breaking space, which looks like the space that is meant.
        problem = f"has the character U+{ord(rest[0]):04X}; write it as a space or leave it out"
        return ConditionError(problem, line, column)
    found = rest.split()[0][:20]
    return ConditionError(f"has {found!r} where it is not expected", line, column)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A checked part of a condition. `constant` is its value if it uses no name."""

    type: _Type
    evaluate: _Evaluate
    constant: int | None = None


def _constant(type_: _Type, value: int) -> _Checked:
    return _Checked(type_, lambda _values: value, value)


class _Checker:
    """Checks a tree and compiles it to functions. Parts that use no name become constants."""

    def __init__(self) -> None:
        # A dict as an ordered set.
        self.names: dict[str, None] = {}

    def check(self, tree: "Tree[Any]", depth: int) -> _Checked:
        """Return the checked tree; raise ConditionError for its first problem."""
        if depth > MAX_NESTING:
            _refuse(tree, f"nests more than {MAX_NESTING} operators; use several rules")
        check: Callable[[Tree[Any], int], _Checked] = getattr(self, f"_{tree.data}")
        checked = check(tree, depth + 1)
        if checked.constant is None and not _uses_names(tree):
            return _folded(tree, checked)
        return checked

    def _operand(self, tree: "Tree[Any]", depth: int, type_: _Type, operator: str) -> _Checked:
        checked = self.check(tree, depth)
        if checked.type is not type_:
            _refuse(tree, f"is {checked.type.value}, but '{operator}' needs {type_.value}")
        return checked

    def _name(self, tree: "Tree[Any]", _depth: int) -> _Checked:
        name = str(tree.children[0])
        if name not in NAMES:
            _refuse(tree, f"{name!r} is unknown; use one of {', '.join(NAMES)}")
        self.names[name] = None
        return _Checked(_Type.INTEGER, lambda values: values[name])

    def _integer(self, tree: "Tree[Any]", _depth: int) -> _Checked:
        return _constant(_Type.INTEGER, _in_range(_value(tree), tree))

    def _boolean(self, tree: "Tree[Any]", _depth: int) -> _Checked:
        return _constant(_Type.BOOLEAN, str(tree.children[0]) == "true")

    def _function(self, tree: "Tree[Any]", _depth: int) -> NoReturn:
        _refuse(tree, f"{str(tree.children[0])!r} is a function; conditions have no functions")

    def _unsupported(self, tree: "Tree[Any]", _depth: int) -> NoReturn:
        _refuse(tree, f"{str(tree.children[0])[:20]} is no integer; conditions have only integers")

    def _membership_of_other(self, tree: "Tree[Any]", _depth: int) -> NoReturn:
        _refuse(tree, "'in' needs a list of integers such as [3, 4]")

    def _minus(self, tree: "Tree[Any]", depth: int) -> _Checked:
        *signs, operand = _parts(tree)
        if operand.data == "integer":
            # The sign belongs to the literal: the least integer has no positive counterpart.
            value = _in_range(-_value(operand), tree)
            for _ in signs[1:]:
                value = _in_range(-value, tree)
            return _constant(_Type.INTEGER, value)
        checked = self._operand(operand, depth, _Type.INTEGER, "-")
        evaluate = checked.evaluate
        for _ in signs:
            evaluate = _negative(evaluate)
        return _Checked(_Type.INTEGER, evaluate)

    def _negation(self, tree: "Tree[Any]", depth: int) -> _Checked:
        *signs, operand = _parts(tree)
        checked = self._operand(operand, depth, _Type.BOOLEAN, "!")
        evaluate = checked.evaluate
        if len(signs) % 2 == 0:
            return _Checked(_Type.BOOLEAN, evaluate)
        return _Checked(_Type.BOOLEAN, lambda values: not evaluate(values))

    def _arithmetic(self, tree: "Tree[Any]", depth: int) -> _Checked:
        left_tree, operator, right_tree = _parts(tree)
        left = self._operand(left_tree, depth, _Type.INTEGER, operator)
        right = self._operand(right_tree, depth, _Type.INTEGER, operator)
        if operator in "/%" and right.constant == 0:
            _refuse(right_tree, "divides by 0")
        return _Checked(_Type.INTEGER, _ARITHMETIC[str(operator)](left.evaluate, right.evaluate))

    def _comparison(self, tree: "Tree[Any]", depth: int) -> _Checked:
        left_tree, operator, right_tree = _parts(tree)
        left = self.check(left_tree, depth)
        if operator not in ("==", "!=") and left.type is not _Type.INTEGER:
            _refuse(left_tree, f"is {left.type.value}, but '{operator}' needs an integer")
        right = self._operand(right_tree, depth, left.type, operator)
        return _Checked(_Type.BOOLEAN, _COMPARISONS[str(operator)](left.evaluate, right.evaluate))

    def _membership(self, tree: "Tree[Any]", depth: int) -> _Checked:
        left_tree, _operator, *items = _parts(tree)
        left = self._operand(left_tree, depth, _Type.INTEGER, "in")
        accepted = set()
        for item in items:
            if item is None:
                _refuse(tree, "'in' needs a list of at least one integer")
            checked = self._operand(item, depth, _Type.INTEGER, "in")
            if checked.constant is None:
                _refuse(item, "a list may contain only integers, no names")
            accepted.add(checked.constant)
        evaluate, values_in = left.evaluate, frozenset(accepted)
        return _Checked(_Type.BOOLEAN, lambda values: evaluate(values) in values_in)

    def _logical(self, tree: "Tree[Any]", depth: int) -> _Checked:
        left_tree, operator, right_tree = _parts(tree)
        left = self._operand(left_tree, depth, _Type.BOOLEAN, operator)
        right = self._operand(right_tree, depth, _Type.BOOLEAN, operator)
        return _Checked(
            _Type.BOOLEAN, _logical(left.evaluate, right.evaluate, decides=operator == "||")
        )

    def _conditional(self, tree: "Tree[Any]", depth: int) -> _Checked:
        if_tree, then_tree, else_tree = _parts(tree)
        condition = self._operand(if_tree, depth, _Type.BOOLEAN, "?").evaluate
        then = self.check(then_tree, depth)
        other = self._operand(else_tree, depth, then.type, "? :")
        if_true, if_false = then.evaluate, other.evaluate
        return _Checked(
            then.type,
            lambda values: if_true(values) if condition(values) else if_false(values),
        )


def _parts(tree: "Tree[Any]") -> list[Any]:
    """The trees and tokens that a tree consists of."""
    return tree.children


def _refuse(tree: "Tree[Any]", problem: str) -> NoReturn:
    raise ConditionError(problem, tree.meta.line, tree.meta.column)


def _uses_names(tree: "Tree[Any]") -> bool:
    return any(True for _ in tree.find_data("name"))


def _folded(tree: "Tree[Any]", checked: _Checked) -> _Checked:
    """The value of a part without names, as a constant."""
    try:
        return _constant(checked.type, checked.evaluate({}))
    except EvaluationError as error:
        _refuse(tree, f"has no value: {error}")


def _value(tree: "Tree[Any]") -> int:
    """The value of an integer literal."""
    return int(str(tree.children[0]), 16 if str(tree.children[0]).startswith("0x") else 10)


def _in_range(value: int, tree: "Tree[Any]") -> int:
    if not MIN_INT <= value <= MAX_INT:
        _refuse(tree, "is outside of 64 bits")
    return value


def _checked(value: int) -> int:
    if MIN_INT <= value <= MAX_INT:
        return value
    raise EvaluationError("the result is outside of 64 bits")


def _quotient(left: int, right: int) -> int:
    """left / right, truncated towards zero."""
    if right == 0:
        raise EvaluationError("division by 0")
    quotient = abs(left) // abs(right)
    return _checked(quotient if (left < 0) == (right < 0) else -quotient)


def _remainder(left: int, right: int) -> int:
    """The remainder of `_quotient`; it has the sign of `left`."""
    return left - right * _quotient(left, right)


def _negative(operand: _Evaluate) -> _Evaluate:
    return lambda values: _checked(-operand(values))


def _logical(left: _Evaluate, right: _Evaluate, *, decides: bool) -> _Evaluate:
    """`||` if True decides, `&&` if False does. One side that decides is enough, even if the other
    has no result."""

    def evaluate(values: Mapping[str, int]) -> bool:
        try:
            if bool(left(values)) is decides:
                return decides
        except EvaluationError:
            if bool(right(values)) is decides:
                return decides
            raise
        return bool(right(values))

    return evaluate


_ARITHMETIC: dict[str, Callable[[_Evaluate, _Evaluate], _Evaluate]] = {
    "+": lambda left, right: lambda values: _checked(left(values) + right(values)),
    "-": lambda left, right: lambda values: _checked(left(values) - right(values)),
    "*": lambda left, right: lambda values: _checked(left(values) * right(values)),
    "/": lambda left, right: lambda values: _quotient(left(values), right(values)),
    "%": lambda left, right: lambda values: _remainder(left(values), right(values)),
}
_COMPARISONS: dict[str, Callable[[_Evaluate, _Evaluate], _Evaluate]] = {
    "==": lambda left, right: lambda values: left(values) == right(values),
    "!=": lambda left, right: lambda values: left(values) != right(values),
    "<": lambda left, right: lambda values: left(values) < right(values),
    "<=": lambda left, right: lambda values: left(values) <= right(values),
    ">": lambda left, right: lambda values: left(values) > right(values),
    ">=": lambda left, right: lambda values: left(values) >= right(values),
}
