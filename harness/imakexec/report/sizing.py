# SPDX-License-Identifier: GPL-2.0-only
"""The figures of `imakexec size`, for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from rich.console import Console

from imakexec.report.terminal import folded
from imakexec.sizing import (
    MARKER_SIZE,
    OPTION,
    OPTION_MOST,
    Caveat,
    Growth,
    Need,
    Sizes,
    Sizing,
    Watch,
    least_option,
    option_room,
)

_NAME_WIDTH = 20
_MOST_PATHS = 6

_CAVEATS: Mapping[Caveat, str] = MappingProxyType(
    {
        Caveat.NO_GROWTH: "nothing was measured meanwhile: two markers are all that is known to "
        "be needed, for which {marker_option} is enough; the need below is what may come all the "
        "same, as nobody has watched for longer",
        Caveat.FEW_INTERVALS: "{intervals} between snapshots: too few to tell bursts from a steady "
        "growth, and the confidence is that of records that come one by one; take at least "
        "13 snapshots",
        Caveat.LONG_WINDOW: "the window is {times} times as long as what was watched: that it "
        "goes on like this is taken for granted",
        Caveat.MORE_SEEN: "more came in a stretch of that length than independent records would: "
        "the need is what was seen, and there may be worse",
        Caveat.WATCHING_MEASURES: "{own_records} of the new ones come of looking at the list: "
        "counted as if they were the workload's",
        Caveat.NAMES_NOT_COUNTED: "mainline counts records of a custom template without their "
        "name: there, {uncounted} bytes for those of this list come on top of every need",
    }
)


def print_sizing(console: Console, sizing: Sizing) -> None:
    """Print the sizes of records, how many more have room, and what a window takes."""
    for line in render_sizing(sizing):
        console.print(line, markup=False, highlight=False)


def render_sizing(sizing: Sizing) -> Iterator[str]:
    """The lines of the figures."""
    if sizing.watch is not None:
        yield from _watch(sizing.watch)
    yield from _paths(sizing.paths)
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
    if sizing.growth is not None or sizing.caveats:
        yield ""
    if sizing.growth is not None:
        yield from _growth(sizing.growth)
    for caveat in sizing.caveats:
        yield folded("mind", _caveat(caveat, sizing))
    if sizing.need is not None:
        yield from _need(sizing.need, sizing.page_size)


def duration(seconds: float) -> str:
    """A length of time in its greatest unit that leaves no rest, e.g. "10 min"."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:g} s"


def _paths(paths: Sequence[Path]) -> Iterator[str]:
    """The lists; of many only the first and the last."""
    shown = [str(path) for path in paths]
    if len(shown) > _MOST_PATHS:
        shown[1:-1] = [f"... ({len(shown) - 2} more)"]
    yield from (f"list      {path}" for path in shown)


def _watch(watch: Watch) -> Iterator[str]:
    """What ran, where, and for how long."""
    yield folded("guest", f"{watch.kernel}, {watch.accelerator}; IMA policy {watch.policy}")
    lines = watch.workload.strip().splitlines()
    more = f" ... ({len(lines)} lines)" if len(lines) > 1 else ""
    yield folded("workload", f"{textwrap.shorten(lines[0], 60, placeholder=' ...')}{more}")
    ran = f"{watch.ran:.1f} s"
    if watch.ended:
        ran += f" of {duration(watch.asked)}: it ended by itself"
    yield folded("watched", f"{ran}; reading the list took {100 * watch.reading:.1f} % of it")
    yield f"evidence  {watch.evidence}"


def _caveat(caveat: Caveat, sizing: Sizing) -> str:
    """What it says of these figures."""
    values: dict[str, object] = {"uncounted": sizing.uncounted}
    option = least_option(2 * MARKER_SIZE, sizing.page_size)
    values["marker_option"] = f"{OPTION}={option}"
    intervals = len(sizing.snapshots) - 1
    values["intervals"] = "1 interval" if intervals == 1 else f"{intervals} intervals"
    if sizing.growth is not None and sizing.need is not None:
        values["times"] = f"{sizing.need.window / 3600 / sizing.growth.hours:.1f}"
    if sizing.watch is not None:
        own = sizing.watch.own_records
        values["own_records"] = "1 record" if own == 1 else f"{own} records"
    return _CAVEATS[caveat].format_map(values)


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
    hours, seconds = f"{growth.hours:.2f} hours", f"{3600 * growth.hours:.1f} s"
    text = (
        f"{growth.records} records and {growth.size} bytes in "
        f"{hours if growth.hours >= 1 else seconds}: "
        f"{growth.records_per_hour:.1f} records and {growth.bytes_per_hour:.0f} bytes per hour"
    )
    if growth.dispersion > 1:
        text += f"; the counts vary {growth.dispersion:.1f} times as much as independent ones"
    yield folded("growth", text)


def _need(need: Need, page_size: int) -> Iterator[str]:
    share = f"{100 * need.confidence:g} %"
    text = (
        f"{duration(need.window)} from load to execute take no more than {need.records} records "
        f"and {need.size} bytes, two markers included, with {share} confidence"
    )
    if need.seen_size is not None:
        text += f"; the most seen was {need.seen_records} records and {need.seen_size} bytes"
    yield folded("need", text)
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
