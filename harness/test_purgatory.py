# SPDX-License-Identifier: GPL-2.0-only
"""The purgatory leaves out the segment of the list, and nothing else.

Between load and execute a byte of the loaded initramfs is changed in the guest's memory: the
purgatory must find it and refuse to start the next kernel, which it does by looping for ever.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from conftest import Lab
from imakexec import scenario
from imakexec.arch import Feature
from imakexec.errors import GuestFailure
from imakexec.kernel.build import KernelRequest

PAGE = 4096


def change_every_copy(ram: Path, page: bytes) -> int:
    """Change the last byte of all pages of the guest's memory that have this content."""
    changed = 0
    with ram.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        place = memory.find(page)
        while place >= 0:
            if place % PAGE == 0:
                memory[place + PAGE - 1] ^= 0xFF
                changed += 1
            place = memory.find(page, place + 1)
    return changed


@pytest.mark.needs(Feature.VERIFYING_PURGATORY)
def test_a_segment_that_was_changed_is_refused(
    lab: Lab, patched: KernelRequest, tmp_path: Path
) -> None:
    ram = tmp_path / "ram"
    with lab.session(patched, ram=ram) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        initrd = session.guest.read_file(scenario.NEXT_INITRD, session.budget())
        middle = len(initrd) // 2 // PAGE * PAGE
        assert change_every_copy(ram, initrd[middle : middle + PAGE]) > 0
        session.machine.epochs.executing(loaded.token)
        # A kernel that is not refused is up in less.
        with pytest.raises(GuestFailure, match="the guest hung"):
            session.guest.replace_kernel(
                ["kexec", "-s", "-e"], session.budget(), token=loaded.token
            )
    console = (lab.folder / "console.log").read_text()
    assert console.count("Linux version ") == 1, "the next kernel was started all the same"
    assert "Starting new kernel" in console
    ram.unlink()
