# SPDX-License-Identifier: GPL-2.0-only
"""The memory of a guest tells when the hand-over buffer was wrong: before the jump or after it."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import SLOW_START, Lab, at_next_kernel
from imakexec import scenario
from imakexec.arch import X86_64
from imakexec.attest.memory import Answer, Fit, MemoryVerdict, Place
from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure
from imakexec.kernel.build import KernelRequest
from imakexec.machine.diagnosis import FOLDER, MEMORY
from imakexec.memory import look
from imakexec.scenario import Session

FILES = 60
"""Records that make the list longer than a page."""


def judged(lab: Lab, session: Session, kernel: KernelRequest, log: bytes | None) -> MemoryVerdict:
    """Dump the memory of a running machine, and have it judged."""
    dump = lab.folder / MEMORY
    arguments = {"paging": False, "protocol": f"file:{dump}"}
    session.machine.ask("dump-guest-memory", arguments, deadline=Deadline.after(60))
    try:
        return look(dump, log=log, system_map=lab.workshop.kernel(kernel).system_map)
    finally:
        dump.unlink()


def test_a_list_that_was_copied_at_the_load(lab: Lab, plain: KernelRequest) -> None:
    with lab.session(plain) as session:
        scenario.boot(session)
        scenario.generate_activity(session, FILES)
        scenario.kexec_load(session)
        scenario.generate_activity(session, 5)
        log = scenario.take_snapshot(session, "before-execute")
        found = judged(lab, session, plain, log)
    if plain.arch is not X86_64:
        assert found.answer is Answer.NOT_FOUND
        return
    assert found.answer is Answer.RIGHT_BEFORE
    [buffer] = found.buffers
    assert (buffer.place, buffer.fit) == (Place.IMAGE, Fit.SHORTER)
    assert buffer.records >= FILES


def test_a_segment_that_is_filled_at_the_execute(lab: Lab, patched: KernelRequest) -> None:
    if patched.arch is not X86_64:
        pytest.skip("needs --arch x86_64: only there a loaded image is found")
    with lab.session(patched) as session:
        scenario.boot(session)
        scenario.kexec_load(session)
        found = judged(lab, session, patched, None)
    assert (found.answer, found.why_not) == (Answer.NOT_FILLED, "")


# Where this machine has the pages that are copied at the jump, they are not copied at all: each is
# its own destination. So that it was right before cannot be seen here.
@pytest.mark.parametrize(
    ("damaged", "answer"), [(False, Answer.RIGHT_AFTER), (True, Answer.WRONG_AFTER)]
)
def test_what_the_next_kernel_finds(
    lab: Lab, patched: KernelRequest, ram: Path, damaged: bool, answer: Answer
) -> None:
    found: list[MemoryVerdict] = []

    def look_and_damage() -> None:
        found.append(judged(lab, session, patched, log))
        if damaged:
            [buffer] = found[-1].buffers
            with ram.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
                memory[buffer.address + buffer.size // 2] ^= 0xFF
            found.append(judged(lab, session, patched, log))

    with lab.session(patched, ram=ram) as session:
        scenario.boot(session)
        scenario.generate_activity(session, FILES)
        loaded = scenario.kexec_load(session, append=SLOW_START)
        log = scenario.take_snapshot(session, "before-execute")
        with at_next_kernel(session, look_and_damage):
            scenario.kexec_execute(session, loaded)
    assert [each.answer for each in found] == [Answer.RIGHT_AFTER, answer][: 1 + damaged]
    [buffer] = found[0].buffers
    assert (buffer.place, buffer.fit) == (Place.MEMORY, Fit.LONGER)


def test_a_guest_that_fails_leaves_its_memory_and_what_it_tells(
    lab: Lab, patched: KernelRequest
) -> None:
    def fail() -> None:
        with lab.session(patched, dump_memory=True) as session:
            scenario.boot(session)
            scenario.kexec_load(session)
            session.guest.run(["sleep", "100"], Deadline.after(1))

    with pytest.raises(GuestFailure, match="no end after") as caught:
        fail()
    folder = lab.folder / FOLDER
    assert "the memory says: A kernel is loaded" in "\n".join(caught.value.__notes__)
    assert (folder / "memory.json").is_file()
    command = [sys.executable, "-m", "imakexec", "memory", str(folder / MEMORY)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    (folder / MEMORY).unlink()
    assert "memory    512 MiB" in told.stdout
