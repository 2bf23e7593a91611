# SPDX-License-Identifier: GPL-2.0-only
"""Whatever the size, what the next kernel is handed is a prefix of the list made of whole records.

The buffer is read where the next kernel finds it, before anything is restored from it, while the
end of the list moves byte by byte across the end of the segment: once with the last measured file,
which leaves no room for kexec_execute, once with kexec_execute itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from conftest import Lab, buffer_of, records_of
from imakexec import scenario
from imakexec.attest.handover import HEADER_SIZE, HandoverBuffer
from imakexec.kernel.build import KernelRequest
from imakexec.scenario import Session

SWEEP = range(-120, 121)
CORNERS = (-120, -1, 0, 1, 2, 120)
"""The first and the last byte of a record, what is on either side, and the ends of the sweep."""

# template ima-buf with SHA-256, beside its payload: PCR, digest, name, data length, d-ng, n-ng
# with "kexec_execute" and its NUL, the length of buf.
EXECUTE_OVERHEAD = 4 + 20 + (4 + 7) + 4 + (4 + 8 + 32) + (4 + 14) + 4


def sweep() -> list[object]:
    """All distances, those between the corners only when the nightly tests are asked for."""
    return [
        distance if distance in CORNERS else pytest.param(distance, marks=pytest.mark.nightly)
        for distance in SWEEP
    ]


@dataclass(frozen=True)
class Room:
    """What a load has left for records.

    Attributes:
        segment: bytes of the segment.
        used: bytes of header and list after the load.
        records: number of records after the load.
    """

    segment: int
    used: int
    records: int

    @property
    def free(self) -> int:
        """Bytes that further records can take."""
        return self.segment - self.used

    def execute_size(self, measured: int, paths: int) -> int:
        """Bytes of kexec_execute after `measured` more bytes in `paths` more records."""
        payload = (
            f"kexec_segment_size={self.segment};ima_binary_runtime_size={self.used + measured};"
            f"ima_runtime_measurements_count={self.records + paths};"
        )
        return EXECUTE_OVERHEAD + len(payload)

    def measured_for(self, total: int) -> int:
        """Bytes of files that take `total` bytes together with kexec_execute."""
        # Its size depends on the digits of two numbers, which hardly ever change with a byte.
        measured = total
        for _ in range(4):
            paths = len(scenario.paths_of_records(measured, folder="/b000000"))
            measured = total - self.execute_size(measured, paths)
        return measured


def load(session: Session) -> tuple[scenario.LoadedKernel, Room]:
    """Boot, load a kernel that leaves its buffer alone, and find out how much room it has."""
    scenario.boot(session)
    loaded = scenario.kexec_load(session, append=scenario.KEEPS_BUFFER)
    raw = session.guest.read_file(scenario.MEASUREMENTS, session.budget())
    records = records_of(raw)
    [marker] = [record for record in records if record.name == "kexec_load"]
    segment = int((marker.buf or b"").split(b";")[0].partition(b"=")[2])
    room = Room(segment, HEADER_SIZE + len(raw), len(records))
    assert room.free > 0, "the segment cannot even hold the list of its load"
    return loaded, room


def hand_over(session: Session, loaded: scenario.LoadedKernel) -> tuple[bytes, HandoverBuffer]:
    """The list as it was last seen, and the buffer that the next kernel finds."""
    before = session.guest.read_file(scenario.MEASUREMENTS, session.budget())
    scenario.kexec_execute(session, loaded)
    return before, buffer_of(scenario.read_handover_buffer(session))


def assert_whole_prefix(before: bytes, buffer: HandoverBuffer, room: Room) -> None:
    """The buffer has whole records, counts them right, and none more would have fitted."""
    carried = records_of(buffer.log)
    assert buffer.count == len(carried)
    assert buffer.size == HEADER_SIZE + len(buffer.log)
    assert buffer.log == before[: len(buffer.log)], "not a prefix of the list"
    assert not any(buffer.rest), "something was written behind the last record"
    assert buffer.size + len(buffer.rest) == room.segment
    beyond = before[len(buffer.log) :]
    if beyond:
        assert records_of(beyond)[0].size > len(buffer.rest), "the next record would have fitted"


@pytest.mark.parametrize("distance", sweep())
def test_the_last_file_at_the_end_of_the_segment(
    lab: Lab, tight: KernelRequest, distance: int
) -> None:
    with lab.session(tight) as session:
        loaded, room = load(session)
        paths = scenario.measure_bytes(session, room.free + distance)
        before, buffer = hand_over(session, loaded)

    assert len(before) == room.used + room.free + distance - HEADER_SIZE
    assert_whole_prefix(before, buffer, room)
    lost = len(records_of(before)) - buffer.count
    assert lost == (0 if distance <= 0 else 1)
    assert lost <= len(paths)


@pytest.mark.parametrize("distance", sweep())
def test_kexec_execute_at_the_end_of_the_segment(
    lab: Lab, tight: KernelRequest, distance: int
) -> None:
    with lab.session(tight) as session:
        loaded, room = load(session)
        scenario.measure_bytes(session, room.measured_for(room.free + distance))
        before, buffer = hand_over(session, loaded)

    *files, last = records_of(buffer.log)
    assert buffer.count == len(files) + 1
    if distance > 0:
        assert_whole_prefix(before, buffer, room)
        assert buffer.log == before, "every file fits, kexec_execute does not"
        return
    assert last.name == "kexec_execute"
    assert buffer.log[: last.offset] == before
    assert buffer.size == HEADER_SIZE + len(buffer.log) == room.segment + distance
    assert not any(buffer.rest)
