# SPDX-License-Identifier: GPL-2.0-only
"""The figures of `imakexec bench handover`, for a terminal of 80 columns and for a cover letter."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console

from imakexec.bench import Spread
from imakexec.handover_bench import HandoverFigures, Row
from imakexec.handover_run import Sample
from imakexec.report.terminal import folded

_WIDTH = 80
_NAME_WIDTH = 17
_COLUMN_WIDTH = 10


@dataclass(frozen=True)
class _Table:
    """One table of the figures, a line for each kernel and length.

    Attributes:
        title: what it is about, and the unit.
        columns: heads and what is below them; the row of the same kernel with its list as booted
            is given too.
    """

    title: str
    columns: Sequence[tuple[str, Callable[[Row, Row], str]]]


def _kib(value: Callable[[Sample], float]) -> Callable[[Row, Row], str]:
    return lambda row, _: f"{row.median(value) / 1024:.0f}"


def _beyond_booted(row: Row, booted: Row) -> str:
    more = row.median(_free) - booted.median(_free)
    return f"{more / 1024:.0f}"


def _free(sample: Sample) -> float:
    return sample.held.free


def _milliseconds(spread: Callable[[Row], Spread]) -> tuple[Callable[[Row, Row], str], ...]:
    """Median, least and greatest."""
    return (
        lambda row, _: f"{spread(row).median * 1e3:.1f}",
        lambda row, _: f"{spread(row).least * 1e3:.1f}",
        lambda row, _: f"{spread(row).most * 1e3:.1f}",
    )


def _instructions(value: Callable[[Sample], float]) -> Callable[[Row, Row], str]:
    return lambda row, _: "-" if row.counted is None else f"{value(row.counted) * 1e3:.2f}"


_EXECUTE = _milliseconds(lambda row: row.execute)
_LOAD = _milliseconds(lambda row: row.load)

_TABLES = (
    _Table(
        "memory held from load to execute, KiB (medians)",
        (
            ("segment", _kib(lambda sample: sample.segment)),
            ("mapped", _kib(lambda sample: sum(sample.held.mapped.values()))),
            ("2nd buf.", _kib(lambda sample: sum(sample.held.owned.values()))),
            ("all", _kib(_free)),
            ("beyond", _beyond_booted),
            ("unloaded", _kib(lambda sample: sample.kept.free)),
        ),
    ),
    _Table(
        "time, ms (medians)",
        (
            ("execute", _EXECUTE[0]),
            ("min", _EXECUTE[1]),
            ("max", _EXECUTE[2]),
            ("load", _LOAD[0]),
            ("min", _LOAD[1]),
            ("max", _LOAD[2]),
        ),
    ),
    _Table(
        "instructions, millions",
        (
            ("execute", _instructions(lambda sample: sample.execute)),
            ("load", _instructions(lambda sample: sample.load)),
        ),
    ),
)

_LEGEND = (
    "segment: source pages of the image for the list. mapped: virtual range over them. 2nd buf.: "
    "pages of a vmalloc buffer that stays beside them. all: how much less free memory there is, "
    "for the whole image. beyond: the same, less that with the list as booted. unloaded: how much "
    "less free memory there still is after the image was unloaded. execute: from "
    "kernel_restart_prepare to device_shutdown. load: the system call kexec_file_load. "
    "instructions: of one more run each, -: this accelerator cannot count them."
)


def print_handover(console: Console, figures: HandoverFigures) -> None:
    """Print where it was measured, and both tables."""
    for line in render_handover(figures):
        console.print(line, markup=False, highlight=False)


def render_handover(figures: HandoverFigures) -> Iterator[str]:
    """The lines for a terminal."""
    host = figures.host
    yield folded("host", f"{host.cpu}, {host.cpus} usable, load {host.load:.1f}")
    yield folded("", host.system)
    yield folded("machine", f"{host.qemu}, {host.accelerator}, {figures.memory_mib} MiB, no TPM")
    yield folded("", host.reason)
    for name, source in figures.kernels.items():
        yield folded("kernel", f"{name}: {source}")
    yield folded(
        "runs", f"{figures.runs} timed ones of each, in turns; every list was carried whole"
    )
    for table in _TABLES:
        yield f"\n{table.title}"
        for title, rows in _blocks(figures):
            heads = "".join(f"{head:>{_COLUMN_WIDTH}}" for head, _ in table.columns)
            yield f"\n{title}\n{'':{_NAME_WIDTH}}{heads}"
            for row, booted in rows:
                cells = (f"{cell(row, booted):>{_COLUMN_WIDTH}}" for _, cell in table.columns)
                yield f"{row.kernel:{_NAME_WIDTH}}{''.join(cells)}"
    yield ""
    yield textwrap.fill(_LEGEND, _WIDTH)


def render_markdown(figures: HandoverFigures) -> str:
    """The same as Markdown."""
    host = figures.host
    lines = [
        f"Medians of {figures.runs} runs, {host.qemu} ({host.accelerator}), "
        f"{figures.memory_mib} MiB, no TPM, on {host.cpu}.",
        "",
        *(f"- {name}: {source}" for name, source in figures.kernels.items()),
    ]
    for table in _TABLES:
        heads = ["records", "kernel", *(head for head, _ in table.columns)]
        lines += ["", f"{table.title[0].upper()}{table.title[1:]}:", "", _pipes(heads)]
        lines += [_pipes(["---:", "---", *("---:" for _ in table.columns)])]
        for title, rows in _blocks(figures):
            for row, booted in rows:
                cells = (cell(row, booted) for _, cell in table.columns)
                lines.append(_pipes([title, row.kernel, *cells]))
    return "\n".join([*lines, "", _LEGEND, ""])


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _blocks(figures: HandoverFigures) -> Iterator[tuple[str, list[tuple[Row, Row]]]]:
    """The rows of each length, with those of the list as booted, under what the length is."""
    booted = {row.kernel: row for row in figures.rows if row.wanted == 0}
    for wanted, group in groupby(figures.rows, key=lambda row: row.wanted):
        rows = [(row, booted[row.kernel]) for row in group]
        yield _length(wanted, [row for row, _ in rows]), rows


def _length(wanted: int, rows: Sequence[Row]) -> str:
    """The length of a list, that of the longest kernel where they differ."""
    size = max(sample.size for row in rows for sample in row.samples)
    records = max(sample.records for row in rows for sample in row.samples)
    what = f"{wanted} records" if wanted else "as booted"
    return f"{what} ({records} in all, {size / 1024:.0f} KiB)"
