"""One Chromium (Debian's, nothing is downloaded) for the tests of a file, a page and a balancer for each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

sys.path.append(str(Path(__file__).parents[1] / "system"))  # its balancer and its programs serve here too

from page import Look, Operator
from stage import Begin, Stage

from programs import find

PATIENCE_MS = 20_000
"""Much longer than anything takes; only a failure waits so long."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for longer: playwright runs an event loop in this thread, and no other can run beside it.
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Start a balancer with backends of these names."""
    stages: list[Stage] = []
    with ExitStack() as stack:

        def begin_one(*names: str, **more: str) -> Stage:
            stage = stack.enter_context(Stage(tmp_path / f"stage-{len(stages)}", names, **more))
            stages.append(stage)
            return stage

        yield begin_one
    for stage in stages:
        log = stage.log()
        assert "Traceback" not in log, log


@pytest.fixture(scope="module")
def stage_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("shop") / "stage", ("red", "blue")) as stage:
        yield stage
    assert "Traceback" not in stage.log(), stage.log()


@pytest.fixture
def stage(stage_of_module: Stage) -> Iterator[Stage]:
    """A balancer before ``red`` and ``blue`` that many tests share; each finds it as at the start."""
    yield stage_of_module
    stage_of_module.reset()


@pytest.fixture
def look(browser: Browser) -> Iterator[Look]:
    """Open the page as an operator does. What the browser complains of fails the test."""
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    def open_one(
        stage: Stage,
        *,
        is_up: bool = True,
        width: int = 1280,
        scheme: str = "light",
        before: Callable[[Page], object] = lambda _: None,
    ) -> Operator:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page: Page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"alert: {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda said: complaints.append(said.text) if "Policy" in said.text else None)
        before(page)
        page.goto(stage.url)
        operator = Operator(page)
        if is_up:
            expect(page.locator("#content")).to_be_visible()
        return operator

    yield open_one
    for context in contexts:
        context.close()
    assert not complaints
