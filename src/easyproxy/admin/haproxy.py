"""The status in HAProxy's words: the CSV of its statistics page, and how its words follow from ours. Pure.

Source: HAProxy's management guide, section 9.1 (the fields in their order; HAProxy 2.6 and later). What EasyProxy does
not measure, or measures in another way, is left blank; nothing is made up.
"""

from __future__ import annotations

import csv as comma_separated
import io
from collections.abc import Iterator

from easyproxy.control.status import BackendStatus, ListenerStatus, PoolStatus, Status

HEADER = (
    "pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,"
    "weight,act,bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,throttle,lbtot,tracked,type,rate,"
    "rate_lim,rate_max,check_status,check_code,check_duration,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,"
    "hrsp_other,hanafail,req_rate,req_rate_max,req_tot,cli_abrt,srv_abrt,comp_in,comp_out,comp_byp,comp_rsp,"
    "lastsess,last_chk,last_agt,qtime,ctime,rtime,ttime,agent_status,agent_code,agent_duration,check_desc,"
    "agent_desc,check_rise,check_fall,check_health,agent_rise,agent_fall,agent_health,addr,cookie,mode,algo,"
    "conn_rate,conn_rate_max,conn_tot,intercepted,dcon,dses,wrew,connect,reuse,cache_lookups,cache_hits,"
    "srv_icur,src_ilim,qtime_max,ctime_max,rtime_max,ttime_max,eint,idle_conn_cur,safe_conn_cur,"
    "used_conn_cur,need_conn_est,uweight,agg_server_status,agg_server_check_status,agg_check_status"
)
FIELDS = tuple(HEADER.split(","))
_FRONTEND, _BACKEND, _SERVER = 0, 1, 2  # values of the field ``type``
_STATES = {"ready": "UP", "down": "DOWN", "checking": "DOWN", "draining": "DRAIN", "maintenance": "MAINT"}
_ALGORITHMS = {
    "round_robin": "roundrobin",
    "least_connections": "leastconn",
    "source_hash": "source",
    "power_of_two": "random",  # HAProxy's random draws two and takes the less loaded one
}

Fields = dict[str, object]


def csv(status: Status) -> str:
    """Write the header and one line for each listener (FRONTEND), backend (server) and pool (BACKEND)."""
    text = io.StringIO()
    text.write(f"# {HEADER},\n")
    # HAProxy quotes a field that holds a comma or a quote, and ends each line with a comma.
    writer = comma_separated.writer(text, lineterminator="\n")
    for row in _rows(status):
        writer.writerow([*(_shown(row.get(field, "")) for field in FIELDS), ""])
    return text.getvalue()


def _shown(value: object) -> str:
    return str(value).replace("\n", " ").replace("\r", " ")


def _rows(status: Status) -> Iterator[Fields]:
    for number, listener in enumerate(status.listeners, 1):
        yield {"pid": 1, "iid": number, **_frontend(status, listener)}
    for number, pool in enumerate(status.pools, len(status.listeners) + 1):
        for place, backend in enumerate(pool.backends, 1):
            yield {"pid": 1, "iid": number, "sid": place, **_server(status, pool, backend)}
        yield {"pid": 1, "iid": number, "sid": 0, **_backend(pool)}


def _frontend(status: Status, listener: ListenerStatus) -> Fields:
    counters = listener.counters
    received, sent = bytes_of(status, listener) or ("", "")
    return {
        "pxname": listener.name,
        "svname": "FRONTEND",
        "scur": counters.sessions,
        "slim": listener.max_sessions or "",
        "stot": counters.accepted,
        "bin": received,
        "bout": sent,
        "status": "OPEN",
        "sid": 0,
        "type": _FRONTEND,
        "mode": "tcp",
        "conn_tot": counters.accepted,
    }


def _server(status: Status, pool: PoolStatus, backend: BackendStatus) -> Fields:
    counters, probe = backend.counters, backend.last_probe
    seen = check_status(pool, backend)
    return {
        "pxname": pool.name,
        "svname": backend.name,
        "scur": counters.sessions,
        "slim": backend.max_sessions or "",
        "stot": counters.total,
        "bin": counters.bytes_from_client,
        "bout": counters.bytes_from_backend,
        "econ": counters.connect_errors,
        "wredis": counters.retries,
        "status": "no check" if not is_checked(pool) and backend.state == "ready" else state(backend),
        "weight": round(backend.effective_weight),
        "act": 0 if backend.backup else 1,
        "bck": 1 if backend.backup else 0,
        "lastchg": max(0, int(status.now - backend.since)) if backend.since else "",
        "lbtot": counters.total,
        "type": _SERVER,
        "check_status": seen,
        "check_duration": round(probe.duration_s * 1000) if seen and probe else "",
        "cli_abrt": counters.client_resets,
        "srv_abrt": counters.backend_resets,
        "last_chk": probe.detail if seen and probe else "",
        "addr": backend.address,
        "mode": "tcp",
        "connect": counters.total + counters.connect_errors,
        "used_conn_cur": counters.sessions,
        "uweight": backend.weight,
    }


def _backend(pool: PoolStatus) -> Fields:
    counters = [backend.counters for backend in pool.backends]
    ready = [backend for backend in pool.backends if backend.state == "ready"]
    return {
        "pxname": pool.name,
        "svname": "BACKEND",
        "qcur": pool.queued,
        "scur": sum(each.sessions for each in counters),
        "stot": sum(each.total for each in counters),
        "bin": sum(each.bytes_from_client for each in counters),
        "bout": sum(each.bytes_from_backend for each in counters),
        "econ": sum(each.connect_errors for each in counters),
        "wredis": sum(each.retries for each in counters),
        "status": "UP" if ready else "DOWN",
        "weight": round(sum(backend.effective_weight for backend in serving(pool))),
        "act": sum(not backend.backup for backend in ready),
        "bck": sum(backend.backup for backend in ready),
        "lbtot": sum(each.total for each in counters),
        "type": _BACKEND,
        "cli_abrt": sum(each.client_resets for each in counters),
        "srv_abrt": sum(each.backend_resets for each in counters),
        "mode": "tcp",
        "algo": _ALGORITHMS.get(pool.strategy, pool.strategy),
        "connect": sum(each.total + each.connect_errors for each in counters),
        "uweight": sum(backend.weight for backend in serving(pool)),
    }


def state(backend: BackendStatus) -> str:
    """UP, DOWN, DRAIN or MAINT. Without a verdict it is DOWN: it gets no sessions."""
    return _STATES.get(backend.state, "DOWN")


def serving(pool: PoolStatus) -> list[BackendStatus]:
    """The ready backends that get new sessions: backups only while no other is ready."""
    ready = [backend for backend in pool.backends if backend.state == "ready"]
    return [backend for backend in ready if not backend.backup] or ready


def is_checked(pool: PoolStatus) -> bool:
    """Whether the pool has a health check."""
    return pool.check != "no check"


def check_status(pool: PoolStatus, backend: BackendStatus) -> str:
    """HAProxy's word for the last look: ``L4OK``, ``L4CON``, ``L7TOUT``, ...; empty without a check or a look."""
    if backend.last_probe is None or not is_checked(pool):
        return ""
    layer = "L4" if pool.check.startswith("tcp ") else "L7"
    match backend.last_probe.outcome:
        case "success":
            return f"{layer}OK"
        case "refused":
            return "L4CON"
        case "timeout":
            return f"{layer}TOUT"
        case _:
            return "L7RSP"  # it answered, or broke off, in a way that the check does not take


def bytes_of(status: Status, listener: ListenerStatus) -> tuple[int, int] | None:
    """Bytes from clients and from backends of a listener; None where several share a pool: only pools count bytes."""
    if sum(other.pool == listener.pool for other in status.listeners) != 1:
        return None
    backends = [backend for pool in status.pools if pool.name == listener.pool for backend in pool.backends]
    return (
        sum(backend.counters.bytes_from_client for backend in backends),
        sum(backend.counters.bytes_from_backend for backend in backends),
    )
