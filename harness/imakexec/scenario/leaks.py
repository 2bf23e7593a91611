# SPDX-License-Identifier: GPL-2.0-only
"""Memory that the guest's kernel has lost: what kmemleak finds (CONFIG_DEBUG_KMEMLEAK)."""

from __future__ import annotations

import time

from imakexec.scenario.session import Session

_REPORT = "/sys/kernel/debug/kmemleak"
_MOUNT = f"[ -f {_REPORT} ] || busybox mount -t debugfs debugfs /sys/kernel/debug"

# mm/kmemleak.c: an object is reported when it is older than five seconds (MSECS_MIN_AGE), and when
# a second scan finds it as the first one did (update_checksum).
_AGE_SECONDS = 6.0
_SCANS = 2


def find_leaks(session: Session) -> str:
    """Have the running kernel look for lost memory, of its boot too; what it reports, "" for none.

    Nothing is executed in the guest that it has not executed at its boot: the list stays as it is.
    """
    session.guest.run(["sh", "-c", _MOUNT], session.budget())
    time.sleep(_AGE_SECONDS)
    for _ in range(_SCANS):
        session.guest.write_file(_REPORT, b"scan", session.budget(2))
    return session.guest.read_file(_REPORT, session.budget()).decode(errors="replace")
