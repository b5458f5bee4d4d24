"""The picture of a run as SVG: one panel of bars per scenario, relative to the best other balancer. Pure.

It has no background and takes its colours from the reader's light or dark scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.peers import BARE, DIRECT, OURS, SUBJECT
from bench.report import Row, Table, tables
from bench.results import Results

_COLUMNS = 2
_WIDTH = 480
_GAP = 30
_LABEL = 188
_BAR = 18
_STEP = 24
_HEAD = 52
_VALUE = 44  # the column of numbers on the right

_STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f }
.title { font-size: 14px; font-weight: 600 }
.note { fill: #656d76; font-size: 11px }
.us { font-weight: 600 }
.bar { fill: #b6c2cf }
.bar.us { fill: #2f7d5b }
.span { stroke: #57606a; stroke-width: 1.2 }
.one { stroke: #8c959f; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .note { fill: #9198a1 }
  .bar { fill: #4b5663 }
  .bar.us { fill: #46b384 }
  .span { stroke: #c3ccd6 }
  .one { stroke: #768390 }
}
"""


def svg(results: Results) -> str:
    """Draw a run."""
    panels = [_rates(results, table) for table in tables(results)]
    if any(one.kib is not None for one in results.idle):
        panels.append(_idle(results))
    bars = max((len(panel[2]) for panel in panels), default=0)
    height = _HEAD + bars * _STEP + 24
    rows = -(-len(panels) // _COLUMNS)
    total_width, total_height = _COLUMNS * _WIDTH + (_COLUMNS - 1) * _GAP, rows * height
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_width} {total_height}" '
            f'width="{total_width}" height="{total_height}" role="img" aria-label="EasyProxy and its peers">'
        ),
        f"<style>{_STYLE}</style>",
    ]
    for number, (title, note, panel_bars) in enumerate(panels):
        left, top = number % _COLUMNS * (_WIDTH + _GAP), number // _COLUMNS * height
        parts.append(f'<g transform="translate({left} {top})">{_panel(title, note, panel_bars)}</g>')
    return "\n".join([*parts, "</svg>", ""])


Bar = tuple[str, bool, float, str, tuple[float, float] | None]
"""Label, whether it is EasyProxy, length, the number shown, and the lowest and highest of the rounds."""


def _rates(results: Results, table: Table) -> tuple[str, str, list[Bar]]:
    bars: list[Bar] = []
    for row in table.rows:
        if row.peer not in BARE and row.ratio is not None:
            span = (row.ratio.low, row.ratio.high)
            bars.append(
                (
                    results.titles[row.peer],
                    row.peer in OURS,
                    row.ratio.median,
                    f"{row.ratio.median:.2f}",
                    span,
                )
            )
    note = (
        f"{table.unit}, relative to the best other balancer; more is better{_direct_note(table.row(DIRECT))}"
    )
    return table.title, note, bars


def _direct_note(row: Row | None) -> str:
    return "" if row is None or row.ratio is None else f" (no balancer: {row.ratio.median:.1f})"


def _idle(results: Results) -> tuple[str, str, list[Bar]]:
    bars: list[Bar] = [
        (results.titles[one.peer], one.peer == SUBJECT, one.kib, f"{one.kib:.1f}", None)
        for one in results.idle
        if one.kib is not None
    ]
    return "memory per idle session", "KiB, all processes of the balancer; less is better", bars


def _panel(title: str, note: str, bars: Sequence[Bar]) -> str:
    longest = max(
        [length for _, _, length, _, _ in bars] + [span[1] for *_, span in bars if span], default=1.0
    )
    scale = (_WIDTH - _LABEL - _VALUE) / (longest or 1.0)
    parts = [
        f'<text class="title" y="16">{escape(title)}</text>',
        f'<text class="note" y="34">{escape(note)}</text>',
    ]
    if any(span for *_, span in bars):
        x = _LABEL + scale
        bottom = _HEAD + len(bars) * _STEP
        parts.append(f'<line class="one" x1="{x:.1f}" x2="{x:.1f}" y1="{_HEAD - 6}" y2="{bottom}"/>')
    for number, (label, us, length, value, span) in enumerate(bars):
        y = _HEAD + number * _STEP
        middle, mark = y + _BAR / 2, " us" if us else ""
        end = _LABEL + max(length, 0.0) * scale
        parts.append(
            f'<text class="label{mark}" x="{_LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>'
        )
        parts.append(
            f'<rect class="bar{mark}" x="{_LABEL}" y="{y}" width="{end - _LABEL:.1f}" height="{_BAR}" rx="2"/>'
        )
        if span:
            low, high = (_LABEL + edge * scale for edge in span)
            parts.append(f'<line class="span" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>')
        parts.append(
            f'<text class="value{mark}" x="{_WIDTH}" y="{middle + 4}" text-anchor="end">{value}</text>'
        )
    return "".join(parts)
