# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel under test says of its own list, read beside every snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imakexec.scenario import Session, reading_budget

_IMA = "/sys/kernel/security/ima"
_READ = "binary_runtime_measurements"
_NAMES = f"cd {_IMA} && echo *"


@dataclass(frozen=True)
class Reading:
    """One snapshot, and what stands beside it in securityfs and in the TPM.

    Attributes:
        snapshot: its name in the evidence.
        epoch: the boot epoch.
        log: the binary list, with what was set aside.
        count: runtime_measurements_count.
        violations: the file of that name.
        lists: every other list that the kernel offers, by file name, those of staged records left
            out.
        update_counter: the TPM's pcrUpdateCounter (TPM 2.0 part 3, TPM2_PCR_Read); 0 without one.
        sessions: handles of the sessions that are loaded in the TPM, if there is one.
        set_aside: bytes at the beginning of the list that the kernel has staged or deleted.
    """

    snapshot: str
    epoch: int
    log: bytes
    count: int
    violations: int
    lists: Mapping[str, bytes]
    update_counter: int
    sessions: tuple[int, ...]
    set_aside: int = 0

    @property
    def own(self) -> bytes:
        """The list without what was set aside, as the kernel shows and counts it."""
        return self.log[self.set_aside :]


def take_reading(session: Session, snapshot: str, log: bytes, set_aside: int) -> Reading:
    """Read all of it; the guest must be at rest.

    Args:
        snapshot: the name of the snapshot that was just taken.
        log: its list.
        set_aside: as of `Reading`.
    """
    guest, budget = session.guest, session.budget

    def text(name: str) -> str:
        return guest.read_file(f"{_IMA}/{name}", budget()).decode()

    names = guest.run(["sh", "-c", _NAMES], budget()).stdout.decode().split()
    return Reading(
        snapshot=snapshot,
        epoch=session.machine.epochs.current.number,
        log=log,
        count=int(text("runtime_measurements_count")),
        violations=int(text("violations")),
        lists={
            name: guest.read_file(f"{_IMA}/{name}", reading_budget(session))
            for name in names
            if "_runtime_measurements" in name and name != _READ and "staged" not in name
        },
        update_counter=session.tpm.update_counter(budget()) if session.has_tpm else 0,
        sessions=session.tpm.loaded_sessions(budget()) if session.has_tpm else (),
        set_aside=set_aside,
    )
