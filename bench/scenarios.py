"""What is measured: the load generator of each scenario, and how its output is read. Pure: argv out, numbers in.

The generators are not ours: redis-benchmark, wrk and iperf3. Idle sessions are measured elsewhere (idle.py).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

SERVICES = ("redis", "http", "bulk", "hold")
"""What the server runs, and every balancer has one listener for: in this order on neighbouring ports."""


class UnreadableOutput(ValueError):  # noqa: N818 - it names the event
    """A load generator printed something else than a result, or a result with failures in it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of a burst: the rate in the scenario's unit, and how many operations the CPU time is divided by."""

    rate: float
    operations: float
    latency_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way of loading a balancer.

    Attributes:
        title: for tables and the plot.
        unit: of the rate; more is better in every scenario.
        operation: what CPU time is given per.
        service: the listener that it loads.
        program: the load generator.
        command: its command line, from host, port, seconds, and the operations that would take about so long.
        parse: reads its output; raises UnreadableOutput.
        counted: the length of the load is a number of operations, not of seconds.
    """

    name: str
    title: str
    unit: str
    operation: str
    service: str
    program: str
    command: Callable[[str, int, int, int], list[str]]
    parse: Callable[[str], Measured]
    counted: bool = False


def parse_redis(text: str) -> Measured:
    """Read ``redis-benchmark --csv``. The operations are known to who asked for them: they stand as 0 here."""
    rows = list(csv.DictReader(io.StringIO(text[text.find('"test"') :])))
    if not rows or "rps" not in rows[0]:
        raise UnreadableOutput(f"redis-benchmark: {text.strip()[:200]!r}")
    row = rows[0]
    return Measured(
        rate=float(row["rps"]),
        operations=0,
        latency_ms={name: float(row[f"{name}_latency_ms"]) for name in ("p50", "p99")},
    )


def parse_wrk(text: str) -> Measured:
    """Read ``wrk --latency``. A burst with answers other than 2xx or with broken sessions is no result.

    wrk counts as a read error what it meets when its time is up in the middle of an answer; a handful per burst
    is the end of the burst, not the balancer.
    """
    rate = re.search(r"^Requests/sec:\s+([\d.]+)", text, re.MULTILINE)
    count = re.search(r"^\s+(\d+) requests in", text, re.MULTILINE)
    if rate is None or count is None or not int(count[1]):
        raise UnreadableOutput(f"wrk: {text.strip()[-200:]!r}")
    if refused := re.search(r"Non-2xx or 3xx responses: (\d+)", text):
        raise UnreadableOutput(f"wrk: {refused[0]}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    if errors and sum(map(int, errors.groups())) > int(count[1]) / 1000:
        raise UnreadableOutput(f"wrk: {errors[0]} in {count[1]} requests")
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    percentiles = re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)$", text, re.MULTILINE)
    latency_ms = {f"p{percent}": float(value) * scale[unit] for percent, value, unit in percentiles}
    return Measured(float(rate[1]), int(count[1]), latency_ms)


def parse_iperf3(text: str) -> Measured:
    """Read ``iperf3 --json``: Gb/s as the client received them, and MiB for the CPU time."""
    try:
        result = json.loads(text)
        received = result["end"]["sum_received"]
        return Measured(received["bits_per_second"] / 1e9, received["bytes"] / 2**20)
    except (ValueError, KeyError) as error:
        raise UnreadableOutput(f"iperf3: {text.strip()[:200]!r}") from error


def scenarios(cores: int) -> list[Scenario]:
    """Return every scenario of a machine with so many cores."""
    threads = str(
        max(1, cores // 4)
    )  # a generator's thread drives several times what a balancer's core can do

    def redis(connections: int) -> Callable[[str, int, int, int], list[str]]:
        def command(host: str, port: int, seconds: int, operations: int) -> list[str]:
            del seconds  # redis-benchmark knows only a number of requests
            where = ["-h", host, "-p", str(port), "-c", str(connections), "-n", str(operations)]
            return ["redis-benchmark", *where, "-t", "ping_mbulk", "--csv"]

        return command

    def wrk(path: str, *headers: str) -> Callable[[str, int, int, int], list[str]]:
        def command(host: str, port: int, seconds: int, operations: int) -> list[str]:
            del operations
            load = ["-c", "50", "-t", threads, "-d", f"{seconds}s", "--latency"]
            return ["wrk", *load, *(f"-H{header}" for header in headers), f"http://{host}:{port}{path}"]

        return command

    def iperf3(streams: int) -> Callable[[str, int, int, int], list[str]]:
        def command(host: str, port: int, seconds: int, operations: int) -> list[str]:
            del operations
            where = ["-c", host, "-p", str(port)]
            return ["iperf3", *where, "-P", str(streams), "-t", str(seconds), "--reverse", "--json"]

        return command

    per_request = ("requests/s", "request")
    return [
        Scenario(
            "redis-1",
            "1 connection",
            *per_request,
            "redis",
            "redis-benchmark",
            redis(1),
            parse_redis,
            counted=True,
        ),
        Scenario(
            "redis-50",
            "50 connections",
            *per_request,
            "redis",
            "redis-benchmark",
            redis(50),
            parse_redis,
            counted=True,
        ),
        Scenario(
            "connections",
            "new connections",
            "connections/s",
            "connection",
            "http",
            "wrk",
            wrk("/small", "Connection: close"),
            parse_wrk,
        ),
        Scenario("http-1k", "1 KiB responses", *per_request, "http", "wrk", wrk("/1k"), parse_wrk),
        Scenario("http-100k", "100 KiB responses", *per_request, "http", "wrk", wrk("/100k"), parse_wrk),
        Scenario("bulk-1", "bulk, 1 stream", "Gb/s", "MiB", "bulk", "iperf3", iperf3(1), parse_iperf3),
        Scenario("bulk-4", "bulk, 4 streams", "Gb/s", "MiB", "bulk", "iperf3", iperf3(4), parse_iperf3),
    ]
