"""Addresses that receive forms, and the pages with these forms."""

import re

_FORM_PAGES = (
    (re.compile(r"(/qa/customers/[^/]+/loans/[^/]+)/pay"), r"\1"),
    (re.compile(r"/qa/checks/[^/]+"), "/qa/checks"),
    (re.compile(r"/qa/eligibility/answer"), "/qa/eligibility"),
    (re.compile(r"/qa/overview"), "/qa/"),
    (re.compile(r"(/qa/ingestions/[^/]+)/progress"), r"\1"),
    (re.compile(r"(/qa/scorecards/[^/]+)/(?:trial|end)"), r"\1"),
    (re.compile(r"(/qa/offers/[^/]+)/(?:accept|withdraw)"), r"\1"),
    (re.compile(r"(/qa/backtests/[^/]+)/progress"), r"\1"),
    (re.compile(r"(/qa/decisions/[^/]+)/review"), r"\1"),
    (re.compile(r"/qa/logout"), "/qa/"),
)


def form_page(path: str) -> str:
    """Return the page of a form or of a page fragment. Any other path is its own page."""
    for pattern, page_path in _FORM_PAGES:
        if match := pattern.fullmatch(path):
            return match.expand(page_path)
    return path
