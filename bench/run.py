"""One run: load one peer at a time in short bursts, and write down what was seen.

The peers stay up the whole time and only the one under its burst has work. Rounds are the outermost loop, so an
interrupted run has whole rounds of everything.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import accounting, method
from bench.idle import memory_kib
from bench.peers import BARE, DIRECT, KERNEL, SUBJECT
from bench.programs import ProgramFailed, output_of
from bench.results import Idle, Results, Sample
from bench.scenarios import Measured, Scenario, UnreadableOutput
from bench.start import Running, progress
from bench.topology import Topology

_FIRST_OPERATIONS = 2000


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. ``idle_sessions`` 0 leaves them out."""

    scenarios: Sequence[Scenario]
    rounds: int
    burst_s: int
    idle_sessions: int


def measure(topology: Topology, up: Sequence[Running], plan: Plan, results: Results) -> None:
    """Run the plan and add what it shows to ``results`` as it comes."""
    by_name = {one.name: one for one in up}
    if plan.idle_sessions:  # first, while every balancer is as fresh as the others
        for one in up:
            if one.process and one.name != KERNEL:  # whose sessions are the kernel's, in no process
                results.idle.append(_idle(topology, one, plan.idle_sessions))
    others = [one.name for one in up if one.name != results.anchor]
    speed: dict[tuple[str, str], float] = {}
    for number in range(plan.rounds):
        for scenario in plan.scenarios:
            shown = []
            for position, name in enumerate(method.order(results.anchor, others, number)):
                load = _Load(topology, scenario, by_name[name], plan.burst_s)
                sample = load.burst(speed.get((scenario.name, name), 0.0), number, position)
                if sample.rate:
                    speed[scenario.name, name] = sample.rate
                results.samples.append(sample)
                shown.append(
                    f"{name} {sample.rate:.4g}" if sample.rate else f"{name} FAILED ({sample.failure})"
                )
            progress(
                f"round {number + 1}/{plan.rounds}, {scenario.title} in {scenario.unit}: {', '.join(shown)}"
            )


@dataclass(frozen=True, slots=True)
class _Load:
    """One scenario on one peer."""

    topology: Topology
    scenario: Scenario
    one: Running
    seconds: int

    def burst(self, speed: float, round_number: int, position: int) -> Sample:
        """Load the peer once; a burst that fails is tried once more.

        ``speed`` is that of an earlier burst, or 0: a load that is a number of requests is made as long as the
        others by it.
        """
        place = (self.scenario.name, round_number, position, self.one.name)
        failure = ""
        for _ in range(2):
            try:
                if self.scenario.counted and not speed:
                    speed = self.once(_FIRST_OPERATIONS).rate
                operations = int(speed * self.seconds)
                before = self.cpu()
                measured = self.once(operations)
                used = self.cpu() - before
            except (ProgramFailed, UnreadableOutput) as error:
                failure = str(error)
                time.sleep(0.5)
                continue
            return Sample(
                *place,
                rate=measured.rate,
                operations=measured.operations or operations,
                user_s=round(used.user_s, 3),
                system_s=round(used.system_s, 3),
                latency_ms=measured.latency_ms,
            )
        return Sample(*place, rate=None, failure=failure)

    def once(self, operations: int) -> Measured:
        """Run the load generator."""
        port = self.one.port(self.scenario.service)
        argv = self.scenario.command(self.one.host, port, self.seconds, operations)
        return self.scenario.parse(output_of(self.topology.command("client", argv), self.seconds * 5 + 10))

    def cpu(self) -> accounting.Cpu:
        """Return the CPU time of the peer so far."""
        return accounting.cpu(self.one.process) if self.one.process else accounting.Cpu(0.0, 0.0)


def _idle(topology: Topology, one: Running, count: int) -> Idle:
    try:
        empty, full = memory_kib(topology, one.host, one.process, one.port("hold"), count)
    except ProgramFailed as failure:
        progress(f"{count} idle sessions: {one.name} FAILED ({failure})")
        return Idle(one.name, count, None, failure=str(failure))
    kib = (full - empty) / count
    progress(f"{count} idle sessions: {one.name} {kib:.2f} KiB each")
    return Idle(one.name, count, round(kib, 3), round(empty / 1024, 1))


def anchor_of(names: Sequence[str]) -> str:
    """Return who stands beside every other peer: EasyProxy, or the first balancer when it does not run."""
    if SUBJECT in names:
        return SUBJECT
    return next((name for name in names if name not in BARE), DIRECT)


def describe_machine() -> dict[str, str]:
    """Return what a reader of the figures must know of the machine."""
    cpu = "unknown"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "CPU": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release().partition("-")[0],
        "Python": platform.python_version(),
        "load before the run": f"{os.getloadavg()[0]:.2f}",
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
    }
