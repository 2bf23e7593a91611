# SPDX-License-Identifier: GPL-2.0-only
"""A review as a text that can be sent as an answer to the series: 72 columns, no colour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from textwrap import wrap

from rich.text import Text

from imakexec import __version__
from imakexec.errors import counted
from imakexec.handover_run import Sample
from imakexec.report.series import heading_lines, row_lines
from imakexec.review.behaviour import Difference, Ending, by_scenario, scenario_name
from imakexec.review.checks import COLUMNS
from imakexec.review.review import Review
from imakexec.series.cells import Row, Status
from imakexec.suite.outcome import Outcome

WIDTH = 72
"""Columns of a mail."""

_SHOWN = 12
"""Tests of a kind that are named one by one."""

_WORDS = {
    Status.RED: "RED",
    Status.SKIPPED: "-",
    Status.NOT_APPLICABLE: "n/a",
    Status.INFRA: "?",
}

# What a table has room for, in this order: a heading, and the columns of `review.checks` in it.
_GROUPS = (
    ("am", ("git am",)),
    ("checkpatch", ("checkpatch",)),
    ("build", ("build",)),
    ("configs", tuple(it.name for it in COLUMNS[3:-5])),
    ("kexec", ("kexec",)),
    ("carries", ("carries", "twice", "reload")),
    ("verdict", ("verdict",)),
)


def render(review: Review, tester: str) -> str:
    """The whole text.

    Args:
        tester: "Name <address>", of whoever has run it; empty for that nobody is named.
    """
    mailed = review.mailed
    lines = [f"Subject: Re: {mailed.title}"]
    if mailed.message_id:
        lines.append(f"In-Reply-To: <{mailed.message_id}>")
    lines += ["", *_head(review), "", *_patches(review), *_red(review)]
    lines += ["", *_scenarios(review), *_changes(review, 0, "the base")]
    if review.older is not None:
        lines += _changes(review, 1, f"version {review.older.version}")
    lines += ["", *_figures(review), ""]
    if review.range_diff:
        lines += ["Range-diff:", "", *(f"  {line}" for line in review.range_diff.splitlines()), ""]
    lines += _end(review, tester)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _head(review: Review) -> Iterator[str]:
    patches = counted(len(review.mailed.series.patches), "patch").replace("patchs", "patches")
    yield from _text(
        f"{patches} on {review.base}, tried with imakexec {__version__} on {review.platform}: each "
        "patch was applied, compiled and taken through a kexec with a TPM, and then the whole "
        f"series was held against the base ({review.selection}). This took "
        f"{review.seconds / 60:.0f} minutes."
    )


# The table of patches.


def _patches(review: Review) -> Iterator[str]:
    table = [["", *(heading for heading, _ in _GROUPS)]]
    table += [[row.title, *(_cell(row, names) for _, names in _GROUPS)] for row in review.rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        yield " ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True))
    yield ""
    for row in review.rows:
        if row.patches:
            yield f"  {row.title} {row.subject}"[:WIDTH]


def _cell(row: Row, names: Sequence[str]) -> str:
    """What several columns of a patch come to in one: the worst, or else what all of them say."""
    found = [row.cells[name] for name in names]
    bad = [cell for cell in found if cell.status in (Status.RED, Status.INFRA)]
    words = [_WORDS.get(cell.status, cell.text) for cell in (bad[:1] or found)]
    return "/".join(dict.fromkeys(words)).split(" (")[0]


def _red(review: Review) -> Iterator[str]:
    for row in review.rows:
        for name, cell in row.cells.items():
            if cell.status not in (Status.RED, Status.INFRA):
                continue
            yield ""
            yield from _text(f"{row.title}, {name}: {cell.text}")
            for line in cell.details[:_SHOWN]:
                yield f"  {line}"  # a line of a compiler is not folded
            if len(cell.details) > _SHOWN:
                yield f"  and {len(cell.details) - _SHOWN} lines more"


# Behaviour.


def _scenarios(review: Review) -> Iterator[str]:
    yield "Tests by scenario: passed, known defects, failed, no verdict"
    yield ""
    tables = [by_scenario(it.endings) for it in review.kernels]
    yield f"{'':27} " + " ".join(f"{it.name:>13}" for it in review.kernels)
    numbers = sorted({number for table in tables for number in table})
    for number in numbers:
        cells = []
        for table in tables:
            ends = table.get(number, Counter())
            order = (Outcome.PASS, Outcome.KNOWN, Outcome.FAIL, Outcome.INFRA)
            cells.append("/".join(str(ends.get(outcome, 0)) for outcome in order))
        yield f"{scenario_name(number):27.27} " + " ".join(f"{cell:>13}" for cell in cells)


def _changes(review: Review, before: int, name: str) -> Iterator[str]:
    found = review.changes(before)
    yield ""
    if not found:
        yield f"No test ends in another way than on {name}."
        return
    for kind in dict.fromkeys(item.change for item in found):
        of_kind = [item for item in found if item.change is kind]
        yield f"Tests that end {kind} than on {name}: {len(of_kind)}".replace(
            "end other than", "end in another way than"
        )
        for item in of_kind[:_SHOWN]:
            yield from _difference(item)
        if len(of_kind) > _SHOWN:
            yield f"  and {len(of_kind) - _SHOWN} more"


def _difference(item: Difference) -> Iterator[str]:
    yield f"  {item.name}"
    yield f"      {_ending(item.before)} -> {_ending(item.after)}"
    for fault in item.after.faults[:3]:
        yield from wrap(fault, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 8)


def _ending(ending: Ending) -> str:
    known = f" ({', '.join(ending.defects)})" if ending.defects else ""
    verdict = f" {ending.verdict}" if ending.verdict else ""
    return f"{ending.outcome}{known}{verdict}"


# Figures.


def _figures(review: Review) -> Iterator[str]:
    yield "The hand-over, with the list as booted:"
    yield ""
    measured = [it for it in review.kernels if it.sample is not None]
    yield f"{'':27} " + " ".join(f"{it.name:>13}" for it in review.kernels)
    for label, value in (
        ("records", lambda it: f"{it.records}"),
        ("bytes of them", lambda it: f"{it.size}"),
        ("bytes of the segment", lambda it: f"{it.segment}"),
        ("load, million instructions" if _counted(review) else "load, ms", _load),
        ("execute, the same", _execute),
        ("KiB held while loaded", lambda it: f"{it.held.free / 1024:.0f}"),
        ("KiB kept after an unload", lambda it: f"{it.kept.free / 1024:.0f}"),
    ):
        cells = [value(it.sample) if it.sample else "-" for it in review.kernels]
        yield f"{label:27} " + " ".join(f"{cell:>13}" for cell in cells)
    for looked in review.kernels:
        if looked not in measured:
            yield from _text(f"{looked.name} could not be measured: {looked.why}")


def _counted(review: Review) -> bool:
    return "tcg" in review.platform


def _load(sample: Sample) -> str:
    return f"{sample.load * 1e3:.1f}"


def _execute(sample: Sample) -> str:
    return f"{sample.execute * 1e3:.2f}"


# The end.


def _end(review: Review, tester: str) -> Iterator[str]:
    if review.is_green:
        tested = sum(
            it.outcome in (Outcome.PASS, Outcome.KNOWN) for it in review.new.endings.values()
        )
        scenarios = len([number for number in by_scenario(review.new.endings) if number])
        yield from _text(
            f"All is green: {counted(tested, 'test')} of {counted(scenarios, 'scenario')} on the "
            f"whole series, and every patch on its own, on {review.platform}."
        )
        if tester:
            yield ""
            yield f"Tested-by: {tester} # {review.platform}, {counted(tested, 'test')}"
        return
    red = review.red_cells
    words = [
        f"{counted(red, 'cell')} of the table {'is' if red == 1 else 'are'} red" if red else "",
        f"{counted(len(review.failures), 'test')} failed or got worse" if review.failures else "",
        f"{review.unknown} could not be found out on this host" if review.unknown else "",
    ]
    yield from _text("Not green: " + ", ".join(filter(None, words)) + ".")


def _text(text: str) -> list[str]:
    return wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def table_lines(row: Row) -> Iterator[Text]:
    """A row for the terminal, while a review runs; the base's comes with the heading."""
    if not row.patches:
        yield from heading_lines(COLUMNS)
    yield from row_lines(row, COLUMNS)
