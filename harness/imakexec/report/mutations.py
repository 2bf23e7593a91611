# SPDX-License-Identifier: GPL-2.0-only
"""What became of the mutations of the series: a line each, as Markdown, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from rich.text import Text

from imakexec.series.mutate import Fate, Outcome

JSON_SCHEMA = "imakexec-series-mutate/1"

_WIDTH = 80
_STYLES: Mapping[Fate, str] = MappingProxyType(
    {
        Fate.KILLED: "green",
        Fate.SURVIVED: "bold red",
        Fate.INVALID: "bold red",
        Fate.INFRA: "bold yellow",
    }
)


def outcome_lines(outcome: Outcome) -> Iterator[Text]:
    """One mutation: its fate, what it breaks, and who noticed."""
    yield Text.assemble(
        (f"{outcome.fate:9}", _STYLES[outcome.fate]),
        (outcome.mutation.name, "bold"),
        f"  {outcome.seconds:.0f} s",
    )
    for text in (outcome.mutation.what, *_why(outcome)):
        yield Text(textwrap.fill(text, _WIDTH, initial_indent=" " * 9, subsequent_indent=" " * 9))
    if outcome.fate is not Fate.KILLED:
        yield Text(f"{'':9}log: {outcome.log}")


def _why(outcome: Outcome) -> Iterator[str]:
    if outcome.test:
        yield f"by {outcome.test}"
    # What pytest shows of a buffer takes a screen; the log has all of it.
    yield textwrap.shorten(outcome.reason, 2 * _WIDTH, placeholder=" ...")


def summary(outcomes: Sequence[Outcome]) -> Text:
    """How many met which fate."""
    counts = [
        f"{count} {fate}"
        for fate in Fate
        if (count := sum(outcome.fate is fate for outcome in outcomes))
    ]
    seconds = sum(outcome.seconds for outcome in outcomes)
    style = _STYLES[Fate.KILLED if exit_code(outcomes) == 0 else Fate.SURVIVED]
    return Text(f"{len(outcomes)} mutations in {seconds / 60:.1f} min: {', '.join(counts)}", style)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 if all were killed, 1 if one survived or is none, 3 if the host kept one from its test."""
    fates = {outcome.fate for outcome in outcomes}
    if fates & {Fate.SURVIVED, Fate.INVALID}:
        return 1
    return 3 if Fate.INFRA in fates else 0


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table of docs/series-requirements.md; a fate is said where it is not the due one."""
    rows = [
        f"| `{outcome.mutation.name}` | {outcome.mutation.what} | {_cell(outcome)} |"
        for outcome in outcomes
    ]
    head = ["| mutation | what is broken | the test that turns red |", "|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def _cell(outcome: Outcome) -> str:
    if outcome.fate is Fate.KILLED:
        return f"`{_escaped(outcome.test)}`"
    return f"**{outcome.fate}**: {_escaped(outcome.reason)}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def document(outcomes: Sequence[Outcome], wanted: int) -> dict[str, object]:
    """All outcomes for machines.

    Args:
        wanted: how many mutations were to be tried; there are fewer outcomes while the rest is not.
    """
    return {
        "schema": JSON_SCHEMA,
        "exit_code": exit_code(outcomes),
        "wanted": wanted,
        "mutations": [
            {
                "name": outcome.mutation.name,
                "what": outcome.mutation.what,
                "noticed_by": list(outcome.mutation.noticed_by),
                "fate": outcome.fate.value,
                "test": outcome.test,
                "reason": outcome.reason,
                "seconds": round(outcome.seconds, 1),
                "log": str(outcome.log),
            }
            for outcome in outcomes
        ],
    }
