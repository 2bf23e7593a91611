# SPDX-License-Identifier: GPL-2.0-only
"""Boot epochs: which kernel runs, and how it came to run, as facts.

    COLD ──banner──► RUNNING ──loaded──► LOADED ──executing──► EXECUTING
     ▲                 │ ▲                 │                       │
     └────resetting────┘ └────unloaded─────┘       banner: next epoch, RUNNING

A kexec prints a second banner, so a banner alone neither proves a kexec nor an unwanted reset.
This machine knows which one is due; any other is an `UnexpectedReset`. What a banner cannot
prove, `identify` adds: the boot_id and a random token on the kernel's command line.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from imakexec.errors import GuestFailure


class Phase(StrEnum):
    """What the guest is doing."""

    COLD = "starting"
    RUNNING = "running"
    LOADED = "running, next kernel loaded"
    EXECUTING = "executing kexec"


class Transition(StrEnum):
    """How a kernel came to run."""

    COLD = "cold"
    KEXEC = "kexec"


_LEGAL: Mapping[Phase, frozenset[Phase]] = {
    Phase.COLD: frozenset({Phase.RUNNING}),
    Phase.RUNNING: frozenset({Phase.LOADED, Phase.COLD}),
    Phase.LOADED: frozenset({Phase.LOADED, Phase.RUNNING, Phase.EXECUTING, Phase.COLD}),
    Phase.EXECUTING: frozenset({Phase.RUNNING}),
}


class UnexpectedReset(GuestFailure):
    """A kernel started, or is not the one, that the harness did not ask for."""


class IllegalTransition(Exception):
    """The harness asked for a step that the current phase does not allow: a mistake in it."""


@dataclass(frozen=True)
class BootEpoch:
    """One kernel's life.

    Attributes:
        number: 0 for the first boot of the machine.
        transition: whether it started from power-on (or reset), or by kexec.
        token: random word on its kernel command line; None if the caller uses none.
        banner: its "Linux version ..." line as the console showed it; None before.
        boot_id: /proc/sys/kernel/random/boot_id; None before `identify`.
        reset_count: TPMS_CLOCK_INFO.resetCount (TPM 2.0 part 2, 10.11.1); None before
            `record_counters`.
        restart_count: TPMS_CLOCK_INFO.restartCount.
    """

    number: int
    transition: Transition
    token: str | None = None
    banner: str | None = None
    boot_id: str | None = None
    reset_count: int | None = None
    restart_count: int | None = None


class Epochs:
    """The epochs of one machine, the last one being current. Thread-safe.

    Args:
        token: the random word on the first kernel's command line.
        on_change: called after each change, in the thread that has made it.
    """

    def __init__(
        self,
        token: str | None = None,
        *,
        on_change: Callable[[BootEpoch, Phase], None] | None = None,
    ) -> None:
        self._on_change = on_change
        self._lock = threading.RLock()
        self._phase = Phase.COLD
        self._epochs = [BootEpoch(0, Transition.COLD, token)]
        self._next_token: str | None = None

    @property
    def phase(self) -> Phase:
        """What the guest is doing now."""
        return self._phase

    @property
    def current(self) -> BootEpoch:
        """The epoch of the kernel that runs, or is about to start from power-on."""
        return self._epochs[-1]

    def describe(self) -> str:
        """Where the guest is, for messages: "boot 0, running"."""
        with self._lock:
            return f"boot {self.current.number}, {self._phase}"

    def banner_seen(self, banner: str) -> None:
        """The console showed a kernel's banner.

        Raises:
            UnexpectedReset: no kernel was due to start.
        """
        with self._lock:
            if self._phase not in (Phase.COLD, Phase.EXECUTING):
                raise UnexpectedReset(
                    f"the guest reset without a kexec: a new kernel started ({self.describe()})",
                    where=banner,
                    remedy="read the console before this banner",
                )
            if self._phase is Phase.EXECUTING:
                self._open(Transition.KEXEC)
            self._move(Phase.RUNNING)
            self._epochs[-1] = replace(self.current, banner=banner)

    def loaded(self) -> None:
        """The next kernel was loaded (again)."""
        self._move(Phase.LOADED)

    def unloaded(self) -> None:
        """The loaded kernel was dropped."""
        self._move(Phase.RUNNING, only_from=Phase.LOADED)

    def executing(self, next_token: str | None = None) -> None:
        """kexec is about to be executed into a kernel whose command line has `next_token`."""
        with self._lock:
            self._move(Phase.EXECUTING)
            self._next_token = next_token

    def resetting(self) -> None:
        """The harness is about to reset the machine; the same command line boots again."""
        with self._lock:
            self._move(Phase.COLD)
            self._next_token = self._epochs[0].token
            self._open(Transition.COLD)

    def identify(self, *, boot_id: str, token: str | None) -> BootEpoch:
        """Record who answers from the guest, and return the current epoch.

        Args:
            boot_id: the guest's /proc/sys/kernel/random/boot_id.
            token: the token found on its /proc/cmdline.

        Raises:
            UnexpectedReset: the answer is not from the kernel that should run: another boot_id
                than before in this epoch, one of an earlier epoch, or another token.
        """
        with self._lock:
            earlier = [epoch.boot_id for epoch in self._epochs[:-1]]
            if boot_id in earlier:
                raise self._impostor(f"the kernel of boot {earlier.index(boot_id)} still runs")
            if self.current.boot_id not in (None, boot_id):
                raise self._impostor(f"boot_id changed from {self.current.boot_id} to {boot_id}")
            if token != self.current.token:
                raise self._impostor(
                    f"the command line has token {token}, expected {self.current.token}"
                )
            self._epochs[-1] = replace(self.current, boot_id=boot_id)
            return self.current

    def record_counters(self, *, reset_count: int, restart_count: int) -> None:
        """Record the TPM's counters as the current epoch sees them."""
        with self._lock:
            self._epochs[-1] = replace(
                self.current, reset_count=reset_count, restart_count=restart_count
            )

    def _impostor(self, what: str) -> UnexpectedReset:
        return UnexpectedReset(
            f"not the kernel that should run: {what} ({self.describe()})",
            remedy="read the console: the guest reset by itself, or kexec did not happen",
        )

    def _move(self, to: Phase, *, only_from: Phase | None = None) -> None:
        """The only place where the phase changes."""
        with self._lock:
            legal = to in _LEGAL[self._phase]
            if not legal or only_from not in (None, self._phase):
                raise IllegalTransition(f"from '{self._phase}' to '{to}' ({self.describe()})")
            self._phase = to
            if self._on_change is not None:
                self._on_change(self.current, to)

    def _open(self, transition: Transition) -> None:
        self._epochs.append(BootEpoch(len(self._epochs), transition, self._next_token))
