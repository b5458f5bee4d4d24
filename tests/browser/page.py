"""The page in the words of an operator: rows, menus, dialogs. Every part is found by its role and name, as people do."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect


class Operator:
    """Somebody at the page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.headline = page.get_by_role("heading", level=1)
        self.dialog = page.get_by_role("dialog")

    def row(self, backend: str) -> Locator:
        """The row of a backend, whatever its state."""
        button = self.page.get_by_role("button", name=f"Actions on {backend}", exact=True)
        return self.page.locator("tr.row").filter(has=button)

    def section(self, title: str) -> Locator:
        return self.page.get_by_role("region", name=title, exact=True)

    def choose(self, backend: str, action: str) -> Locator:
        """Open the menu of a backend and choose; return the dialog that opens."""
        self.page.get_by_role("button", name=f"Actions on {backend}", exact=True).click()
        self.page.get_by_role("menuitem", name=action).click()
        expect(self.dialog).to_be_visible()
        return self.dialog

    def send(self, button: str, *, who: str = "anna", why: str = "a test") -> None:
        """Fill in the open dialog and send it; it closes when the balancer has done it."""
        self.dialog.get_by_label("Who").fill(who)
        self.dialog.get_by_label("Why").fill(why)
        self.dialog.get_by_role("button", name=button, exact=True).click()
        expect(self.dialog).to_have_count(0)

    def is_wider_than_the_window(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))


Look = Callable[..., Operator]
"""Opens the page of a stage; see the fixture of this name."""
