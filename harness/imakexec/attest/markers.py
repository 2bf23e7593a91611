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
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate

from imakexec.attest.log import MeasurementLog, Record
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
        accepted: whether every rule holds.
        flaws: the rules that do not hold, in words.
    """

    kind: MarkerKind
    index: int
    logged: MarkerValues | None
    recomputed_size: int
    recomputed_count: int
    accepted: bool
    flaws: tuple[str, ...]


def read_markers(log: MeasurementLog, boot_starts: Sequence[int]) -> tuple[Marker, ...]:
    """All records that name themselves a marker, in order, each accepted or not.

    Args:
        log: the list.
        boot_starts: the indices of its boot_aggregate records, ascending.
    """
    runtime_sizes = _runtime_sizes(log)
    loaded_boots: set[int] = set()
    markers = []
    for index in _candidates(log):
        boot = bisect_right(boot_starts, index)
        marker = _read(log, log[index], boot_starts[:boot], runtime_sizes)
        if marker.kind is MarkerKind.EXECUTE:
            marker = _with_flaws(marker, _place_flaws(marker, boot, boot_starts, loaded_boots))
        elif marker.accepted:
            loaded_boots.add(boot)
        markers.append(marker)
    return tuple(markers)


def _candidates(log: MeasurementLog) -> list[int]:
    found: set[int] = set()
    for kind in MarkerKind:
        event = kind.value.encode()
        found.update(index for index in log.carrying(event + b"\0") if log[index].event == event)
    return sorted(found)


def _runtime_sizes(log: MeasurementLog) -> list[Sequence[int]]:
    """The sizes of the first n records, n ascending, in each way in which a kernel counts them.

    get_binary_runtime_size() takes the name of a custom template for empty, yet the list carries
    the format in its place. A kernel may have that mended.
    """
    exact = [log.carried_size(count) for count in range(len(log) + 1)]
    if not log.has_custom_templates:
        return [exact]
    names = (len(record.template.name) * record.template.is_custom for record in log)
    uncounted = accumulate(names, initial=0)
    return [exact, [size - name for size, name in zip(exact, uncounted, strict=True)]]


def _read(
    log: MeasurementLog,
    record: Record,
    boots: Sequence[int],
    runtime_sizes: list[Sequence[int]],
) -> Marker:
    """One marker, its place in the list aside; `boots` are the boots that began before it."""
    match = _PAYLOAD.fullmatch(record.buf or b"")
    logged = MarkerValues(*map(int, match.groups())) if match else None
    marker = Marker(
        kind=MarkerKind((record.event or b"").decode()),
        index=record.index,
        logged=logged,
        recomputed_size=KEXEC_HEADER_SIZE + log.carried_size(record.index),
        recomputed_count=record.index,
        accepted=True,
        flaws=(),
    )
    marker = _with_flaws(marker, _record_flaws(record))
    if logged is None:
        return _with_flaws(marker, ["its content is not that of a marker"])
    return _with_flaws(marker, _value_flaws(marker, logged, boots, runtime_sizes))


def _with_flaws(marker: Marker, flaws: Iterable[str]) -> Marker:
    found = (*marker.flaws, *flaws)
    return replace(marker, flaws=found, accepted=not found)


def _record_flaws(record: Record) -> Iterator[str]:
    if record.template.name != "ima-buf":
        yield f"its template is {record.template.name}, not ima-buf"
    if record.is_violation:
        yield "it is a violation: its content is in no PCR"
    digest = record.file_digest
    if digest is None or digest.algorithm not in HASHES:
        yield "it names no known hash algorithm"
    elif HASHES[digest.algorithm](record.buf or b"").digest() != digest.value:
        yield "its digest is not the hash of its content"


def _value_flaws(
    marker: Marker,
    logged: MarkerValues,
    boots: Sequence[int],
    runtime_sizes: list[Sequence[int]],
) -> Iterator[str]:
    """Both values must belong to this list, this boot and the time before the marker.

    The kernel reads them one after the other without the list's lock, so that under load each
    may lag behind the marker's own position by some records.
    """
    if not boots:
        yield "it stands before the first boot_aggregate"
        return
    possible = range(boots[-1] + 1, marker.index + 1)
    if logged.count not in possible:
        yield f"it counts {logged.count} records, {marker.index} stand before it"
    records_size = logged.runtime_size - KEXEC_HEADER_SIZE
    counts = (bisect_left(sizes, records_size) for sizes in runtime_sizes)
    if not any(
        count in possible and sizes[count] == records_size
        for count, sizes in zip(counts, runtime_sizes, strict=True)
    ):
        yield f"it says {logged.runtime_size} bytes, {marker.recomputed_size} stand before it"


def _place_flaws(
    execute: Marker, boot: int, boot_starts: Sequence[int], loaded_boots: set[int]
) -> Iterator[str]:
    """A load must stand before it in the same boot, and the next boot directly after it."""
    if boot >= len(boot_starts) or boot_starts[boot] != execute.index + 1:
        yield "no boot_aggregate follows it directly"
    if boot not in loaded_boots:
        yield "no kexec_load stands before it in the same boot"
