# SPDX-License-Identifier: GPL-2.0-only
"""The figures of `imakexec bench verify`, for a terminal of 80 columns and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from itertools import groupby

from rich.console import Console

from imakexec.bench import Runs
from imakexec.errors import counted
from imakexec.report.terminal import folded
from imakexec.verify_bench import Row, VerifyFigures

_WIDTH = 80
_NAME_WIDTH = 17
_COLUMN_WIDTH = 7

_TIMES: tuple[tuple[str, Callable[[Runs], float]], ...] = (
    ("wall", lambda runs: runs.wall.median),
    ("min", lambda runs: runs.wall.least),
    ("max", lambda runs: runs.wall.most),
    ("cpu", lambda runs: runs.cpu.median),
)
_FIGURES: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("faster", lambda row: f"{row.advantage.median:.2f}"),
    ("hashes", lambda row: f"{row.factor:.2f}"),
    ("each", lambda row: f"{row.microseconds:.2f}"),
    ("MiB", lambda row: f"{row.memory / 2**20:.0f}"),
)
_HEADS = tuple(head for head, _ in (*_TIMES, *_FIGURES))

_LEGEND = (
    "wall, min, max: seconds of a whole run, start of the interpreter included (median, least, "
    "greatest). cpu: seconds of CPU time in all its processes (median). faster: how many times as "
    "long evmctl took, which replays two banks on one CPU (wall time, median of the pairs of runs)."
    " hashes: CPU time as a multiple of what the hash functions alone need for the same. each: "
    "microseconds of wall time per record. MiB: the most memory at one time, of all its processes; "
    "the list itself is not in memory."
)


def print_verify_bench(console: Console, figures: VerifyFigures) -> None:
    """Print where it was measured, and a table for each length."""
    for line in render_verify_bench(figures):
        console.print(line, markup=False, highlight=False)


def render_verify_bench(figures: VerifyFigures) -> Iterator[str]:
    """The lines for a terminal."""
    host = figures.host
    yield folded("host", f"{host.cpu}, {host.cpus} usable, load {host.load:.1f}")
    yield folded("", host.system)
    yield folded("ours", host.python)
    yield folded("beside", host.evmctl)
    yield folded("runs", f"{figures.runs} timed ones of each, in turns; every answer was right")
    heads = "".join(f"{head:>{_COLUMN_WIDTH}}" for head in _HEADS)
    for title, lines in _blocks(figures):
        yield f"\n{title}\n{'':{_NAME_WIDTH}}{heads}"
        for name, cells in lines:
            row = "".join(f"{cell:>{_COLUMN_WIDTH}}" for cell in cells)
            yield f"{name:{_NAME_WIDTH}}{row}".rstrip()
    yield ""
    yield textwrap.fill(_LEGEND, _WIDTH)


def render_markdown(figures: VerifyFigures) -> str:
    """The same as Markdown."""
    host = figures.host
    lines = [
        f"{figures.runs} runs of each, {host.evmctl}, {host.python}, on {host.cpu}"
        f" ({host.cpus} usable).",
        "",
        _pipes("records", "", *_HEADS),
        _pipes("---", "---", *("---:" for _ in _HEADS)),
    ]
    for title, block in _blocks(figures):
        lines += [_pipes(title, name, *cells) for name, cells in block]
    return "\n".join([*lines, "", _LEGEND, ""])


def _blocks(figures: VerifyFigures) -> Iterator[tuple[str, list[tuple[str, list[str]]]]]:
    """What stands above each table, and its lines: a name and cells."""
    for (records, size), group in groupby(figures.rows, key=lambda row: (row.records, row.size)):
        rows = list(group)
        lines = [("evmctl", [*_times(rows[0].evmctl), *("" for _ in _FIGURES)])]
        for row in rows:
            name = f"{len(row.banks)} banks, {counted(row.cpus, 'CPU')}"
            lines.append((name, [*_times(row.ours), *(cell(row) for _, cell in _FIGURES)]))
        yield f"{records} records ({size / 2**20:.1f} MiB)", lines


def _times(runs: Runs) -> list[str]:
    return [f"{value(runs):.2f}" for _, value in _TIMES]


def _pipes(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
