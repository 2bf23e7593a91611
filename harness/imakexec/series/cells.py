# SPDX-License-Identifier: GPL-2.0-only
"""The words of a series check: a row for each prefix, a column for each property, cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from imakexec.errors import GuestFailure, InfraError


class Status(StrEnum):
    """What a cell says about the series; the value is stable and machine readable."""

    OK = "ok"
    RED = "red"
    SKIPPED = "skipped"
    """Not looked at, because something that it builds on is red."""
    NOT_APPLICABLE = "not-applicable"
    INFRA = "infra"
    """The host failed: nothing is said about the series."""


@dataclass(frozen=True)
class Cell:
    """What was found of one property of one prefix.

    Attributes:
        status: good, bad, or neither.
        text: what was found, in a few words.
        details: lines that explain a status other than ok.
        log: a file or folder with everything.
    """

    status: Status
    text: str
    details: tuple[str, ...] = ()
    log: Path | None = None

    @classmethod
    def judged(cls, faults: Iterable[str], good: str, log: Path | None) -> Cell:
        """Good without faults; else red, with the first fault as its text."""
        first, *_ = found = [*faults, ""]
        if not first:
            return cls(Status.OK, good, (), log)
        return cls(Status.RED, first, tuple(found[1:-1]), log)


@dataclass(frozen=True)
class Column:
    """One property that every prefix must have.

    Attributes:
        name: stable and machine readable.
        heading: for a terminal, its words below each other.
        width: of its cells on a terminal, in characters.
        meaning: what it means if it is ok.
    """

    name: str
    heading: tuple[str, ...]
    width: int
    meaning: str


@dataclass(frozen=True)
class Row:
    """One prefix of the series; row 0 is the base, the control.

    Attributes:
        patches: how many patches are applied.
        total: how many the series has.
        subject: of the last patch, or the name of the base.
        cells: by the column's name, those that are known so far.
        seconds: that they took.
    """

    patches: int
    total: int
    subject: str
    cells: Mapping[str, Cell]
    seconds: float

    @property
    def title(self) -> str:
        """E.g. "3/7", or "base"."""
        return row_title(self.patches, self.total)


def row_title(patches: int, total: int) -> str:
    """What the prefix of `patches` of `total` patches is called."""
    return f"{patches}/{total}" if patches else "base"


@dataclass(frozen=True)
class CheckReport:
    """A finished check.

    Attributes:
        base: what the series was applied to.
        platform: what was booted on.
        tools: what compiled and looked, with versions.
        logs: the folder with all output.
        columns: the properties.
        rows: the prefixes.
        seconds: from the first cell to the last.
    """

    base: str
    platform: str
    tools: tuple[str, ...]
    logs: Path
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        """What the command ends with: a red cell counts more than a host that failed."""
        if self.count(Status.RED):
            return GuestFailure.exit_code
        return InfraError.exit_code if self.count(Status.INFRA) else 0

    def count(self, status: Status) -> int:
        """How many cells have the status."""
        return sum(cell.status is status for row in self.rows for cell in row.cells.values())
