"""Parked tasks are retried by the keyboard, and discarded without scripts."""

import re

import psycopg
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenTab, Place


def parked(place: Place, subject: str) -> int:
    """Store a parked task and return its id."""
    with psycopg.connect(place.environment["DATABASE_URL"]) as connection:
        row = connection.execute(
            """INSERT INTO tasks (actor, subject, state, attempts, due_at, created_at, last_error)
            VALUES ('recompute_scores', %s, 'PARKED', 5, now(), now(), 'KeyError: x')
            RETURNING task_id""",
            (subject,),
        ).fetchone()
    assert row is not None
    return int(row[0])


def confirmed(page: Page, task_id: int, action: str) -> None:
    page.goto("/qa/parked-tasks")
    page.get_by_role("link", name=f"{action} task {task_id}", exact=True).press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{action} task {task_id}")
    page.get_by_role("button", name=f"Confirm and {action.lower()}").press("Enter")
    expect(page).to_have_url(re.compile("/qa/parked-tasks$"))
    expect(page.locator(".box[role=status]")).to_contain_text(f"Task {task_id}")
    expect(page.get_by_role("link", name=f"{action} task {task_id}")).to_have_count(0)


def test_a_task_is_retried_by_the_keyboard(place: Place, open_tab: OpenTab) -> None:
    confirmed(open_tab().page, parked(place, "all"), "Retry")


def test_a_task_is_discarded_without_scripts(place: Place, open_tab: OpenTab) -> None:
    browser = open_tab().page.context.browser
    assert browser is not None
    scriptless = browser.new_context(base_url=place.url, java_script_enabled=False)
    confirmed(scriptless.new_page(), parked(place, "none"), "Discard")
    scriptless.close()
