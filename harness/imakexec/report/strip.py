# SPDX-License-Identifier: GPL-2.0-only
"""The strip of a list's picture: boots beside each other, and in each what stands in it.

The number of boots and of what stands in one is bounded; what is left out is said.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate, groupby

from imakexec.attest.timeline import MarkerState, RowKind
from imakexec.errors import counted
from imakexec.report.judged import BootNote, HandoverNote, RowNote, TimelineNote

_MOST_BANDS = 24
_MOST_ROWS = 24
_BAND_LEAST = 54.0  # pixels: "boot 1" has room
_NARROWEST = 210.0  # what a telephone has beside the names of the lanes
_MARK_LEAST, _RUN_LEAST, _GAP_LEAST = 11.0, 18.0, 14.0
_LETTER = 6.6  # pixels of one in the strip
_MARKERS = (RowKind.KEXEC_LOAD, RowKind.KEXEC_EXECUTE)


class SlotKind(StrEnum):
    """What a part of the strip stands for."""

    MARK = "mark"
    """One record that a mark stands above."""
    RUN = "run"
    """Other records."""
    OMITTED = "omitted"
    """More than can be drawn."""
    GAP = "gap"
    """No record: a marker is missing here."""
    LOST = "lost"
    """Records that were here and are not in the list."""

    @property
    def holds_records(self) -> bool:
        """Whether records of the list stand here."""
        return self not in (SlotKind.GAP, SlotKind.LOST)


@dataclass(frozen=True)
class Slot:
    """A part of the strip.

    Attributes:
        kind: what it stands for.
        index: of its first record.
        count: of its records.
        size: of them in bytes.
        least: width in pixels.
        label: the text in it.
        title: all about it.
        row: that it shows, if it is one.
        doubted: whether no quote vouches for it.
        absent: the markers that are missing here.
        expected: whether the kernel is known to write them.
    """

    kind: SlotKind
    index: int
    count: int
    size: int
    least: float
    label: str = ""
    title: str = ""
    row: RowNote | None = None
    doubted: bool = False
    absent: tuple[str, ...] = ()
    expected: bool = False


@dataclass(frozen=True)
class Band:
    """One boot in the strip.

    Attributes:
        kind: "cold", "kexec", "before" for one that is not in the list, "omitted" for several.
        lines: its name.
        title: all about it.
        index: of its first record; None if the list has none.
        slots: what stands in it, at least one.
        more: about it, where there is room.
    """

    kind: str
    lines: tuple[str, ...]
    title: str
    index: int | None
    slots: tuple[Slot, ...]
    more: str = ""

    @classmethod
    def all_of(cls, timeline: TimelineNote, divergence: int | None) -> list[Band]:
        """The boots of a list.

        Args:
            timeline: with a row at least.
            divergence: index of the first record in doubt, if there is one.
        """
        handovers = {item.index: item for item in timeline.handovers}
        boots = {boot.number: boot for boot in timeline.boots}
        groups = [list(rows) for _, rows in groupby(timeline.rows, key=lambda row: row.boot)]
        mean = _mean_size(timeline.rows)
        bands = []
        ends = [*(rows[0].index for rows in groups[1:]), None]
        first = handovers.get(groups[0][0].index)
        if first is not None:
            nothing = Slot(SlotKind.GAP, first.index, 0, 0, _GAP_LEAST)
            slots = (nothing, *_end_slots(first, (), mean))
            title = "the boot before the list, of which nothing is left in it"
            bands.append(cls("before", ("before", "lost"), title, None, slots))
        for rows, end in zip(groups, ends, strict=True):
            handover = None if end is None else handovers.get(end)
            bands.append(_band(rows, boots.get(rows[0].boot), handover, mean, divergence))
        return _without_some(bands)


class Scale:
    """Where everything is, in fractions of the width.

    Args:
        bands: the boots, at least one.

    Attributes:
        slots: of all boots.
        least_width: in pixels, at which all has room.
        edges: of the slots, one more than there are.
        band_edges: of the boots, likewise.
    """

    def __init__(self, bands: Sequence[Band]) -> None:
        self.bands = bands
        self.slots = [slot for band in bands for slot in band.slots]
        widths, self.least_width = _lay_out(bands)
        total = sum(widths)
        self.edges = [edge / total for edge in accumulate(widths, initial=0.0)]
        self.band_edges = [
            self.edges[at] for at in accumulate((len(band.slots) for band in bands), initial=0)
        ]
        self._numbered = [
            at for at, slot in enumerate(self.slots) if slot.kind.holds_records and slot.count
        ]
        self._starts = [self.slots[at].index for at in self._numbered]

    def middle(self, at: int) -> float:
        """Of a slot."""
        return (self.edges[at] + self.edges[at + 1]) / 2

    def record(self, index: float) -> float:
        """Where a record begins; with one half more, its middle."""
        found = bisect_right(self._starts, index) - 1
        if found < 0:
            return 0.0
        at = self._numbered[found]
        slot = self.slots[at]
        share = min(1.0, max(0.0, (index - slot.index) / slot.count))
        return self.edges[at] + share * (self.edges[at + 1] - self.edges[at])

    def end(self, records: int) -> float:
        """Where a list ends that has so many records."""
        return self.record(records - 0.001) if records else 0.0


def _lay_out(bands: Sequence[Band]) -> tuple[list[float], float]:
    """How wide each slot is, in pixels, and the least width of all.

    The records share what the rest leaves by their bytes, none below its least width.
    """
    slots = [slot for band in bands for slot in _stretched(band)]
    least = sum(slot.least for slot in slots)
    total = max(_NARROWEST, 1.1 * least)
    # By descending least width per byte: each that wants more than its share takes its least.
    order = sorted(
        (at for at, slot in enumerate(slots) if slot.size),
        key=lambda at: slots[at].least / slots[at].size,
        reverse=True,
    )
    widths = [slot.least for slot in slots]
    room = total - sum(slot.least for slot in slots if not slot.size)
    size = sum(slot.size for slot in slots)
    for at in order:
        widths[at] = max(slots[at].least, room * slots[at].size / size)
        room -= widths[at]
        size -= slots[at].size
    return widths, total


def _stretched(band: Band) -> Iterator[Slot]:
    """Its slots, with room for its name and for two numbers below it."""
    wanted = max(_BAND_LEAST, _LETTER * (2 * len(f"{band.index or 0:,}") + 1))
    factor = max(1.0, wanted / sum(slot.least for slot in band.slots))
    return (replace(slot, least=factor * slot.least) for slot in band.slots)


def _band(
    rows: Sequence[RowNote],
    boot: BootNote | None,
    handover: HandoverNote | None,
    mean: float,
    divergence: int | None,
) -> Band:
    slots = [slot for row in rows for slot in _row_slots(row, divergence)]
    slots = [*_without_middle(slots)]
    if handover is not None:
        slots += _end_slots(handover, [row.kind for row in rows], mean)
    records = counted(sum(row.count for row in rows), "record")
    if boot is None:
        name, kind, more = "no boot", "none", records
    else:
        name, kind = f"boot {boot.number}", boot.kind
        more = f"{records}, Linux {boot.kernel_version}" if boot.kernel_version else records
    title = f"{name}, {kind}: {more}"
    return Band(kind, (name, kind), title, rows[0].index, tuple(slots), more)


def _row_slots(row: RowNote, divergence: int | None) -> Iterator[Slot]:
    if row.kind != RowKind.RECORDS:
        doubted = divergence is not None and row.index >= divergence
        title = f"record {row.index}: {row.kind}, {row.size:,} bytes"
        yield Slot(
            SlotKind.MARK, row.index, 1, 0, _MARK_LEAST, title=title, row=row, doubted=doubted
        )
        return
    at = min(max(0, (divergence or 0) - row.index), row.count)
    if divergence is None or at == row.count:
        yield _run(row, row.index, row.count, doubted=False)
    elif at == 0:
        yield _run(row, row.index, row.count, doubted=True)
    else:
        yield _run(row, row.index, at, doubted=False)
        yield _run(row, row.index + at, row.count - at, doubted=True)


def _run(row: RowNote, index: int, count: int, *, doubted: bool) -> Slot:
    size = max(1, row.size * count // max(1, row.count))
    doubt = ", in doubt" if doubted else ""
    title = f"{counted(count, 'record')} from {index} on, {size:,} bytes{doubt}"
    label = f"{count:,}"
    least = max(_RUN_LEAST, _LETTER * len(label) + 4)
    return Slot(SlotKind.RUN, index, count, size, least, label, title, doubted=doubted)


def _end_slots(handover: HandoverNote, kinds: Sequence[str], mean: float) -> Iterator[Slot]:
    """What is not there, at the end of a boot that a kexec has ended."""
    lost = max(handover.lost, handover.uncounted)
    if lost:
        label = f"{lost:,} lost"
        title = f"{counted(lost, 'record')} lost at the kexec before record {handover.index}"
        least = _LETTER * len(label) + 6
        size = max(1, int(lost * mean))
        yield Slot(SlotKind.LOST, handover.index, lost, size, least, label, title)
    absent = tuple(kind.value for kind in _MARKERS if kind not in kinds)
    if handover.markers != MarkerState.COMPLETE and absent:
        expected = handover.markers_expected or RowKind.KEXEC_LOAD in kinds
        yield Slot(SlotKind.GAP, handover.index, 0, 0, _GAP_LEAST, absent=absent, expected=expected)


def _mean_size(rows: Sequence[RowNote]) -> float:
    return sum(row.size for row in rows) / max(1, sum(row.count for row in rows))


def _without_middle(slots: Sequence[Slot]) -> Sequence[Slot]:
    """The first and the last ones of a boot; of many, the others as one."""
    if len(slots) <= _MOST_ROWS:
        return slots
    half = _MOST_ROWS // 2
    return [*slots[:half], _omitted(slots[half:-half]), *slots[-half:]]


def _without_some(bands: list[Band]) -> list[Band]:
    """The first and the last ones, and some at which records were lost; if there are few, all."""
    if len(bands) <= _MOST_BANDS:
        return bands
    quarter = _MOST_BANDS // 4
    bad = [
        at
        for at, band in enumerate(bands)
        if any(slot.kind is SlotKind.LOST for slot in band.slots)
    ]
    ends = [*range(quarter), *range(len(bands) - quarter, len(bands))]
    kept = sorted({*ends, *bad[:quarter]})
    shown = []
    after = 0
    for at in kept:
        if at > after:
            shown.append(_omitted_band(bands[after:at]))
        shown.append(bands[at])
        after = at + 1
    return shown


def _omitted_band(bands: Sequence[Band]) -> Band:
    slot = _omitted([slot for band in bands for slot in band.slots])
    lines = (f"{len(bands):,} boots", "not drawn")
    return Band("omitted", lines, slot.title, bands[0].index, (slot,))


def _omitted(slots: Sequence[Slot]) -> Slot:
    own = [slot for slot in slots if slot.kind.holds_records]
    count = sum(slot.count for slot in own)
    label = f"... {count:,} ..."
    return Slot(
        SlotKind.OMITTED,
        own[0].index if own else slots[0].index,
        count,
        max(1, sum(slot.size for slot in own)),
        _LETTER * len(label) + 6,
        label,
        f"{counted(count, 'record')} that are not drawn one by one",
        doubted=all(slot.doubted for slot in own),
    )
