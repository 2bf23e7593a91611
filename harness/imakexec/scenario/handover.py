# SPDX-License-Identifier: GPL-2.0-only
"""The hand-over buffer as the next kernel finds it, before it has restored anything."""

from __future__ import annotations

from imakexec.arch import Arch
from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure
from imakexec.machine.guest import Guest
from imakexec.scenario.session import Session

KEEPS_BUFFER = "initcall_blacklist=init_ima,security_initcall_late,security_initcall_late_sync"
"""For the next kernel's command line: it starts no IMA, which leaves the buffer as it is.

6.1 and 6.12 start it by an initcall of its own, 7.3 by one of the security framework.
"""

_IMA = "/sys/kernel/security/ima"


def read_handover_buffer(session: Session) -> bytes | None:
    """The segment that the running kernel was handed, whole; None if there is none.

    The kernel must have been started with `KEEPS_BUFFER`: a restored buffer is free memory.

    Raises:
        GuestFailure: the kernel was handed something else than a place in memory, or has started
            IMA.
        InfraError: the host failed.
    """
    started = session.guest.run(["sh", "-c", f"[ ! -e {_IMA} ] || echo yes"], session.budget())
    if started.stdout:
        raise GuestFailure(
            "the next kernel has started IMA, and freed the buffer that it was handed",
            where=_IMA,
            remedy="name the initcall that has started it in KEEPS_BUFFER",
        )
    found = find_handover_buffer(session.guest, session.machine.config.arch, session.budget())
    if found is None:
        return None
    address, size = found
    dump = session.machine.run_dir / "handover.bin"
    session.machine.execute("pmemsave", {"val": address, "size": size, "filename": str(dump)})
    content = dump.read_bytes()
    dump.unlink()
    return content


def is_handed_a_list(session: Session) -> bool:
    """Whether the running kernel shows that it was handed a segment, restored or not.

    Where that is in the device tree it shows none that it has restored.

    Raises:
        GuestFailure: the kernel was handed something else than a place in memory.
        InfraError: the host failed.
    """
    machine = session.machine
    return find_handover_buffer(session.guest, machine.config.arch, session.budget()) is not None


def find_handover_buffer(guest: Guest, arch: Arch, deadline: Deadline) -> tuple[int, int] | None:
    """Physical address and size in bytes of what the running kernel was handed; None for nothing.

    Raises:
        GuestFailure: the kernel was handed something else than a place in memory.
        InfraError: the host failed.
    """
    found = guest.run(["sh", "-c", arch.handover.script], deadline)
    if not found.stdout:
        return None
    try:
        return arch.handover.parse(found.stdout)
    except ValueError as error:
        raise GuestFailure(
            f"the kernel was handed no place of a list: {error}",
            where=arch.handover.path,
            remedy="read the console of the kernel that loaded it",
        ) from error
