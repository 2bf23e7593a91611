# SPDX-License-Identifier: GPL-2.0-only
"""How full a hand-over buffer was, and how long the steps of a test took: bars for a template.

Places are in per cent of a bar's length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imakexec.attest.timeline import MarkerState
from imakexec.errors import counted
from imakexec.report.judged import HandoverNote, TimelineNote
from imakexec.suite.result import Step

_MOST_BARS = 24
_MOST_STEPS = 60
_OVERFLOW_FROM = 78.0  # the rest of the length is for what had no room, whose size nobody knows
_UNKNOWN_TO = 55.0  # drawn for what a segment of unknown size carried
_LOST_LEAST = 6.0
_STEP_LEAST = 0.4
_NUMBERED = 3.0  # a narrower step has no room for its number

_MARKERS: Mapping[str, str] = {
    MarkerState.COMPLETE: "markers complete",
    MarkerState.LOAD_ONLY: "kexec_load is there, kexec_execute is absent",
    MarkerState.REJECTED: "records pose as markers, and none of them holds",
    MarkerState.ABSENT: "no markers",
}


@dataclass(frozen=True)
class Segment:
    """A part of a bar.

    Attributes:
        x: of its left edge.
        width: of it.
        kind: what it shows.
        label: the text in it.
        title: all about it.
    """

    x: str
    width: str
    kind: str
    label: str
    title: str


@dataclass(frozen=True)
class Gauge:
    """One hand-over buffer.

    Attributes:
        name: which one.
        segments: what was used, and what was lost.
        end: where the segment ends; empty if nobody knows its size.
        facts: what else is to say, in words.
        faults: the facts that are bad.
    """

    name: str
    segments: tuple[Segment, ...]
    end: str
    facts: tuple[str, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class StepLine:
    """A step, for the list below the bar.

    Attributes:
        number: as in the bar, from 1.
        name: of the step.
        at: when it began.
        seconds: that it took.
    """

    number: int
    name: str
    at: str
    seconds: str


@dataclass(frozen=True)
class StepBar:
    """The steps of a test.

    Attributes:
        segments: a step each.
        lines: the same in words.
        more: how many further steps there were.
        total: the length of the bar, in seconds.
    """

    segments: tuple[Segment, ...]
    lines: tuple[StepLine, ...]
    more: int
    total: str


def draw_handovers(timeline: TimelineNote) -> tuple[tuple[Gauge, ...], int]:
    """The hand-over buffers of a list, those with losses first if there are too many.

    Returns:
        The bars in the order of the list, and how many more hand-overs there were.
    """
    numbered = list(enumerate(timeline.handovers))
    chosen = sorted(numbered, key=lambda item: (not item[1].lost, item[0]))[:_MOST_BARS]
    gauges = tuple(_gauge(handover) for _, handover in sorted(chosen, key=lambda item: item[0]))
    return gauges, len(numbered) - len(gauges)


def draw_steps(steps: Sequence[Step], seconds: float) -> StepBar | None:
    """The steps of a test that took so long; None if there are none."""
    shown = steps[:_MOST_STEPS]
    total = max([seconds, 0.001, *(step.at + step.seconds for step in shown)])
    segments, lines = [], []
    for number, step in enumerate(shown, start=1):
        width = max(_STEP_LEAST, 100 * step.seconds / total)
        title = f"{number} {step.name}: {step.seconds:.2f} s, from {step.at:.2f} s on"
        label = str(number) if width > _NUMBERED else ""
        kind = "odd" if number % 2 else "even"
        segments.append(
            Segment(_percent(100 * step.at / total), _percent(width), kind, label, title)
        )
        lines.append(StepLine(number, step.name, f"{step.at:.2f} s", f"{step.seconds:.2f} s"))
    if not segments:
        return None
    more = len(steps) - len(shown)
    return StepBar(tuple(segments), tuple(lines), more, f"{total:.1f} s")


def _gauge(handover: HandoverNote) -> Gauge:
    overflowed = handover.full is True and handover.markers != MarkerState.COMPLETE
    end = 100.0
    if handover.segment_size is None:
        used, end = _UNKNOWN_TO, 0.0
    else:
        end = _OVERFLOW_FROM if overflowed and handover.lost else 100.0
        used = end * min(1.0, handover.bytes_used / max(1, handover.segment_size))
    title = f"{handover.bytes_used:,} bytes used"
    segments = [Segment("0%", _percent(used), "used" if end else "carried", "", title)]
    if handover.lost:
        segments.append(_lost(handover, used=used, end=end))
    if not end:
        segments.append(Segment("80%", "20%", "unknown", "size ?", "the size is unknown"))
    return Gauge(
        name=f"Hand-over before record {handover.index:,}",
        segments=tuple(segments),
        end=_percent(end) if end else "",
        facts=(_fill(handover), _MARKERS.get(handover.markers, handover.markers)),
        faults=tuple(_faults(handover, overflowed=overflowed)),
    )


def _lost(handover: HandoverNote, *, used: float, end: float) -> Segment:
    left = end if end == _OVERFLOW_FROM else used
    width = 100.0 - left if left > used else max(_LOST_LEAST, (100.0 - used) / 3)
    left = min(left, 100.0 - width)
    text = f"{handover.lost:,} lost"
    return Segment(_percent(left), _percent(width), "lost", text, f"{text}: their size is unknown")


def _fill(handover: HandoverNote) -> str:
    if handover.segment_size is None or handover.fill_percent is None:
        return f"{handover.bytes_used:,} bytes carried, size of the segment unknown"
    return (
        f"{handover.bytes_used:,} of {handover.segment_size:,} bytes used, "
        f"{handover.fill_percent:.1f} %"
    )


def _faults(handover: HandoverNote, *, overflowed: bool) -> list[str]:
    faults = []
    if overflowed:
        size = f" of {handover.next_size:,} bytes" if handover.next_size else ""
        found = "found" if handover.lost else "would have found"
        faults.append(f"full: one more record{size} {found} no room")
    if handover.lost:
        room = ", though there was room" if handover.full is False else ""
        are = "that was seen before it is" if handover.lost == 1 else "that were seen before it are"
        faults.append(f"{counted(handover.lost, 'record')} {are} missing after it{room}")
    if handover.uncounted:
        faults.append(f"its markers count {handover.uncounted:,} that do not stand before them")
    return faults


def _percent(value: float) -> str:
    return f"{value:.2f}%"
