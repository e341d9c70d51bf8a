"""Saved views of lists and their files, in a browser."""

import json
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenTab, Place

VIEWS = "credit-console-views"


def stored(page: Page, views: object) -> None:
    page.evaluate("([key, text]) => localStorage.setItem(key, text)", [VIEWS, json.dumps(views)])
    page.reload()


def test_filters_are_kept_as_a_view_and_lead_to_no_other_page(open_tab: OpenTab) -> None:
    page = open_tab().page
    page.goto("/qa/decisions?outcome=DECLINED&page_token=&other=1")
    page.get_by_text("Save these filters as a view").press("Enter")
    page.get_by_label("Name, kept in this browser only").fill("<b>Declined</b> & more")
    page.keyboard.press("Enter")
    view = page.get_by_role("link", name="<b>Declined</b> & more")
    expect(view).to_have_attribute("href", "/qa/decisions?outcome=DECLINED")
    page.goto("/qa/decisions")
    view.click()
    expect(page.get_by_label("Outcome")).to_have_value("DECLINED")
    page.get_by_role("button", name="Delete the view").click()
    expect(view).to_have_count(0)

    hostile = [
        {"name": "<img src=x onerror=alert(1)>", "query": "//evil.example/?outcome=APPROVED"},
        {"name": "a", "query": "javascript:alert(1)"},
        {"name": "x" * 41, "query": ""},
        {"name": 1, "query": ""},
        None,
    ]
    stored(page, {"/qa/decisions": hostile})
    links = page.locator(".views a")
    expect(links).to_have_count(2)
    assert {link.get_attribute("href") for link in links.all()} == {"/qa/decisions?"}
    expect(page.locator(".views img")).to_have_count(0)
    for views in ({"/qa/decisions": "x"}, "x", None):
        stored(page, views)
        expect(page.get_by_text("Save these filters as a view")).to_be_visible()


def test_a_list_is_saved_as_a_file(open_tab: OpenTab, tmp_path: Path) -> None:
    page = open_tab().page
    page.goto("/qa/customers")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export as .xlsx").click()
    assert download.value.suggested_filename == "customers.xlsx"
    download.value.save_as(tmp_path / "customers.xlsx")
    assert (tmp_path / "customers.xlsx").read_bytes().startswith(b"PK")


def test_without_scripts_a_list_is_filtered_by_its_form(place: Place, open_tab: OpenTab) -> None:
    browser = open_tab().page.context.browser
    assert browser is not None
    scriptless = browser.new_context(base_url=place.url, java_script_enabled=False)
    page = scriptless.new_page()
    page.goto("/qa/loans")
    page.get_by_label("Customer id").fill("1")
    page.get_by_label("State").select_option("CLOSED")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(f"{place.url}/qa/loans?customer_id=1&state=CLOSED")
    expect(page.locator(".views")).to_be_hidden()
    scriptless.close()
