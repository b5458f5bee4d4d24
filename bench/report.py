"""From results to tables: figures worked out by method.py, rendered as Markdown. Pure: nothing is measured here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench import method
from bench.method import Burst, Ratio
from bench.peers import BARE, DIRECT, OURS, ROUTED
from bench.results import Results, Sample

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One peer in one scenario. CPU in microseconds per operation, nan where there is no balancer."""

    peer: str
    rate: float | None
    ratio: Ratio | None
    user_us: float
    system_us: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Table:
    """One scenario: who was the best of the other balancers, and everybody in relation to it."""

    scenario: str
    title: str
    unit: str
    operation: str
    best: str | None
    rows: tuple[Row, ...]

    def row(self, peer: str) -> Row | None:
        """Return a peer's row."""
        return next((row for row in self.rows if row.peer == peer), None)


def tables(results: Results) -> list[Table]:
    """Work out every scenario of a run."""
    return [_table(results, name) for name in results.scenarios]


def _table(results: Results, scenario: str) -> Table:
    samples = sorted(
        (sample for sample in results.samples if sample.scenario == scenario),
        key=lambda sample: (sample.round, sample.position),
    )
    rounds = [
        method.neighbour_ratios(
            results.anchor, [Burst(one.peer, one.rate) for one in samples if one.round == number]
        )
        for number in sorted({one.round for one in samples})
    ]
    best = method.best(rounds, [peer for peer in results.titles if peer not in BARE | OURS])
    ratios = method.relative_to(best, rounds) if best else {}
    words = results.scenarios[scenario]
    return Table(
        scenario,
        words["title"],
        words["unit"],
        words["operation"],
        best,
        tuple(
            _row(peer, [one for one in samples if one.peer == peer], ratios.get(peer))
            for peer in results.titles
        ),
    )


def _row(peer: str, samples: Sequence[Sample], ratio: Ratio | None) -> Row:
    worked = [sample for sample in samples if sample.rate]
    operations = [sample.operations for sample in worked]

    def per_operation(cpu_s: list[float]) -> float:
        return math.nan if peer in BARE else method.microseconds_per_operation(cpu_s, operations)

    slowest = [sample.latency_ms["p99"] for sample in worked if "p99" in sample.latency_ms]
    return Row(
        peer,
        method.median_rate(sample.rate for sample in samples),
        ratio,
        per_operation([sample.user_s for sample in worked]),
        per_operation([sample.system_s for sample in worked]),
        statistics.median(slowest) if slowest else math.nan,
    )


def markdown(results: Results) -> str:
    """Render a run: how it was measured, the summary, and one table per scenario."""
    worked_out = tables(results)
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    how = ", ".join(f"{name} {value}" for name, value in results.method.items())
    parts = [f"Machine: {machine}.  \nMethod: {how}.", summary(results, worked_out)]
    parts += [_scenario(results, table) for table in worked_out]
    if results.idle:
        parts.append(_idle(results))
    notes = [f"- left out: {name}: {reason}" for name, reason in results.missing.items()]
    notes += sorted(
        {f"- failed: {one.peer}, {one.scenario}: {one.failure}" for one in results.samples if one.failure}
    )
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts) + "\n"


def insert(document: str, rendered: str) -> str:
    """Put a rendered report between the two marks of a document, in the place of the former one.

    Raises:
        ValueError: the document lacks the marks.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} and {END} to write between")
    return f"{before}{begin}\n\n{rendered.strip()}\n\n{end}{after}"


def summary(results: Results, worked_out: Sequence[Table]) -> str:
    """Render the one table for a front page: every scenario, every peer, its rate relative to the best other balancer."""
    peers = [peer for peer in results.titles if peer not in BARE]
    bare = [(peer, word) for peer, word in ((ROUTED, "routed"), (DIRECT, "direct")) if peer in results.titles]
    lines = _header(["", *(results.titles[peer] for peer in peers), *(word for _, word in bare)])
    for table in worked_out:
        cells = [
            _short_ratio(table.row(peer), bold=peer in OURS) for peer in [*peers, *(name for name, _ in bare)]
        ]
        lines.append(_line([table.title, *cells]))
    if results.idle:
        kib = {one.peer: one.kib for one in results.idle}
        lines.append(
            _line(["KiB per idle session", *(_number(kib.get(peer)) for peer in peers), *("" for _ in bare)])
        )
    for table in (one for one in worked_out if one.scenario == "redis-50"):
        cells = [f"{_number(row.user_us)} + {_number(row.system_us)}" for row in map(table.row, peers) if row]
        lines.append(_line(["CPU per request, µs (user + system)", *cells, *("" for _ in bare)]))
    return "\n".join(lines)


def _scenario(results: Results, table: Table) -> str:
    head = [
        table.title,
        table.unit,
        "ratio to best",
        "lowest … highest",
        f"user µs/{table.operation}",
        f"system µs/{table.operation}",
        "p99 ms",
    ]
    lines = _header(head)
    for row in table.rows:
        cpu = [_number(row.user_us), _number(row.system_us), _number(row.p99_ms)]
        median = "-" if row.ratio is None else f"{row.ratio.median:.2f}"
        span = "-" if row.ratio is None else f"{row.ratio.low:.2f} … {row.ratio.high:.2f}"
        lines.append(_line([results.titles[row.peer], _rate(row.rate), median, span, *cpu]))
    return "\n".join(lines)


def _idle(results: Results) -> str:
    lines = _header(["idle sessions", "sessions", "KiB per session", "MiB without sessions"])
    for one in results.idle:
        value = f"failed: {one.failure}" if one.kib is None else f"{one.kib:.2f}"
        lines.append(
            _line([results.titles[one.peer], str(one.sessions), value, _number(one.empty_mib or None)])
        )
    return "\n".join(lines)


def _header(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + "|".join([" :-- ", *[" --: "] * (len(cells) - 1)]) + "|"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _short_ratio(row: Row | None, *, bold: bool) -> str:
    if row is None or row.ratio is None:
        return "-"
    text = f"{row.ratio.median:.2f}"
    return f"**{text}**" if bold else text


def _rate(rate: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.3g}"


def _number(value: float | None) -> str:
    """Render three significant digits, a dash for what is not known."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
