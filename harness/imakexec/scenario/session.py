# SPDX-License-Identifier: GPL-2.0-only
"""One run: a machine, its guest over all kernels, and the evidence that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from imakexec.deadline import Deadline
from imakexec.evidence import EvidenceWriter
from imakexec.machine.guest import Guest
from imakexec.machine.qemu import Machine
from imakexec.progress import Progress

# The TPM software stack takes long to load, and is wanted only once a guest is up.
if TYPE_CHECKING:
    from imakexec.machine.tpm import AttestationKey, Tpm

P = ParamSpec("P")
T = TypeVar("T")

# The first boot of a host that nobody has measured yet. Every later budget is a multiple of what
# that boot took, but not less than the floor, which covers a host that suddenly has other work.
_FIRST_BOOT_SECONDS = 90.0
_FIRST_SILENCE_SECONDS = 30.0
_BUDGET_FLOOR_SECONDS = 20.0
_BUDGET_FACTOR = 15.0
# A kernel that boots speaks all the time, but for what the purgatory takes to hash its segments,
# and what it takes itself to restore a long list.
_SILENCE_FLOOR_SECONDS = 12.0
_SILENCE_FACTOR = 8.0
_RESTORE_SECONDS = 0.0005  # for a record


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
        steps: what was done to it: a name, seconds since the machine began, seconds that it took.
        banks: the TPM's allocated banks, once it has booted.
        boot_seconds: from power-on to the first agent, which scales all later budgets.
    """

    machine: Machine
    evidence: EvidenceWriter
    progress: Progress
    cmdline: str
    run: Mapping[str, object] = field(default_factory=dict)
    patience: float = 1.0
    steps: list[tuple[str, float, float]] = field(init=False, default_factory=list)
    guest: Guest = field(init=False)
    tpm: Tpm = field(init=False)
    ak: AttestationKey = field(init=False)
    banks: tuple[str, ...] = field(init=False, default=())
    boot_seconds: float = field(init=False, default=_FIRST_BOOT_SECONDS / _BUDGET_FACTOR)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Something is done to the machine while the context lasts; it is timed and written down.

        Args:
            name: "boot", "load", "snapshot end".
        """
        events = self.machine.events
        began = events.now
        events.add("begin", step=name)
        try:
            yield
        finally:
            seconds = events.now - began
            events.add("end", step=name, seconds=round(seconds, 6))
            self.steps.append((name, began, seconds))

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

    def first_boot_budget(self) -> Deadline:
        """A deadline for the first boot, of which nobody knows how long this host takes for it."""
        return Deadline.after(
            _FIRST_BOOT_SECONDS * self.patience, silence=_FIRST_SILENCE_SECONDS * self.patience
        )

    def boot_budget(self, times: float = 1.0, *, records: int = 0) -> Deadline:
        """A deadline for a further boot, which is also late if it says nothing for too long.

        Args:
            times: as for `budget`.
            records: in the list that it restores.
        """
        silence = max(_SILENCE_FLOOR_SECONDS, _SILENCE_FACTOR * self.boot_seconds)
        silence += _RESTORE_SECONDS * records
        whole = self.budget(times)
        return Deadline.after(max(whole.budget, silence), silence=silence)


def step(
    name: str,
) -> Callable[[Callable[Concatenate[Session, P], T]], Callable[Concatenate[Session, P], T]]:
    """Have each call of a function count as a step of its session (`Session.step`).

    Args:
        name: of the step.
    """

    def decorate(
        function: Callable[Concatenate[Session, P], T],
    ) -> Callable[Concatenate[Session, P], T]:
        @wraps(function)
        def timed(session: Session, /, *args: P.args, **kwargs: P.kwargs) -> T:
            with session.step(name):
                return function(session, *args, **kwargs)

        return timed

    return decorate
