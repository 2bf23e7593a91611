# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 3: whatever the size, the next kernel is handed whole records, and all that fit.

The end of a record moves byte by byte across the end of the segment: of the last one in the list,
which is kexec_execute where a kernel measures that, or of the last but one, so that a record
follows it. What is handed over is looked at twice: where the next kernel finds it, before anything
is restored from it, and as the list that the next kernel makes of it. A loss must show on both
sides: the kernel that lacks the room says so, and the next one complains or its list lacks
kexec_execute.
"""

from __future__ import annotations

from collections.abc import Container
from enum import StrEnum

import pytest

from conftest import OVERFLOW, buffer_of, carried_in, positions, records_of
from imakexec import scenario
from imakexec.attest.handover import HEADER_SIZE
from imakexec.scenario import LoadedKernel
from imakexec.suite.room import Room, room_after_load
from imakexec.suite.trial import Trial

pytestmark = [pytest.mark.scenario(3), pytest.mark.tight]

SWEEP = range(-120, 121)

FOLLOWER = 200
"""Bytes of the record that follows: more than the sweep is wide, so that it never fits."""


class Crossing(StrEnum):
    """The record whose end crosses the end of the segment."""

    LAST = "last"
    LAST_BUT_ONE = "last-but-one"


CONTROL = (Crossing.LAST_BUT_ONE, 1)
"""Where the loss of a kernel that copies at load is shown; its segment meets no record's end."""


def sweep(corners: Container[tuple[Crossing, int]]) -> list[object]:
    """All distances for both records; without the nightly tests only the corners."""
    return [
        pytest.param(
            crossing,
            distance,
            marks=() if (crossing, distance) in corners else pytest.mark.nightly,
            id=f"{crossing}-{distance}",
        )
        for crossing in Crossing
        for distance in SWEEP
    ]


def is_lost(crossing: Crossing, distance: int) -> bool:
    """Whether the list is longer than the segment."""
    return distance > 0 or crossing is Crossing.LAST_BUT_ONE


def corner(crossing: Crossing, distance: int) -> frozenset[str]:
    """What comes of a copy byte by byte, in the words of suite/defects.py."""
    if not is_lost(crossing, distance):
        return frozenset()
    if distance == 0:
        return frozenset({"full at a boundary"})
    if crossing is Crossing.LAST or distance < 0:
        return frozenset({"cut", "cut in the last record"})
    return frozenset({"cut"})


def load(trial: Trial, append: str = "") -> tuple[LoadedKernel, Room]:
    """Load a kernel, and find out how much room that leaves."""
    loaded = trial.load(append=append)
    return loaded, room_after_load(trial.session, trial.kernel.extra_memory)


def measure(trial: Trial, room: Room, crossing: Crossing, distance: int) -> int:
    """Measure files, so that the record ends `distance` bytes behind the end of the segment.

    Returns:
        How many records the list will have when it is copied.
    """
    size = room.free + distance
    if trial.kernel.has_markers and crossing is Crossing.LAST:
        size = room.measured_for(size)
    paths = scenario.measure_bytes(trial.session, size)
    if trial.kernel.has_markers:
        return room.records + len(paths) + 1
    if crossing is Crossing.LAST_BUT_ONE:
        paths += scenario.measure_bytes(trial.session, FOLLOWER)
    return room.records + len(paths)


def lost_records(crossing: Crossing, distance: int) -> int:
    """How many records have no room."""
    return (distance > 0) + (crossing is Crossing.LAST_BUT_ONE)


@pytest.mark.parametrize(
    ("crossing", "distance"),
    sweep({(Crossing.LAST, 0), (Crossing.LAST_BUT_ONE, 0), (Crossing.LAST_BUT_ONE, 1)}),
)
def test_what_the_next_kernel_finds(trial: Trial, crossing: Crossing, distance: int) -> None:
    if not trial.kernel.carries_events_after_load:
        pytest.skip(f"{trial.kernel.release} copies at load: no record meets the segment's end")
    trial.case |= {f"{word}, in the buffer" for word in corner(crossing, distance)}
    if is_lost(crossing, distance):
        trial.allow(*OVERFLOW, because="the list is longer than its segment")
    with trial.running():
        loaded, room = load(trial, scenario.KEEPS_BUFFER)
        records = measure(trial, room, crossing, distance)
        buffer = buffer_of(trial.hand_over(loaded))

    carried = carried_in(buffer)
    trial.claim("whole records", not carried.cut, f"{carried.cut} bytes of one more")
    whole = buffer.log[: len(buffer.log) - carried.cut]
    before = trial.readings[-1].log
    assert len(carried.log) == records - lost_records(crossing, distance)
    assert buffer.size == HEADER_SIZE + len(buffer.log)
    assert buffer.size + len(buffer.rest) == room.segment
    assert not any(buffer.rest), "something was written behind the last record"
    if before.startswith(whole):
        assert records_of(before)[len(carried.log) - 1].name == carried.log[-1].name
    else:
        assert whole.startswith(before), "not a prefix of the list"
        assert [record.name for record in records_of(whole[len(before) :])] == ["kexec_execute"]
    if crossing is Crossing.LAST and distance <= 0:
        assert buffer.size == room.segment + distance


@pytest.mark.parametrize(
    ("crossing", "distance"),
    sweep(
        {
            *((Crossing.LAST, 0), (Crossing.LAST, 1)),
            *((Crossing.LAST_BUT_ONE, 0), (Crossing.LAST_BUT_ONE, 1)),
        }
    ),
)
def test_what_the_next_kernel_restores(trial: Trial, crossing: Crossing, distance: int) -> None:
    if not trial.kernel.carries_events_after_load and (crossing, distance) != CONTROL:
        pytest.skip(f"{trial.kernel.release} copies at load: no record meets the segment's end")
    trial.case |= corner(crossing, distance)
    lost = is_lost(crossing, distance)
    if lost:
        trial.expect_loss("the list is longer than its segment")
        trial.allow(*OVERFLOW)
    with trial.running():
        loaded, room = load(trial)
        records = measure(trial, room, crossing, distance)
        trial.execute(loaded)

    names = trial.names()
    _, carried = positions(names, "boot_aggregate", count=2)
    due = records - lost_records(crossing, distance)
    trial.claim("all that fit are carried", carried == due, f"{carried} of {due}")
    said = any(text in trial.console for text in OVERFLOW)
    trial.claim("reported by the first kernel", said == lost, f"{said=}")
    complains = "Failed to restore the measurement list" in trial.console
    unfinished = trial.kernel.has_markers and "kexec_execute" not in names
    trial.claim("reported by the next kernel", (complains or unfinished) == lost)
