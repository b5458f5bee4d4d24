"""Takes the pictures of the status page for the README, from a real balancer with real traffic and one dead backend.

    pip install playwright          # its Python part only; the browser is the system's
    python docs/images/make.py      # needs chromium, and a minute; Inter (fonts-inter) looks best

Writes status-light.png, status-dark.png, status-narrow.png, and status-drain.png and status-story.png (a dialog and a
story), beside this file.
"""

# ruff: noqa: D103, S101 - a script for those who write the README

from __future__ import annotations

import asyncio
import math
import random
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright

from easyproxy import Balancer
from easyproxy.cli.client import post
from easyproxy.demo.stage import Stage, free_ports
from easyproxy.model import Address

HERE = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
POOLS = {"orders": ["db-1", "db-2", "db-3", "standby"], "web": ["web-1", "web-2"]}
ADMIN_PORT, LISTENERS_PORT = 7259, 9527  # or the next that are free
CHANGE = {
    "backend": "web/web-2",
    "who": "anna",
    "why": "kernel update",
    "ttl": "30m",
}  # laid over before the pictures
VIEWS = {"light": ("light", 1240, 1240), "dark": ("dark", 1240, 1240), "narrow": ("light", 390, 1240)}
DIES = "db-3"
SECONDS_BEFORE = 15  # until the backend dies
SECONDS_AFTER = 45  # until the picture
CLIENTS = 90


def configuration(ports: dict[str, int], listeners: dict[str, int], admin: str) -> dict[str, object]:
    def backend(name: str) -> dict[str, object]:
        settings: dict[str, object] = {"name": name, "address": f"127.0.0.1:{ports[name]}"}
        if name == "standby":
            settings["backup"] = True
        elif name.startswith("db"):
            settings["max_sessions"] = 40
        return settings

    return {
        "listeners": [
            {"bind": f"127.0.0.1:{listeners['orders']}", "pool": "orders", "max_sessions": 10000},
            {"bind": f"127.0.0.1:{listeners['web']}", "pool": "web"},
        ],
        "pools": {
            "orders": {
                "strategy": "least_connections",
                "check": {"type": "tcp", "interval": "1s"},
                "backends": [backend(name) for name in POOLS["orders"]],
            },
            "web": {
                "check": {"type": "http", "interval": "2s"},
                "backends": [backend(name) for name in POOLS["web"]],
            },
        },
        "admin": {"bind": admin},
    }


async def client(number: int, listeners: dict[str, int]) -> None:
    """Come and go, and ask now and then: more in some half minutes than in others."""
    port = listeners["orders" if number % 3 else "web"]
    source = (f"127.0.0.{2 + int(random.paretovariate(0.7)) % 12}", 0)
    while True:
        if number > CLIENTS * (0.7 + 0.3 * math.sin(time.time() / 7)):
            await asyncio.sleep(0.5)
            continue
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=source)
            try:
                for _ in range(random.randint(3, 60)):
                    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * random.randint(1, 40))
                    await reader.readuntil(b"\r\n\r\n")
                    await asyncio.sleep(random.expovariate(5))
            finally:
                writer.close()


async def take(browser: Browser, stack: AsyncExitStack, admin: str) -> dict[str, Page]:
    pages = {}
    for name, (scheme, width, height) in VIEWS.items():
        context = await browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": height}, device_scale_factor=1.5
        )
        stack.push_async_callback(context.close)
        pages[name] = await context.new_page()
        await pages[name].goto(f"http://{admin}/")
    return pages


async def operate(page: Page) -> None:
    """Show what is asked before a change."""
    await page.get_by_role("button", name="Actions on db-1").click()
    await page.get_by_role("menuitem", name="Drain").click()
    await page.get_by_label("Close what is left after").fill("5m")
    await page.get_by_label("Why").fill("a new disk")
    await page.get_by_label("Who").fill("anna")
    await page.screenshot(path=HERE / "status-drain.png")


async def tell(page: Page) -> None:
    """Show the story of the backend that is down."""
    await page.get_by_role("button", name=DIES, exact=True).click()
    await page.locator(".lines li").first.wait_for()
    await page.screenshot(path=HERE / "status-story.png")


async def main() -> None:
    names = [name for pool in POOLS.values() for name in pool]
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(Stage(names, lambda _: None, restart_after_s=3600))
        ports = {actor.name: actor.port for actor in stage.actors}
        listeners = dict(zip(POOLS, free_ports(len(POOLS), LISTENERS_PORT), strict=True))
        admin = f"127.0.0.1:{free_ports(1, ADMIN_PORT)[0]}"
        await stack.enter_async_context(Balancer(configuration(ports, listeners, admin), workers="process"))
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        stack.push_async_callback(browser.close)
        traffic = [asyncio.create_task(client(number, listeners)) for number in range(CLIENTS)]
        pages = await take(browser, stack, admin)
        await asyncio.sleep(SECONDS_BEFORE)
        victim = next(actor for actor in stage.actors if actor.name == DIES)
        assert victim.process is not None
        victim.process.kill()
        await asyncio.to_thread(post, Address.parse(admin), "/api/drain", CHANGE)
        await asyncio.sleep(SECONDS_AFTER)
        for name, page in pages.items():
            await page.screenshot(path=HERE / f"status-{name}.png")
        await operate(pages["light"])
        await tell(pages["dark"])
        for task in traffic:
            task.cancel()
        await asyncio.gather(*traffic, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
