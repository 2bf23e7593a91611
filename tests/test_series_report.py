# SPDX-License-Identifier: GPL-2.0-only
"""How a series check is shown: 80 columns, Markdown, JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from imakexec.report.series import (
    LiveTable,
    LogTable,
    choose_display,
    document,
    heading_lines,
    markdown,
    row_lines,
)
from imakexec.series.cells import Cell, CheckReport, Row, Status
from imakexec.series.check import COLUMNS

_GOOD = {
    **{column.name: Cell(Status.OK, "ok") for column in COLUMNS},
    "git am": Cell(Status.OK, "170 176 187 190 192"),
    "checkpatch": Cell(Status.OK, "0/0/0"),
    "carries": Cell(Status.OK, "part"),
    "verdict": Cell(Status.OK, "OUT_OF_SYNC (no_markers)"),
}
_BAD = {
    **_GOOD,
    "build": Cell(
        Status.RED,
        "1 new message",
        ("security/integrity/ima/ima_kexec.c: warning: " + "x" * 80,),
        Path("/logs/1-W=1.log"),
    ),
    "32-bit": Cell(Status.NOT_APPLICABLE, "no such architecture"),
    "carries": Cell(Status.SKIPPED, "there is no kernel to boot"),
    "git am": Cell(Status.INFRA, "the disk is full", (), Path("/logs/git-am.log")),
}
_REPORT = CheckReport(
    base="linux-source-6.1 6.1.192-2",
    platform="x86_64, tcg",
    tools=("gcc 12", "sparse 0.6.4"),
    logs=Path("/logs"),
    columns=COLUMNS,
    rows=(
        Row(0, 1, "linux-source-6.1 6.1.192-2", _GOOD, 10.0),
        Row(1, 1, "ima: do [one] thing", _BAD, 50.0),
    ),
    seconds=60.0,
)


def test_a_row_fits_80_columns() -> None:
    lines = [line.plain for line in [*heading_lines(COLUMNS), *row_lines(_REPORT.rows[0], COLUMNS)]]
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines[-3:]]
    assert rows[0][:4] == ["base", "170", "176", "0/0/0"]
    assert rows[0][-1] == "OUT_OF_SYNC"
    assert rows[1] == ["187", "190", "(no_markers)"]
    assert rows[2] == ["192"]


def test_what_is_bad_is_explained_below_its_row_with_its_log() -> None:
    lines = [line.plain for line in row_lines(_REPORT.rows[1], COLUMNS)]
    assert lines[0].split()[:4] == ["1/1", "ERR", "0/0/0", "RED"]
    assert {"n/a", "--"} <= set(lines[0].split())
    text = "\n".join(lines)
    assert "     ERR git am: the disk is full\n     log: /logs/git-am.log" in text
    assert "     RED build: 1 new message\n       security/integrity/ima/ima_kexec.c" in text
    assert "     log: /logs/1-W=1.log" in text
    assert all(len(line) <= 80 for line in lines)


def test_a_row_that_is_not_complete() -> None:
    row = Row(1, 1, "ima: x", {"git am": Cell(Status.OK, "192")}, 1.0)
    assert [line.plain.split() for line in row_lines(row, COLUMNS)] == [["1/1", "192"]]


def _console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, width=80, color_system=None), stream


def test_in_a_log_rows_come_complete_and_the_table_is_the_output() -> None:
    out, printed = _console(terminal=False)
    err, said = _console(terminal=False)
    display = choose_display(out, err, COLUMNS)
    assert isinstance(display, LogTable)
    first, second = _REPORT.rows
    with display.running():
        display.show(Row(0, 1, "base", {"git am": Cell(Status.OK, "192")}, 1.0))
        assert said.getvalue() == ""
        display.show(first)
        assert said.getvalue().count("OUT_OF_SYNC") == 1
        display.show(second)
        assert printed.getvalue() == ""
    display.finish(_REPORT)
    assert printed.getvalue().count("OUT_OF_SYNC") == 2
    assert printed.getvalue().count("check") == 1, "one heading"
    assert "2 rows in 1.0 min; cells: " in printed.getvalue()
    assert "1 red" in printed.getvalue()


def test_on_a_terminal_a_row_fills_and_stays() -> None:
    out, printed = _console(terminal=True)
    display = choose_display(out, out, COLUMNS)
    assert isinstance(display, LiveTable)
    with display.running(), display.progress.step("objects of 1/1, IMA=n") as step:
        display.show(Row(0, 1, "base", {"git am": Cell(Status.OK, "192")}, 1.0))
        step.update("9 targets")
        display.progress.note("accelerator: tcg")
        display.show(_REPORT.rows[0])
    display.finish(_REPORT)
    text = printed.getvalue()
    assert "accelerator: tcg" in text
    assert text.count("OUT_OF_SYNC") >= 1
    assert "logs /logs" in text


def test_markdown_links_what_is_bad() -> None:
    text = markdown(_REPORT)
    head, rule, base, first, *_ = text.splitlines()
    assert head.count("|") == rule.count("|") == base.count("|") == first.count("|")
    assert "| base | linux-source-6.1 6.1.192-2 | 170 176 187 190 192 | 0/0/0 | ok |" in base
    assert "[RED: 1 new message](</logs/1-W=1.log>)" in first
    assert "ima: do \\[one\\] thing" in first
    assert "Checked on linux-source-6.1 6.1.192-2 (1.0 min, x86_64, tcg, gcc 12" in text


def test_json() -> None:
    data = json.loads(json.dumps(document(_REPORT)))
    assert data["schema"] == "imakexec-series-check/1"
    assert data["exit_code"] == 1
    assert [column["name"] for column in data["columns"]] == [each.name for each in COLUMNS]
    base, first = data["rows"]
    assert base["patches"] == 0
    assert base["cells"]["git am"]["status"] == "ok"
    assert first["cells"]["build"] == {
        "status": "red",
        "text": "1 new message",
        "details": list(_BAD["build"].details),
        "log": "/logs/1-W=1.log",
    }
