# SPDX-License-Identifier: GPL-2.0-only
"""A measurement list as a story: boots, kexec loads and executes, and each hand-over between them.

Nothing here is a judgement, and what the list itself says is only as good as its replay.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING

from imakexec.attest.boot_aggregate import (
    BOOT_EVENT,
    BootAggregate,
    check_boot_aggregate,
    find_boot_aggregates,
)
from imakexec.attest.log import MeasurementLog
from imakexec.attest.markers import (
    KEXEC_HEADER_SIZE,
    MARKER_EVENTS,
    Marker,
    MarkerKind,
    read_markers,
)
from imakexec.attest.structures import ClockInfo
from imakexec.evidence import BootKind

if TYPE_CHECKING:
    from imakexec.attest.power import ListObservation, Observation

_KERNEL_VERSION = b"kernel_version\0"
# All that is looked for in a list, so that it is read for that once.
_LANDMARKS = (BOOT_EVENT, *MARKER_EVENTS, _KERNEL_VERSION)
_MARKERS_SINCE = (6, 16)
_RELEASE = re.compile(rb"(\d{1,4})\.(\d{1,4})")


class RowKind(StrEnum):
    """What one row of a timeline shows."""

    BOOT_AGGREGATE = "boot_aggregate"
    KEXEC_LOAD = "kexec_load"
    KEXEC_EXECUTE = "kexec_execute"
    RECORDS = "records"
    """A run of records that are none of the others."""


@dataclass(frozen=True)
class Row:
    """One record worth a row of its own, or the records between two such.

    Args:
        kind: what it shows.
        boot: the number of the boot in the list, from 0.
        index: of its first record.
        count: how many records it stands for.
        size: of these records in bytes.
        violations: how many of them are violations.
        marker: of a kexec_load or kexec_execute, accepted or not.
        boot_aggregate: of a boot_aggregate.
    """

    kind: RowKind
    boot: int
    index: int
    count: int
    size: int
    violations: int
    marker: Marker | None = None
    boot_aggregate: BootAggregate | None = None


@dataclass(frozen=True)
class BootSpan:
    """The records of one boot.

    Args:
        number: of the boot in the list, from 0.
        kind: how it began: the boots in a list follow each other by kexec, and the first was cold
            unless the harness has seen boots before it.
        index: of its boot_aggregate.
        count: of its records, the boot_aggregate included.
        violations: among them.
        kernel_version: from the kernel's own critical-data record of that name, if there is one.
        clock: the TPM's clock and counters at the first and at the last quote in it, if any.
    """

    number: int
    kind: BootKind
    index: int
    count: int
    violations: int
    kernel_version: str | None
    clock: tuple[ClockInfo, ClockInfo] | None


class MarkerState(StrEnum):
    """The markers that belong to one hand-over."""

    COMPLETE = "complete"
    LOAD_ONLY = "load_only"
    REJECTED = "rejected"
    """Records pose as markers, but none of them holds."""
    ABSENT = "absent"


@dataclass(frozen=True)
class Handover:
    """One kexec: what the list shows of the segment in which it was handed over.

    Args:
        index: of the boot_aggregate after it; all records before it were carried.
        markers: which markers stand before it, in its boot.
        markers_expected: whether the kernel before it is known to write markers: by its version,
            or because an earlier snapshot holds one.
        bytes_used: of the segment, its header included.
        segment_size: in bytes, from the last accepted marker; None if there is none.
        fill_percent: bytes_used of segment_size.
        full: whether the next record had no room: if it is unknown, one as large as the largest;
            None if segment_size is.
        next_size: of the first record that is missing, if an earlier snapshot holds it.
        lost: how many records of the last snapshot before it were not carried; None if unknown.
        uncounted: how many more records the markers before it count than stand before them
            (ima_runtime_measurements_count). It is what they claim, and root can forge one.
        whole_prefix: whether what was carried begins an earlier snapshot's list, or goes on from
            its end, byte for byte and in whole records; None if there is no such snapshot.
    """

    index: int
    markers: MarkerState
    markers_expected: bool
    bytes_used: int
    segment_size: int | None
    fill_percent: float | None
    full: bool | None
    next_size: int | None
    lost: int | None
    uncounted: int
    whole_prefix: bool | None


@dataclass(frozen=True)
class Timeline:
    """A whole list.

    Args:
        rows: in order, covering each record exactly once.
        boots: one per boot_aggregate.
        handovers: one per kexec.
        markers: every record that is or poses as a marker.
        boot_aggregates: one per boot.
    """

    rows: tuple[Row, ...]
    boots: tuple[BootSpan, ...]
    handovers: tuple[Handover, ...]
    markers: tuple[Marker, ...]
    boot_aggregates: tuple[BootAggregate, ...]


def build_timeline(
    log: MeasurementLog,
    *,
    violations: Sequence[int],
    seen: Sequence[Observation],
    earlier: Sequence[ListObservation],
    epoch: int,
    first_epoch: int | None,
) -> Timeline:
    """Tell a list's story.

    Args:
        log: the list.
        violations: the indices of its violation records, ascending.
        seen: all observations of its power cycle up to its own, oldest first.
        earlier: of these, the ones before its own that have a list.
        epoch: the boot epoch that it was read in.
        first_epoch: the epoch of the cold boot that it goes back to; None if unknown.
    """
    log.seek(_LANDMARKS)
    starts = find_boot_aggregates(log)
    markers = read_markers(log, starts)
    quotes = [quote for item in seen for quote in item.quotes]
    aggregates = tuple(check_boot_aggregate(log, index, quotes) for index in starts)
    boots = tuple(
        _dated(span, epoch - (len(starts) - 1 - span.number), first_epoch, seen)
        for span in _boot_spans(log, starts, violations)
    )
    handovers = _Handovers(log, boots, markers, epoch, earlier)
    after_kexec = list(starts[1:])
    if starts and first_epoch is not None and epoch - first_epoch >= len(starts):
        # More boots than the list shows: the first one that it shows was handed nothing.
        after_kexec.insert(0, starts[0])
    return Timeline(
        rows=tuple(_rows(log, markers, aggregates, violations)),
        boots=boots,
        handovers=tuple(handovers.before(index) for index in after_kexec),
        markers=markers,
        boot_aggregates=aggregates,
    )


def carried_records(starts: Sequence[int], hops: int, records: int) -> int:
    """How many records of a list were there before its last `hops` kexecs."""
    if hops == 0:
        return records
    return starts[-hops] if hops <= len(starts) else 0


def _boot_spans(
    log: MeasurementLog, starts: Sequence[int], violations: Sequence[int]
) -> Iterator[BootSpan]:
    versions = _kernel_versions(log)
    for number, (start, end) in enumerate(pairwise([*starts, len(log)])):
        own = bisect_left(versions, (start, ""))
        has_own = own < len(versions) and versions[own][0] < end
        yield BootSpan(
            number=number,
            kind=BootKind.KEXEC if number else BootKind.COLD,
            index=start,
            count=end - start,
            violations=_between(violations, start, end),
            kernel_version=versions[own][1] if has_own else None,
            clock=None,
        )


def _dated(
    span: BootSpan, epoch: int, first_epoch: int | None, seen: Sequence[Observation]
) -> BootSpan:
    """A boot with what the quotes taken in it and the harness' epochs know of it."""
    clocks = [
        quote.clock_info
        for item in seen
        for quote in item.quotes
        if item.epoch == epoch and quote.clock_info is not None
    ]
    is_kexec = span.number > 0 or (first_epoch is not None and epoch > first_epoch)
    return replace(
        span,
        kind=BootKind.KEXEC if is_kexec else BootKind.COLD,
        clock=(clocks[0], clocks[-1]) if clocks else None,
    )


def _kernel_versions(log: MeasurementLog) -> list[tuple[int, str]]:
    """Critical data "kernel_version" (kernel: ima_main.c, init_ima()): its buf is uname -r."""
    found = []
    for index in log.carrying(_KERNEL_VERSION):
        record = log[index]
        if record.event == b"kernel_version" and record.buf and not record.is_violation:
            found.append((index, record.buf.decode("ascii", "backslashreplace")))
    return found


class _Handovers:
    """Describes the hand-overs of one list, with what earlier snapshots know about them."""

    def __init__(
        self,
        log: MeasurementLog,
        boots: Sequence[BootSpan],
        markers: Sequence[Marker],
        epoch: int,
        earlier: Sequence[ListObservation],
    ) -> None:
        self._log = log
        self._epoch = epoch
        self._starts = [boot.index for boot in boots]
        self._versions = {boot.index: boot.kernel_version for boot in boots}
        self._markers = markers
        self._markers_at = [marker.index for marker in markers]
        self._loads: dict[ListObservation, tuple[Marker, ...]] = {}
        self._sizes, self._measured, self._largest = log.sizes(), 0, 0
        self._earlier = [(seen, seen.log.common_records(log)) for seen in earlier]

    def before(self, index: int) -> Handover:
        """The hand-over that the boot_aggregate at `index` ends; ask in ascending order."""
        boot = bisect_left(self._starts, index)
        start = self._starts[boot - 1] if boot else 0
        own = self._markers[
            bisect_left(self._markers_at, start) : bisect_left(self._markers_at, index)
        ]
        measured = [item for item in own if not item.violation]
        seen, common = self._seen_before(boot)
        seen_loads = self._loads_of(seen) if seen else ()
        used = KEXEC_HEADER_SIZE + self._log.carried_size(index)
        size = _segment_size((*seen_loads, *own))
        whole = None if seen is None else common >= min(index, len(seen.log))
        lost = max(0, len(seen.log) - index) if seen and whole else None
        next_size = _carried_size_of(seen.log, index) if seen and lost else None
        full = None
        if size is not None:
            full = used <= size < used + (next_size or self._largest_before(index))
        version = self._versions[start] if boot else None
        return Handover(
            index=index,
            markers=_marker_state(measured),
            markers_expected=bool(seen_loads) or _writes_markers(version),
            bytes_used=used,
            segment_size=size,
            fill_percent=round(100 * used / size, 1) if size else None,
            full=full,
            next_size=next_size,
            lost=lost,
            uncounted=max(
                [0, *(item.logged.count - item.index for item in measured if item.logged)]
            ),
            whole_prefix=whole,
        )

    def _loads_of(self, seen: ListObservation) -> tuple[Marker, ...]:
        if seen not in self._loads:
            self._loads[seen] = _pending_loads(seen.log)
        return self._loads[seen]

    def _largest_before(self, index: int) -> int:
        """The size of the largest record before `index`, which never goes back."""
        sizes = (size for _, size in islice(self._sizes, index - self._measured))
        self._largest = max(chain([self._largest], sizes))
        self._measured = index
        return self._largest

    def _seen_before(self, boot: int) -> tuple[ListObservation | None, int]:
        """The last snapshot taken before a boot, and how many of its records the list keeps."""
        boot_epoch = self._epoch - (len(self._starts) - 1 - boot)
        past = [item for item in self._earlier if item[0].epoch < boot_epoch]
        return past[-1] if past else (None, 0)


def _carried_size_of(log: MeasurementLog, index: int) -> int:
    return log.carried_size(index + 1) - log.carried_size(index)


def _pending_loads(log: MeasurementLog) -> tuple[Marker, ...]:
    """The accepted kexec_load markers of the last boot in a list."""
    starts = find_boot_aggregates(log)
    return tuple(
        marker
        for marker in read_markers(log, starts)
        if marker.accepted
        and marker.kind is MarkerKind.LOAD
        and bisect_right(starts, marker.index) == len(starts)
    )


def _segment_size(markers: Sequence[Marker]) -> int | None:
    """What the last accepted one says."""
    sizes = [item.logged.segment_size for item in markers if item.accepted and item.logged]
    return sizes[-1] if sizes else None


def _marker_state(markers: Sequence[Marker]) -> MarkerState:
    accepted = {marker.kind for marker in markers if marker.accepted}
    if MarkerKind.EXECUTE in accepted:
        return MarkerState.COMPLETE
    if accepted:
        return MarkerState.LOAD_ONLY
    return MarkerState.REJECTED if markers else MarkerState.ABSENT


def _writes_markers(kernel_version: str | None) -> bool:
    """Whether a kernel's own version record shows that it writes markers.

    The record is critical data itself, so it also shows that critical data was measured.
    """
    match = _RELEASE.match((kernel_version or "").encode())
    return match is not None and (int(match[1]), int(match[2])) >= _MARKERS_SINCE


def _rows(
    log: MeasurementLog,
    markers: Sequence[Marker],
    aggregates: Sequence[BootAggregate],
    violations: Sequence[int],
) -> Iterator[Row]:
    special: list[Marker | BootAggregate] = sorted(
        [*markers, *aggregates], key=lambda item: item.index
    )
    starts = [aggregate.index for aggregate in aggregates]

    def row(kind: RowKind, index: int, end: int) -> Row:
        return Row(
            kind=kind,
            boot=max(0, bisect_right(starts, index) - 1),
            index=index,
            count=end - index,
            size=log.offset(end) - log.offset(index),
            violations=_between(violations, index, end),
        )

    at = 0
    for item in special:
        if item.index > at:
            yield row(RowKind.RECORDS, at, item.index)
        at = item.index + 1
        if isinstance(item, Marker):
            yield replace(row(RowKind(item.kind.value), item.index, at), marker=item)
        else:
            yield replace(row(RowKind.BOOT_AGGREGATE, item.index, at), boot_aggregate=item)
    if at < len(log):
        yield row(RowKind.RECORDS, at, len(log))


def _between(violations: Sequence[int], start: int, end: int) -> int:
    return bisect_left(violations, end) - bisect_left(violations, start)
