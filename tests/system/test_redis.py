"""Redis behind the balancer, with redis-benchmark and redis-cli before it: one byte lost would end the protocol."""

from __future__ import annotations

import csv

import pytest
from eventually import eventually
from proxy import PATIENT, QUICK, simple

from programs import run_client

CHECK = {"type": "tcp", "send": "PING\r\n", "expect": "PONG", **PATIENT}


@pytest.fixture
def balancer(start, redis):
    return start(simple({"name": "cache", "address": redis.address}, check=CHECK))


def cli(port: int, *words: str) -> str:
    return run_client("redis-cli", "-h", "127.0.0.1", "-p", str(port), *words)


@pytest.mark.parametrize(
    "manner",
    [
        pytest.param(["-t", "set,get,incr,lpush,lrange_100", "-n", "8000"], id="one at a time"),
        pytest.param(["-t", "set,get,incr,lpush,lrange_100", "-n", "40000", "-P", "64"], id="pipelined"),
        pytest.param(["-t", "set,get", "-n", "600", "-d", "1000000"], id="big values"),
        pytest.param(["-t", "set,get", "-n", "3000", "-k", "0"], id="a connection for each"),
    ],
)
def test_redis_benchmark_ends_without_an_error(balancer, redis, manner):
    before = redis.log
    port = balancer.port()
    told = run_client(
        "redis-benchmark",
        *("-h", "127.0.0.1", "-p", str(port), "-c", "40", "--csv", "-e"),
        *manner,
    )
    rows = list(csv.DictReader(told.splitlines()))
    assert len(rows) >= 2, told
    assert all(float(row["rps"]) > 0 for row in rows), told
    assert "rror" not in told, told
    assert redis.log == before, "the server has complained"
    balancer.wait_for_no_sessions()
    cli(port, "FLUSHALL")


def test_every_pipelined_increment_is_counted_once(balancer):
    port = balancer.port()
    cli(port, "DEL", "counter:__rand_int__")
    run_client(
        "redis-benchmark",
        *("-h", "127.0.0.1", "-p", str(port), "-c", "20", "-n", "50000", "-P", "50", "-q", "INCR", "exact"),
    )
    assert cli(port, "GET", "exact").strip() == "50000"
    cli(port, "FLUSHALL")


def test_the_check_sends_ping_and_expects_pong(balancer):
    assert balancer.backends()["cache"]["state"] == "ready"
    assert "tcp" in balancer.status()["pools"][0]["check"]


def test_a_check_that_expects_something_else_takes_the_backend_down(start, redis):
    balancer = start(
        simple({"name": "cache", "address": redis.address}, check={**CHECK, **QUICK, "expect": "+OTHER"})
    )
    assert balancer.backends()["cache"]["state"] == "down"
    # On a busy machine the first answer may come too late to be looked at.
    eventually(lambda: "PONG" in balancer.backends()["cache"]["last_error"], "what came instead is told")
