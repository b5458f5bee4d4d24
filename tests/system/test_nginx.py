"""nginx behind the balancer, with wrk and curl before it: no failed request, no byte different."""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from eventually import eventually
from proxy import PATIENT, QUICK, simple
from traffic import Wrk, ask

from programs import run_client

HTTP = {"type": "http", "path": "/health", "expect_body": "well", **PATIENT}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_one_client_after_the_other_reaches_the_backends_in_turn(start, nginxes):
    balancer = start(simple(*nginxes, check=HTTP))
    answers = [ask(balancer.port()) for _ in range(30)]
    assert answers == (answers[:3] * 10)
    assert sorted(answers[:3]) == ["a", "b", "c"]


@pytest.mark.parametrize("strategy", ["round_robin", "least_connections", "maglev"])
def test_wrk_with_keep_alive_sees_no_error(start, nginxes, strategy):
    balancer = start(simple(*nginxes, check=HTTP, strategy=strategy))

    def answered() -> int:
        return sum(each["counters"]["bytes_from_backend"] for each in balancer.backends().values())

    with Wrk(balancer.port(), connections=64) as wrk:
        eventually(lambda: answered() > 1_000_000, "traffic flows")
    assert wrk.load.failed == 0, wrk.load
    assert wrk.load.requests > 64
    balancer.wait_for_no_sessions()


@pytest.mark.parametrize("strategy", ["round_robin", "random", "power_of_two"])
def test_wrk_with_a_connection_for_each_request_sees_no_error(start, nginxes, strategy):
    balancer = start(simple(*nginxes, check=HTTP, strategy=strategy))
    with Wrk(balancer.port(), connections=32, close=True) as wrk:
        eventually(lambda: all(total > 100 for total in balancer.totals().values()), "each has its share")
    assert wrk.load.failed == 0, wrk.load
    balancer.wait_for_no_sessions()
    # wrk counts whole requests only; those under way at its end were sessions too.
    assert wrk.load.requests <= sum(balancer.totals().values())


def test_curl_downloads_50_mib_unchanged_several_at_a_time(start, nginxes, noise, tmp_path):
    for server in nginxes:
        if not (server.files / "noise").exists():
            shutil.copy(noise, server.files / "noise")
    balancer = start(simple(*nginxes))
    url = f"http://127.0.0.1:{balancer.port()}/noise"

    def download(number: int) -> str:
        target = tmp_path / f"download-{number}"
        run_client("curl", "-sS", "--fail", "-o", str(target), url)
        found = sha256(target)
        target.unlink()
        return found

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(download, range(6))) == {sha256(noise)}
    for server in nginxes:
        (server.files / "noise").unlink()


def test_curl_uploads_50_mib_unchanged_several_at_a_time(start, nginxes, noise):
    balancer = start(simple(*nginxes))
    url = f"http://127.0.0.1:{balancer.port()}/uploads"

    def upload(number: int) -> None:
        run_client("curl", "-sS", "--fail", "-T", str(noise), f"{url}/{number}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(upload, range(6)))
    uploads = sorted(path for server in nginxes for path in (server.files / "uploads").iterdir())
    assert sorted(path.name for path in uploads) == [str(number) for number in range(6)]
    assert {sha256(path) for path in uploads} == {sha256(noise)}
    for path in uploads:
        path.unlink()


def test_one_curl_with_many_parallel_transfers_gets_every_one(start, nginxes):
    balancer = start(simple(*nginxes))
    url = f"http://127.0.0.1:{balancer.port()}/name?[1-300]"
    # One connection each: curl may use its first one for all, where the others are not there in time.
    options = ("-sS", "--fail", "-H", "Connection: close", "--parallel", "--parallel-max", "30")
    answers = run_client("curl", *options, url).split()
    assert len(answers) == 300
    assert set(answers) == {"a", "b", "c"}


def test_the_http_check_reads_what_nginx_answers(start, nginxes):
    balancer = start(simple(*nginxes, check=HTTP))
    sick = nginxes[1]
    (sick.files / "health").unlink()
    balancer.wait_for_state("b", "down")
    eventually(lambda: "404" in balancer.backends()["b"]["last_error"], "what nginx answers is told")
    assert {ask(balancer.port()) for _ in range(6)} == {"a", "c"}
    (sick.files / "health").write_text("well\n")
    balancer.wait_for_state("b", "ready")


def test_probes_leave_nothing_in_the_error_log_of_nginx(start, nginxes):
    """Behaviour 26."""
    before = [server.errors for server in nginxes]
    for check in ({"type": "tcp"}, {"type": "http", "path": "/health"}):
        often = {"interval": "50ms", "fast_interval": "50ms", "timeout": "50ms"}
        balancer = start(simple(*nginxes, check={**QUICK, **often, **check}))
        seen = balancer.backends()["a"]["last_probe"]["at"]
        eventually(
            lambda b=balancer, s=seen: b.backends()["a"]["last_probe"]["at"] > s + 1,
            "it was probed for a second",
        )
        balancer.stop()
    assert [server.errors for server in nginxes] == before
