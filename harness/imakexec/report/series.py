# SPDX-License-Identifier: GPL-2.0-only
"""A series check: live on a terminal, in a log, as Markdown for the cover letter, and as JSON.

On a terminal and in a log a row has one line or a few of 80 columns, and what is red is explained
right below it, with its log. Nothing depends on colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest
from types import MappingProxyType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from imakexec.progress import Progress, Step
from imakexec.report.live import TerminalProgress
from imakexec.series.cells import Cell, CheckReport, Column, Row, Status

JSON_SCHEMA = "imakexec-series-check/1"

_WIDTH = 80
_TITLE_WIDTH = 4
_SHOWN_DETAILS = 8

# What stands in the place of a cell's text, which only the good ones are short enough for.
_WORDS: Mapping[Status, str] = MappingProxyType(
    {
        Status.RED: "RED",
        Status.SKIPPED: "--",
        Status.NOT_APPLICABLE: "n/a",
        Status.INFRA: "ERR",
    }
)
_STYLES: Mapping[Status, str] = MappingProxyType(
    {Status.OK: "green", Status.RED: "bold red", Status.INFRA: "bold yellow"}
)
_EXPLAINED = (Status.RED, Status.INFRA)


def heading_lines(columns: Sequence[Column]) -> Iterator[Text]:
    """The table's head."""
    heads: list[Sequence[str]] = [(), *(column.heading for column in columns)]
    yield from _side_by_side(heads, columns, ["bold"] * len(heads))
    yield Text(" ".join("-" * width for width in _widths(columns)))


def row_lines(row: Row, columns: Sequence[Column]) -> Iterator[Text]:
    """A row as far as it is known, and what is to be said about its cells."""
    cells = [row.cells.get(column.name) for column in columns]
    texts: list[Sequence[str]] = [(row.title,)]
    for cell, column in zip(cells, columns, strict=True):
        texts.append(textwrap.wrap(_shown(cell), column.width) if cell else ())
    styles = ["bold", *(_STYLES.get(cell.status, "") if cell else "" for cell in cells)]
    yield from _side_by_side(texts, columns, styles)
    for column in columns:
        cell = row.cells.get(column.name)
        if cell is not None and cell.status in _EXPLAINED:
            yield from _explanation(column, cell)


def _shown(cell: Cell) -> str:
    return _WORDS.get(cell.status, cell.text)


def _widths(columns: Sequence[Column]) -> list[int]:
    return [_TITLE_WIDTH, *(column.width for column in columns)]


def _side_by_side(
    texts: Iterable[Sequence[str]], columns: Sequence[Column], styles: Sequence[str]
) -> Iterator[Text]:
    """Narrow texts of several lines, beside each other."""
    for line in zip_longest(*texts, fillvalue=""):
        parts = [
            (f"{word:{width}} ", style)
            for word, width, style in zip(line, _widths(columns), styles, strict=True)
        ]
        text = Text.assemble(*parts)
        text.rstrip()
        yield text


def _explanation(column: Column, cell: Cell) -> Iterator[Text]:
    """What is wrong with a cell, and where to read on."""
    indent = " " * (_TITLE_WIDTH + 1)
    first = f"{_WORDS[cell.status]} {column.name}: {cell.text}"
    for line in textwrap.wrap(first, _WIDTH, initial_indent=indent, subsequent_indent=indent):
        yield Text(line, _STYLES[cell.status])
    for detail in cell.details[:_SHOWN_DETAILS]:
        yield Text(f"{indent}  {textwrap.shorten(detail, _WIDTH - len(indent) - 2)}")
    if cell.log is not None:
        # A path that is too long stays whole, to be copied.
        yield Text(f"{indent}log: {cell.log}", style=f"link {cell.log.absolute().as_uri()}")


def summary(report: CheckReport) -> Iterator[Text]:
    """The sum of a check, and where its logs are."""
    counts = [f"{report.count(status)} {status}" for status in Status if report.count(status)]
    duration = f"{report.seconds / 60:.1f} min"
    style = _STYLES[Status.OK] if report.exit_code == 0 else _STYLES[Status.RED]
    rows = "1 row" if len(report.rows) == 1 else f"{len(report.rows)} rows"
    yield Text(f"{rows} in {duration}; cells: {', '.join(counts)}", style)
    yield Text(f"logs {report.logs}")


class Display(Protocol):
    """Shows a check while it runs."""

    @property
    def progress(self) -> Progress:
        """Where its steps are shown."""

    def running(self) -> AbstractContextManager[None]:
        """Show what happens for as long as the context lasts."""

    def show(self, row: Row) -> None:
        """Show a row as far as it is known."""

    def finish(self, report: CheckReport) -> None:
        """Show what came out."""


def choose_display(out: Console, err: Console, columns: Sequence[Column]) -> Display:
    """A live table on a terminal; elsewhere rows among the steps, and the table at the end."""
    return LiveTable(out, columns) if out.is_terminal else LogTable(out, err, columns)


class LogTable:
    """Each row in the log when it is complete; in the end the whole table as the output.

    Args:
        out: where the table goes.
        err: where steps and rows go meanwhile.
        columns: of the table.
    """

    def __init__(self, out: Console, err: Console, columns: Sequence[Column]) -> None:
        self._out = out
        self._err = err
        self._columns = columns
        self.progress: Progress = TerminalProgress(err)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Nothing has to be begun or ended."""
        yield

    def show(self, row: Row) -> None:
        """Show a complete row below the names of its columns."""
        if len(row.cells) == len(self._columns):
            _print(self._err, [*heading_lines(self._columns), *row_lines(row, self._columns)])

    def finish(self, report: CheckReport) -> None:
        """Print the table."""
        _print(self._out, heading_lines(report.columns))
        for row in report.rows:
            _print(self._out, row_lines(row, report.columns))
        _print(self._out, summary(report))


class LiveTable:
    """The rows below each other; the last one fills while a line tells what is being done.

    Args:
        out: a terminal.
        columns: of the table.
    """

    def __init__(self, out: Console, columns: Sequence[Column]) -> None:
        self._out = out
        self._columns = columns
        self._row: Row | None = None
        self._steps: list[_LiveStep] = []
        self._spinner = Spinner("dots")
        self._live = Live(console=out, transient=True, get_renderable=self._render)

    @property
    def progress(self) -> Progress:
        """Shows the innermost running step in the line below the rows."""
        return self

    @contextmanager
    def running(self) -> Iterator[None]:
        """Own the terminal for as long as the context lasts."""
        _print(self._out, heading_lines(self._columns))
        with self._live:
            yield

    def show(self, row: Row) -> None:
        """Show a row; a complete one stays."""
        if len(row.cells) < len(self._columns):
            self._row = row
        else:
            self._row = None
            _print(self._out, row_lines(row, self._columns))

    def finish(self, report: CheckReport) -> None:
        """Print the sum; the rows are there."""
        _print(self._out, summary(report))

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step while it runs."""
        step = _LiveStep(title)
        self._steps.append(step)
        try:
            yield step
        finally:
            self._steps.remove(step)

    def note(self, text: str) -> None:
        """Show a text above the row that fills."""
        _print(self._out, map(Text, textwrap.wrap(text, _WIDTH)))

    def _render(self) -> Group:
        # Runs in a thread of its own, while the other sets and empties both.
        row, steps = self._row, self._steps[-1:]
        lines = list(row_lines(row, self._columns)) if row else []
        now = steps[0].now if steps else ""
        self._spinner.update(text=Text(now, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*lines, self._spinner)


class _LiveStep:
    """A running step that only says what it does."""

    def __init__(self, title: str) -> None:
        self._title = title
        self.now = title

    def update(self, detail: str, fraction: float | None = None) -> None:
        """Say what happens now."""
        share = "" if fraction is None else f" {fraction:.0%}"
        self.now = f"{self._title}{share}  {detail}"

    def done(self, result: str) -> None:
        """Nothing is kept: the row says how it went."""


def _print(console: Console, lines: Iterable[Text]) -> None:
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def markdown(report: CheckReport) -> str:
    """The table for a cover letter: a cell that is not good links to its log."""
    heads = ["patch", "subject", *(column.name for column in report.columns)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in report.rows:
        cells = [_markdown_cell(row.cells.get(column.name)) for column in report.columns]
        lines.append(f"| {' | '.join([row.title, _escaped(row.subject), *cells])} |")
    facts = ", ".join([f"{report.seconds / 60:.1f} min", report.platform, *report.tools])
    lines += ["", f"Checked on {report.base} ({facts}).", ""]
    lines += [f"- {column.name}: {_escaped(column.meaning)}" for column in report.columns]
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.status not in _EXPLAINED:
        return _escaped(_shown(cell))
    text = f"{_WORDS[cell.status]}: {_escaped(cell.text)}"
    return text if cell.log is None else f"[{text}](<{cell.log}>)"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("[", "\\[").replace("]", "\\]")


def document(report: CheckReport) -> dict[str, object]:
    """The same for machines."""
    return {
        "schema": JSON_SCHEMA,
        "exit_code": report.exit_code,
        "base": report.base,
        "platform": report.platform,
        "tools": list(report.tools),
        "seconds": round(report.seconds, 1),
        "logs": str(report.logs),
        "columns": [{"name": each.name, "meaning": each.meaning} for each in report.columns],
        "rows": [_row_document(row) for row in report.rows],
    }


def _row_document(row: Row) -> dict[str, object]:
    return {
        "patches": row.patches,
        "subject": row.subject,
        "seconds": round(row.seconds, 1),
        "cells": {
            name: {
                "status": cell.status.value,
                "text": cell.text,
                "details": list(cell.details),
                "log": None if cell.log is None else str(cell.log),
            }
            for name, cell in row.cells.items()
        },
    }
