"""The pages for users: what they link to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_CODE = re.compile(r"```.*?```", re.DOTALL)


def prose(page: Path) -> str:
    return _CODE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """Name the headings as GitHub does: lower case, blanks as hyphens, no punctuation."""
    headings = (
        re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
        for text in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    )
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        name, _, anchor = link.partition("#")
        if link.startswith("http"):  # nobody is asked from here
            continue
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


def test_pages_have_links_and_headings():
    """The test above cannot pass for want of anything to look at."""
    assert "configuration.md#greetings" in "".join(map(prose, PAGES))
    assert "greetings" in anchors(ROOT / "docs" / "configuration.md")
