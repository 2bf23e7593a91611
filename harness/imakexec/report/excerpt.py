# SPDX-License-Identifier: GPL-2.0-only
"""A console for a page: all of it, or its beginning, its end and what surrounds each complaint."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from itertools import groupby
from pathlib import Path

from imakexec.machine.complaint import classify, find_banner
from imakexec.suite.result import Complaint

_WHOLE = 2000  # lines; a longer console is shown in part
_FIRST, _LAST = 200, 400
_BEFORE, _AFTER = 15, 40  # around a complaint: a call trace has room
_MOST_AROUND = _WHOLE - _FIRST - _LAST
_LONGEST = 4096 + 16  # bytes of a line with its time stamp, as machine.console cuts it
_MOST_COMPLAINTS = 50

_STAMPED = re.compile(r" *\d+\.\d{6} (.*)", re.DOTALL)


@dataclass(frozen=True)
class Line:
    """One line of a console.

    Attributes:
        number: from 1.
        text: with its time stamp.
        mark: "fatal" or "suspicious"; empty for a line like any other.
        name: the kind of complaint, if it is one.
        because: why that was allowed here; empty if it was not.
        banner: the kernel's, if it is one.
    """

    number: int
    text: str
    mark: str
    name: str
    because: str
    banner: str


@dataclass(frozen=True)
class Piece:
    """What is shown as one: a marked line, or several like any other.

    Attributes:
        line: the marked one; None for others.
        text: of the others.
    """

    line: Line | None
    text: str


@dataclass(frozen=True)
class Part:
    """Lines that follow each other, up to the next kernel's first.

    Attributes:
        boot: number of the kernel's banner in this console, from 0; None for what is before it.
        banner: with which the part begins; empty if it does not begin with one.
        left_out: how many lines before it are not shown.
        pieces: the lines.
    """

    boot: int | None
    banner: str
    left_out: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Excerpt:
    """A console, as far as it is shown.

    Attributes:
        parts: in order.
        lines: how many it has.
        left_out: how many of them are not shown.
        marked: the marked lines that are shown, the first of them if there are many.
    """

    parts: tuple[Part, ...]
    lines: int
    left_out: int
    marked: tuple[Line, ...]


def read_excerpt(path: Path, complaints: Sequence[Complaint]) -> Excerpt:
    """Read a console's log.

    Args:
        path: of it, as machine.console has written it.
        complaints: lines to mark even if no pattern knows them.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _choose(_lines(file, complaints))


def _choose(lines: Iterator[Line]) -> Excerpt:
    first: list[Line] = []
    around: dict[int, Line] = {}
    last: deque[Line] = deque(maxlen=_LAST)
    boots: list[int] = []
    wanted = total = 0
    for line in lines:
        total = line.number
        if len(first) < _WHOLE:
            first.append(line)
        if line.banner:
            boots.append(line.number)
        if (line.mark or line.banner) and len(around) < _MOST_AROUND:
            wanted = max(wanted, line.number + (_AFTER if line.mark else 1))
            around.update((near.number, near) for near in [*last][-_BEFORE:] if line.mark)
        if line.number <= wanted:
            around[line.number] = line
        last.append(line)
    chosen = {line.number: line for line in (first if total <= _WHOLE else first[:_FIRST])}
    chosen |= around | {line.number: line for line in last}
    shown = [chosen[number] for number in sorted(chosen)]
    marked = tuple(line for line in shown if line.mark)[:_MOST_COMPLAINTS]
    return Excerpt(tuple(_parts(shown, boots)), total, total - len(shown), marked)


def _parts(shown: Sequence[Line], boots: Sequence[int]) -> Iterator[Part]:
    """Cut before each banner and wherever lines are left out."""
    lines: list[Line] = []
    left_out = 0
    for line in shown:
        missing = line.number - 1 - (lines[-1].number if lines else 0)
        if lines and (missing or line.banner):
            yield _part(lines, left_out, boots)
            lines, left_out = [], missing
        elif missing:
            left_out = missing
        lines.append(line)
    if lines:
        yield _part(lines, left_out, boots)


def _part(lines: Sequence[Line], left_out: int, boots: Sequence[int]) -> Part:
    begun = bisect_right(boots, lines[0].number)
    pieces = []
    for marked, group in groupby(lines, key=lambda line: line if line.mark else None):
        text = "" if marked else "\n".join(line.text for line in group)
        pieces.append(Piece(marked, text))
    return Part(begun - 1 if begun else None, lines[0].banner, left_out, tuple(pieces))


def _lines(file: BufferedReader, complaints: Sequence[Complaint]) -> Iterator[Line]:
    known = complaints[:_MOST_COMPLAINTS]
    for number, raw in enumerate(_raw_lines(file), start=1):
        text = raw.decode(errors="backslashreplace")
        stamped = _STAMPED.fullmatch(text)
        said = stamped[1] if stamped else text
        pattern = classify(said)
        complaint = next((item for item in known if item.line and said.endswith(item.line)), None)
        mark = name = ""
        if pattern is not None:
            mark, name = pattern.severity.value, pattern.name
        elif complaint is not None:
            mark, name = "suspicious", complaint.name
        because = complaint.because if complaint else ""
        yield Line(number, text, mark, name, because, find_banner(said) or "")


def _raw_lines(file: BufferedReader) -> Iterator[bytes]:
    """The lines without their ends; the rest of one that is too long is skipped."""
    while raw := file.readline(_LONGEST):
        rest = raw
        while not rest.endswith(b"\n") and (rest := file.readline(_LONGEST)):
            pass
        yield raw.rstrip(b"\r\n")
