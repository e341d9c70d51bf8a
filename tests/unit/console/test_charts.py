"""Charts are well-formed, stay in their frame, match their figures, and have a description."""

import re
from xml.etree import ElementTree as ET

import pytest
from google.type.date_pb2 import Date
from hypothesis import given, settings
from hypothesis import strategies as st

from credit_service.console import charts, formats
from credit_service.console.charts import ScorePoint
from credit_service.v1 import loan_pb2
from credit_service.v1.scorecard_pb2 import ScoreCounts


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - made here


def installments(principals: list[int], interests: list[int]) -> list[loan_pb2.Installment]:
    balance = sum(principals)
    made = []
    for number, (principal, interest) in enumerate(zip(principals, interests, strict=True), 1):
        balance -= principal
        made.append(
            loan_pb2.Installment(
                number=number,
                due_date=Date(year=2020 + number // 12, month=number % 12 + 1, day=5),
                payment=formats.money_of(principal + interest),
                principal=formats.money_of(principal),
                interest=formats.money_of(interest),
                balance=formats.money_of(balance),
            )
        )
    return made


@pytest.mark.parametrize(
    ("value", "full", "width"),
    [
        (0, 100, "0"),
        (25, 100, "25"),
        (1, 3, "33.3"),
        (100, 100, "100"),
        (300, 100, "100"),
        (5, 0, "0"),
    ],
)
def test_the_width_of_a_bar_is_its_share(value: int, full: int, width: str) -> None:
    assert parsed(charts.bar(value, full)).findall("rect")[1].get("width") == width


def test_a_waterfall_step_starts_at_the_end_of_the_last() -> None:
    rect = parsed(charts.span_bar(3500, 6000, 10_000)).findall("rect")[1]
    assert (rect.get("x"), rect.get("width")) == ("35", "25")
    down = parsed(charts.span_bar(6000, 0, 10_000)).findall("rect")[1]
    assert (down.get("x"), down.get("width")) == ("0", "60")


@pytest.mark.parametrize(
    ("used", "full", "dash"), [(50, 100, "500"), (0, 100, None), (200, 100, "1000"), (1, 0, "1000")]
)
def test_the_gauge_fills_by_the_debt_and_never_beyond(
    used: int, full: int, dash: str | None
) -> None:
    svg = parsed(charts.gauge(used, full, "₹1", "free", "Debt"))
    fills = [each for each in svg.findall("path") if "gauge-fill" in (each.get("class") or "")]
    assert [each.get("stroke-dasharray", "").split()[0] for each in fills] == (
        [dash] if dash else []
    )
    if used > full:
        assert "declined" in (fills[0].get("class") or "")


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(1, 2, "50 %"), (2, 3, "67 %"), (0, 4, "0 %"), (0, 0, "—")]
)
def test_the_ring_shows_the_share_in_percent(part: int, whole: int, text: str) -> None:
    assert parsed(charts.ring(part, whole, "x")).find("text").text == text  # type: ignore[union-attr]


def test_titles_and_labels_are_escaped() -> None:
    svg = charts.gauge(1, 2, "<b>", '"&', '<script>"')
    parsed(svg)
    assert "<script>" not in svg
    assert "<b>" not in svg
    assert "&lt;script&gt;" in svg


@pytest.mark.parametrize("count", [0, 1, 2, 61])
def test_the_score_line_has_a_point_for_each_score_while_there_is_room(count: int) -> None:
    points = [ScorePoint(1000 + 60 * n, n % 101, f"{n} Jan, x: {n}") for n in range(count)]
    svg = parsed(charts.score_line(points))
    assert len(svg.findall("circle")) == (count if count <= 60 else 1)
    assert svg.get("role") == "img"
    assert (svg.get("aria-label") or "").startswith("Score history")


def test_the_height_in_the_score_line_is_the_score() -> None:
    svg = parsed(charts.score_line([ScorePoint(0, 0, "a"), ScorePoint(9, 100, "b")]))
    low, high = (each.get("cy") or "" for each in svg.findall("circle"))
    assert (low, high) == ("168", "12")


@given(st.lists(st.tuples(st.integers(1, 10**12), st.integers(0, 10**11)), max_size=480))
@settings(max_examples=30)
def test_any_schedule_is_drawn_within_its_frame(split: list[tuple[int, int]]) -> None:
    lines = installments([each[0] for each in split], [each[1] for each in split])
    svg = parsed(charts.schedule_chart(lines, "Schedule"))
    _, _, width, height = map(int, (svg.get("viewBox") or "").split())
    for rect in svg.findall("rect"):
        x, y, w, h = (float(rect.get(name) or "") for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
    for path in svg.findall("path"):
        for x_text in re.findall(r"H ([\d.]+)", path.get("d") or ""):
            assert 0 <= float(x_text) <= width


def test_the_balance_curve_starts_at_the_top_and_ends_at_the_bottom() -> None:
    svg = parsed(charts.schedule_chart(installments([100, 100], [10, 5]), "Schedule"))
    line = next(each for each in svg.findall("path") if each.get("class") == "line")
    heights = re.findall(r"(?:M [\d.]+|V) ([\d.]+)", line.get("d") or "")
    assert heights == ["24", "84", "144"]
    principal = [each for each in svg.findall("rect") if each.get("class") == "principal"]
    assert [each.get("height") for each in principal] == ["90.9", "90.9"]


def test_no_chart_needs_a_style_attribute_which_the_policy_forbids() -> None:
    lines = installments([1], [1])
    for svg in (
        charts.bar(1, 2),
        charts.gauge(1, 2, "a", "b", "c"),
        charts.ring(1, 2, "t"),
        charts.score_line([ScorePoint(1, 1, "x")]),
        charts.schedule_chart(lines, "t"),
    ):
        assert "style" not in svg


def test_scores_are_counted_in_bands_of_ten_with_100_in_the_last() -> None:
    counts = [
        ScoreCounts(score=score, before=before, after=after)
        for score, before, after in ((0, 4, 0), (9, 1, 2), (100, 0, 3))
    ]
    drawn = charts.score_distribution(counts, "Customers")
    assert "Customers. 0 and more 5 and 2, 90 and more 0 and 3" in drawn
    assert drawn.count('class="principal"') == drawn.count('class="interest"') == 10
    assert charts.score_distribution([], "None")
