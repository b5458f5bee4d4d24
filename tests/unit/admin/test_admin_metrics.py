from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from admin_client import ask
from admin_scene import NOW, Scene, backend, pool, status
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from easyproxy.admin.exposition import Moment, expose
from easyproxy.admin.haproxy_metrics import HAPROXY_METRICS
from easyproxy.admin.metrics import GROUPS, METRICS, RELOADS, STATES, document
from easyproxy.admin.server import AdminServer
from easyproxy.control.operations import ReloadState
from easyproxy.control.status import AccessLogStatus, PoolStatus, WritesStatus
from easyproxy.engine.relay.life import REASONS
from easyproxy.engine.seam import BackendDistributions, Distribution, Statistics
from easyproxy.model import Address

LOOPBACK = Address("127.0.0.1", 0)
TOKEN = "a-long-and-secret-token"  # noqa: S105 - it guards a test
DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"

SEEN = BackendDistributions(
    connect_s=Distribution((0.001, 0.01), (5, 3, 1), 0.75),
    length_s=Distribution((1.0, 60.0), (4, 4, 1), 130.5),
    bytes_from_client=Distribution((1024.0, 16777217.0), (9, 0, 0), 900.0),
    bytes_from_backend=Distribution((1024.0, 16777217.0), (0, 8, 1), 2.0**30),
)


class Full(Scene):
    """Everything that a metric can be read from is there."""

    def __init__(self) -> None:
        super().__init__()
        orders = PoolStatus(
            "orders",
            "round_robin",
            "mysql every 1 s",
            0,
            (
                backend("a", id="orders/a", role="primary", takes_writes=True),
                backend("b", id="orders/b", role="replica", lag_s=7.5, is_lagging=True),
                backend("c", id="orders/c", role="replica"),
            ),
            WritesStatus(("orders/a",), NOW - 60, "orders/a says so", is_split=False, held=2),
        )
        self.now = replace(
            self.now,
            pools=(*self.now.pools, orders),
            access_log=AccessLogStatus("/var/log/easyproxy/access.log", 77, 3),
        )

    def statistics(self) -> Statistics:
        return Statistics(distributions={"web/a": SEEN})

    def reload_state(self) -> ReloadState:
        return ReloadState(at=NOW - 60, outcome="applied", confirm_until=NOW + 5)

    def processes(self) -> dict[str, int]:
        return {"control": os.getpid(), "relay 0": 2**22 + 1}  # above the highest process id: it has gone


@pytest.fixture
async def scraped():
    async with AdminServer(Full(), LOOPBACK) as server:
        yield server.address


def moment(*pools, **more) -> Moment:
    return Moment(status(*pools), **more)


def samples(now: Moment, metrics=METRICS) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text, _ = expose(metrics, now, "")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text.decode())
        for sample in family.samples
    }


def value(found, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


@pytest.mark.anyio
async def test_every_metric_is_exported_and_documented_and_no_other(scraped):
    answer = await ask(scraped, "/metrics")
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", answer.body, re.MULTILINE))
    assert types == {metric.name: metric.kind for metric in METRICS}
    with_samples = {sample.name for family in parse_text(answer.body) for sample in family.samples}
    histograms = {metric.name for metric in METRICS if metric.kind == "histogram"}
    assert with_samples == (set(types) - histograms) | {
        f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")
    }
    page = DOCUMENT.read_text()
    assert page == document(page), "python -m easyproxy.admin.metrics docs/metrics.md renews it"
    assert re.findall(r"^\| `(easyproxy_\w+)`", page, re.MULTILINE) == [metric.name for metric in METRICS]


def test_no_name_is_given_twice():
    names = [metric.name for metric in (*METRICS, *HAPROXY_METRICS)]
    assert len(names) == len(set(names))
    # OpenMetrics knows a counter without its _total: that name must be free, too.
    assert len({name.removesuffix("_total") for name in names}) == len(names)
    assert sum(len(group) for group in GROUPS.values()) == len(METRICS)


def test_what_the_status_says_is_what_a_scrape_says():
    found = samples(moment(pool(backend("a"), backend("b", "down", weight=3)), reload=ReloadState()))
    assert value(found, "easyproxy_backend_sessions", pool="web", backend="a") == 3
    assert value(found, "easyproxy_backend_sessions_started_total", pool="web", backend="a") == 1234
    assert value(found, "easyproxy_backend_bytes_total", pool="web", backend="a", source="client") == 2048
    assert (
        value(found, "easyproxy_backend_bytes_total", pool="web", backend="a", source="backend") == 3 * 2**20
    )
    assert value(found, "easyproxy_backend_weight", pool="web", backend="b") == 3
    assert value(found, "easyproxy_backend_probe_duration_seconds", pool="web", backend="b") == 0.0004
    assert value(found, "easyproxy_listener_accepted_total", listener="front") == 77
    assert value(found, "easyproxy_session_ends_total", reason="client_reset") == 2
    assert value(found, "easyproxy_build_info", **_build(found)) == 1
    assert _build(found)["version"] == "1.2.3"


def test_roles_and_who_takes_writes_are_seen():
    found = samples(Moment(Full().status()))
    assert value(found, "easyproxy_backend_role", pool="orders", backend="a", role="primary") == 1
    assert value(found, "easyproxy_backend_role", pool="orders", backend="b", role="primary") == 0
    assert value(found, "easyproxy_backend_takes_writes", pool="orders", backend="a") == 1
    assert value(found, "easyproxy_backend_lag_seconds", pool="orders", backend="b") == 7.5
    assert value(found, "easyproxy_backend_lagging", pool="orders", backend="b") == 1
    assert value(found, "easyproxy_pool_held_clients", pool="orders") == 2
    names = {(name, dict(labels).get("backend")) for name, labels in found}
    assert ("easyproxy_backend_lag_seconds", "c") not in names, "what is not known is absent"
    assert not any(dict(labels).get("pool") == "web" for name, labels in found if name.endswith("_writes"))


def _build(found) -> dict[str, str]:
    return next(dict(labels) for name, labels in found if name == "easyproxy_build_info")


@pytest.mark.parametrize("state", STATES)
def test_a_backend_is_in_exactly_one_state(state):
    found = samples(moment(pool(backend("a", state), backend("b"))))
    shown = {
        each: value(found, "easyproxy_backend_state", pool="web", backend="a", state=each) for each in STATES
    }
    assert shown == {each: float(each == state) for each in STATES}
    ready = value(found, "easyproxy_pool_backends", pool="web", state="ready")
    assert ready == (2 if state == "ready" else 1)
    assert sum(value(found, "easyproxy_pool_backends", pool="web", state=each) for each in STATES) == 2


@pytest.mark.parametrize("outcome", RELOADS)
def test_a_reload_has_exactly_one_outcome(outcome):
    found = samples(moment(reload=ReloadState(at=7.0, outcome=outcome)))
    shown = {each: value(found, "easyproxy_reload_outcome", outcome=each) for each in RELOADS}
    assert shown == {each: float(each == outcome) for each in RELOADS}
    assert value(found, "easyproxy_reload_timestamp_seconds") == 7


def test_a_distribution_is_a_histogram_with_growing_buckets():
    found = samples(moment(distributions={"web/a": SEEN}))
    of = {"pool": "web", "backend": "a"}
    buckets = [
        value(found, "easyproxy_session_connect_seconds_bucket", le=le, **of)
        for le in ("0.001", "0.01", "+Inf")
    ]
    assert buckets == [5, 8, 9]
    assert value(found, "easyproxy_session_connect_seconds_count", **of) == 9
    assert value(found, "easyproxy_session_connect_seconds_sum", **of) == 0.75
    bounds = {float(dict(labels)["le"]) for name, labels in found if name == "easyproxy_session_bytes_bucket"}
    assert bounds == {1024.0, 16777217.0, float("inf")}  # not rounded to 1.67772e+07
    assert not [
        key for key in found if key[0].startswith("easyproxy_session_") and ("backend", "b") in key[1]
    ]


def test_what_is_not_known_is_absent():
    found = samples(moment(pool(backend("a", "checking", last_probe=None))))
    names = {name for name, _ in found}
    assert "easyproxy_backend_state" in names
    assert not [name for name in names if "probe" in name or "reload" in name or "process" in name]


@pytest.mark.parametrize(
    "name",
    ['a"} 1\neasyproxy_workers 99', "back\\slash", "<script>", "\ud800", 'new\nline"', "\r", "été 漢字"],
)
def test_a_hostile_name_stays_inside_its_label(name):
    """Behaviour 38, for machines."""
    now = moment(pool(backend(name), name=name), distributions={f"web/{name}": SEEN})
    for metrics in (METRICS, HAPROXY_METRICS):
        plain = samples(moment(pool(backend("a")), distributions={"web/a": SEEN}), metrics)
        found = samples(now, metrics)
        assert len(found) == len(plain)
        assert {key for key, _ in found} == {key for key, _ in plain}
        written = name.encode("utf-8", "replace").decode()
        assert any(written in dict(labels).values() for _, labels in found)
        text, _ = expose(metrics, now, "application/openmetrics-text; version=1.0.0")
        assert list(parse_openmetrics(text.decode()))


@pytest.mark.anyio
async def test_the_form_is_what_the_reader_accepts(scraped):
    answer = await ask(scraped, "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = await ask(scraped, "/metrics", accept=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.headers["vary"] == "Accept"
    assert answer.body.endswith("# EOF\n")
    families = {family.name: family for family in parse_openmetrics(answer.body)}
    assert families["easyproxy_backend_bytes"].unit == "bytes"
    assert families["easyproxy_session_connect_seconds"].unit == "seconds"


@pytest.mark.anyio
async def test_metrics_need_the_token_and_do_not_hold_it():
    """Behaviour 37."""
    async with AdminServer(Full(), LOOPBACK, token=TOKEN, haproxy_compatible=True) as server:
        for path in ("/metrics", "/stats;csv"):
            refused = await ask(server.address, path)
            assert refused.status == 401
            assert "web" not in refused.body
            answer = await ask(server.address, path, authorization=f"Bearer {TOKEN}")
            assert answer.status == 200
            assert "web" in answer.body
            assert TOKEN not in answer.body


@pytest.mark.anyio
async def test_clients_and_their_sessions_add_no_series():
    scene = Full()
    async with AdminServer(scene, LOOPBACK) as server:
        before = (await ask(server.address, "/metrics")).body
        scene.live_clients *= 500
        scene.live_sessions *= 500
        scene.now = replace(scene.now, now=NOW + 1)
        after = (await ask(server.address, "/metrics")).body
    assert len(before.splitlines()) == len(after.splitlines())
    assert "10.1.0.1" not in after


def test_reasons_of_the_engine_are_few():
    """They are values of a label: a text with a client's address among them would grow without end."""
    assert len(REASONS) < 30
    assert all(re.fullmatch(r"[a-z_]+", reason) for reason in REASONS)


@pytest.mark.anyio
async def test_processes_are_measured_and_one_that_has_gone_is_left_out(scraped):
    body = (await ask(scraped, "/metrics")).body
    found = {
        sample.labels["process"]: sample.value
        for family in parse_text(body)
        for sample in family.samples
        if sample.name == "easyproxy_process_resident_memory_bytes"
    }
    assert found.keys() == {"control"}
    assert found["control"] > 2**20
