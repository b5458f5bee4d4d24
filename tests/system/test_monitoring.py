"""What monitoring reads, judged by those who read it: promtool, and HAProxy's own page and exporter."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from eventually import eventually
from listening import listening
from prometheus_client.parser import text_string_to_metric_families as parse
from proxy import QUICK, RunningBalancer

from ports import free_port
from programs import Program, is_listening, run_client

PACKAGING = Path(__file__).parents[2] / "packaging"
VARIABLES = {"$instance": ".*", "$pool": ".*", "$__rate_interval": "1m", "$__range": "1m"}
QUESTION, ANSWER = b"q" * 300, b"a" * 70_000
TIMES = 12
HAPROXY = """
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend front
  bind 127.0.0.1:{front}
  default_backend web
backend web
  balance roundrobin
  server good 127.0.0.1:{good} check inter 200ms rise 1 fall 3
  server dead 127.0.0.1:{dead} check inter 200ms rise 1 fall 3 weight 3
  server spare 127.0.0.1:{spare} check inter 200ms rise 1 fall 3 backup
frontend stats
  mode http
  bind 127.0.0.1:{stats}
  http-request use-service prometheus-exporter if {{ path /metrics }}
  stats enable
  stats uri /stats
  stats show-legends
"""


def answer(client: socket.socket) -> None:
    """Read the question and answer."""
    got = 0
    while got < len(QUESTION) and (data := client.recv(65536)):
        got += len(data)
    if got:  # a probe says nothing
        client.sendall(ANSWER)


def converse(port: int) -> None:
    for _ in range(TIMES):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(QUESTION)
            assert b"".join(iter(lambda: client.recv(65536), b"")) == ANSWER


def get(balancer: RunningBalancer, path: str, *more: str) -> str:
    return run_client(
        "curl", "-sS", "--fail", "--unix-socket", balancer.admin.path, *more, f"http://localhost{path}"
    )


@pytest.fixture
def pair(start, tmp_path: Path) -> Iterator[tuple[RunningBalancer, int]]:
    """Give our balancer and HAProxy (its port of statistics), alike, after the same conversations."""
    with listening(answer) as good, listening(answer) as spare:
        front, stats, dead = free_port(), free_port(), free_port()
        probe = {"type": "tcp", **QUICK, "rise": 1, "fall": 1}
        balancer = start(
            {
                "admin": {"bind": f"unix:{tmp_path}/balancer-0/admin.sock", "haproxy_compatible": True},
                "listeners": [{"name": "front", "bind": "127.0.0.1:0", "pool": "web"}],
                "pools": {
                    "web": {
                        "check": probe,
                        "backends": [
                            {"name": "good", "address": f"127.0.0.1:{good}"},
                            {"name": "dead", "address": f"127.0.0.1:{dead}", "weight": 3},
                            {"name": "spare", "address": f"127.0.0.1:{spare}", "backup": True},
                        ],
                    }
                },
            }
        )
        config = tmp_path / "haproxy.cfg"
        config.write_text(HAPROXY.format(front=front, stats=stats, good=good, dead=dead, spare=spare))
        with Program(["haproxy", "-f", str(config)], tmp_path / "haproxy.txt") as haproxy:
            haproxy.wait_until(lambda: is_listening(stats), "it listens")
            eventually(lambda: rows(theirs(stats, "/stats;csv"))["web", "dead"]["status"] == "DOWN", "it saw")
            balancer.wait_for_state("dead", "down")
            converse(front)
            converse(balancer.port())
            balancer.wait_for_no_sessions()
            eventually(lambda: rows(theirs(stats, "/stats;csv"))["front", "FRONTEND"]["scur"] == "0", "none")
            yield balancer, stats


def theirs(port: int, path: str) -> str:
    return run_client("curl", "-sS", "--fail", f"http://127.0.0.1:{port}{path}")


def rows(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """Read the CSV as HAProxy's clients do: by the names in its first line."""
    lines = text.removeprefix("# ").splitlines()
    return {(row["pxname"], row["svname"]): row for row in csv.DictReader(lines)}


def test_after_the_same_sessions_haproxy_and_we_say_the_same(pair):
    balancer, stats = pair
    ours, real = get(balancer, "/stats;csv"), theirs(stats, "/stats;csv")
    columns = ours.splitlines()[0].rstrip(",").split(",")
    assert columns == real.splitlines()[0].split(",")[: len(columns)]
    assert columns[-1] == "agg_check_status"  # the last before what HAProxy's modules add
    found, expected = rows(ours), rows(real)
    places = [("front", "FRONTEND"), ("web", "good"), ("web", "dead"), ("web", "spare"), ("web", "BACKEND")]
    assert list(found) == places
    same = ("scur", "stot", "bin", "bout", "status", "act", "bck", "type", "mode", "weight", "lbtot", "algo")
    for place in places:
        given = {field: found[place][field] for field in same if found[place][field]}
        assert given == {field: expected[place][field] for field in given}, place
        assert given["stot"] == ("0" if place[1] in {"dead", "spare"} else str(TIMES))
    assert found["web", "good"]["bin"] == str(TIMES * len(QUESTION))
    assert found["web", "good"]["bout"] == str(TIMES * len(ANSWER))
    for server in ("good", "dead"):
        # HAProxy puts "* " before it while the next check is under way.
        assert found["web", server]["check_status"] == expected["web", server]["check_status"].removeprefix(
            "* "
        )


def test_our_haproxy_metrics_are_a_part_of_the_real_ones(pair):
    """Same names, types and labels, and the same values for the same sessions."""
    balancer, stats = pair
    ours, real = get(balancer, "/metrics"), theirs(stats, "/metrics")
    types = dict(re.findall(r"^# TYPE (haproxy_\S+) (\S+)$", ours, re.MULTILINE))
    real_types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", real, re.MULTILINE))
    assert len(types) > 40
    assert types == {name: real_types.get(name) for name in types}
    found, expected = values(ours), values(real)
    mine = {key for key in found if key[0].startswith("haproxy_")}
    assert mine <= set(expected)
    exact = re.compile(
        r"sessions_total|current_sessions|bytes_(in|out)_total|_status|_servers|uweight|loadbalanced"
    )
    compared = [key for key in mine if exact.search(key[0])]
    assert len(compared) > 50
    assert {key: found[key] for key in compared} == {key: expected[key] for key in compared}


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def test_prometheus_takes_what_a_running_balancer_exports(pair, tmp_path):
    balancer, _ = pair
    accept = "application/openmetrics-text;version=1.0.0"
    assert get(balancer, "/metrics", "-H", f"Accept: {accept}").endswith("# EOF\n")
    text = get(balancer, "/metrics")
    file = tmp_path / "metrics.txt"
    file.write_text(text)
    # Its lint, too: units, suffixes, help.
    assert run_client("promtool", "check", "metrics", stdin=text) == ""
    found = values(text)
    of = (("backend", "good"), ("pool", "web"))
    assert found["easyproxy_backend_sessions_started_total", of] == TIMES
    assert found["easyproxy_session_connect_seconds_count", of] == TIMES
    assert found["easyproxy_session_length_seconds_count", of] == TIMES
    source = (*of[:1], *of[1:], ("source", "backend"))
    assert found["easyproxy_session_bytes_sum", source] == TIMES * len(ANSWER)
    ends = sum(value for (name, _), value in found.items() if name == "easyproxy_session_ends_total")
    assert ends == TIMES
    processes = {dict(labels)["process"] for name, labels in found if name == "easyproxy_process_open_fds"}
    assert processes == {"control", "relay 0", "relay 1"}


def test_promtool_takes_the_example_of_scraping_and_alerting():
    folder = PACKAGING / "prometheus"
    run_client("promtool", "check", "rules", str(folder / "alerts.yml"))
    run_client("promtool", "check", "config", "--syntax-only", str(folder / "prometheus.yml"))
    run_client("promtool", "test", "rules", str(folder / "alerts_test.yml"))


def test_every_panel_of_the_dashboard_shows_something_in_a_real_prometheus(pair, tmp_path):
    """Prometheus scrapes the running balancer; each query of the dashboard is asked of it."""
    balancer, _ = pair
    with bridge(balancer.admin.path) as scraped:
        config = tmp_path / "prometheus.yml"
        config.write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": "300ms", "scrape_timeout": "300ms"},
                    "scrape_configs": [
                        {"job_name": "easyproxy", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}
                    ],
                }
            )
        )
        port = free_port()
        arguments = [
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path}/tsdb",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with Program(["prometheus", *arguments], tmp_path / "prometheus.txt") as prometheus:
            # It listens earlier, and answers with 503 until it has opened its storage.
            prometheus.wait_until(lambda: "Server is ready" in prometheus.text(), "it is ready")

            def asked(query: str) -> list[object]:
                for variable, value in VARIABLES.items():
                    query = query.replace(variable, value)
                text = run_client(
                    "curl",
                    "-sS",
                    "--data-urlencode",
                    f"query={query}",
                    f"http://127.0.0.1:{port}/api/v1/query",
                )
                answer = json.loads(text)
                assert answer["status"] == "success", (query, answer)
                return answer["data"]["result"]

            eventually(
                lambda: asked("count_over_time(easyproxy_workers[1m]) > 3"), "it has scraped a few times"
            )
            dashboard = json.loads((PACKAGING / "grafana" / "easyproxy.json").read_text())
            # No backend has a limit here, and no session ends while Prometheus looks.
            empty = (
                "easyproxy_backend_max_sessions",
                "easyproxy_listener_max_sessions",
                "easyproxy_session_ends_total",
            )
            for panel in dashboard["panels"]:
                for target in panel.get("targets", ()):
                    query = target["expr"]
                    if not any(name in query for name in empty):
                        # After a scrape that has come too late it knows nothing until the next one.
                        eventually(lambda q=query: asked(q), f"{query} shows something")


def bridge(path: str) -> AbstractContextManager[int]:
    """Let a program that knows no unix sockets reach one; give the port."""

    def talk(client: socket.socket) -> None:
        # Either side may leave when it likes: Prometheus in the middle of an answer, when it is ended.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as there:
            there.connect(path)
            request = b""
            while b"\r\n\r\n" not in request and (data := client.recv(65536)):
                request += data
            # The answer ends with the connection, so that nobody waits for another request.
            there.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            while data := there.recv(65536):
                client.sendall(data)

    return listening(talk)
