"""What it costs to be watched: ``python -m bench.monitoring``.

The same relay runs several times side by side: nobody looks; the page's status and the metrics are read every second; with an
access log in either format. Short sessions, which are the worst case, go to one after the other, and each burst is
compared with the bursts beside it of the one that nobody looks at, as in the rest of the benchmark.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import accounting, method
from bench.programs import output_of, running
from bench.scenarios import scenarios
from bench.servers import server_port, serving
from bench.start import progress
from bench.topology import Topology, loopback

UNWATCHED = "nobody looks"
WATCHED = "page and metrics every second"
LOGS = {"access log, JSON": "json", "access log, HAProxy's format": "haproxy"}
VARIANTS = (UNWATCHED, WATCHED, *LOGS)
_PORTS = 40
_DESCRIPTORS = 4096
_START_S = 20.0


@dataclass(frozen=True, slots=True)
class Watched:
    """One running balancer: its process, where clients and readers reach it, and whether somebody reads."""

    name: str
    process: int
    port: int
    admin: int


@dataclass(frozen=True, slots=True)
class Used:
    """Sessions of one burst, and the CPU time that all processes and the control process alone spent."""

    sessions: float
    rate: float
    all: accounting.Cpu
    control: accounting.Cpu


@contextlib.contextmanager
def _balancer(name: str, topology: Topology, number: int, folder: Path) -> Iterator[Watched]:
    port = topology.first_port + 10 + 2 * number
    home = folder / str(number)
    home.mkdir()
    config: dict[str, object] = {
        "admin": {"bind": f"127.0.0.1:{port + 1}"},
        "listeners": [{"bind": f"127.0.0.1:{port}", "pool": "p"}],
        "pools": {"p": {"backends": [f"{topology.hosts['balancer'][1]}:{server_port(topology, 'http')}"]}},
    }
    if name in LOGS:
        config["access_log"] = {"path": str(home / "access.log"), "format": LOGS[name]}
    file = home / "easyproxy.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    with running([sys.executable, "-m", "easyproxy", "run", str(file)], home / "output.log") as process:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                _read(port + 1, "/readyz")
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                break
        yield Watched(name, process.pid, port, port + 1)


def _read(port: int, path: str) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        answer.read()


@contextlib.contextmanager
def _reading(balancer: Watched) -> Iterator[None]:
    """Read the status and the metrics every second, if this is the one that is watched."""
    done = threading.Event()

    def read() -> None:
        while not done.wait(1.0):
            for path in ("/api/status", "/metrics"):
                _read(balancer.admin, path)

    reader = threading.Thread(target=read)
    if balancer.name == WATCHED:
        reader.start()
    try:
        yield
    finally:
        done.set()
        if balancer.name == WATCHED:
            reader.join()


def _alone(process: int) -> accounting.Cpu:
    return accounting.parse_stat(Path(f"/proc/{process}/stat").read_text(encoding="utf-8"))[1]


def _burst(balancer: Watched, seconds: int) -> Used:
    [scenario] = [one for one in scenarios(2) if one.name == "connections"]
    argv = scenario.command("127.0.0.1", balancer.port, seconds, 0)
    before, control = accounting.cpu(balancer.process), _alone(balancer.process)
    with _reading(balancer):
        measured = scenario.parse(output_of(argv, 60.0 + seconds))
        time.sleep(0.3)  # what the bursts leaves over belongs to it
    return Used(
        measured.operations,
        measured.rate,
        accounting.cpu(balancer.process) - before,
        _alone(balancer.process) - control,
    )


def measure(rounds: int, seconds: int) -> str:
    """Run everything and return the table, in Markdown."""
    bursts: dict[str, list[Used]] = {name: [] for name in VARIANTS}
    ratios: list[dict[str, float]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="easyproxy-bench-")))
        topology = stack.enter_context(loopback(_PORTS))
        stack.enter_context(serving(topology, folder, 1, _DESCRIPTORS))
        up = {
            name: stack.enter_context(_balancer(name, topology, number, folder))
            for number, name in enumerate(VARIANTS)
        }
        for round_number in range(rounds):
            progress(f"round {round_number + 1} of {rounds}")
            row: list[method.Burst] = []
            for name in method.order(UNWATCHED, [*VARIANTS[1:]], round_number):
                used = _burst(up[name], seconds)
                bursts[name].append(used)
                row.append(method.Burst(name, used.rate))
            ratios.append(method.neighbour_ratios(UNWATCHED, row))
    return table(bursts, ratios)


def table(bursts: dict[str, list[Used]], ratios: list[dict[str, float]]) -> str:
    """Write the table: CPU time for each session, and connections a second beside the one that nobody looks at."""
    lines = [
        "| | sessions/s | user | of it control | system | connections |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, found in bursts.items():
        sessions = [used.sessions for used in found]

        def each(values: Iterator[float], sessions: list[float] = sessions) -> str:
            return f"{method.microseconds_per_operation([*values], sessions):.1f} us"

        user = each(used.all.user_s for used in found)
        control = each(used.control.user_s for used in found)
        system = each(used.all.system_s for used in found)
        of = sorted(row[name] for row in ratios if name in row)
        ratio = f"{statistics.median(of):.3f} ({of[0]:.2f} to {of[-1]:.2f})" if of else "-"
        rate = statistics.median(used.rate for used in found)
        lines.append(f"| {name} | {rate:.0f} | {user} | {control} | {system} | {ratio} |")
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.monitoring", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=3, help="of each burst")
    options = parser.parse_args()
    print(measure(options.rounds, options.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
