"""The program reloads by itself when its file changes, however it is changed, and does not when it is not yet whole."""

from __future__ import annotations

import json
from pathlib import Path

from eventually import eventually
from proxy import RunningBalancer, simple
from traffic import Visit, Wrk, ask


def names(balancer: RunningBalancer) -> set[str]:
    return set(balancer.backends())


def text_of(balancer: RunningBalancer, config) -> str:
    return json.dumps(balancer.complete(config), indent=2)


def test_the_swap_of_a_config_map_reloads_and_costs_no_client(start, nginxes, tmp_path):
    """Behaviours 29 and 30. As the kubelet does it: a folder for each version, one link swapped (atomic_writer.go)."""
    a, b, c = nginxes
    folder: Path = tmp_path / "balancer-0"
    (folder / "..2026_1").mkdir(parents=True)
    (folder / "..data").symlink_to("..2026_1")
    (folder / "easyproxy.yaml").symlink_to("..data/easyproxy.yaml")
    balancer = start({**simple(a, b), "watch": True})
    assert balancer.file.is_symlink()
    with Visit(balancer.port()) as visit, Wrk(balancer.port(), connections=4, close=True) as wrk:
        home = visit.ask()
        (folder / "..2026_2").mkdir()
        (folder / "..2026_2" / "easyproxy.yaml").write_text(
            text_of(balancer, {**simple(b, c), "watch": True})
        )
        (folder / "..data_tmp").symlink_to("..2026_2")
        (folder / "..data_tmp").rename(folder / "..data")
        eventually(lambda: names(balancer) == {"b", "c"}, "the swapped file is in force")
        assert visit.ask() == home
    assert wrk.load.failed == 0, wrk.load
    assert "who=watch" in balancer.log()


def test_a_half_written_file_changes_nothing_is_told_once_and_the_whole_one_is_taken(start, nginxes):
    """Behaviour 31."""
    a, b, c = nginxes
    balancer = start({**simple(a, b), "watch": True})
    text = text_of(balancer, {**simple(c), "watch": True})
    half = balancer.file.with_suffix(".half")
    with half.open("w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        half.replace(balancer.file)  # an empty one would be told of, too
        eventually(lambda: "reload refused, nothing has changed" in balancer.log(), "it is told")
        assert {ask(balancer.port()) for _ in range(4)} == {"a", "b"}
        file.write(text[len(text) // 2 :])
    eventually(lambda: names(balancer) == {"c"}, "the whole file is in force")
    assert balancer.log().count("reload refused") == 1


def test_watching_can_be_switched_on_and_off_by_the_file_itself(start, nginxes):
    a, b, c = nginxes
    balancer = start(simple(a))
    balancer.reload({**simple(b), "watch": True})
    balancer.write({**simple(c), "watch": False})
    eventually(lambda: names(balancer) == {"c"}, "the file is followed")
    balancer.write(simple(a))
    # Three seconds by the balancer's own clock are three looks.
    seen = balancer.backends()["c"]["last_probe"]["at"]
    eventually(lambda: balancer.backends()["c"]["last_probe"]["at"] > seen + 3, "time has passed")
    assert names(balancer) == {"c"}


def test_the_command_line_decides_over_the_file(start, nginxes):
    a, b, _ = nginxes
    balancer = start(simple(a), arguments=("--watch",))
    balancer.write(simple(b))
    eventually(lambda: names(balancer) == {"b"}, "the file is followed")
