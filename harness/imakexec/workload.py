# SPDX-License-Identifier: GPL-2.0-only
"""A guest whose list is read again and again while a workload runs in it.

The workload is a shell script. It runs in the background, in a session of its own, until the
machine ends. The list is read before it starts, at even times while it runs, and at the end of its
time, each time with the host's clock. A reading that takes longer than the time between two leaves
out the next.

The policies of the main job measure nothing of that: script, output and status lie on a tmpfs, the
list in a securityfs, whatever is run is the busybox that has run already, and the agent's port is
no regular file. That is not taken for granted: before the workload starts, the list is looked at
until a look adds no record to it. What looks add all the same, because they go on doing so or
because the workload has loaded a policy, is told with the figures.
"""

from __future__ import annotations

import errno
import shlex
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imakexec import scenario
from imakexec.attest.log import MeasurementLog
from imakexec.attest.reasons import Rejection
from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, UserError
from imakexec.job import JobOptions, Workshop, new_run_folder, open_session
from imakexec.machine.console import ConsoleLine
from imakexec.machine.guest import GuestOSError
from imakexec.machine.qemu import require_programs
from imakexec.progress import Progress, Step
from imakexec.scenario import MEASUREMENTS, Session
from imakexec.sizing import Question, Sizing, Watch, size_growth

# In /run, a tmpfs, which no policy of the main job measures.
_FOLDER = "/run/workload"
_OWN_FILES = (f"{_FOLDER}/", "/sys/kernel/security/")
"""How the names begin of records that nobody but who watches makes."""
_TAIL_LINES = "20"
_LOOKS = 4
"""So many looks find out whether looking at the list is measured: some are measured only once."""
_MOMENT = 0.05

# The FIFO wakes up whoever waits for the end, and the file tells it: a byte in a FIFO is lost when
# the reader's time is up just then. The file is complete when it has its name.
_START = f"""
cd {_FOLDER}
busybox setsid sh -c '
    (cd /root && HOME=/root exec sh {_FOLDER}/script) >output 2>&1 </dev/null
    echo $? >code
    busybox mv code status
    echo >ended
' >/dev/null 2>&1 </dev/null &
"""
_WAIT = f'read -r -t "$1" _ <>{_FOLDER}/ended || :'


@dataclass(frozen=True)
class Schedule:
    """When the list is read.

    Args:
        duration: seconds that the workload runs.
        every: seconds from one reading to the next.

    Raises:
        UserError: there would be no reading between the first and the last.
    """

    duration: float
    every: float

    def __post_init__(self) -> None:
        if self.every > self.duration:
            raise UserError(
                f"the list would be read every {self.every:g} s of {self.duration:g} s",
                where="--every, --duration",
                remedy="watch for longer, or read more often; 12 readings or more tell bursts",
            )


@dataclass(frozen=True)
class WorkloadEnd:
    """How a workload ended by itself.

    Args:
        status: as the shell tells it: more than 128 for a signal.
        tail: the last lines of its output.
    """

    status: int
    tail: str


class WatchedGuest(Protocol):
    """A guest as it is seen by who watches its list."""

    def now(self) -> float:
        """Seconds from any moment, on a clock that is never set."""

    def read_list(self) -> bytes:
        """The measurement list as it is now."""

    def start(self) -> None:
        """Start the workload, and do not wait for it."""

    def wait(self, seconds: float) -> WorkloadEnd | None:
        """Wait until the workload has ended, at most so long; None if it runs, or never began."""


@dataclass(frozen=True)
class Reading:
    """One reading of the list.

    Args:
        at: when it was complete, in seconds on the clock of the guest's watcher.
        took: seconds.
        size: of the list in bytes.
    """

    at: float
    took: float
    size: int


@dataclass(frozen=True)
class Readings:
    """A list that was read again and again.

    Args:
        log: the list as it was last.
        counts: of its records at each reading, oldest first.
        times: of the readings, in seconds on the clock of the guest's watcher.
        reading: the share of the time in which it was being read, from 0 to 1.
        own_records: how many of the new records looking at the list has made.
        end: how the workload ended; None if it had to be stopped.
    """

    log: MeasurementLog
    counts: tuple[int, ...]
    times: tuple[float, ...]
    reading: float
    own_records: int
    end: WorkloadEnd | None

    @property
    def seconds(self) -> float:
        """From the first reading to the last."""
        return self.times[-1] - self.times[0]


def read_while_running(
    guest: WatchedGuest, schedule: Schedule, step: Step, keep: Callable[[bytes], None]
) -> Readings:
    """Start the workload and read the list until the time is up, or the workload has ended.

    Args:
        keep: called with each list.

    Raises:
        GuestFailure: the list is none, or does not begin with what it was before.
        InfraError: the host failed.
    """
    for_each_look = _settle(guest)
    lists = _GrowingList(guest, keep)
    first = lists.read()
    guest.start()
    end, latest = None, first
    while end is None and guest.now() < first.at + schedule.duration:
        # What a slow reading has passed over is left out.
        passed = (guest.now() - first.at) // schedule.every
        due = min((passed + 1) * schedule.every, schedule.duration)
        end = guest.wait(max(0.0, first.at + due - guest.now()))
        latest = lists.read()
        grown, seconds = latest.size - first.size, latest.at - first.at
        step.update(f"{grown} bytes in {seconds:.0f} s", min(1.0, seconds / schedule.duration))
    log = _parse(lists.content)
    counts = tuple(_records(log, each.size) for each in lists.readings)
    named = sum(record.name.startswith(_OWN_FILES) for record in log[counts[0] :])
    return Readings(
        log=log,
        counts=counts,
        times=tuple(each.at for each in lists.readings),
        reading=sum(each.took for each in lists.readings[1:]) / (latest.at - first.at),
        own_records=max(named, for_each_look * (len(counts) - 1)),
        end=end,
    )


def _settle(guest: WatchedGuest) -> int:
    """Look at the list until that adds nothing to it; how many records it went on to add."""
    sizes: list[int] = []
    for _ in range(_LOOKS):
        sizes.append(len(_parse(guest.read_list())))
        if sizes[-1:] == sizes[-2:-1]:
            return 0
        guest.wait(_MOMENT)
    return sizes[-1] - sizes[-2]


class _GrowingList:
    """A list of which no more is kept than its last state, and how long it was before."""

    def __init__(self, guest: WatchedGuest, keep: Callable[[bytes], None]) -> None:
        self._guest = guest
        self._keep = keep
        self.content = b""
        self.readings: list[Reading] = []

    def read(self) -> Reading:
        started = self._guest.now()
        content = self._guest.read_list()
        at = self._guest.now()
        if not content.startswith(self.content):
            raise GuestFailure(
                f"the list does not begin with the {len(self.content)} bytes that it had before",
                where=MEASUREMENTS,
                remedy="the workload may have had the kernel drop records: it must not",
            )
        self.content = content
        self.readings.append(Reading(at, at - started, len(content)))
        self._keep(content)
        return self.readings[-1]


def _parse(content: bytes) -> MeasurementLog:
    try:
        return MeasurementLog.parse(content)
    except Rejection as rejection:
        raise GuestFailure(
            f"the guest's list cannot be read: {rejection.what}",
            where=f"{MEASUREMENTS}, {rejection.where}".rstrip(", "),
            remedy="this kernel has no IMA, or its list is damaged: see the console",
        ) from rejection


def _records(log: MeasurementLog, size: int) -> int:
    return bisect_left(range(len(log) + 1), size, key=log.offset)


# The real one.


class _Guest:
    """A booted guest, and a script in it that waits for its start."""

    def __init__(self, session: Session, script: str) -> None:
        self._session = session
        self._guest = session.guest
        prepare = f"mkdir {_FOLDER} && mkfifo {_FOLDER}/ended"
        self._guest.run(["sh", "-c", prepare], session.budget())
        self._guest.write_file(f"{_FOLDER}/script", script.encode(), session.budget())

    def now(self) -> float:
        return time.monotonic()

    def read_list(self) -> bytes:
        return self._guest.read_file(MEASUREMENTS, self._session.budget())

    def start(self) -> None:
        self._guest.run(["sh", "-c", _START], self._session.budget())

    def wait(self, seconds: float) -> WorkloadEnd | None:
        deadline = Deadline.after(seconds + self._session.budget().budget)
        self._guest.run(["sh", "-c", _WAIT, "wait", f"{max(seconds, _MOMENT):.3f}"], deadline)
        try:
            status = self._guest.read_file(f"{_FOLDER}/status", self._session.budget())
        except GuestOSError as error:
            if error.errno != errno.ENOENT:
                raise
            return None
        tail = ["tail", "-n", _TAIL_LINES, f"{_FOLDER}/output"]
        said = self._guest.run(tail, self._session.budget()).text
        return WorkloadEnd(int(status), said)


def size_workload(
    workshop: Workshop,
    options: JobOptions,
    script: str,
    schedule: Schedule,
    question: Question,
    *,
    on_line: Callable[[ConsoleLine], None] | None = None,
) -> Sizing:
    """Boot the guest of the main job, run a workload in it, and see how its list grows.

    Args:
        options: of the main job; with `out`, every list that was read is kept there too.
        script: the workload, for the guest's busybox sh.
        on_line: called with each line of the guest's console.

    Raises:
        UserError: the request cannot be carried out.
        GuestFailure: the kernel, or the workload, failed.
        InfraError: the host failed.
    """
    if not script.strip():
        raise UserError(
            "the workload is empty",
            where="--workload",
            remedy="give shell commands, such as 'while sleep 1; do date >/d; cat /d; done'",
        )
    require_programs(options.arch)
    prepared = workshop.prepare(options)
    folder = new_run_folder(workshop.cache) if options.out is None else options.out
    with open_session(workshop, prepared, options, folder, on_line=on_line) as session:
        kept = _KeptLists(session, wanted=options.out is not None)
        with session.progress.step("boot the guest"):
            scenario.boot(session)
        readings, since_1970 = _run(session, script, schedule, kept)
        times = tuple(round(since_1970 + at, 6) for at in readings.times)
        kept.add_command(times, question)
    kernel = prepared.kernel
    watch = Watch(
        kernel=f"{kernel.base}, {len(kernel.patches)} patches",
        accelerator=prepared.accelerator.accelerator.value,
        policy=options.policy.value,
        workload=script,
        asked=schedule.duration,
        ran=readings.seconds,
        ended=readings.end is not None,
        reading=readings.reading,
        own_records=readings.own_records,
        evidence=folder,
    )
    return size_growth(
        readings.log, readings.counts, times, question, paths=kept.paths, watch=watch
    )


def _run(
    session: Session, script: str, schedule: Schedule, kept: _KeptLists
) -> tuple[Readings, float]:
    """The readings, and what makes seconds since 1970 of their times."""
    guest = _Guest(session, script)
    with session.progress.step(f"run the workload for {schedule.duration:g} s") as step:
        # The wall clock is asked once: it may be set meanwhile.
        since_1970 = time.time() - guest.now()
        readings = read_while_running(guest, schedule, step, kept.add)
        require_success(readings, schedule)
        records = readings.counts[-1] - readings.counts[0]
        step.done(f"{records} records in {readings.seconds:.1f} s")
    _note_end(readings, schedule, session.progress)
    return readings, since_1970


def require_success(readings: Readings, schedule: Schedule) -> None:
    """Check that the workload has not failed.

    Raises:
        GuestFailure: it has.
    """
    end = readings.end
    if end is not None and end.status:
        raise GuestFailure(
            f"the workload ended with exit status {end.status} after"
            f" {readings.seconds:.1f} of {schedule.duration:g} s",
            where="--workload",
            remedy="mend it; the guest has busybox and kexec alone, and a ramfs as its root",
            tail=end.tail or "(it said nothing)",
        )


def _note_end(readings: Readings, schedule: Schedule, progress: Progress) -> None:
    if readings.end is not None:
        said = readings.end.tail.strip().splitlines()
        last = f"; its last words: {said[-1]}" if said else ""
        progress.note(
            f"the workload ended by itself, with exit status 0, after {readings.seconds:.1f} of"
            f" {schedule.duration:g} s{last}"
        )


class _KeptLists:
    """Lists in the evidence, from which `imakexec size` makes the same figures again."""

    def __init__(self, session: Session, *, wanted: bool) -> None:
        self._evidence = session.evidence
        self._wanted = wanted
        self._names: list[str] = []

    @property
    def paths(self) -> list[Path]:
        return [self._evidence.folder / name for name in self._names]

    def add(self, content: bytes) -> None:
        if self._wanted:
            self._names.append(f"lists/{len(self._names):04}")
            self._evidence.add_file(self._names[-1], content)

    def add_command(self, times: Sequence[float], question: Question) -> None:
        """Add the command line that, given in the folder, makes the same figures."""
        if self._wanted:
            at = [f"--at={moment:.6f}" for moment in times]
            asked = [
                f"--window={question.window:.9f}".rstrip("0").rstrip("."),
                f"--confidence={question.confidence!r}",
                f"--page-size={question.page_size}",
            ]
            command = shlex.join(["imakexec", "size", *self._names, *at, *asked])
            self._evidence.add_file("size.cmd", f"{command}\n".encode())
