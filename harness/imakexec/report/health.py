# SPDX-License-Identifier: GPL-2.0-only
"""The state of the host, for people.

Apart from what shows judgements, because that does not load on a host without `cryptography`, and
this must. Every line fits 80 columns and nothing depends on colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from imakexec.doctor import DoctorReport, Row, State

_STYLES = {State.OK: "green", State.WARNING: "bold yellow", State.MISSING: "bold red"}
_STATE_WIDTH, _NAME_WIDTH, _SEEN_WIDTH = 9, 32, 39


def print_doctor(console: Console, report: DoctorReport) -> None:
    """Print a line for each check, what to do below those that did not go well, and the sum."""
    for line in render_doctor(report):
        console.print(line, highlight=False)


def render_doctor(report: DoctorReport) -> Iterator[Text]:
    """The lines of a report."""
    for row in report.rows:
        yield from _row(row)
    yield Text("")
    missing = [row.name for row in report.rows if row.state is State.MISSING]
    sum_up = f"Missing: {', '.join(missing)}." if missing else "Nothing is missing."
    yield from map(Text, textwrap.wrap(sum_up, 80))


def _row(row: Row) -> Iterator[Text]:
    first, *more = textwrap.wrap(row.seen, _SEEN_WIDTH) or [""]
    if row.remedy:
        more += textwrap.wrap(f"to do: {row.remedy}", _SEEN_WIDTH, subsequent_indent=" " * 7)
    state = (f"{row.state:{_STATE_WIDTH}}", _STYLES[row.state])
    yield Text.assemble(state, f"{row.name:{_NAME_WIDTH}}{first}")
    for line in more:
        yield Text(f"{'':{_STATE_WIDTH + _NAME_WIDTH}}{line}")
