# SPDX-License-Identifier: GPL-2.0-only
"""What the picture of a list is made of, for a template that draws it as SVG.

Across, places are in per cent of a width that may be any from `LogPicture.least_width` on, so that
the text in a picture keeps its size on every screen. Down, they are in pixels. However long the
list is, its picture has a bounded number of shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Glyph(StrEnum):
    """The shape of a mark, which must tell its meaning without a colour."""

    GOOD = "good"
    BAD = "bad"
    OPEN = "open"
    """Nothing is proven by it."""
    ABSENT = "absent"
    """Something that must be there is not."""
    NONE = "none"
    """Something is not there and need not be."""
    VIOLATION = "violation"


@dataclass(frozen=True)
class Lane:
    """What marks of one kind stand on.

    Attributes:
        name: of the kind.
        y: of its line.
    """

    name: str
    y: int


@dataclass(frozen=True)
class Block:
    """Something with a width: a boot, or a run of records.

    Attributes:
        x: of its left edge.
        width: of it.
        kind: of `SlotKind`, or of the boot.
        lines: the text in it.
        title: all about it.
        more: text that only a wide screen has room for.
        middle: where a single record stands; empty for anything else.
    """

    x: str
    width: str
    kind: str
    lines: tuple[str, ...]
    title: str
    more: str = ""
    middle: str = ""

    @property
    def single(self) -> bool:
        """Whether it is one record, which has no width worth showing."""
        return bool(self.middle)


@dataclass(frozen=True)
class Mark:
    """Something at one place.

    Attributes:
        lane: the name of its lane.
        x: of its middle.
        y: of its middle.
        glyph: its shape.
        label: a word beside it; empty for none.
        before: whether that stands before the mark.
        stem: whether a line leads down to the record.
        title: all about it.
    """

    lane: str
    x: str
    y: int
    glyph: Glyph
    label: str
    before: bool
    stem: bool
    title: str


@dataclass(frozen=True)
class Tick:
    """A place on the axis.

    Attributes:
        x: of it.
        text: what stands there.
        anchor: "start", "middle" or "end", which the text has at that place.
    """

    x: str
    text: str
    anchor: str


@dataclass(frozen=True)
class LogPicture:
    """A whole list.

    Attributes:
        least_width: in pixels, at which all has room.
        height: in pixels.
        strip: y of the upper edge of the records' bars; the bands end below them.
        strip_height: of the bars.
        title: what is shown, in one sentence.
        lanes: from top to bottom.
        bands: the boots.
        bars: the records.
        marks: on the lanes.
        ticks: indices of records.
        doubt: the first record that nobody vouches for; None if there is none.
        legend: each shape in it, with its meaning.
    """

    least_width: int
    height: int
    strip: int
    strip_height: int
    title: str
    lanes: tuple[Lane, ...]
    bands: tuple[Block, ...]
    bars: tuple[Block, ...]
    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]
    doubt: Tick | None
    legend: tuple[tuple[Glyph, str], ...]
