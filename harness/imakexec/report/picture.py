# SPDX-License-Identifier: GPL-2.0-only
"""A measurement list as a picture: what stands where in it, for a template that draws it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from imakexec.attest.boot_aggregate import BootAggregateState
from imakexec.attest.timeline import RowKind
from imakexec.errors import counted
from imakexec.report.judged import JudgementNote, RowNote, SnapshotNote
from imakexec.report.shapes import Block, Glyph, Lane, LogPicture, Mark, Tick
from imakexec.report.strip import Band, Scale, SlotKind

_HEADER = 36  # for two lines about a boot
_LANE = 20
_STRIP = 24
_AXIS = 18
_COLUMNS = 100  # that marks of one lane are gathered in
_WIDE = 900.0  # pixels of a picture on a wide screen
_LETTER = 6.8  # pixels

_MEANINGS = {
    Glyph.GOOD: "holds",
    Glyph.BAD: "does not hold",
    Glyph.OPEN: "proves nothing",
    Glyph.ABSENT: "absent, but expected",
    Glyph.NONE: "absent: this kernel writes none",
    Glyph.VIOLATION: "violation",
}
_AGGREGATES: Mapping[str, Glyph] = {
    BootAggregateState.MATCHES: Glyph.GOOD,
    BootAggregateState.DIFFERS: Glyph.BAD,
    BootAggregateState.ZERO: Glyph.OPEN,
    BootAggregateState.UNCHECKED: Glyph.OPEN,
}


@dataclass(frozen=True)
class _Place:
    """A mark before it is known on which height its lane is."""

    lane: str
    at: float
    glyph: Glyph
    title: str
    label: str = ""
    before: bool = False
    stem: bool = True


def draw_log(judgement: JudgementNote) -> LogPicture | None:
    """Lay out a judged list; None if there is none."""
    timeline = judgement.timeline
    if timeline is None or not timeline.rows:
        return None
    scale = Scale(Band.all_of(timeline, judgement.first_divergence))
    places = [
        *_slot_marks(scale),
        *_violations(scale, judgement.violations),
        *_quotes(scale, judgement),
    ]
    places = _without_tight_labels(places)
    found = {place.lane for place in places}
    names = [*(kind for kind in RowKind if kind in found), *(n for n in _LATER if n in found)]
    lanes = tuple(Lane(name, _HEADER + _LANE * at + 8) for at, name in enumerate(names))
    strip = _HEADER + _LANE * len(lanes) + 2
    doubt = _doubt(scale, judgement)
    return LogPicture(
        least_width=round(scale.least_width),
        height=strip + _STRIP + (2 if doubt else 1) * _AXIS,
        strip=strip,
        strip_height=_STRIP,
        title=_title(judgement),
        lanes=lanes,
        bands=tuple(_band_blocks(scale)),
        bars=tuple(_bars(scale)),
        marks=tuple(_on(lanes, places)),
        ticks=tuple(_ticks(scale)),
        doubt=doubt,
        legend=tuple(
            (glyph, meaning)
            for glyph, meaning in _MEANINGS.items()
            if any(place.glyph is glyph for place in places)
        ),
    )


_VIOLATIONS, _QUOTES = _LATER = ("violations", "quotes")


def _slot_marks(scale: Scale) -> Iterator[_Place]:
    """The marks of records that have a slot of their own, and of markers that are not there."""
    for at, slot in enumerate(scale.slots):
        x = scale.middle(at)
        if slot.row is not None:
            yield _row_mark(slot.row, x)
        for absent in slot.absent:
            glyph = Glyph.ABSENT if slot.expected else Glyph.NONE
            title = f"{absent}: {_MEANINGS[glyph]}"
            yield _Place(absent, x, glyph, title, label="absent", before=True, stem=False)


def _row_mark(row: RowNote, x: float) -> _Place:
    title, glyph, label = f"record {row.index}: {row.kind}", Glyph.OPEN, ""
    if row.kind == RowKind.BOOT_AGGREGATE:
        glyph = _AGGREGATES.get(row.aggregate, Glyph.OPEN)
        title += f", {row.aggregate}"
        label = row.aggregate
    elif row.marker is not None:
        glyph = Glyph.GOOD if row.marker.accepted else Glyph.BAD
        if row.marker.segment_size is not None:
            title += f", segment of {row.marker.segment_size:,} bytes"
        if not row.marker.accepted:
            label = "rejected"
            title += f", rejected: {'; '.join(row.marker.flaws)}"
    return _Place(row.kind, x, glyph, title, label=label)


def _violations(scale: Scale, indices: Sequence[int]) -> Iterator[_Place]:
    columns: dict[int, list[int]] = {}
    for index in indices:
        columns.setdefault(int(scale.record(index + 0.5) * _COLUMNS), []).append(index)
    for found in columns.values():
        at = scale.record((found[0] + found[-1]) / 2 + 0.5)
        rest = f" to {found[-1]}" if len(found) > 1 else ""
        title = f"{counted(len(found), 'violation')}: record {found[0]}{rest}"
        yield _Place(_VIOLATIONS, at, Glyph.VIOLATION, title)


def _quotes(scale: Scale, judgement: JudgementNote) -> Iterator[_Place]:
    """How far each snapshot's quotes vouch for its own list, at the end of that."""
    lost = {
        slot.index + slot.count: scale.edges[at + 1]
        for at, slot in enumerate(scale.slots)
        if slot.kind is SlotKind.LOST
    }
    columns: dict[int, list[tuple[SnapshotNote, float]]] = {}
    for snapshot in judgement.snapshots:
        if snapshot.records is None or snapshot.kept is None:
            continue
        at = scale.end(snapshot.kept)
        if snapshot.missing:
            at = lost.get(snapshot.records, at)
        columns.setdefault(int(at * _COLUMNS), []).append((snapshot, at))
    for found in columns.values():
        holds = all(None not in item.matched_records for item, _ in found)
        title = "; ".join(_quote_title(item) for item, _ in found[:4])
        yield _Place(_QUOTES, found[-1][1], Glyph.GOOD if holds else Glyph.BAD, title)


def _quote_title(snapshot: SnapshotNote) -> str:
    holds = None not in snapshot.matched_records
    words = "its list gives the quoted PCR" if holds else "its list does not give the quoted PCR"
    return f"snapshot {snapshot.name}, boot epoch {snapshot.epoch}: {words}"


def _without_tight_labels(places: Sequence[_Place]) -> list[_Place]:
    """Take away the labels that would run into the next mark of their lane."""
    after: dict[str, float] = {}
    kept = []
    for place in sorted(places, key=lambda item: item.at, reverse=True):
        room = after.get(place.lane, 1.0) - place.at
        after[place.lane] = place.at
        fits = place.before or _has_room(place.label, room)
        kept.append(place if fits else replace(place, label=""))
    return kept[::-1]


def _on(lanes: Sequence[Lane], places: Sequence[_Place]) -> Iterator[Mark]:
    heights = {lane.name: lane.y for lane in lanes}
    for place in places:
        if place.lane in heights:
            yield Mark(
                lane=place.lane,
                x=_percent(place.at),
                y=heights[place.lane],
                glyph=place.glyph,
                label=place.label,
                before=place.before,
                stem=place.stem,
                title=place.title,
            )


def _band_blocks(scale: Scale) -> Iterator[Block]:
    for band, (left, right) in zip(scale.bands, pairwise(scale.band_edges), strict=True):
        more = band.more if _has_room(f"{band.kind}, {band.more}", right - left) else ""
        yield Block(_percent(left), _percent(right - left), band.kind, band.lines, band.title, more)


def _bars(scale: Scale) -> Iterator[Block]:
    for slot, (left, right) in zip(scale.slots, pairwise(scale.edges), strict=True):
        if slot.kind is not SlotKind.GAP:
            lines = (slot.label,) if slot.label else ()
            kind = f"{slot.kind}{' doubted' if slot.doubted else ''}"
            middle = _percent((left + right) / 2) if slot.kind is SlotKind.MARK else ""
            yield Block(
                _percent(left), _percent(right - left), kind, lines, slot.title, middle=middle
            )


def _ticks(scale: Scale) -> Iterator[Tick]:
    """The index of the first record of each boot, and the number of all records."""
    for band, left in zip(scale.bands, scale.band_edges, strict=False):
        if band.index is not None:
            yield Tick(_percent(left), f"{band.index:,}", "start")
    last = scale.slots[-1]
    yield Tick("100%", f"{last.index + last.count:,}", "end")


def _doubt(scale: Scale, judgement: JudgementNote) -> Tick | None:
    index = judgement.first_divergence
    if index is None:
        return None
    at = scale.record(index)
    text = f"first record in doubt: {index:,}"
    if index == judgement.records:
        text = "something is missing after the last record"
    return Tick(_percent(at), text, "start" if at < 0.5 else "end")


def _title(judgement: JudgementNote) -> str:
    timeline = judgement.timeline
    boots = len(timeline.boots) if timeline else 0
    text = f"The measurement list: {counted(judgement.records or 0, 'record')}"
    return f"{text} of {counted(boots, 'boot')}, judged {judgement.verdict}"


def _has_room(text: str, fraction: float) -> bool:
    """Whether a text has room in that part of a picture on a wide screen."""
    return _LETTER * (len(text) + 2) < _WIDE * fraction


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}%"
