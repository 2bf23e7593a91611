# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 19: the hand-over buffer is damaged before the next kernel restores it.

Nothing protects it: the purgatory leaves it out, and it has no checksum. The next kernel must live
with whatever is in it, and what it makes of it must not pass for the list.

The machine is stopped when the next kernel's banner is out, and the buffer changed in its memory.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import SLOW_START, at_next_kernel
from imakexec import scenario
from imakexec.attest import MeasurementLog, Record, Verdict
from imakexec.attest.handover import HEADER_SIZE
from imakexec.suite.oracles import Oracle
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(19)

PAGE = 4096

# Where in the header they are: see imakexec.attest.handover.
VERSION, SIZE, COUNT = 0, 8, 16

MUCH = 1 << 34
"""More bytes or records than there is memory for, and few enough for an address not to wrap."""

BEYOND_MEMORY = 1 << 30
"""The same in 32 bits: the machine has half of it."""


@dataclass(frozen=True)
class Buffer:
    """The first page of a hand-over buffer in the memory of a machine that stands still.

    Attributes:
        memory: of the machine.
        start: where in it the page begins.
        record: one of the records that are in the page.
    """

    memory: mmap.mmap
    start: int
    record: Record

    def add(self, offset: int, difference: int, *, form: str = "<Q") -> None:
        """Add to a number in the page."""
        [value] = struct.unpack_from(form, self.memory, self.start + offset)
        struct.pack_into(form, self.memory, self.start + offset, value + difference)

    @property
    def template_length(self) -> int:
        """Where the length of the record's template name stands: behind PCR and digest."""
        return HEADER_SIZE + self.record.offset + 4 + 20

    @property
    def data_length(self) -> int:
        """Where the length of its template data stands."""
        return self.end - len(self.record.data) - 4

    @property
    def end(self) -> int:
        """Where the record ends."""
        return HEADER_SIZE + self.record.offset + self.record.size


def another_version(buffer: Buffer) -> None:
    buffer.add(VERSION, 2)


def zeros(buffer: Buffer) -> None:
    buffer.memory[buffer.start : buffer.start + PAGE] = bytes(PAGE)


def fewer_records(buffer: Buffer) -> None:
    buffer.add(COUNT, -3)


def more_records(buffer: Buffer) -> None:
    buffer.add(COUNT, 3)


def most_records(buffer: Buffer) -> None:
    struct.pack_into("<Q", buffer.memory, buffer.start + COUNT, (1 << 64) - 1)


def fewer_bytes(buffer: Buffer) -> None:
    buffer.add(SIZE, -10)


def more_bytes(buffer: Buffer) -> None:
    buffer.add(SIZE, MUCH)


def most_bytes(buffer: Buffer) -> None:
    struct.pack_into("<Q", buffer.memory, buffer.start + SIZE, (1 << 64) - 1)


def more_of_both(buffer: Buffer) -> None:
    buffer.add(SIZE, MUCH)
    buffer.add(COUNT, MUCH)


def another_name(buffer: Buffer) -> None:
    buffer.memory[buffer.start + buffer.end - 2] ^= 1


def a_long_record(buffer: Buffer) -> None:
    buffer.add(buffer.data_length, BEYOND_MEMORY, form="<I")


def a_record_beyond_memory(buffer: Buffer) -> None:
    buffer.add(SIZE, MUCH)
    buffer.add(buffer.template_length, BEYOND_MEMORY, form="<I")


Damage = Callable[[Buffer], None]

LOSES_ALL: dict[Damage, str] = {
    another_version: "attempting to restore a incompatible measurement list",
    zeros: "attempting to restore a incompatible measurement list",
    most_records: "attempting to restore too many measurements",
}
LOSES_THE_END: dict[Damage, str] = {
    fewer_records: "entry header: buf end mismatch",
    fewer_bytes: "entry header: nr of fields mismatch",
    more_bytes: "entry header: buf end mismatch",
    a_long_record: "entry header: nr of fields mismatch",
}
LOSES_NOTHING: dict[Damage, str] = {
    more_records: "",
    more_of_both: "attempting to restore the template fmt",
}
NOT_RESTORED = "Failed to restore the measurement list: -22"


def damage_buffers(ram: Path, log: bytes, damage: Damage) -> None:
    """Damage every hand-over buffer in memory that carries this list."""
    record = MeasurementLog.parse(log)[-1]
    assert HEADER_SIZE + len(log) < PAGE
    damaged = 0
    with ram.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        place = memory.find(log)
        while place >= 0:
            if place % PAGE == HEADER_SIZE:
                damage(Buffer(memory, place - HEADER_SIZE, record))
                damaged += 1
            place = memory.find(log, place + len(log))
    assert damaged > 0, "the buffer is not in memory"


def execute_damaged(trial: Trial, ram: Path, damage: Damage) -> None:
    """Hand some records over, and damage the buffer that holds them."""
    with trial.running(ram=ram) as session:
        scenario.generate_activity(session, 5)
        log = trial.snapshot("before-load")
        loaded = trial.load(append=SLOW_START)
        with at_next_kernel(session, lambda: damage_buffers(ram, log, damage)):
            trial.execute(loaded)


def nightly(damages: dict[Damage, str], *by_day: Damage) -> list[object]:
    """Parameters of a test: all damages, of which only some are tried by day."""
    return [
        pytest.param(
            damage, says, id=damage.__name__, marks=() if damage in by_day else pytest.mark.nightly
        )
        for damage, says in damages.items()
    ]


@pytest.mark.parametrize(("damage", "says"), nightly(LOSES_ALL, another_version))
def test_a_damage_that_loses_the_list(trial: Trial, ram: Path, damage: Damage, says: str) -> None:
    trial.allow(says, NOT_RESTORED)
    trial.expect_loss("nothing is restored from such a buffer", of_all=True)
    execute_damaged(trial, ram, damage)
    trial.claim("the kernel says it", says in trial.console and NOT_RESTORED in trial.console)
    trial.claim("a list of its own", trial.names().count("boot_aggregate") == 1)


@pytest.mark.nightly
def test_a_size_with_which_the_end_comes_before_the_start(trial: Trial, ram: Path) -> None:
    trial.case |= {"address wraps"}
    trial.allow(NOT_RESTORED)
    trial.expect_loss("nothing is restored from such a buffer", of_all=True)
    execute_damaged(trial, ram, most_bytes)
    trial.claim("the kernel says it", NOT_RESTORED in trial.console)
    trial.claim("a list of its own", trial.names().count("boot_aggregate") == 1)


@pytest.mark.parametrize(("damage", "says"), nightly(LOSES_THE_END))
def test_a_damage_that_loses_records(trial: Trial, ram: Path, damage: Damage, says: str) -> None:
    trial.allow(says, NOT_RESTORED)
    trial.expect_loss("the records behind the damage are not restored")
    execute_damaged(trial, ram, damage)
    trial.claim("the kernel says it", says in trial.console and NOT_RESTORED in trial.console)


@pytest.mark.parametrize(("damage", "says"), nightly(LOSES_NOTHING))
def test_a_damage_that_loses_nothing(trial: Trial, ram: Path, damage: Damage, says: str) -> None:
    """A count that is too large by itself is noticed by nobody: the list ends where it ended."""
    if says:
        trial.allow(says, NOT_RESTORED, because="the end of the damaged list is noticed")
    execute_damaged(trial, ram, damage)
    if says:
        trial.claim("the kernel says it", says in trial.console)


def test_another_name_in_a_record(trial: Trial, ram: Path) -> None:
    """The next kernel makes the digests anew: the list does not contradict itself."""
    trial.waive(Oracle.REPLAY, Oracle.PREFIX, because="a record is not the one that was measured")
    execute_damaged(trial, ram, another_name)
    trial.claim("noticed", trial.judgement.verdict is Verdict.TAMPERED, trial.judgement.sentence)


def test_a_record_that_reaches_beyond_memory(trial: Trial, ram: Path) -> None:
    trial.case |= {"beyond memory"}
    says = "entry header: nr of fields mismatch"
    trial.allow(says, NOT_RESTORED)
    trial.expect_loss("the records behind the damage are not restored")
    execute_damaged(trial, ram, a_record_beyond_memory)
    trial.claim("the kernel says it", says in trial.console and NOT_RESTORED in trial.console)
