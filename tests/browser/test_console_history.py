"""The history of calls in the browser."""

from playwright.sync_api import expect

from tests.browser.conftest import OpenTab


def test_a_call_is_kept_in_the_tab_and_fills_its_form_again(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.expected.append("404")
    page = tab.page
    page.goto("/qa/methods/CreditService/GetCustomer")
    expect(page.locator("[data-history]")).to_be_hidden()
    page.get_by_label("customer_id").fill("999999")
    page.get_by_label("customer_id").press("Enter")
    expect(page.locator("#answer")).to_contain_text("CUSTOMER_NOT_FOUND")
    page.goto("/qa/methods")
    calls = page.locator("[data-history] li")
    expect(calls).to_have_count(1)
    expect(calls).to_contain_text("GetCustomer NOT_FOUND")
    # Only the form is filled in: nothing is called.
    page.get_by_role("button", name="Fill in GetCustomer again").click()
    expect(page.get_by_label("customer_id")).to_have_value("999999")
    expect(page.locator("#answer")).to_have_count(0)
    expect(calls).to_have_count(1)
    # The calls of another user are forgotten, and so is what is not a call.
    for stored in (
        '{"subject": "reader@example", "calls": []}',
        '{"subject": "", "calls": [1, {"id": "x"}]}',
        "nonsense",
    ):
        page.evaluate("(text) => sessionStorage.setItem('credit-console-calls', text)", stored)
        page.goto("/qa/methods")
        expect(page.locator("[data-history]")).to_be_hidden()
    # Another tab of the same browser has none.
    other = page.context.new_page()
    other.goto("/qa/methods")
    expect(other.locator("[data-history]")).to_be_hidden()
