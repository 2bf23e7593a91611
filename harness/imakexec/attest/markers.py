# SPDX-License-Identifier: GPL-2.0-only
"""The records by which a kernel says that it loads and executes a kexec.

Critical data of label "ima_kexec", template ima-buf, event `kexec_load` or `kexec_execute`; buf is

    kexec_segment_size=%lu;ima_binary_runtime_size=%lu;ima_runtime_measurements_count=%ld;

without NUL (kernel: security/integrity/ima/ima_kexec.c, ima_measure_kexec_event(), since 6.16).
Runtime size and count are those of the list before the marker, the size with the 24 bytes of
struct ima_kexec_hdr. Root can forge a marker: it explains a loss, it never adds trust.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from heapq import merge
from itertools import accumulate, groupby, islice

from imakexec.attest.log import STRIDE, MeasurementLog, Record
from imakexec.attest.replay import HASHES

KEXEC_HEADER_SIZE = 24
"""struct ima_kexec_hdr: what stands before the records in the hand-over segment, in bytes."""

_PAYLOAD = re.compile(
    rb"kexec_segment_size=(\d{1,20});"
    rb"ima_binary_runtime_size=(\d{1,20});"
    rb"ima_runtime_measurements_count=(\d{1,20});"
)


class MarkerKind(StrEnum):
    """The event names of markers."""

    LOAD = "kexec_load"
    EXECUTE = "kexec_execute"


MARKER_EVENTS = tuple(kind.value.encode() + b"\0" for kind in MarkerKind)
"""The same as they stand in a record."""


@dataclass(frozen=True, slots=True)
class MarkerValues:
    """What a marker says: sizes in bytes, header of the segment included, and records."""

    segment_size: int
    runtime_size: int
    count: int


@dataclass(frozen=True, slots=True)
class Marker:
    """A record that is, or poses as, a marker.

    Args:
        kind: by its event name.
        index: of the record.
        logged: what it says; None if it cannot be read.
        recomputed_size: the runtime size before it, recomputed from the list itself.
        recomputed_count: the records before it.
        violation: whether its content is in no PCR: then it has not even been measured.
        accepted: whether every rule holds.
        flaws: the rules that do not hold, in words.
    """

    kind: MarkerKind
    index: int
    logged: MarkerValues | None
    recomputed_size: int
    recomputed_count: int
    violation: bool
    accepted: bool
    flaws: tuple[str, ...]


def read_markers(log: MeasurementLog, boot_starts: Sequence[int]) -> tuple[Marker, ...]:
    """All records that name themselves a marker, in order, each accepted or not.

    Args:
        log: the list.
        boot_starts: the indices of its boot_aggregate records, ascending.
    """
    ways: Sequence[_RuntimeSizes] | None = None
    loaded_boots: set[int] = set()
    markers = []
    for record in _candidates(log):
        if ways is None:  # most lists hold no marker, and need no sizes
            ways = _runtime_sizes(log)
        boot = bisect_right(boot_starts, record.index)
        marker = _read(log, record, boot_starts[boot - 1] if boot else None, ways)
        if marker.kind is MarkerKind.EXECUTE:
            flaws = (*marker.flaws, *_place_flaws(marker, boot, boot_starts, loaded_boots))
            marker = replace(marker, flaws=flaws, accepted=not flaws)
        elif marker.accepted:
            loaded_boots.add(boot)
        markers.append(marker)
    return tuple(markers)


def _candidates(log: MeasurementLog) -> Iterator[Record]:
    events = frozenset(event[:-1] for event in MARKER_EVENTS)
    found = merge(*map(log.carrying, MARKER_EVENTS))
    for index, _ in groupby(found):
        record = log[index]
        if record.event in events:
            yield record


class _RuntimeSizes:
    """The sizes of the first n records, as a kernel counts them that is asked for its own.

    get_binary_runtime_size() takes the name of a custom template for empty, yet the list carries
    the format in its place. A kernel may have that mended.

    Args:
        log: the list.
        with_names: whether the names of custom templates count.
    """

    def __init__(self, log: MeasurementLog, *, with_names: bool) -> None:
        self._log = log
        self._with_names = with_names
        # Of every so many records: what is asked for is found from the nearest by a short walk.
        sizes = accumulate(self._each(0), initial=0)
        self._sizes = array("Q", islice(sizes, None, None, STRIDE))

    def records_in(self, size: int) -> int | None:
        """How many leading records have that size in bytes; None if no number of them has."""
        place = bisect_right(self._sizes, size) - 1
        if place < 0:
            return None
        first = place * STRIDE
        sizes = accumulate(self._each(first), initial=self._sizes[place])
        for count, found in enumerate(sizes, first):
            if found >= size:
                return count if found == size else None
        return None

    def _each(self, first: int) -> Iterator[int]:
        for template, size in self._log.sizes(first):
            yield size if self._with_names else size - len(template.name) * template.is_custom


def _runtime_sizes(log: MeasurementLog) -> list[_RuntimeSizes]:
    """In each way in which a kernel may count them."""
    ways = (True, False) if log.has_custom_templates else (True,)
    return [_RuntimeSizes(log, with_names=with_names) for with_names in ways]


def _read(
    log: MeasurementLog, record: Record, boot_start: int | None, ways: Sequence[_RuntimeSizes]
) -> Marker:
    """One marker, its place in the list aside.

    Args:
        boot_start: the index of the last boot_aggregate before it; None if there is none.
        ways: in which a kernel may count sizes.
    """
    buf = record.buf or b""
    match = _PAYLOAD.fullmatch(buf)
    logged = MarkerValues(*map(int, match.groups())) if match else None
    flaws = list(_record_flaws(record, buf))
    if logged is None:
        flaws.append("its content is not that of a marker")
    else:
        flaws.extend(_value_flaws(log, record.index, logged, boot_start, ways))
    return Marker(
        kind=MarkerKind((record.event or b"").decode()),
        index=record.index,
        logged=logged,
        recomputed_size=KEXEC_HEADER_SIZE + log.carried_size(record.index),
        recomputed_count=record.index,
        violation=record.is_violation,
        accepted=not flaws,
        flaws=tuple(flaws),
    )


def _record_flaws(record: Record, buf: bytes) -> Iterator[str]:
    if record.template.name != "ima-buf":
        yield f"its template is {record.template.name}, not ima-buf"
    if record.is_violation:
        yield "it is a violation: its content is in no PCR"
    digest = record.file_digest
    if digest is None or digest.algorithm not in HASHES:
        yield "it names no known hash algorithm"
    elif HASHES[digest.algorithm](buf).digest() != digest.value:
        yield "its digest is not the hash of its content"


def _value_flaws(
    log: MeasurementLog,
    index: int,
    logged: MarkerValues,
    boot_start: int | None,
    ways: Sequence[_RuntimeSizes],
) -> Iterator[str]:
    """Both values must belong to this list, this boot and the time before the marker.

    The kernel reads them one after the other without the list's lock, so that under load each
    may lag behind the marker's own position by some records.
    """
    if boot_start is None:
        yield "it stands before the first boot_aggregate"
        return
    possible = range(boot_start + 1, index + 1)
    if logged.count not in possible:
        yield f"it counts {logged.count} records, {index} stand before it"
    records_size = logged.runtime_size - KEXEC_HEADER_SIZE
    counts = (way.records_in(records_size) for way in ways)
    # A range looks through all that it holds for anything but a number.
    if not any(count is not None and count in possible for count in counts):
        size = KEXEC_HEADER_SIZE + log.carried_size(index)
        yield f"it says {logged.runtime_size} bytes, {size} stand before it"


def _place_flaws(
    execute: Marker, boot: int, boot_starts: Sequence[int], loaded_boots: set[int]
) -> Iterator[str]:
    """A load must stand before it in the same boot, and the next boot directly after it."""
    if boot >= len(boot_starts) or boot_starts[boot] != execute.index + 1:
        yield "no boot_aggregate follows it directly"
    if boot not in loaded_boots:
        yield "no kexec_load stands before it in the same boot"
