"""The Dockerfile and the compose example, as far as they can be judged without a Docker daemon."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from easyproxy.admin.server import AdminServer
from easyproxy.config.load import examine
from easyproxy.config.schema import AdminConfig
from easyproxy.control.status import Status
from easyproxy.engine.relay import RelayEngine
from easyproxy.model import Address

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "packaging" / "docker"


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word, rest.strip()) for line in lines if line for word, _, rest in [line.partition(" ")]]


STEPS = instructions()
LAST_STAGE = STEPS[max(place for place, (word, _) in enumerate(STEPS) if word == "FROM") :]


def value(word: str) -> str:
    [found] = [rest for each, rest in LAST_STAGE if each == word]
    return found


def test_every_image_has_a_version():
    [argument] = [rest for word, rest in STEPS if word == "ARG"]
    assert re.fullmatch(r"PYTHON=3\.\d+", argument)
    images = [rest.split()[0] for word, rest in STEPS if word == "FROM"]
    assert images == ["python:${PYTHON}-slim"] * 2
    for service in compose()["services"].values():
        assert "build" in service or re.fullmatch(r"\S+:[\d.]+\S*", service["image"])


def test_it_does_not_run_as_root():
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", value("USER"))  # a number: Kubernetes can see that it is not 0
    words = [word for word, _ in LAST_STAGE]
    assert words.index("USER") > max(place for place, word in enumerate(words) if word in {"RUN", "COPY"})


def test_signals_reach_the_program_itself():
    """In the shell form, a shell is process 1 and swallows SIGTERM."""
    for word in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(value(word)), list)
    assert json.loads(value("ENTRYPOINT")) == ["easyproxy"]
    assert value("STOPSIGNAL") == "SIGTERM"


def test_what_is_copied_is_there_and_not_ignored():
    ignore = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    for word, rest in STEPS:
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in ignore


def test_the_package_is_made_of_what_is_copied():
    """Files that pyproject.toml names and that were not copied would fail the build."""
    copied = {
        source
        for word, rest in STEPS
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    project = (ROOT / "pyproject.toml").read_text()
    for name in re.findall(r'^(?:readme|license-files) = \[?"([^"]+)"', project, re.MULTILINE):
        assert name in copied
    assert "src" in copied


class Quiet:
    """A balancer of which nobody asks anything."""

    def status(self) -> Status:
        raise AssertionError("the health check asks for nothing of the balancer")


@pytest.mark.anyio
async def test_the_health_check_finds_a_living_balancer_and_no_other():
    command = json.loads(value("HEALTHCHECK").partition("CMD ")[2])
    default = str(AdminConfig().bind)
    assert command[0] == "python"
    assert default in command[2]

    async def run(address: Address) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(part.replace(default, str(address)) for part in command[1:]),
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await process.wait()

    async with AdminServer(Quiet(), Address("127.0.0.1", 0)) as server:
        address = server.address
        assert await run(address) == 0
    assert await run(address) == 1


def compose() -> dict:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_the_compose_example_fits_its_configuration():
    loaded = examine(DOCKER / "easyproxy.yaml", strategies=RelayEngine.strategies)
    assert not loaded.warnings
    document, config = compose(), loaded.config
    service = document["services"]["easyproxy"]
    assert [mapping.split(":")[1] for mapping in service["ports"]] == [
        str(listener.bind.port) for listener in config.listeners
    ]
    hosts = {backend.address.host for pool in config.pools.values() for backend in pool.backends}
    assert hosts == set(service["depends_on"]) == set(document["services"]) - {"easyproxy"}
    assert (DOCKER / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).exists()
    assert float(service["stop_grace_period"].removesuffix("s")) > config.drain_timeout
    places = [volume.split(":")[1] for volume in service["volumes"]]
    assert places == [json.loads(value("CMD"))[1], value("VOLUME")]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
