# SPDX-License-Identifier: GPL-2.0-only
"""The figures of `imakexec size` as a drawing: SVG 1.1, made by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from imakexec.report.sizing import duration
from imakexec.sizing import OPTION_MOST, Question, Sizing, bound, option_room

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 44
_BINS = 40
_STEPS = 60
# Okabe and Ito: told apart by everybody.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")


@dataclass(frozen=True)
class _Axes:
    """One panel: its place in the drawing, and the values at its right and upper edges.

    Both axes begin at 0.
    """

    row: int
    title: str
    x_title: str
    y_title: str
    x_most: float
    y_most: float

    def x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / self.x_most

    def y(self, value: float) -> float:
        top = self.row * _HEIGHT + _TOP
        return top + (_HEIGHT - _TOP - _BOTTOM) * (1 - value / self.y_most)

    def frame(self) -> Iterator[str]:
        """Title, axes and ticks."""
        bottom = self.y(0)
        yield _text(_LEFT, self.row * _HEIGHT + 20, self.title, extra=' font-weight="bold"')
        yield _text(_WIDTH - _RIGHT, bottom + 34, self.x_title, anchor="end")
        yield _text(_LEFT, self.y(self.y_most) - 6, self.y_title)
        for tick in _ticks(self.x_most):
            yield _text(self.x(tick), bottom + 16, f"{tick:g}", anchor="middle")
        for tick in _ticks(self.y_most):
            yield _text(_LEFT - 6, self.y(tick) + 4, f"{tick:g}", anchor="end")
            yield self.line([(0, tick), (self.x_most, tick)], "#ddd", width=1)
        yield self.line([(0, self.y_most), (0, 0), (self.x_most, 0)], "#000", width=1)

    def line(
        self,
        points: Iterable[tuple[float, float]],
        colour: str,
        *,
        width: float = 2,
        dashes: str = "none",
    ) -> str:
        """A line through points."""
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return (
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}" '
            f'stroke-dasharray="{dashes}"/>'
        )

    def bar(self, left: float, right: float, low: float, high: float, colour: str) -> str:
        """A rectangle."""
        place = f'x="{self.x(left):.1f}" y="{self.y(high):.1f}"'
        size = (
            f'width="{self.x(right) - self.x(left):.1f}" height="{self.y(low) - self.y(high):.1f}"'
        )
        return f'<rect {place} {size} fill="{colour}"/>'

    def legend(self, names: Sequence[tuple[str, str]], *, left: bool) -> Iterator[str]:
        """Names in their colours, below each other, where nothing is drawn."""
        place = _LEFT + 10 if left else _WIDTH - _RIGHT - 6
        anchor = "start" if left else "end"
        for at, (name, colour) in enumerate(names):
            height = self.row * _HEIGHT + _TOP + 12 + 16 * at
            yield _text(place, height, name, anchor=anchor, colour=colour)


def draw_sizing(sizing: Sizing, question: Question) -> str:
    """The sizes of records and those that have room; with a growth that, and what windows take."""
    panels = [_histogram(sizing), _rooms(sizing)]
    if sizing.growth is not None:
        panels += [_snapshots(sizing), _windows(sizing, question)]
    height = _HEIGHT * len(panels)
    body = "\n".join(line for panel in panels for line in panel)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _histogram(sizing: Sizing) -> Iterator[str]:
    """Sizes up to that of 99 % of the records: the largest would leave no room for the others."""
    most = max(sizing.overall.p99, 1)
    width = math.ceil((most + 1) / _BINS)
    counts = {name: [0] * _BINS for name in sizing.templates}
    for name, size in sizing.values:
        if size <= most:
            counts[name][size // width] += 1
    tops = [sum(column) for column in zip(*counts.values(), strict=True)]
    axes = _Axes(
        0,
        f"size of records, without the largest 1 % (up to {sizing.overall.most} bytes)",
        "bytes per record",
        "records",
        width * _BINS,
        max(tops),
    )
    yield from axes.frame()
    bases = [0] * _BINS
    colours = _coloured(sizing.templates)
    for name, colour in colours:
        for at, count in enumerate(counts[name]):
            if count:
                low, bases[at] = bases[at], bases[at] + count
                yield axes.bar(at * width, (at + 1) * width, low, bases[at], colour)
    yield from axes.legend(colours, left=False)


def _rooms(sizing: Sizing) -> Iterator[str]:
    rooms = sizing.rooms
    axes = _Axes(
        1,
        "more records that have room",
        "extra memory in KiB",
        "records",
        rooms[-1].size / 1024,
        max(rooms[-1].typical, *(room.fewest_seen or 0 for room in rooms), 1),
    )
    yield from axes.frame()
    kinds = (("typical", "typical"), ("fewest_seen", "fewest in a run"), ("certain", "certain"))
    for (member, _), colour in zip(kinds, _COLOURS, strict=False):
        known = [(room.size / 1024, getattr(room, member)) for room in rooms]
        yield axes.line([(x, y) for x, y in known if y is not None], colour)
    yield from axes.legend(
        [(name, colour) for (_, name), colour in zip(kinds, _COLOURS, strict=False)], left=True
    )


def _snapshots(sizing: Sizing) -> Iterator[str]:
    """How the list grew from snapshot to snapshot, and how it would have at an even rate."""
    first = sizing.snapshots[0]
    grown = [
        ((each.at - first.at) / 60, (each.size - first.size) / 1024) for each in sizing.snapshots
    ]
    axes = _Axes(
        2,
        "growth of the list",
        "minutes from the first snapshot",
        "KiB",
        grown[-1][0],
        max(grown[-1][1], 1),
    )
    yield from axes.frame()
    yield axes.line([(0, 0), grown[-1]], "#888", dashes="2 4")
    yield axes.line(grown, _COLOURS[0])
    yield from axes.legend([("list", _COLOURS[0]), ("even rate", "#888")], left=True)


def _windows(sizing: Sizing, question: Question) -> Iterator[str]:
    """What windows up to four times the wanted one take."""
    assert sizing.growth is not None, "drawn only where there is a growth"
    growth = sizing.growth
    windows = [4 * question.window * step / _STEPS for step in range(1, _STEPS + 1)]
    sizes = [
        bound(growth, sizing.assumed, sizing.snapshots, window, question.confidence)[1] / 1024
        for window in windows
    ]
    most = option_room(OPTION_MOST, question.page_size) / 1024
    axes = _Axes(
        3,
        f"memory that a window takes, with {100 * question.confidence:g} % confidence",
        "minutes from load to execute",
        "KiB",
        windows[-1] / 60,
        max(*sizes, 1.2 * most),
    )
    yield from axes.frame()
    yield axes.line(zip([window / 60 for window in windows], sizes, strict=True), _COLOURS[0])
    limits = ((0, "half a page", _COLOURS[1]), (OPTION_MOST, "greatest option", _COLOURS[5]))
    for value, _, colour in limits:
        room = option_room(value, question.page_size) / 1024
        yield axes.line([(0, room), (windows[-1] / 60, room)], colour, dashes="6 4")
    wanted = question.window / 60
    yield axes.line([(wanted, 0), (wanted, axes.y_most)], "#888", dashes="2 4")
    names = [(name, colour) for _, name, colour in limits]
    names = [("needed", _COLOURS[0]), *names, (duration(question.window), "#888")]
    yield from axes.legend(names, left=True)


def _coloured(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, _COLOURS[at % len(_COLOURS)]) for at, name in enumerate(names)]


def _ticks(most: float) -> list[float]:
    """Round values from 0, five to ten of them."""
    step = 10 ** math.floor(math.log10(most))
    while most / step < 5:
        step /= 2
    return [step * at for at in range(int(most / step) + 1)]


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#000", extra: str = ""
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}{extra}>{escape(text)}</text>"
