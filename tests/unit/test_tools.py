"""The report of skipped tests."""

import pytest

from tests import tools


def test_missing_tools_are_reported_in_one_line() -> None:
    reasons = ["Skipped: missing tool: promtool", "Skipped: missing tool: chromium"]
    assert tools.summary([*reasons, "Skipped: missing tool: chromium"]) == (
        "3 tests skipped without chromium, promtool: run `make test-tools`"
    )


def test_other_reasons_are_named_in_the_same_line() -> None:
    assert tools.summary(["Skipped: only root can", "only root can", "missing tool: npm"]) == (
        "1 test skipped without npm: run `make test-tools`; 2 tests skipped: only root can"
    )
    assert tools.summary([]) == ""


def test_a_missing_tool_skips_and_fails_where_ci_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_TOOLS", {"absent": tools._Program(("no-such-program",), "")})
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="missing tool: absent"):
        tools.tool("absent")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="missing tool: absent"):
        tools.tool("absent")
