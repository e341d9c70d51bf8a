"""Every page of the routing table by keyboard and without scripts, as far as its HTML shows it."""

import re
from html.parser import HTMLParser
from uuid import uuid4

from credit_service.console import app
from tests.unit.console.test_production import recording

# Pages that need more than an empty message of the service. tests/browser opens them.
_NEED_DATA = {
    "/qa/customers/{customer_id}/loans/{loan_id}/key-facts",
    "/qa/offers/{offer_id}/key-facts",
    "/qa/scorecards/{version}",
    "/qa/draft",
}
# What only a script can do, and what the page offers instead or does not need.
_BY_SCRIPT = {
    "menu-button",
    "data-copy",
    "data-print",
    "data-forget",
    "data-run-flow",
    "data-run-all",
}


class Reader(HTMLParser):
    """The parts of a page that a keyboard reaches, in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.focusable: list[tuple[str, dict[str, str]]] = []
        self.fields: list[dict[str, str]] = []
        self.labels: set[str] = set()
        self.ids: list[str] = []
        self.forms: list[dict[str, int]] = []
        self.faults: list[str] = []
        self._in_label = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids += [found["id"]] if "id" in found else []
        if tag == "form":
            self.forms.append({"buttons": 0, "search": found.get("role") == "search"})
        if tag == "label":
            self._in_label += 1
            self.labels.add(found.get("for", ""))
        if int(found.get("tabindex", "0")) > 0:
            self.faults.append(f"changes the order of focus: {found}")
        is_hidden = "hidden" in found or found.get("type") == "hidden"
        if is_hidden or tag not in ("a", "button", "input", "select", "textarea", "summary"):
            return
        self.focusable.append((tag, found))
        if tag == "button":
            self._button(found)
        elif tag in ("input", "select", "textarea"):
            self.fields.append(found | ({"aria-label": "wrapped"} if self._in_label else {}))

    def handle_endtag(self, tag: str) -> None:
        self._in_label -= tag == "label"

    def _button(self, found: dict[str, str]) -> None:
        if found.get("type") != "button":
            self.forms[-1]["buttons"] += 1
        elif not _BY_SCRIPT & {*found, *found.get("class", "").split()}:
            self.faults.append(f"does nothing without scripts: {found}")

    def problems(self) -> list[str]:
        """What a person with a keyboard, a screen reader or no scripts could not use."""
        _, first = self.focusable[0]
        if first.get("href") != "#main" or "main" not in self.ids:
            self.faults.append("the first stop is no link to the content")
        named = self.labels | {""}
        self.faults += [
            f"has no label: {each}"
            for each in self.fields
            if "aria-label" not in each and each.get("id", "-") not in named - {""}
        ]
        self.faults += ["a form has no button" for each in self.forms if not any(each.values())]
        self.faults += [f"two elements have the id {each}" for each in _repeated(self.ids)]
        return self.faults


def _repeated(ids: list[str]) -> set[str]:
    return {each for each in ids if ids.count(each) > 1}


def test_every_page_is_usable_by_keyboard_and_without_scripts() -> None:
    known = {
        "{ingestion_id}": str(uuid4()),
        "{backtest_id}": str(uuid4()),
        "{service}": "CreditService",
        "{method}": "UpdateCustomer",
        "{kind}": "loans",
        "{file}": "decisions.csv",
    }
    paths = {path for method, path, _ in app._PAGES if method == "GET"}
    read, faults, broken = 0, {}, set()
    with recording("test") as (_, visitor):
        for path in sorted(paths):
            address = re.sub(r"\{[a-z_]+\}", lambda name: known.get(name[0], "1"), path)
            answer = visitor.ask(address)
            if answer.status >= 500:
                broken.add(path)
            # Files, redirects and parts of pages have no page of their own.
            if answer.status == 303 or b"<main" not in answer.body:
                continue
            read += 1
            if found := Reader(answer.body.decode()).problems():
                faults[address] = found
    assert broken == _NEED_DATA
    assert faults == {}
    assert read > 40


def test_the_faults_of_a_page_are_found() -> None:
    page = (
        '<a href="/x">X</a><button type="button">Y</button><form><input id="a"></form>'
        '<p id="b" tabindex="2"></p><p id="b"></p><main id="main"></main>'
    )
    assert len(Reader(page).problems()) == 6
