# SPDX-License-Identifier: GPL-2.0-only
"""One run: a machine, its guest over all kernels, and the evidence that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imakexec.deadline import Deadline
from imakexec.evidence import EvidenceWriter
from imakexec.machine.guest import Guest
from imakexec.machine.qemu import Machine
from imakexec.progress import Progress

# The TPM software stack takes long to load, and is wanted only once a guest is up.
if TYPE_CHECKING:
    from imakexec.machine.tpm import AttestationKey, Tpm

# The first boot of a host that nobody has measured yet. Every later budget is a multiple of what
# that boot took, but not less than the floor, which covers a host that suddenly has other work.
FIRST_BOOT_SECONDS = 90.0
_BUDGET_FLOOR_SECONDS = 20.0
_BUDGET_FACTOR = 15.0


@dataclass
class Session:
    """One run: a machine, its guest over all kernels, and the evidence that it leaves.

    Attributes:
        machine: started, and stopped by whoever started it.
        evidence: where every step records what it saw.
        progress: where every step is announced.
        cmdline: the command line of every kernel, without its token.
        run: what the evidence says about the run as a whole, for people.
        guest: the way into the guest.
        tpm: the guest's TPM, once it has booted, if there is one.
        ak: the attestation key, once it has booted.
        patience: how many times longer than others this kernel may take for its first boot.
        banks: the TPM's allocated banks, once it has booted.
        boot_seconds: from power-on to the first agent, which scales all later budgets.
    """

    machine: Machine
    evidence: EvidenceWriter
    progress: Progress
    cmdline: str
    run: Mapping[str, object] = field(default_factory=dict)
    patience: float = 1.0
    guest: Guest = field(init=False)
    tpm: Tpm = field(init=False)
    ak: AttestationKey = field(init=False)
    banks: tuple[str, ...] = field(init=False, default=())
    boot_seconds: float = field(init=False, default=FIRST_BOOT_SECONDS / _BUDGET_FACTOR)

    def __post_init__(self) -> None:
        self.guest = Guest(self.machine)

    @property
    def has_tpm(self) -> bool:
        """Whether the machine has one; without it there are no quotes, and nothing to judge."""
        return self.machine.swtpm is not None

    def budget(self, times: float = 1.0) -> Deadline:
        """A deadline for something that takes about `times` as long as a boot."""
        boot = max(_BUDGET_FLOOR_SECONDS, _BUDGET_FACTOR * self.boot_seconds)
        return Deadline.after(boot * max(1.0, times))
