"""Plan, reload, confirm and roll back as an operator types them, with the real program, traffic and servers."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from eventually import eventually
from proxy import PATIENT, QUICK, RunningBalancer, command, simple
from servers.postgresql import binary
from test_nginx import sha256
from traffic import Visit, Wrk, ask

from easyproxy.cli.client import fetch, post
from ports import free_port
from programs import Program, run_client


def easyproxy(balancer: RunningBalancer, *words: str, code: int | None = 0) -> str:
    """Type a command that ends with this status, None is any; return all that it said."""
    done = subprocess.run(
        [*command(*words), "--admin", str(balancer.admin)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert code in (None, done.returncode), (words, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def outcome(balancer: RunningBalancer) -> str:
    return str(fetch(balancer.admin, "/api/reload")["outcome"])


def names(balancer: RunningBalancer) -> set[str]:
    return set(balancer.backends())


def dead(name: str = "dead") -> dict[str, object]:
    return {"name": name, "address": f"127.0.0.1:{free_port()}"}


# -- plan


def test_a_plan_tells_what_would_change_and_how_many_sessions_would_drain_and_changes_nothing(start, nginxes):
    a, b, c = nginxes
    balancer = start(simple(a, b))
    visits = [Visit(balancer.port()) for _ in range(4)]
    assert sorted(visit.ask() for visit in visits) == ["a", "a", "b", "b"]
    new = balancer.folder / "new.json"
    config = balancer.complete(simple(b, c, strategy="first")) | {"workers": 1}
    config["listeners"].append({"bind": "127.0.0.1:0", "pool": "p", "name": "second"})
    new.write_text(json.dumps(config))
    told = easyproxy(balancer, "plan", str(new))
    for line in (
        r"\+ +listener +second +127\.0\.0\.1:0 to pool p",
        r"~ +pool +p +strategy round_robin -> first",
        rf"\+ +backend +p/c +{c.address}",
        rf"- +backend +p/a +{a.address} \(2 sessions would drain\)",
        r"~ +setting +workers +2 -> 1 \(at the next start or upgrade\)",
        r"2 sessions drain; without effect until the next start or upgrade: workers",
    ):
        assert re.search(line, told), (line, told)
    easyproxy(balancer, "plan", str(new), "--exit-code", code=3)
    same = easyproxy(balancer, "plan", str(balancer.file), "--exit-code")
    assert same.strip() == "Nothing changes"
    document = json.loads(easyproxy(balancer, "plan", str(new), "--json"))
    assert document["sessions"] == 2
    assert document["source"] == str(new)
    assert names(balancer) == {"a", "b"}
    for visit in visits:
        visit.close()


def test_a_wrong_file_cannot_be_planned_and_every_error_is_told_with_its_place(start, nginxes):
    """Behaviour 31."""
    balancer = start(simple(*nginxes))
    wrong = balancer.folder / "wrong.yaml"
    wrong.write_text("listeners:\n  - bind: 127.0.0.1:0\n    pool: nosuch\npools:\n  p: {backends: [x]}\n")
    told = easyproxy(balancer, "plan", str(wrong), code=2)
    assert re.search(rf"{wrong}:3:\d+: error: .*nosuch", told)
    assert re.search(rf"{wrong}:5:\d+: error: ", told)
    assert "2 errors; nothing can be planned" in told
    assert "there is no such file" in easyproxy(balancer, "plan", str(wrong) + ".yaml", code=2)
    doubtful = balancer.folder / "doubtful.yaml"
    servers = "{backends: ['127.0.0.1:1']}"
    doubtful.write_text(
        f"listeners:\n  - bind: 127.0.0.1:0\n    pool: p\npools:\n  p: {servers}\n  q: {servers}\n"
    )
    told = easyproxy(balancer, "plan", "--admin", str(balancer.admin), str(doubtful))
    assert f"warning: {doubtful}:6:3: pools.q: no listener uses this pool" in told


def test_without_a_balancer_there_is_no_plan_and_the_message_says_what_to_do(tmp_path):
    file = tmp_path / "easyproxy.json"
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    config = {
        "listeners": [{"bind": "127.0.0.1:0", "pool": "p"}],
        "pools": {"p": {"backends": ["127.0.0.1:1"]}},
    }
    file.write_text(json.dumps(config | {"admin": {"bind": nobody}}))
    # The file itself says where its admin server is.
    done = subprocess.run(command("plan", str(file)), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"no balancer answers at {nobody}" in done.stderr
    assert "easyproxy check" in done.stderr


# -- reload


def test_reload_prints_what_changed_and_keeps_it(start, nginxes):
    a, b, c = nginxes
    balancer = start(simple(a, b))
    balancer.write(simple(b, c))
    told = easyproxy(balancer, "reload", "--why", "new server", "--who", "ann")
    assert "1 backend added, 1 backend removed" in told
    assert "In force." in told
    assert names(balancer) == {"b", "c"}
    assert {ask(balancer.port()) for _ in range(4)} == {"b", "c"}
    event = next(each for each in fetch(balancer.admin, "/api/events") if each["kind"] == "reloaded")
    assert event["author"] == {"who": "ann", "why": "new server"}
    assert "who=ann" in balancer.log()


def test_a_refused_reload_shows_every_error_with_its_place(start, nginxes):
    """Behaviour 31."""
    balancer = start(simple(*nginxes))
    balancer.write(
        "listeners:\n  - {bind: '127.0.0.1:0', pool: q}\npools:\n  p: {backends: [x]}\nworkers: many\n"
    )
    told = easyproxy(balancer, "reload", code=2)
    for line in (2, 4, 5):
        assert re.search(rf"{balancer.file}:{line}:\d+: error: ", told), told
    assert "nothing has changed" in told
    assert {ask(balancer.port()) for _ in range(3)} == {"a", "b", "c"}
    assert outcome(balancer) == "refused"


def test_confirmed_in_time_it_stays_and_can_still_be_taken_back(start, nginxes):
    a, b, c = nginxes
    balancer = start(simple(a, b))
    balancer.write(simple(c))
    told = easyproxy(balancer, "reload", "--rollback-after", "10m")
    assert "easyproxy reload --confirm" in told
    assert "not confirmed" in easyproxy(balancer, "reload", code=1)
    balancer.program.send(1)  # SIGHUP takes the same way, and meets the same refusal
    eventually(lambda: "who=signal" in balancer.log(), "the signal is told")
    assert names(balancer) == {"c"}
    assert "confirmed: by ann" in easyproxy(balancer, "reload", "--confirm", "--who", "ann")
    assert outcome(balancer) == "confirmed"
    assert "there is no unconfirmed reload" in easyproxy(balancer, "reload", "--confirm", code=1)
    assert "rolled back: ann asked for it" in easyproxy(balancer, "reload", "--rollback", "--who", "ann")
    assert names(balancer) == {"a", "b"}
    assert "nothing to go back to" in easyproxy(balancer, "reload", "--rollback", code=1)


def test_unconfirmed_it_goes_back_by_itself_and_watching_does_not_bring_it_again(start, nginxes):
    """Behaviours 29 and 30, there and back."""
    a, b, c = nginxes
    balancer = start({**simple(a, b), "watch": True})
    port = balancer.port()
    with Visit(port) as old, Wrk(port, connections=8, close=True) as wrk:
        home = old.ask()
        balancer.write({**simple(c), "watch": True})
        # At once: the watch takes up what has been the same for a second.
        post(balancer.admin, "/api/reload", {"who": "test", "rollback_after": "5s"})
        with Visit(port) as new:
            assert new.ask() == "c"
            eventually(lambda: outcome(balancer) == "rolled_back", "it goes back")
            assert names(balancer) == {"a", "b"}
            assert (old.ask(), new.ask()) == (home, "c")
        # The file changes a little and back: what was taken back is known by its content.
        content = balancer.file.read_text()
        balancer.file.write_text(content + "\n{")
        eventually(lambda: "reload refused" in balancer.log(), "the watch has looked")
        balancer.file.write_text(content)
        eventually(
            lambda: "what was taken back" in balancer.log().rpartition("reload refused")[2], "it says so"
        )
    assert wrk.load.failed == 0, wrk.load
    assert names(balancer) == {"a", "b"}
    assert "nobody confirmed it within 5s; the file still holds what was taken back" in balancer.log()


def test_failing_connects_take_it_back_before_its_time_and_cost_no_client(start, nginxes):
    a, b, _ = nginxes
    blind = {"check": {"type": "none"}, "retries": 2}
    balancer = start(simple(a, b, **blind))
    with Wrk(balancer.port(), connections=8, close=True) as wrk:
        eventually(lambda: sum(balancer.totals().values()) > 100, "there is traffic to compare with")
        balancer.write(simple(a, b, dead(), **blind))
        easyproxy(balancer, "reload", "--rollback-after", "1h", code=None)  # by then it may have gone back
        eventually(lambda: outcome(balancer) == "rolled_back", "it goes back")
        assert names(balancer) == {"a", "b"}
    assert wrk.load.failed == 0, wrk.load
    assert "connects to its backends failed" in balancer.log()


def test_a_pool_that_loses_its_last_ready_backend_is_taken_back_at_once(start, nginxes):
    a, b, _ = nginxes
    balancer = start(simple(a, b))
    balancer.write(simple(dead()))
    told = easyproxy(balancer, "reload", "--rollback-after", "1h", code=1)
    assert "it went back at once: pool p had 2 ready and has none now" in told
    assert {ask(balancer.port()) for _ in range(4)} == {"a", "b"}


def test_a_listener_that_moved_comes_back_too(start, nginxes):
    first, second = free_port(), free_port()
    balancer = start(simple(*nginxes, bind=f"127.0.0.1:{first}"))
    with Visit(first) as visit:
        name = visit.ask()
        balancer.write(simple(*nginxes, bind=f"127.0.0.1:{second}"))
        told = easyproxy(balancer, "reload", "--rollback-after", "1h")
        assert f"moved from 127.0.0.1:{first} to 127.0.0.1:{second} (1 session would drain)" in told
        assert ask(second) in {"a", "b", "c"}
        easyproxy(balancer, "reload", "--rollback")
        assert ask(first) in {"a", "b", "c"}
        with pytest.raises(ConnectionRefusedError):
            ask(second)
        assert visit.ask() == name


# -- many


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_thousand_reloads_under_traffic_cost_no_client_no_session_and_no_byte(
    start, nginxes, postgresql, noise, tmp_path
):
    """Behaviours 29 and 30: wrk and pgbench connect all the time, sessions stand, and bulk has its hash checked."""
    a, b, c = nginxes
    for server in nginxes:
        shutil.copy(noise, server.files / "noise")
    turns = [
        simple(a, b, c),
        simple(c, a, strategy="least_connections", retries=1),
        simple(b, c, strategy="maglev", slow_start="1s"),
        simple(a, b, check={"type": "http", "path": "/health", **PATIENT}),
    ]
    for number, turn in enumerate(turns):
        turn["listeners"][0] |= {"idle_timeout": f"{100 + number}s", "max_sessions": 5000 + number}
        turn["listeners"].append({"name": "database", "bind": "127.0.0.1:0", "pool": "database"})
        turn["pools"]["database"] = {
            "backends": [{"name": "db", "address": postgresql.address, "weight": 1 + number}],
            "check": {"type": "tcp", **QUICK},
        }
    balancer = start(turns[0])
    connection = ["-h", "127.0.0.1", "-p", str(balancer.port("database")), "-U", "tester"]
    run_client(binary("pgbench"), *connection, "-i", "-q", "postgres")
    port = balancer.port()
    url = f"http://127.0.0.1:{port}/noise"
    is_over = False

    def download(number: int) -> set[str]:
        found = set()
        target = tmp_path / f"download-{number}"
        while not is_over:
            run_client("curl", "-sS", "--fail", "--limit-rate", "50M", "-o", str(target), url)
            found.add(sha256(target))
        target.unlink()
        return found

    visits = [Visit(port) for _ in range(9)]
    homes = [visit.ask() for visit in visits]
    with (
        ThreadPoolExecutor(2) as threads,
        Program(
            [binary("pgbench"), *connection, *("-n", "-S", "-C", "-c", "1", "-T", "600", "postgres")],
            tmp_path / "pgbench.txt",
        ) as pgbench,
        Wrk(port, connections=4, close=True) as wrk,
    ):
        downloads = [threads.submit(download, number) for number in range(2)]
        try:
            for number in range(1000):
                balancer.write(turns[number % len(turns)])
                post(balancer.admin, "/api/reload", {"who": "test"})
                if number % 100 == 0:
                    assert [visit.ask() for visit in visits] == homes
        finally:
            is_over = True
        assert [each.result() for each in downloads] == [{sha256(noise)}] * 2
        pgbench.send(signal.SIGINT)
        pgbench.ended()
    said = pgbench.text()
    assert "error" not in said.lower(), said
    assert "aborted" not in said, said
    assert balancer.totals()["db"] > 100
    assert wrk.load.failed == 0, wrk.load
    assert wrk.load.requests > 1000
    assert [visit.ask() for visit in visits] == homes
    for visit in visits:
        visit.close()
    assert balancer.log().count("reloaded") == 1000
    assert balancer.status()["worker_restarts"] == 0
    balancer.wait_for_no_sessions()
