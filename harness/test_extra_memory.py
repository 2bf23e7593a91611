# SPDX-License-Identifier: GPL-2.0-only
"""IMA_KEXEC_EXTRA_MEMORY_KB gives the room that it names, to the byte, and half a page for 0."""

from __future__ import annotations

import pytest

from conftest import Kernels, Lab, records_of
from imakexec import scenario
from imakexec.attest.handover import HEADER_SIZE
from imakexec.errors import UserError
from imakexec.scenario import Session

PAGE = 4096


def extra_bytes(kb: int) -> int:
    """What the option stands for."""
    return kb * 1024 if kb else PAGE // 2


def aligned(size: int) -> int:
    """The next multiple of a page."""
    return -(-size // PAGE) * PAGE


def load_values(session: Session) -> dict[str, int]:
    """What the last kexec_load says."""
    raw = session.guest.read_file(scenario.MEASUREMENTS, session.budget())
    marker = [record for record in records_of(raw) if record.name == "kexec_load"][-1]
    fields = (marker.buf or b"").decode().rstrip(";").split(";")
    return {name: int(value) for name, value in (field.split("=") for field in fields)}


def load_with_end_at(session: Session, extra: int, beyond: int) -> dict[str, int]:
    """Load when header, list and extra memory end `beyond` bytes behind the end of a page."""
    # Measures the program, the kernel and the initramfs: the second load only itself.
    scenario.kexec_load(session)
    scenario.kexec_unload(session)
    raw = session.guest.read_file(scenario.MEASUREMENTS, session.budget())
    end = HEADER_SIZE + len(raw) + extra
    scenario.measure_bytes(session, (beyond - end) % PAGE + PAGE)
    scenario.kexec_load(session)
    return load_values(session)


@pytest.mark.parametrize("kb", [0, 1, 40])
@pytest.mark.parametrize("beyond", [0, 1])
def test_the_segment_has_the_room_that_was_configured(
    lab: Lab, kernels: Kernels, kb: int, beyond: int
) -> None:
    kernel = kernels.series(extra_memory_kb=kb)
    with lab.session(kernel) as session:
        scenario.boot(session)
        values = load_with_end_at(session, extra_bytes(kb), beyond)

    end = values["ima_binary_runtime_size"] + extra_bytes(kb)
    assert end % PAGE == beyond, "the list does not end where this test wants it"
    assert values["kexec_segment_size"] == aligned(end)


def test_more_than_40_kb_is_out_of_range(kernels: Kernels) -> None:
    with pytest.raises(UserError, match="out of range 0-40"):
        kernels.series(extra_memory_kb=41)
