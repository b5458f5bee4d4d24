"""The servers that the tests of this folder share, and the balancers that each test starts."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from proxy import RunningBalancer, Settings
from servers.mariadb import MariaDb, install
from servers.nginx import Nginx
from servers.postgresql import PostgreSql
from servers.redis import Redis
from servers.sshd import Sshd

from programs import Program
from system.kernel_net import Net

Start = Callable[..., RunningBalancer]


def pytest_configure() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start balancers; end them after the test, and look whether they failed inside."""
    running: list[RunningBalancer] = []
    with ExitStack() as stack:

        def start_one(config: Settings | str, **more: object) -> RunningBalancer:
            balancer = RunningBalancer(tmp_path / f"balancer-{len(running)}", config, **more)
            running.append(balancer)
            stack.callback(balancer.stop)
            return balancer

        yield start_one
    for balancer in running:
        log = balancer.log()
        assert "Traceback" not in log, log
        assert "Warning:" not in log, log  # Python's own: a socket left open, a coroutine never awaited


@pytest.fixture
def net() -> Iterator[Net]:
    """Namespaces for a client, a balancer and two backends; needs root."""
    made = Net()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def nginxes_of_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Nginx]]:
    folder = tmp_path_factory.mktemp("nginx")
    servers = [Nginx(name, folder / name) for name in "abc"]
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
            server.start()
        yield servers


@pytest.fixture
def nginxes(nginxes_of_session: list[Nginx]) -> Iterator[list[Nginx]]:
    """Three nginx: a, b and c. A test may kill them; they are there again for the next."""
    yield nginxes_of_session
    for server in nginxes_of_session:
        (server.files / "health").write_text("well\n")
        if not server.is_running:
            server.start()


@pytest.fixture(scope="session")
def mariadb_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory to copy."""
    return install(tmp_path_factory.mktemp("mariadb") / "template")


@pytest.fixture(scope="session")
def mariadbs(mariadb_template: Path) -> Iterator[list[MariaDb]]:
    """Three MariaDB servers."""
    with ExitStack() as stack:
        servers = []
        for name in ("one", "two", "three"):
            server = MariaDb(name, mariadb_template, mariadb_template.parent / name)
            stack.callback(server.stop)
            servers.append(server)
        yield servers


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSql]:
    server = PostgreSql()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    server = Redis(tmp_path_factory.mktemp("redis") / "one")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    server = Sshd()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def is_root() -> bool:
    return os.geteuid() == 0


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 MiB that nothing can compress or guess."""
    path = tmp_path_factory.mktemp("noise") / "noise"
    path.write_bytes(os.urandom(50 * 1024 * 1024))
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """A network of its own with the address 10.9.0.1; the command that starts a program in it."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a network namespace")
    prepare = "ip link set lo up && ip address add 10.9.0.1/32 dev lo && echo ready && exec sleep 3600"
    with Program(["unshare", "--net", "sh", "-c", prepare], tmp_path / "namespace.txt") as holder:
        holder.wait_until(lambda: "ready" in holder.text(), "the namespace is there")
        yield ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
