# SPDX-License-Identifier: GPL-2.0-only
"""How much extra memory a list needs between the load of a kexec and its execution.

A kernel that copies its list at execute reserves the segment at load: the list as it is then, and
extra memory for what is measured until execute: half a page, or as many KiB as
CONFIG_IMA_KEXEC_EXTRA_MEMORY_KB says (kernel: security/integrity/ima/Kconfig and ima_kexec.c,
ima_add_kexec_buffer(), since 6.16). The sum is rounded up to whole pages; nothing here counts on
that. Of the extra memory the kernel itself takes two marker records, written after the sizing.

What a system measures in a window of time follows from snapshots of one list: its records are
taken to come independently of each other at the rate that was seen, which is itself only an
estimate. With three snapshots or more, rates that vary more than that widen the estimate; and a
window never takes less than what came in some stretch of the snapshots that is no longer than it.
Where the figures rest on too little for the confidence that they name, a `Caveat` says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import NormalDist

from imakexec.attest.log import MeasurementLog
from imakexec.attest.plain import Plain, plain
from imakexec.attest.source import read_source
from imakexec.errors import UserError

SCHEMA = "imakexec-size/1"
OPTION = "CONFIG_IMA_KEXEC_EXTRA_MEMORY_KB"
OPTION_MOST = 40
"""The greatest value that mainline's Kconfig takes."""

_MARKER_TEXT = (
    "kexec_segment_size=;ima_binary_runtime_size=;ima_runtime_measurements_count=;"  # and 3 numbers
)
MARKER_SIZE = sum(
    (
        *(28, len("ima-buf"), 4),  # pcr, digest, name_len; name; data_len
        *(4, len("sha512:") + 1 + 64),  # d-ng
        *(4, len("kexec_execute") + 1),  # n-ng
        *(4, len(_MARKER_TEXT) + 3 * 20),  # buf
    )
)
"""Of one marker record in bytes, at most: numbers of 20 digits, and ima_hash=sha512."""
_MARKERS = 2 * MARKER_SIZE

# With fewer intervals, bursts are seen too seldom to be allowed for. In a simulation with bursts of
# 20 records, one in an interval on average, the next interval stayed within the limit of 99 % in 73
# cases of 100 after one interval, in 89 after two, in 97 after four, in 99 after eight. Bursts five
# times as large and three times as rare took twelve.
_ENOUGH_INTERVALS = 12
# Fewer new records say less about the size of the next one than all records do.
_ENOUGH = 30
# Beyond this many records the binomial and the normal distribution are the same to all purposes.
_MANY = 20_000
_HOUR = 3600.0
# A window by the time that was watched; with less of it the variance is the mean, to a float.
_TINY = 1e-9
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": _HOUR, "d": 24 * _HOUR}
_WINDOW = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)")


@dataclass(frozen=True)
class Sizes:
    """How large records are, in bytes as the kernel hands them over.

    Args:
        records: how many there are.
        total: of all of them.
        least: of the smallest.
        median: half of them are not larger.
        p90: nine of ten are not larger.
        p99: 99 of 100 are not larger.
        most: of the largest.
        mean: total by records.
        deviation: the standard deviation.
    """

    records: int
    total: int
    least: int
    median: int
    p90: int
    p99: int
    most: int
    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[int]) -> Sizes:
        """The sizes of one record or more."""
        ordered, total = sorted(values), sum(values)
        count = len(ordered)
        mean = total / count
        variance = sum((value - mean) ** 2 for value in ordered) / count
        return cls(
            records=count,
            total=total,
            least=ordered[0],
            median=_quantile(ordered, 0.5),
            p90=_quantile(ordered, 0.9),
            p99=_quantile(ordered, 0.99),
            most=ordered[-1],
            mean=mean,
            deviation=math.sqrt(variance),
        )


@dataclass(frozen=True)
class Room:
    """How many more records some extra memory takes, beside the two markers.

    Args:
        name: of the amount.
        size: in bytes.
        typical: records, if they are as large as those of this list on average.
        fewest_seen: records, in any run of this list that fills it; None if the list is too short.
        certain: records, if all are as large as the largest of this list.
    """

    name: str
    size: int
    typical: int
    fewest_seen: int | None
    certain: int


@dataclass(frozen=True)
class Growth:
    """What was added to a list from its first snapshot to its last.

    Args:
        hours: between them.
        records: that were added.
        size: of these in bytes.
        dispersion: how much more the counts of the intervals vary than those of independent
            records; 1 if they do not, or if there is one interval.
    """

    hours: float
    records: int
    size: int
    dispersion: float

    @property
    def records_per_hour(self) -> float:
        """The rate."""
        return self.records / self.hours

    @property
    def bytes_per_hour(self) -> float:
        """The rate, in bytes."""
        return self.size / self.hours


@dataclass(frozen=True)
class Snapshot:
    """A list at one moment.

    Args:
        at: when it was read, in seconds from any moment.
        records: how many it had.
        size: of these in bytes, as the kernel hands them over.
    """

    at: float
    records: int
    size: int


class Caveat(StrEnum):
    """Why a figure is worth less than it seems; the value is stable and machine readable."""

    NO_GROWTH = "no_growth"
    """Nothing was measured from the first snapshot to the last."""
    FEW_INTERVALS = "few_intervals"
    """There are too few snapshots to tell bursts from a steady growth."""
    LONG_WINDOW = "long_window"
    """The window is longer than the time between the first snapshot and the last."""
    MORE_SEEN = "more_seen"
    """More came in some stretch than independent records would: the figures are those of it."""
    WATCHING_MEASURES = "watching_measures"
    """Reading the list made the kernel measure, and these records are counted as well."""
    NAMES_NOT_COUNTED = "names_not_counted"
    """Records of a custom template: a kernel that counts these too small reserves less."""


@dataclass(frozen=True)
class Need:
    """What a window between load and execute takes.

    Args:
        window: in seconds.
        confidence: that it takes no more.
        records: at most.
        size: of these and of two markers in bytes, at most.
        seen_records: the most that came between two snapshots no further apart than the window;
            None if no two are that close.
        seen_size: the most bytes that did, without markers; None likewise.
        option: the least value of the option that is enough; None if none of 0 to 40 is.
        longest_window: in seconds, the longest for which the greatest value is enough, where
            `option` is None.
    """

    window: float
    confidence: float
    records: int
    size: int
    seen_records: int | None
    seen_size: int | None
    option: int | None
    longest_window: int | None


@dataclass(frozen=True)
class Watch:
    """A guest that was watched while a workload ran in it.

    Args:
        kernel: which one, with how many patches.
        accelerator: that it ran under.
        policy: which IMA policy measured.
        workload: the shell script.
        asked: for how many seconds it was to run.
        ran: for how many it did.
        ended: whether it ended by itself.
        reading: the share of that time in which the list was read, from 0 to 1.
        own_records: how many of the new records looking at the list has made.
        evidence: the folder with the console and, if they were kept, the lists.
    """

    kernel: str
    accelerator: str
    policy: str
    workload: str
    asked: float
    ran: float
    ended: bool
    reading: float
    own_records: int
    evidence: Path


@dataclass(frozen=True)
class Sizing:
    """All figures of `imakexec size`.

    Args:
        paths: the lists, oldest first; none of a guest that was watched, unless they were kept.
        page_size: in bytes.
        templates: name to the sizes of its records in the last list.
        overall: sizes of all records of the last list.
        assumed: the sizes that the next records are assumed to have: of the new ones if they are
            enough, else `overall`.
        rooms: ascending.
        uncounted: bytes by which a kernel counts this list too small that takes the name of a
            custom template for empty, as mainline does; they are missing from the extra memory.
        snapshots: oldest first; none with one list.
        growth: None with one list.
        need: None likewise.
        watch: None with files.
        caveats: what limits the figures.
        values: of every record of the last list, in order: what a plot shows.
    """

    paths: tuple[Path, ...]
    page_size: int
    templates: dict[str, Sizes]
    overall: Sizes
    assumed: Sizes
    rooms: tuple[Room, ...]
    uncounted: int
    snapshots: tuple[Snapshot, ...]
    growth: Growth | None
    need: Need | None
    watch: Watch | None
    caveats: tuple[Caveat, ...]
    values: tuple[tuple[str, int], ...]

    def to_json(self) -> dict[str, Plain]:
        """The figures as plain JSON values; keys are stable per schema."""
        growth = None
        if self.growth is not None:
            growth = {
                "hours": self.growth.hours,
                "records": self.growth.records,
                "size": self.growth.size,
                "dispersion": self.growth.dispersion,
                "records_per_hour": self.growth.records_per_hour,
                "bytes_per_hour": self.growth.bytes_per_hour,
            }
        return {
            "schema": SCHEMA,
            "paths": plain(self.paths),
            "page_size": self.page_size,
            "marker_size": MARKER_SIZE,
            "templates": plain(self.templates),
            "overall": plain(self.overall),
            "assumed": plain(self.assumed),
            "rooms": plain(self.rooms),
            "uncounted": self.uncounted,
            "snapshots": plain(self.snapshots),
            "growth": plain(growth),
            "need": plain(self.need),
            "watch": plain(self.watch),
            "caveats": plain(self.caveats),
        }


@dataclass(frozen=True)
class Question:
    """What is wanted to be known.

    Args:
        window: seconds between load and execute.
        confidence: that the memory is enough, between 0 and 1.
        page_size: in bytes.
    """

    window: float = 600.0
    confidence: float = 0.99
    page_size: int = 4096


def parse_duration(text: str, option: str) -> float:
    """A length of time in seconds: "90", "90s", "10m", "2h" or "1d".

    Args:
        option: that it was given with.

    Raises:
        UserError: it is none, or 0.
    """
    match = _WINDOW.fullmatch(text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not seconds:
        raise UserError(
            f"{text!r} is no length of time",
            where=f"{option} {text}",
            remedy="for example 90s, 10m, 2h or 1d",
        )
    return seconds


def parse_time(text: str) -> float:
    """A moment in seconds since 1970: ISO 8601, in UTC unless it says otherwise, or Unix time.

    Raises:
        UserError: it is neither.
    """
    try:
        return float(text) if _is_number(text) else _since_1970(datetime.fromisoformat(text))
    except ValueError:
        raise UserError(
            f"{text!r} is no time",
            where=f"--at {text}",
            remedy="for example 2026-03-01T12:00, 2026-03-01T12:00+02:00, or Unix time",
        ) from None


def size_lists(paths: Sequence[Path], times: Sequence[float], question: Question) -> Sizing:
    """Answer it from one list, or from snapshots of one list with their times.

    Args:
        paths: oldest first.
        times: when each was read, in seconds from any moment; empty with one list.

    Raises:
        UserError: a list cannot be read, they are not snapshots of one list, or their times do
            not ascend.
        MalformedLog: a file holds no list.
    """
    _check_times(paths, times)
    logs = [read_source(path).log for path in paths]
    counts = _snapshot_counts(paths, logs)
    return size_growth(logs[-1], counts, times, question, paths=paths)


def size_growth(
    log: MeasurementLog,
    counts: Sequence[int],
    times: Sequence[float],
    question: Question,
    *,
    paths: Sequence[Path],
    watch: Watch | None = None,
) -> Sizing:
    """Answer it from a list, and from what it was at earlier moments.

    Args:
        log: as it was last.
        counts: of its records at each snapshot, oldest first; the last is that of all.
        times: of the snapshots, ascending, in seconds from any moment; empty with one list.
        paths: of the files that hold the snapshots.
        watch: how they came about, unless in files.
    """
    values = tuple((template.name, size) for template, size in log.sizes())
    sizes = [size for _, size in values]
    by_template: dict[str, list[int]] = {}
    for name, size in values:
        by_template.setdefault(name, []).append(size)
    overall = Sizes.of(sizes)
    new = sizes[counts[0] :]
    assumed = Sizes.of(new) if len(new) >= _ENOUGH else overall
    snapshots = tuple(
        Snapshot(at, count, log.carried_size(count))
        for at, count in zip(times, counts, strict=bool(times))
    )
    growth = growth_of(snapshots) if snapshots else None
    needed = None if growth is None else need(growth, assumed, question, snapshots)
    uncounted = sum(
        len(template.name)
        for template, _ in log.sizes()
        if template.is_custom and template.fields is not None
    )
    return Sizing(
        paths=tuple(paths),
        page_size=question.page_size,
        templates={name: Sizes.of(by_template[name]) for name in sorted(by_template)},
        overall=overall,
        assumed=assumed,
        rooms=tuple(_rooms(sizes, overall, question.page_size)),
        uncounted=uncounted,
        snapshots=snapshots,
        growth=growth,
        need=needed,
        watch=watch,
        caveats=tuple(_caveats(snapshots, growth, needed, uncounted, watch)),
        values=values,
    )


def growth_of(snapshots: Sequence[Snapshot]) -> Growth:
    """The growth from the first of two snapshots or more to the last."""
    first, last = snapshots[0], snapshots[-1]
    hours = (last.at - first.at) / _HOUR
    rate = (last.records - first.records) / hours
    steps = list(pairwise(snapshots))
    dispersion = 1.0
    if len(steps) > 1 and rate:
        expected = [rate * (later.at - earlier.at) / _HOUR for earlier, later in steps]
        seen = [later.records - earlier.records for earlier, later in steps]
        chi = sum((n - mean) ** 2 / mean for n, mean in zip(seen, expected, strict=True))
        dispersion = max(1.0, chi / (len(steps) - 1))
    return Growth(hours, last.records - first.records, last.size - first.size, dispersion)


def need(
    growth: Growth, assumed: Sizes, question: Question, snapshots: Sequence[Snapshot] = ()
) -> Need:
    """What a window takes, given a growth, the sizes of the next records, and what was seen."""
    seen_records, seen_size = most_seen(snapshots, question.window) or (None, None)
    records, size = bound(growth, assumed, snapshots, question.window, question.confidence)
    option = least_option(size, question.page_size)
    longest = None
    if option is None:
        longest = _longest_window(growth, assumed, snapshots, question)
    return Need(
        window=question.window,
        confidence=question.confidence,
        records=records,
        size=size,
        seen_records=seen_records,
        seen_size=seen_size,
        option=option,
        longest_window=longest,
    )


def bound(
    growth: Growth,
    assumed: Sizes,
    snapshots: Sequence[Snapshot],
    window: float,
    confidence: float,
) -> tuple[int, int]:
    """The records that a window takes and their bytes, two markers included, at most.

    See `at_most`; but not less than what was seen.
    """
    records, size = at_most(growth, assumed, window, confidence)
    seen_records, seen_size = most_seen(snapshots, window) or (0, 0)
    return max(records, seen_records), max(size, seen_size + _MARKERS)


def most_seen(snapshots: Sequence[Snapshot], window: float) -> tuple[int, int] | None:
    """The most records, and the most bytes, that came in a stretch not longer than a window.

    Args:
        snapshots: between any two of which a stretch may lie, oldest first.
        window: in seconds.

    Returns:
        None if no two snapshots are that close.
    """
    stretches, start = [], 0
    for end, later in enumerate(snapshots):
        while later.at - snapshots[start].at > window:
            start += 1
        if start < end:
            earlier = snapshots[start]
            stretches.append((later.records - earlier.records, later.size - earlier.size))
    if not stretches:
        return None
    return max(records for records, _ in stretches), max(size for _, size in stretches)


def at_most(growth: Growth, assumed: Sizes, window: float, confidence: float) -> tuple[int, int]:
    """The records that come in a window and their bytes, two markers included, at most.

    Half of the doubt goes to the number of records, half to their sizes.

    Args:
        window: in seconds.
        confidence: that there are no more, between 0 and 1.
    """
    share = (1 + confidence) / 2
    part = max(window / _HOUR / growth.hours, _TINY)
    # Jeffreys' prior: nothing seen so far does not mean that nothing will come.
    mean = (growth.records + 0.5) * part
    records = _count_quantile(mean, growth.dispersion * mean * (1 + part), share)
    spread = NormalDist().inv_cdf(share) * assumed.deviation * math.sqrt(records)
    return records, math.ceil(records * assumed.mean + spread) + _MARKERS


def option_room(value: int, page_size: int) -> int:
    """The extra memory of a value of the option, in bytes."""
    return value * 1024 if value else page_size // 2


def least_option(size: int, page_size: int) -> int | None:
    """The least value of the option that is enough for so many bytes; None if none is."""
    values = range(OPTION_MOST + 1)
    return next((value for value in values if option_room(value, page_size) >= size), None)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d{1,11}(\.\d{1,9})?", text) is not None


def _since_1970(moment: datetime) -> float:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.timestamp()


def _check_times(paths: Sequence[Path], times: Sequence[float]) -> None:
    if len(paths) > 1 and len(times) != len(paths):
        raise UserError(
            f"{len(paths)} lists and {len(times)} times: how fast a list grows takes one for each",
            where="--at",
            remedy="give --at once for each list, in their order: 2026-03-01T12:00, or Unix time",
        )
    if len(paths) == 1 and times:
        raise UserError(
            "the time of one list says nothing",
            where="--at",
            remedy="name a later snapshot of the same list too, or leave it out",
        )
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise UserError(
            "the times of the lists do not ascend",
            where="--at",
            remedy="name the lists, and their times, from the oldest to the newest",
        )


def _snapshot_counts(paths: Sequence[Path], logs: Sequence[MeasurementLog]) -> list[int]:
    """How many records each has; each must begin with the one before."""
    for (earlier, later), path in zip(pairwise(logs), paths[1:], strict=True):
        common = earlier.common_records(later)
        if common < len(earlier):
            raise UserError(
                f"this is no later snapshot of the list before it: it keeps {common} of its"
                f" {len(earlier)} records",
                where=str(path),
                remedy="name snapshots of one list, oldest first, with no cold boot between them",
            )
    return [len(log) for log in logs]


def _caveats(
    snapshots: Sequence[Snapshot],
    growth: Growth | None,
    needed: Need | None,
    uncounted: int,
    watch: Watch | None,
) -> Iterator[Caveat]:
    if growth is not None and needed is not None:
        if not growth.records:
            yield Caveat.NO_GROWTH
        if len(snapshots) - 1 < _ENOUGH_INTERVALS:
            yield Caveat.FEW_INTERVALS
        if needed.window > growth.hours * _HOUR:
            yield Caveat.LONG_WINDOW
        if needed.seen_size and needed.seen_size + _MARKERS == needed.size:
            yield Caveat.MORE_SEEN
    if watch is not None and watch.own_records:
        yield Caveat.WATCHING_MEASURES
    if uncounted:
        yield Caveat.NAMES_NOT_COUNTED


def _rooms(sizes: Sequence[int], overall: Sizes, page_size: int) -> list[Room]:
    amounts = [(f"half a page ({page_size // 2048} KiB)", page_size // 2)]
    amounts += [(f"{kib} KiB", kib * 1024) for kib in (4, 16, 40, 64)]
    rooms = []
    for name, amount in sorted(amounts, key=lambda item: item[1]):
        left = max(0, amount - _MARKERS)
        typical, certain = int(left / overall.mean), left // overall.most
        rooms.append(Room(name, amount, typical, _fewest_in_a_run(sizes, left), certain))
    return rooms


def _fewest_in_a_run(sizes: Sequence[int], room: int) -> int | None:
    """The fewest consecutive records that leave no room for the next one."""
    ends = list(accumulate(sizes, initial=0))
    fewest, end = None, 0
    for start in range(len(sizes)):
        while end < len(sizes) and ends[end + 1] - ends[start] <= room:
            end += 1
        if end == len(sizes):
            break
        fewest = end - start if fewest is None else min(fewest, end - start)
    return fewest


def _count_quantile(mean: float, variance: float, share: float) -> int:
    """Of the negative binomial distribution: what a share of all counts does not exceed."""
    if mean > _MANY:
        return math.ceil(NormalDist(mean, math.sqrt(variance)).inv_cdf(share))
    shape, success = mean**2 / (variance - mean), mean / variance
    log_term, count = shape * math.log(success), 0
    total = math.exp(log_term)
    while total < share:
        log_term += math.log((count + shape) / (count + 1) * (1 - success))
        total += math.exp(log_term)
        count += 1
    return count


def _longest_window(
    growth: Growth, assumed: Sizes, snapshots: Sequence[Snapshot], question: Question
) -> int:
    """In whole seconds; 0 if the greatest value of the option is not enough for one."""
    room = option_room(OPTION_MOST, question.page_size)
    enough, too_long = 0, math.ceil(question.window)
    while too_long - enough > 1:
        middle = (enough + too_long) // 2
        if bound(growth, assumed, snapshots, middle, question.confidence)[1] <= room:
            enough = middle
        else:
            too_long = middle
    return enough


def _quantile(ordered: Sequence[int], share: float) -> int:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
