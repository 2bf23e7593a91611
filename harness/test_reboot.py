# SPDX-License-Identifier: GPL-2.0-only
"""A reboot or a power-off that is no kexec leaves the loaded image alone."""

from __future__ import annotations

import pytest

from conftest import Lab
from imakexec import scenario
from imakexec.kernel.build import KernelRequest
from imakexec.machine.watch import Expected

SOON = "(busybox sleep 0.5; {command} -f) &"


@pytest.mark.parametrize(
    ("command", "end"), [("reboot", Expected.RESET), ("poweroff", Expected.POWER_OFF)]
)
def test_a_plain_end_copies_nothing(
    lab: Lab, tight: KernelRequest, command: str, end: Expected
) -> None:
    """The list does not fit any more: a kernel that copied it would say so."""
    with lab.session(tight) as session:
        scenario.boot(session)
        scenario.kexec_load(session)
        scenario.generate_activity(session, 100)
        watch = session.machine.watch
        # QEMU ends with either (see `-no-reboot`).
        with watch.expect(end) as expected, watch.expect(Expected.POWER_OFF):
            session.guest.run(["sh", "-c", SOON.format(command=command)], session.budget())
            expected.wait(session.budget())
    console = (lab.folder / "console.log").read_text()

    assert "Kexec segment" not in console
    assert "measurements_suspended" not in console
