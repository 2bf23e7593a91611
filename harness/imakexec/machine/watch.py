# SPDX-License-Identifier: GPL-2.0-only
"""The one place where every wait on a machine ends.

A wait races its success condition, a fatal console line, a QMP event, the exit of QEMU or of
swtpm, and a deadline. Observers in other threads `report` what they saw; whoever waits learns it
from `check`, as the exception that names the real cause. One death is often seen several times
(a panic line, then the reset that `-no-reboot` turns into an exit, then end of file everywhere),
in any order, so `check` lets the observers catch up before it judges.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, ImaKexecError, InfraError

_T = TypeVar("_T")

# How long the observers may take to catch up once something fatal was seen. A panic's call
# trace arrives within this time even from a slow guest. It is spent whole only where QEMU lives on.
_SETTLE_SECONDS = 1.0
# What is left of a closing QEMU after its sockets closed: its exit status.
_CLOSING_SECONDS = 5.0


class Cause(StrEnum):
    """What ends a machine, most telling first: an earlier member explains a later one."""

    CONSOLE_LOST = "console lost"
    SWTPM_DIED = "swtpm died"
    PANIC = "kernel panic"
    CRASHED = "guest crashed"
    OOPS = "fatal kernel message"
    UNEXPECTED_BANNER = "unexpected kernel banner"
    RESET = "reset"
    POWER_OFF = "power-off"
    QEMU_DIED = "QEMU died"
    QEMU_STOPPED = "QEMU stopped the guest"
    QEMU_EXITED = "QEMU exited"
    SWTPM_EXITED = "swtpm exited"
    # What nobody sees happen: a process is there and does not work, or the guest does not do in
    # time what it was asked.
    STUCK = "QEMU or swtpm does not work"
    KEPT_WAITING = "kept waiting by the host"
    NO_NEXT_KERNEL = "next kernel never came up"
    NO_PROGRESS = "no progress"
    OUT_OF_TIME = "out of time"

    @property
    def is_host(self) -> bool:
        """Whether it says something about the host and nothing about the kernel."""
        return self in _HOST


_HOST = frozenset(
    {
        Cause.CONSOLE_LOST,
        Cause.SWTPM_DIED,
        Cause.SWTPM_EXITED,
        Cause.QEMU_DIED,
        Cause.QEMU_STOPPED,
        Cause.QEMU_EXITED,
    }
)
_RANK = {cause: rank for rank, cause in enumerate(Cause)}


class Expected(StrEnum):
    """What a scenario asks for, and what else would be the end of its machine."""

    RESET = "a reset"
    POWER_OFF = "a power-off"
    PANIC = "a panic"
    PAUSE = "a pause"


_WHOLE_EXIT = frozenset({Cause.QEMU_STOPPED, Cause.QEMU_EXITED, Cause.SWTPM_EXITED})

# The first set is what proves that the expected thing happened, the second what may follow it.
_PROOF = {
    Expected.RESET: frozenset({Cause.RESET}),
    Expected.POWER_OFF: frozenset({Cause.POWER_OFF}),
    Expected.PANIC: frozenset({Cause.PANIC, Cause.CRASHED}),
    Expected.PAUSE: frozenset({Cause.QEMU_STOPPED}),
}
_TOLERATED = {
    Expected.RESET: _PROOF[Expected.RESET],
    Expected.POWER_OFF: _PROOF[Expected.POWER_OFF] | _WHOLE_EXIT,
    Expected.PANIC: _PROOF[Expected.PANIC] | _WHOLE_EXIT | {Cause.OOPS, Cause.RESET},
    Expected.PAUSE: _PROOF[Expected.PAUSE],
}


@dataclass(frozen=True)
class Sighting:
    """One observation of an end, by one observer."""

    cause: Cause
    detail: str
    log: Path | None = None


class ConsoleView(Protocol):
    """What the watch asks of the console."""

    @property
    def path(self) -> Path:
        """The time-stamped log."""

    def tail(self, lines: int = 40) -> str:
        """The last lines of the console."""

    def drain(self, seconds: float) -> None:
        """Return when the console is silent or at its end, at the latest after `seconds`."""

    @property
    def silent_for(self) -> float:
        """Seconds since the console's last line."""


@dataclass
class Expectation:
    """An armed `Watch.expect`; `seen` holds what it tolerated."""

    what: Expected
    watch: Watch
    seen: list[Sighting] = field(default_factory=list)

    @property
    def met(self) -> bool:
        """Whether the expected end was observed, not merely one of its consequences."""
        return any(sighting.cause in _PROOF[self.what] for sighting in self.seen)

    def wait(self, deadline: Deadline) -> None:
        """Wait until it is met.

        Raises:
            GuestFailure: something else happened first, or nothing until the deadline.
            InfraError: the host failed first.
        """
        self.watch.wait_until(lambda: self.met or None, deadline, doing=f"waiting for {self.what}")


class Watch:
    """Collects the ends of one machine and raises them in whoever waits.

    Thread-safe. Use as a context manager: its thread waits for the children's exit.

    Args:
        console: where tails and log paths in error messages come from.
        phase: says in a few words what the guest is doing ("boot 0, running"), for messages.
        is_executing: says whether a kexec was executed and the next kernel has not come up yet.
        excuse: says how the host has kept the guest from working; empty if it has not.
        on_report: called with the first observation of each cause, in the thread that made it.
    """

    def __init__(
        self,
        console: ConsoleView,
        phase: Callable[[], str],
        *,
        is_executing: Callable[[], bool] = bool,
        on_report: Callable[[Sighting], None] | None = None,
        excuse: Callable[[], str] = str,
    ) -> None:
        self._console = console
        self._phase = phase
        self._is_executing = is_executing
        self._on_report = on_report
        self._excuse = excuse
        self._changed = threading.Condition()
        self._generation = 0
        self._pending: list[Sighting] = []
        self._expectations: list[Expectation] = []
        self._ended_as_expected = False
        self._closing = False
        self._drains: list[Callable[[float], None]] = [console.drain]
        self._watched: list[Child] = []
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._children = _ChildMonitor(self.report)

    def __enter__(self) -> Self:
        self._children.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        self._children.stop()
        os.close(self._wake)

    def close(self) -> None:
        """Ignore every end from now on: the harness itself takes the machine down."""
        with self._changed:
            self._closing = True

    # What observers call.

    def add_child(self, child: Child) -> None:
        """Report the exit of a child, and know when it is stopped."""
        self._watched.append(child)
        self._children.add(child)

    def add_drain(self, drain: Callable[[float], None]) -> None:
        """Have `drain(seconds)` called before a death is judged, so that its events are in."""
        self._drains.append(drain)

    def report(self, sighting: Sighting) -> None:
        """Take an observation, from any thread."""
        with self._changed:
            if self._closing or self._is_known(sighting.cause):
                return
            if self._on_report is not None:
                self._on_report(sighting)
            if not self._tolerate(sighting):
                self._pending.append(sighting)
                os.eventfd_write(self._wake, 1)
            self._bump()

    def notice(self) -> None:
        """Have every `wait_until` look at its condition again, from any thread."""
        with self._changed:
            self._bump()

    def _bump(self) -> None:
        self._generation += 1
        self._changed.notify_all()

    def _is_known(self, cause: Cause) -> bool:
        """Whether it was seen before: a guest can say for ever that it is dead."""
        seen = [*self._pending, *(each for armed in self._expectations for each in armed.seen)]
        return any(sighting.cause is cause for sighting in seen)

    def _tolerate(self, sighting: Sighting) -> bool:
        for expectation in self._expectations:
            if sighting.cause in _TOLERATED[expectation.what]:
                expectation.seen.append(sighting)
                return True
        return self._ended_as_expected and sighting.cause in _WHOLE_EXIT

    # What waiters call.

    def fileno(self) -> int:
        """A descriptor that is readable, for ever, once something fatal is pending."""
        return self._wake

    @contextmanager
    def expect(self, what: Expected) -> Iterator[Expectation]:
        """Tolerate one kind of end, with its consequences, while the context lasts."""
        expectation = Expectation(what, self)
        with self._changed:
            self._expectations.append(expectation)
        try:
            yield expectation
        finally:
            with self._changed:
                self._expectations.remove(expectation)
                # The exits of QEMU and swtpm may come after the context was left.
                if expectation.met and _TOLERATED[what] >= _WHOLE_EXIT:
                    self._ended_as_expected = True

    def check(self) -> None:
        """Return if nothing fatal was seen, else raise it under its real cause.

        Raises:
            GuestFailure: the kernel panicked, crashed, reset or powered off by itself.
            InfraError: QEMU or swtpm died.
        """
        error = self._judge()
        if error is not None:
            raise error

    def wait_until(self, probe: Callable[[], _T | None], deadline: Deadline, *, doing: str) -> _T:
        """Wait until `probe()` gives something other than None, and return it.

        The probe is called again after every console line, QMP event and report.

        Raises:
            GuestFailure, InfraError: as `check`, or the deadline passed.
        """
        while True:
            generation = self._generation
            self.check()
            value = probe()
            if value is not None:
                return value
            if not self._wait_for_news(generation, deadline) and not self.remaining(deadline):
                raise self.timed_out(deadline, doing=doing)

    def _wait_for_news(self, since: int, deadline: Deadline) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: self._generation != since, self.remaining(deadline)
            )

    def remaining(self, deadline: Deadline) -> float:
        """Seconds until the guest is late, if its console goes on to be silent."""
        return deadline.remaining_if_silent_for(self._console.silent_for)

    def timed_out(self, deadline: Deadline, *, doing: str) -> ImaKexecError:
        """The error for a guest that did not do in time what it was asked.

        What ended the machine at the last moment explains more than the lateness, and wins.
        """
        silent = self._console.silent_for
        ending = Cause.OUT_OF_TIME if deadline.expired else Cause.NO_PROGRESS
        passed = deadline.budget if deadline.expired else deadline.silence
        failure = GuestFailure(
            f"the guest hung: {passed:.1f} s passed {'' if deadline.expired else 'in silence '}"
            f"{doing} ({self._phase()}; its console has been silent for {silent:.1f} s)",
            remedy="read the console; on a loaded host try again with more time",
        )
        failure.ending = Cause.NO_NEXT_KERNEL if self._is_executing() else ending
        return self.explain(failure)

    def explain(self, failure: GuestFailure) -> ImaKexecError:
        """What to raise for a failure of the guest that only its caller has noticed.

        An end that was seen explains more, and wins; so does one that is about to be seen. A
        process that is there and does not work is seen by nobody before something is late or
        fails: the host is at fault then, and not the guest. Else it is the same failure, with the
        console's path and tail.
        """
        if any(child.has_ended for child in self._watched):
            self._wait_for_sighting()
        ended = self._judge()
        if ended is not None:
            return ended
        for child in self._watched:
            if child.trouble:
                stuck = InfraError(
                    f"{child.trouble} ({self._phase()})",
                    where=str(child.log),
                    remedy="nothing is known about the kernel; remove the cause, and run again",
                    tail=self._console.tail(),
                )
                stuck.ending = Cause.STUCK
                return stuck
        excuse = self._excuse()
        if excuse:
            return kept_waiting(excuse, failure.what, where=self._console.path)
        failure.where = failure.where or str(self._console.path)
        shown = [failure.tail, "on the console:"] if failure.tail else []
        failure.tail = "\n".join([*shown, self._console.tail()])
        return failure

    def closed(self, what: str) -> ImaKexecError:
        """The error for an end of file: what ended the machine, if that becomes known.

        Args:
            what: the connection that closed ("the agent's channel").
        """
        self._wait_for_sighting()
        return self._judge() or InfraError(
            f"{what} was closed, but QEMU is still there ({self._phase()})",
            where=str(self._console.path),
            remedy="run again; if it happens again, keep the run's folder and report it",
            tail=self._console.tail(),
        )

    def _wait_for_sighting(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._pending), _CLOSING_SECONDS)

    def _judge(self) -> ImaKexecError | None:
        """The real cause of what is pending, after the observers caught up."""
        if not self._pending:
            return None
        settled = Deadline.after(_SETTLE_SECONDS)
        for drain in self._drains:
            drain(settled.remaining)
        with self._changed:
            self._changed.wait_for(self._has_cause, settled.remaining)
            sighting = min(self._pending, key=lambda seen: _RANK[seen.cause])
        return self._error(sighting)

    def _has_cause(self) -> bool:
        # swtpm ends with its connection, which a dying QEMU closes before its own exit is seen.
        return any(sighting.cause is not Cause.SWTPM_EXITED for sighting in self._pending)

    def _error(self, sighting: Sighting) -> ImaKexecError:
        error = self._error_for(sighting)
        error.ending = sighting.cause
        return error

    def _error_for(self, sighting: Sighting) -> ImaKexecError:
        if sighting.cause.is_host:
            return InfraError(
                f"{sighting.detail} ({self._phase()})",
                where=str(sighting.log or self._console.path),
                remedy="nothing is known about the kernel; read the log, look for what ended "
                "the process (OOM killer, full disk), and run again",
                tail=_tail_of(sighting.log) or self._console.tail(),
            )
        return GuestFailure(
            f"{sighting.detail} ({self._phase()})",
            where=str(self._console.path),
            remedy="read the console from the first complaint on",
            tail=self._console.tail(),
        )


def kept_waiting(excuse: str, what: str, *, where: Path) -> InfraError:
    """The error for a failure that the load of this host explains.

    Args:
        excuse: how the host has kept the guest from working.
        what: has come of it.
        where: the console.
    """
    error = InfraError(
        f"{excuse}; then: {what}",
        where=str(where),
        remedy="nothing is known about the kernel; run again with less work on this host",
    )
    error.ending = Cause.KEPT_WAITING
    return error


def _tail_of(log: Path | None, lines: int = 20) -> str:
    if log is None:
        return ""
    with suppress(FileNotFoundError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    return ""


@dataclass(frozen=True)
class Child:
    """A process whose exit ends the machine.

    Attributes:
        name: what messages call it.
        log: where its own messages are.
        died: what an exit with any status but 0 means.
        exited: what an exit with status 0 means.
        complaint: says what is wrong with it by its own account, "" for nothing.
    """

    process: subprocess.Popen[bytes]
    name: str
    log: Path
    died: Cause
    exited: Cause
    complaint: Callable[[], str] = str

    @property
    def trouble(self) -> str:
        """Why it does not work, though it is there; empty if it does, as far as one can see."""
        if self._state in ("T", "t"):
            pid = self.process.pid
            return f"{self.name} (process {pid}) is stopped, by a signal or a debugger"
        return self.complaint()

    @property
    def has_ended(self) -> bool:
        """Whether it has exited, though nobody may have noticed it yet."""
        return self._state in ("", "Z", "X")

    @property
    def _state(self) -> str:
        """The letter of proc_pid_stat(5); empty for a process that is gone."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        # The name before the state can hold blanks and brackets.
        return stat.rpartition(")")[2].split()[0]

    def sighting(self) -> Sighting:
        """What its end means; waits for it."""
        status = self.process.wait()
        cause = self.exited if status == 0 else self.died
        return Sighting(cause, f"{self.name} {describe_exit(status)}", self.log)


def describe_exit(status: int) -> str:
    """Say how a child ended, from `Popen.returncode`."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


class _ChildMonitor:
    """A thread that waits for children to exit.

    It uses pidfds, which see the exit of a given child without reaping others and without
    polling.
    """

    def __init__(self, report: Callable[[Sighting], None]) -> None:
        self._report = report
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stop, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="child-monitor", daemon=True)

    def add(self, child: Child) -> None:
        # epoll takes a new descriptor while another thread waits on it.
        pidfd = os.pidfd_open(child.process.pid)
        self._selector.register(pidfd, selectors.EVENT_READ, child)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                self._selector.unregister(key.fd)
                os.close(key.fd)
                self._report(key.data.sighting())
