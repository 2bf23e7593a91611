# SPDX-License-Identifier: GPL-2.0-only
"""The figures of `imakexec size`, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from imakexec.report.terminal import folded
from imakexec.sizing import (
    MARKER_SIZE,
    OPTION,
    OPTION_MOST,
    Growth,
    Need,
    Sizes,
    Sizing,
    option_room,
)

_NAME_WIDTH = 20


def print_sizing(console: Console, sizing: Sizing) -> None:
    """Print the sizes of records, how many more have room, and what a window takes."""
    for line in render_sizing(sizing):
        console.print(line, markup=False, highlight=False)


def render_sizing(sizing: Sizing) -> Iterator[str]:
    """The lines of the figures."""
    for path in sizing.paths:
        yield f"list      {path}"
    yield folded("", f"{sizing.overall.records} records, {sizing.overall.total} bytes")
    yield "\nbytes per record"
    heads = ("records", "least", "median", "90 %", "99 %", "most", "mean")
    yield _row("", heads)
    for name, sizes in sizing.templates.items():
        yield from _sizes(name, sizes)
    if len(sizing.templates) > 1:
        yield from _sizes("all", sizing.overall)
    yield f"\nmore records that have room beside two markers of {MARKER_SIZE} bytes at most"
    yield _row("extra memory", ("typical", "fewest", "certain"))
    for room in sizing.rooms:
        fewest = "-" if room.fewest_seen is None else room.fewest_seen
        yield _row(room.name, (room.typical, fewest, room.certain))
    yield folded(
        "",
        "typical: as large as those of this list on average. fewest: in any run of this list that "
        "fills it, -: the list is too short. certain: all as large as the largest.",
    )
    if sizing.growth is not None and sizing.need is not None:
        yield ""
        yield from _growth(sizing.growth)
        yield from _need(sizing.need, sizing.page_size)


def duration(seconds: float) -> str:
    """A length of time in its greatest unit that leaves no rest, e.g. "10 min"."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:g} s"


def _sizes(name: str, sizes: Sizes) -> Iterator[str]:
    cells = (
        *(sizes.records, sizes.least, sizes.median, sizes.p90, sizes.p99, sizes.most),
        f"{sizes.mean:.1f}",
    )
    if len(name) > _NAME_WIDTH:
        yield name
        name = ""
    yield _row(name, cells)


def _row(name: str, cells: tuple[object, ...]) -> str:
    return f"{name:{_NAME_WIDTH}}{''.join(f'{cell!s:>8}' for cell in cells)}"


def _growth(growth: Growth) -> Iterator[str]:
    text = (
        f"{growth.records} records and {growth.size} bytes in {growth.hours:.2f} hours: "
        f"{growth.records_per_hour:.1f} records and {growth.bytes_per_hour:.0f} bytes per hour"
    )
    if growth.dispersion > 1:
        text += f"; the counts vary {growth.dispersion:.1f} times as much as independent ones"
    yield folded("growth", text)


def _need(need: Need, page_size: int) -> Iterator[str]:
    share = f"{100 * need.confidence:g} %"
    yield folded(
        "need",
        f"{duration(need.window)} from load to execute take no more than {need.records} records "
        f"and {need.size} bytes, two markers included, with {share} confidence",
    )
    if need.option is None:
        yield folded(
            "option",
            f"no value is enough: {OPTION}={OPTION_MOST} is, for "
            f"{duration(need.longest_window or 0)} from load to execute",
        )
        return
    room = option_room(need.option, page_size)
    amount = f"{room} bytes" if need.option else f"half a page, {room} bytes"
    yield folded("option", f"{OPTION}={need.option} ({amount}) is enough")
