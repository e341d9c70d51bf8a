"""Conditions of rules: what is accepted, where a problem is, and how a condition is evaluated."""

import re
from collections.abc import Mapping

import pytest
from cel_expr_python import cel
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.conditions import (
    MAX_CONDITION_LENGTH,
    MAX_INT,
    MAX_NESTING,
    MIN_INT,
    NAMES,
    ConditionError,
    EvaluationError,
    check_condition,
)

VALUES = dict.fromkeys(NAMES, 0) | {
    "score": 65,
    "days_past_due": 349,
    "asset_class": 4,
    "loan_amount": 5_000_000,
    "age": 41,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True),
        ("false", False),
        ("days_past_due > 30", True),
        ("days_past_due > 30 || asset_class == 4", True),
        ("days_past_due >= 1 && days_past_due <= 30", False),
        ("!(score < 50)", True),
        ("!!(score < 50)", False),
        ("asset_class in [3, 4]", True),
        ("asset_class in [-1, 0x03]", False),
        ("(score > 60) == true", True),
        ("score > 60 != (age > 60)", True),
        ("(score > 60 ? age : loan_amount) == 41", True),
        ("score > 60 ? age > 60 : true", False),
        ("1 + 2 * 3 == 7", True),
        ("(1 + 2) * 3 == 9", True),
        ("10 - 2 - 3 == 5", True),
        ("-7 / 2 == -3", True),
        ("-7 % 2 == -1", True),
        ("7 / -2 == -3", True),
        ("7 % -2 == 1", True),
        ("--age == 41", True),
        ("- age == -41", True),
        (f"{MIN_INT} < {MAX_INT}", True),
        ("true || false && false", True),
        ("age\n  // in years\n  > 18", True),
    ],
)
def test_a_condition_is_evaluated_as_cel_is(text: str, expected: bool) -> None:
    assert check_condition(text).holds(VALUES) is expected


@pytest.mark.parametrize(
    ("text", "problem", "line", "column"),
    [
        # Syntax.
        ("", "ends", 1, 1),
        ("  ", "ends", 1, 3),
        ("score >", "ends", 1, 8),
        ("score > 1 )", "')'", 1, 11),
        ("score >\n  > 1", "'>'", 2, 3),
        ("score = 1", "'='", 1, 7),
        ("score & 1", "'&'", 1, 7),
        ("score > 1; drop", "';", 1, 10),
        ("score.value > 1", "'.value'", 1, 6),
        ("[1, 2] == [1, 2]", "'[1,'", 1, 1),
        ("{1: 2} == {}", "'{1:'", 1, 1),
        ("score == 1 ? true", "ends", 1, 18),
        ("१ == 1", "'१'", 1, 1),
        ("score > 1\x00", "has the character U+0000", 1, 10),
        # Names.
        ("scores > 1", "'scores' is unknown; use one of score, days_past_due", 1, 1),
        ("score > 1 && phone_number == 2", "'phone_number' is unknown", 1, 14),
        ("__import__ == 1", "'__import__' is unknown", 1, 1),
        # Types.
        ("score", "must be true or false, but is an integer", 1, 1),
        ("score + 1", "must be true or false", 1, 1),
        ("score && true", "is an integer, but '&&' needs true or false", 1, 1),
        ("!score", "is an integer, but '!' needs true or false", 1, 2),
        ("-(score > 1) == 1", "is true or false, but '-' needs an integer", 1, 3),
        ("1 < score < 3", "is true or false, but '<' needs an integer", 1, 1),
        ("true > false", "is true or false, but '>' needs an integer", 1, 1),
        ("score == true", "is true or false, but '==' needs an integer", 1, 10),
        ("(score ? true : false)", "is an integer, but '?' needs true or false", 1, 2),
        ("score > 1 ? 1 : true", "is true or false, but '? :' needs an integer", 1, 17),
        ("(score > 1) in [1]", "is true or false, but 'in' needs an integer", 1, 2),
        # Parts of CEL that conditions do not have.
        ("size(score) > 1", "'size' is a function", 1, 1),
        ("has(score)", "'has' is a function", 1, 1),
        ("[1].exists(x, x > 0)", "'[1]", 1, 1),
        ("score == 'a'", "'a' is no integer", 1, 10),
        ('score == "a"', '"a" is no integer', 1, 10),
        ("score > 1.5", "1.5 is no integer", 1, 9),
        ("score > 1e9", "1e9 is no integer", 1, 9),
        ("score > 1u", "1u is no integer", 1, 9),
        ("score == null", "null is no integer", 1, 10),
        ("score in age", "'in' needs a list", 1, 1),
        ("score in []", "'in' needs a list of at least one integer", 1, 1),
        ("score in [age]", "a list may contain only integers", 1, 11),
        # Characters that look like a space, or like nothing.
        ("score > 1 \u00a0", "has the character U+00A0; write it as a space", 1, 11),
        ("score\u00a0> 1", "has the character U+00A0", 1, 6),
        ("score > 1\n\x0b", "has the character U+000B", 2, 1),
        ("\ufeffscore > 1", "has the character U+FEFF", 1, 1),
        # Values.
        ("score / 0 > 1", "divides by 0", 1, 9),
        ("score % (1 - 1) > 1", "divides by 0", 1, 10),
        ("false && 1 / 0 > 1", "divides by 0", 1, 14),
        (f"score > {MAX_INT + 1}", "is outside of 64 bits", 1, 9),
        (f"score > {MIN_INT - 1}", "is outside of 64 bits", 1, 9),
        (f"score > {MAX_INT} + 1", "has no value: the result is outside of 64 bits", 1, 9),
        (f"score > {MIN_INT} / -1", "has no value: the result is outside of 64 bits", 1, 9),
        ("score > 0x10000000000000000", "is outside of 64 bits", 1, 9),
    ],
)
def test_a_wrong_condition_is_refused_with_its_place(
    text: str, problem: str, line: int, column: int
) -> None:
    with pytest.raises(ConditionError) as caught:
        check_condition(text)
    assert problem in caught.value.problem
    assert (caught.value.line, caught.value.column) == (line, column)
    assert str(caught.value).startswith(f"has an error at line {line}, column {column}: ")


@pytest.mark.parametrize(
    "text",
    [
        "true" + " " * MAX_CONDITION_LENGTH,
        "(" * 50_000 + "true" + ")" * 50_000,
        "9" * 100_000 + " > score",
    ],
)
def test_a_long_condition_is_refused_before_it_is_parsed(text: str) -> None:
    with pytest.raises(ConditionError, match="at most 1000 are allowed"):
        check_condition(text)


@pytest.mark.parametrize(
    "text",
    [
        "||".join(["age==1"] * (MAX_NESTING + 2)),
        "+".join(["1"] * (MAX_NESTING + 2)) + " > 1",
        "!(" * (MAX_NESTING + 2) + "true" + ")" * (MAX_NESTING + 2),
        "age>1?true:" * (MAX_NESTING + 2) + "true",
    ],
)
def test_too_much_nesting_is_refused(text: str) -> None:
    with pytest.raises(ConditionError, match="nests more than 64 operators"):
        check_condition(text[:MAX_CONDITION_LENGTH])


def test_the_longest_conditions_are_accepted() -> None:
    parentheses = (MAX_CONDITION_LENGTH - 4) // 2
    assert check_condition("(" * parentheses + "true" + ")" * parentheses).holds({})
    signs = "!" * (MAX_CONDITION_LENGTH - 4)
    assert check_condition(signs + "true").holds({})
    chain = check_condition("||".join(["age==1"] * (MAX_NESTING - 1)))
    assert not chain.holds(VALUES)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("100 / days_past_due > 1", "division by 0"),
        ("100 % days_past_due > 1", "division by 0"),
        ("loan_amount * loan_amount > 1", "outside of 64 bits"),
        ("loan_amount + loan_amount > 1", "outside of 64 bits"),
        ("-loan_amount - 2 < 1", "outside of 64 bits"),
        ("score / -1 > 1", "outside of 64 bits"),
        ("score % -1 == 0", "outside of 64 bits"),
        ("-score > 1", "outside of 64 bits"),
        ("100 / days_past_due > 1 || false", "division by 0"),
        ("true && 100 / days_past_due > 1", "division by 0"),
        ("100 / days_past_due > 1 && 100 % days_past_due > 1", "division by 0"),
        ("(100 / days_past_due > 1 ? true : false)", "division by 0"),
    ],
)
def test_a_condition_without_a_result_says_why(text: str, problem: str) -> None:
    values = dict.fromkeys(NAMES, 0) | {"loan_amount": MAX_INT, "score": MIN_INT}
    with pytest.raises(EvaluationError, match=problem):
        check_condition(text).holds(values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100 / days_past_due > 1 || true", True),
        ("true || 100 / days_past_due > 1", True),
        ("100 / days_past_due > 1 && false", False),
        ("false && 100 / days_past_due > 1", False),
        ("true ? true : 100 / days_past_due > 1", True),
    ],
)
def test_one_side_that_decides_is_enough(text: str, expected: bool) -> None:
    assert check_condition(text).holds(dict.fromkeys(NAMES, 0)) is expected


def test_a_condition_lists_its_names_in_order_of_their_use() -> None:
    condition = check_condition("days_past_due > 30 || asset_class == 4 && days_past_due > age")
    assert condition.names == ("days_past_due", "asset_class", "age")
    assert condition == check_condition(condition.text)


tokens = st.sampled_from(
    [
        *NAMES,
        "true",
        "false",
        "null",
        "in",
        "x",
        "0",
        "7",
        "0x",
        "0xF",
        "1.5",
        "1u",
        "9" * 19,
        *"+-*/%<>!?:()[]{},.&|=;@#'\"",
        "&&",
        "||",
        "==",
        "!=",
        "<=",
        ">=",
        "//",
        "\n",
        "\t",
        "é",
        "\u00a0",
        "\x0b",
        "\x00",
    ]
)


@given(
    st.one_of(st.text(), st.lists(tokens, max_size=60).map(" ".join), st.lists(tokens).map("".join))
)
def test_any_text_is_a_condition_or_refused_with_a_place_in_it(text: str) -> None:
    try:
        condition = check_condition(text)
    except ConditionError as error:
        lines = text.split("\n")
        line = lines[error.line - 1]
        assert 1 <= error.column <= len(line) + 1  # noqa: PT017
    else:
        assert set(condition.names) <= NAMES.keys()


# Google's implementation of CEL, to compare with.
GOOGLE = cel.NewEnv(variables=dict.fromkeys(NAMES, cel.Type.INT))

edges = [0, 1, -1, 2, 7, -7, MAX_INT, MIN_INT, MAX_INT - 1, 2**32, 3_037_000_500]
integers = st.one_of(st.sampled_from(edges), st.integers(MIN_INT, MAX_INT), st.integers(-9, 9))
literals = integers.map(str)


@st.composite
def arithmetic(draw: st.DrawFn, depth: int = 3) -> str:
    """An expression that is an integer."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(st.one_of(st.sampled_from(list(NAMES)), literals))
    left, right = draw(arithmetic(depth - 1)), draw(arithmetic(depth - 1))
    shape = draw(
        st.sampled_from(["({l} {op} {r})", "{l} {op} ({r})", "-({l})", "({b} ? {l} : {r})"])
    )
    test = draw(comparisons(depth - 1))
    return shape.format(l=left, r=right, b=test, op=draw(st.sampled_from("+-*/%")))


@st.composite
def comparisons(draw: st.DrawFn, depth: int = 3) -> str:
    """An expression that is true or false."""
    if depth == 0:
        return draw(st.sampled_from(["true", "false", "age > 18", "100 / age > 2"]))
    left, right = draw(arithmetic(depth - 1)), draw(arithmetic(depth - 1))
    one, other = draw(comparisons(depth - 1)), draw(comparisons(depth - 1))
    items = ", ".join(draw(st.lists(literals, min_size=1, max_size=3)))
    shape = draw(
        st.sampled_from(
            [
                "{l} {compare} {r}",
                "{l} in [{items}]",
                "({a}) == ({b})",
                "({a}) != ({b})",
                "({a}) && ({b})",
                "({a}) || ({b})",
                "!({a})",
                "(({a}) ? {b} : {a})",
            ]
        )
    )
    compare = draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]))
    return shape.format(l=left, r=right, a=one, b=other, items=items, compare=compare)


def result(text: str, values: Mapping[str, int]) -> bool | None:
    """The condition's result; None if it has none."""
    try:
        return check_condition(text).holds(values)
    except EvaluationError:
        return None


def result_of_google(text: str, values: Mapping[str, int]) -> bool | None:
    found = GOOGLE.compile(text).eval(data=dict(values))
    return None if found.type() == cel.Type.ERROR else found.value()


def refusal(text: str) -> str:
    """Why the text is refused; '' if it is accepted."""
    try:
        check_condition(text)
    except ConditionError as error:
        return error.problem
    return ""


# Parts without names have no value: Google's reports it when it evaluates them.
REFUSED = re.compile("divides by 0|has no value: .*|has [0-9]+ characters, .*")


@pytest.mark.slow
@given(comparisons(), st.fixed_dictionaries(dict.fromkeys(NAMES, integers)))
def test_conditions_have_the_results_of_googles_implementation(
    text: str, values: dict[str, int]
) -> None:
    problem = refusal(text)
    if problem:
        assert REFUSED.fullmatch(problem)
    else:
        assert result(text, values) == result_of_google(text, values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-7 / 2 == -3 && -7 % 2 == -1 && 7 % -2 == 1", True),
        ("100 / age > 1 || true", True),
        ("100 / age > 1 || false", None),
        ("100 / age > 1 && false", False),
        ("loan_amount + 1 > 0", None),
        ("-held > 0", None),
        ("held / -1 > 0", None),
        ("held % -1 == 0", None),
    ],
)
def test_edges_have_the_results_of_googles_implementation(text: str, expected: bool | None) -> None:
    values = dict.fromkeys(NAMES, 0) | {"loan_amount": MAX_INT, "held": MIN_INT}
    assert result(text, values) is expected
    assert result_of_google(text, values) is expected
