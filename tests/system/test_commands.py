"""The commands of an operator, typed as he types them, against the running program with real servers behind it."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from eventually import eventually
from proxy import RunningBalancer, command, simple
from traffic import Visit, ask


@pytest.fixture
def balancer(start, nginxes):
    return start(simple(*nginxes))


def easyproxy(balancer: RunningBalancer, *words: str, code: int = 0) -> str:
    """Type a command; return what it prints, or what it complains of when it is to end with another status."""
    done = subprocess.run(
        [*command(*words), "--admin", str(balancer.admin)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def answer(balancer: RunningBalancer, *words: str):
    return json.loads(easyproxy(balancer, *words, "--json"))


def state(balancer: RunningBalancer, name: str) -> str:
    return balancer.backends()[name]["state"]


def test_a_drained_backend_keeps_its_sessions_gets_no_new_ones_and_comes_back_with_ready(balancer):
    """Behaviour 34."""
    port = balancer.port()
    visits = {visit.ask(): visit for visit in (Visit(port) for _ in range(3))}
    told = easyproxy(balancer, "drain", "p/a", "--why", "kernel update", "--who", "ann", "--for", "1h")
    assert "p/a: drain, for 1 h 00 min" in told
    assert "1 established session goes on" in told
    assert state(balancer, "a") == "draining"
    assert {ask(port) for _ in range(6)} == {"b", "c"}
    assert visits["a"].ask() == "a"
    assert "kernel update" in easyproxy(balancer, "overrides")
    assert "kernel update" in easyproxy(balancer, "status")
    easyproxy(balancer, "ready", "a")
    assert {ask(port) for _ in range(6)} == {"a", "b", "c"}
    assert easyproxy(balancer, "overrides").startswith("No overrides")
    for visit in visits.values():
        visit.close()


def test_a_drain_closes_what_is_left_at_the_deadline_that_is_typed(balancer):
    port = balancer.port()
    visits = {visit.ask(): visit for visit in (Visit(port) for _ in range(3))}
    told = easyproxy(balancer, "drain", "p/a", "--deadline", "5m")
    assert "p/a: drain, deadline 5 min" in told
    assert "1 established session goes on, for 5 min at most" in told
    assert "drain, deadline 5 min" in easyproxy(balancer, "overrides")
    easyproxy(balancer, "drain", "p/a", "--deadline", "100ms")
    eventually(lambda: not visits["a"].is_alive(), "its session is closed")
    assert visits["b"].is_alive()
    assert "never comes" in easyproxy(balancer, "drain", "p/b", "--deadline", "5m", "--for", "1m", code=1)
    for visit in visits.values():
        visit.close()


def test_maintenance_stops_the_probes_and_can_close_the_sessions(balancer):
    port = balancer.port()
    visits = {visit.ask(): visit for visit in (Visit(port) for _ in range(3))}
    assert "1 session closed" in easyproxy(balancer, "maintenance", "a", "--close")
    assert not visits["a"].is_alive()
    assert visits["b"].is_alive()
    assert state(balancer, "a") == "maintenance"
    easyproxy(balancer, "ready", "a")
    eventually(lambda: state(balancer, "a") == "ready", "a is ready")
    for visit in visits.values():
        visit.close()


def test_a_weight_changes_the_shares_at_once_and_forget_takes_it_back(balancer):
    port = balancer.port()
    made = answer(balancer, "weight", "a", "4")
    shares = [ask(port) for _ in range(12)]
    assert (shares.count("a"), shares.count("b"), shares.count("c")) == (8, 2, 2)
    easyproxy(balancer, "forget", made["id"])
    shares = [ask(port) for _ in range(12)]
    assert shares.count("a") == 4


def test_a_change_that_will_not_survive_a_restart_warns_on_standard_error(start, nginxes, tmp_path):
    balancer = start(simple(*nginxes) | {"state_file": str(tmp_path / "nowhere" / "state.json")})
    for words in (
        ("drain", "a"),
        ("ready", "a"),
        ("add", "p", "127.0.0.1:1"),
        ("forget", answer(balancer, "weight", "a", "4")["id"]),
    ):
        for more in ((), ("--json",)) if words[0] == "drain" else ((),):
            done = subprocess.run(
                [*command(*words, *more), "--admin", str(balancer.admin)],
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            assert done.stderr.startswith("warning: the change is in force but will not survive a restart: ")
            assert (
                f"{tmp_path}/nowhere/state.json cannot be written: No such file or directory" in done.stderr
            )
            assert "warning: " not in done.stdout


def test_a_backend_is_added_serves_and_is_removed_while_its_sessions_go_on(start, nginxes):
    a, b, c = nginxes
    balancer = start(simple(a, b))
    port = balancer.port()
    easyproxy(balancer, "add", "p", c.address, "--name", "c", "--why", "more load")
    eventually(lambda: {ask(port) for _ in range(6)} == {"a", "b", "c"}, "all three serve")
    visits = {visit.ask(): visit for visit in (Visit(port) for _ in range(3))}
    easyproxy(balancer, "remove", "p/b")
    assert {ask(port) for _ in range(6)} == {"a", "c"}
    assert visits["b"].ask() == "b"
    for visit in visits.values():
        visit.close()


def test_sessions_are_listed_by_where_they_go_and_closed_one_by_one(balancer):
    port = balancer.port()
    visits = {visit.ask(): visit for visit in (Visit(port) for _ in range(3))}
    rows = answer(balancer, "sessions")
    assert {row["backend"] for row in rows} == {"p/a", "p/b", "p/c"}
    (row,) = answer(balancer, "sessions", "--backend", "a")
    assert row["client"] == visits["a"].local
    assert row["id"] in easyproxy(balancer, "sessions", "--client", "127.0.0.1")
    assert answer(balancer, "close", row["id"], "--why", "test") == {"closed": 1}
    assert not visits["a"].is_alive()
    assert visits["b"].is_alive()
    assert "127.0.0.1" in easyproxy(balancer, "clients")
    easyproxy(balancer, "close", row["id"], code=1)
    for visit in visits.values():
        visit.close()


def test_events_tell_what_happened_and_who_did_it(balancer, nginxes):
    easyproxy(balancer, "drain", "b", "--who", "ann", "--why", "new disk")
    nginxes[0].kill()
    balancer.wait_for_state("a", "down")
    told = easyproxy(balancer, "events")
    assert re.search(r"p/b.*ann", told), told
    assert re.search(r"p/a.*refused", told), told
    assert [row["id"] for row in answer(balancer, "events", "--limit", "2")] == sorted(
        row["id"] for row in answer(balancer, "events", "--limit", "2")
    )


def test_events_are_followed_as_they_happen(balancer):
    following = subprocess.Popen(
        [*command("events", "--follow", "--json", "--admin", str(balancer.admin))],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert following.stdout is not None
        json.loads(following.stdout.readline())  # what had happened before: it has begun
        easyproxy(balancer, "drain", "c", "--who", "bob")
        for line in following.stdout:
            event = json.loads(line)
            if event["author"] is not None:
                break
        assert (event["subject"], event["author"]["who"]) == ("p/c", "bob")
    finally:
        following.terminate()
        following.communicate()


def test_explain_tells_why_a_backend_is_down_and_where_a_session_went(balancer, nginxes):
    port = balancer.port()
    with Visit(port) as visit:
        name = visit.ask()
        (row,) = answer(balancer, "sessions")
        told = easyproxy(balancer, "explain", row["id"])
        assert f"p/{name}" in told
        assert "round_robin" in told
    balancer.wait_for_no_sessions()
    assert "client_fin" in easyproxy(balancer, "explain", row["id"])
    nginxes[1].kill()
    balancer.wait_for_state("b", "down")
    assert "refused" in easyproxy(balancer, "explain", "b")
    assert "127.0.0.1" in easyproxy(balancer, "explain", "127.0.0.1")


def test_simulate_names_the_backend_that_a_client_then_gets(start, nginxes):
    balancer = start(simple(*nginxes, strategy="source_hash"))
    port = balancer.port()
    (choice,) = answer(balancer, "simulate", "--client", "127.0.0.1")
    first, second, _ = sorted((item for item in choice["candidates"]), key=lambda item: item["rank"])
    assert choice["is_certain"]
    assert first["backend"] == f"p/{ask(port)}"
    (without,) = answer(balancer, "simulate", "--client", "127.0.0.1", "--without", first["backend"])
    chosen = next(item for item in without["candidates"] if item["rank"] == 1)
    easyproxy(balancer, "drain", first["backend"])
    assert chosen["backend"] == f"p/{ask(port)}"
    assert second["rank"] == 2


def test_what_does_not_exist_is_named_together_with_what_there_is(balancer):
    told = easyproxy(balancer, "drain", "p/aa", code=1)
    assert "there is no backend p/aa; there is p/a" in told
    assert "there is no pool" in easyproxy(balancer, "add", "q", "127.0.0.1:1", code=1)
    assert "there is no listener front; there is " in easyproxy(
        balancer, "sessions", "--listener", "front", code=1
    )
    easyproxy(balancer, "explain", "9.9.9", code=1)
    told = easyproxy(balancer, "explain", "p", code=1)
    assert "p is a pool, no session's id, client's address or backend; there is p/a, p/b, p/c" in told
    assert "aa is no session's id, client's address or backend" in easyproxy(
        balancer, "explain", "aa", code=1
    )
    told = easyproxy(balancer, "add", "p", "10.0.0.1", code=1)
    assert told.startswith("easyproxy add: backend.address: '10.0.0.1' has no port")
    easyproxy(balancer, "forget", "nothing", code=1)
    easyproxy(balancer, "weight", "a", "0", code=2)
    easyproxy(balancer, "weight", "a", "257", code=2)
    told = easyproxy(balancer, "drain", "a", "--for", "30", code=2)
    assert "Invalid value for '--for': '30' is not a duration; it has no unit: write 30s for seconds" in told
    easyproxy(balancer, "close", code=2)


def test_a_silent_balancer_is_told_with_its_address(tmp_path):
    for words in (["drain", "x"], ["events"], ["sessions"], ["top"], ["explain", "x"], ["overrides"]):
        done = subprocess.run(
            [*command(*words), "--admin", f"unix:{tmp_path}/nobody"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 3, (words, done.stderr)
        assert str(tmp_path) in done.stderr


@pytest.mark.parametrize("words", [["schema"], ["check"], ["check", "--json"], ["status"]])
def test_an_answer_that_the_disk_does_not_take_is_an_error_in_words(balancer, words):
    where = {"check": [str(balancer.file)], "status": ["--admin", str(balancer.admin)]}.get(words[0], [])
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            command(*words, *where), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    told = f"easyproxy {words[0]}: the answer cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_the_shell_completes_the_names_that_the_balancer_knows(balancer):
    easyproxy(balancer, "drain", "p/a")
    (drained,) = answer(balancer, "overrides")
    (listener,) = balancer.status()["listeners"]
    for words, begun, names in (
        ("drain", "p/", {"p/a", "p/b", "p/c"}),
        ("add", "", {"p"}),
        ("sessions --listener", "", {listener["name"]}),
        ("forget", drained["id"][:3], {drained["id"]}),
    ):
        first, *rest = words.split()
        typed = ["easyproxy", first, "--admin", str(balancer.admin), *rest]
        done = subprocess.run(
            command(),
            env={
                "_EASYPROXY_COMPLETE": "bash_complete",
                "COMP_WORDS": " ".join([*typed, begun]),
                "COMP_CWORD": str(len(typed)),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert {line.partition(",")[2] for line in done.stdout.split()} == names, (words, done.stderr)
