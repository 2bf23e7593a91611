# SPDX-License-Identifier: GPL-2.0-only
"""What the harness costs: the main job beside a bare QEMU that does the same two boots.

Both run the same kernel on the same machine with the same TPM under the same accelerator, from the
same guest image but for its `/init`: the bare one's is `images/init-bare`, a script that does in
the guest what the main job does from outside. Around it there is nothing but swtpm, QEMU with its
console in a file, and this module, which waits for the end. What the main job has beyond that
(interpreter, cache look-ups, agent, quotes, evidence, verdict) is the difference.

The two take turns, so that other work on the host meets both. The figures do not judge.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from imakexec import process
from imakexec.arch import X86_64
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.job import JobOptions, Prepared, Workshop, machine_config, tool_version
from imakexec.kernel.build import KernelRequest
from imakexec.kernel.guest_image import GuestImage
from imakexec.machine.accelerator import Accelerator
from imakexec.machine.complaint import find_banner
from imakexec.machine.qemu import MachineConfig
from imakexec.machine.swtpm import start_swtpm
from imakexec.progress import Progress
from imakexec.project import find_project
from imakexec.scenario import new_token

SCHEMA = "imakexec-bench-roundtrip/1"

# A run that takes this long is no figure any more: the ceiling is far above any loaded host.
_RUN_SECONDS = 600.0
_LOOK_SECONDS = 0.02
_TAIL_LINES = 20
_PAGE = resource.getpagesize()

_BARE_END = re.compile(r"imakexec: bare: token (\S+) carried (\d+) size \d+")


@dataclass(frozen=True)
class Sample:
    """One counted run.

    Attributes:
        wall: seconds from its start to its end.
        cpu: seconds of user and system time of all its processes.
    """

    wall: float
    cpu: float


@dataclass(frozen=True)
class Spread:
    """Least, middle and greatest of some values."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """The spread of at least one value."""
        ordered = sorted(values)
        return cls(ordered[0], statistics.median(ordered), ordered[-1])


@dataclass(frozen=True)
class Runs:
    """The counted runs of one of the two, in their order."""

    samples: tuple[Sample, ...]

    @property
    def wall(self) -> Spread:
        """Of the wall times."""
        return Spread.of(sample.wall for sample in self.samples)

    @property
    def cpu(self) -> Spread:
        """Of the CPU times."""
        return Spread.of(sample.cpu for sample in self.samples)

    def to_json(self) -> dict[str, object]:
        """Every run and the spreads, in seconds."""
        return {**asdict(self), "wall": asdict(self.wall), "cpu": asdict(self.cpu)}


@dataclass(frozen=True)
class Host:
    """Where the figures come from.

    Attributes:
        cpu: model name as the kernel gives it.
        cpus: how many of them this process may use.
        system: operating system and kernel.
        load: load average of the minute before the first run: what else was going on.
        qemu: version.
        accelerator: which one both ran under.
        reason: why that one.
    """

    cpu: str
    cpus: int
    system: str
    load: float
    qemu: str
    accelerator: Accelerator
    reason: str


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        host: where.
        kernel: what booted, twice in each run.
        files: records measured between load and execute.
        job: the main job as a user runs it.
        bare: the same boots without harness; the first followed the first of `job`, and so on.
        peak_memory: bytes resident in all host processes of the main job beside QEMU and swtpm,
            at the moment when they were most.
    """

    host: Host
    kernel: str
    files: int
    job: Runs
    bare: Runs
    peak_memory: int

    @property
    def ratio(self) -> float:
        """Median wall time of the main job, as a multiple of that of the bare run."""
        return self.job.wall.median / self.bare.wall.median

    @property
    def pairwise(self) -> Spread:
        """The same ratio, of each main job and the bare run that followed it."""
        pairs = zip(self.job.samples, self.bare.samples, strict=True)
        return Spread.of(job.wall / bare.wall for job, bare in pairs)

    def to_json(self) -> dict[str, object]:
        """All of it as JSON values: seconds, bytes, and ratios; keys are stable per schema."""
        return {
            "schema": SCHEMA,
            **asdict(self),
            "job": self.job.to_json(),
            "bare": self.bare.to_json(),
            "ratio": self.ratio,
            "pairwise": asdict(self.pairwise),
        }


def roundtrip(progress: Progress, *, runs: int, accelerator: Accelerator | None = None) -> Figures:
    """Time the main job and the bare run in turns, after one uncounted run of each.

    Args:
        runs: counted runs of each.
        accelerator: forced for both; None leaves the choice to the main job's probe.

    Raises:
        UserError, GuestFailure: the kernel cannot be built.
        InfraError: the host failed, or a run did not do its work: then there is no figure.
    """
    workshop = Workshop(find_project(), progress)
    options = JobOptions(kernel=KernelRequest(arch=X86_64), accelerator=accelerator)
    prepared = workshop.prepare(options)
    with workshop.cache.scratch() as scratch:
        job = _MainJob(options, scratch)
        bare_guest = replace(prepared, image=_bare_image(workshop, prepared, options, scratch))
        bare = _BareRun(machine_config(bare_guest, options), options, scratch, workshop.templates)
        host = _describe_host(prepared)
        memory = MemoryPeak(without=(options.arch.qemu, "swtpm"))
        with progress.step("warm up, and measure memory"):
            job.run(look=memory.look)
            bare.run()
        pairs = [_one_pair(job, bare, f"run {n + 1} of {runs}", progress) for n in range(runs)]
    return Figures(
        host=host,
        kernel=f"{prepared.kernel.base}, {len(prepared.kernel.patches)} patches",
        files=options.files,
        job=Runs(tuple(sample for sample, _ in pairs)),
        bare=Runs(tuple(sample for _, sample in pairs)),
        peak_memory=memory.peak,
    )


def _one_pair(
    job: _MainJob, bare: _BareRun, title: str, progress: Progress
) -> tuple[Sample, Sample]:
    with progress.step(title) as step:
        step.update("main job")
        first = job.run()
        step.update("bare QEMU")
        second = bare.run()
        step.done(f"main job {first.wall:.2f} s, bare QEMU {second.wall:.2f} s")
    return first, second


# The two that are compared


@dataclass(frozen=True)
class _MainJob:
    """`imakexec run` in a process of its own, interpreter start and imports included."""

    options: JobOptions
    scratch: Path

    def run(self, look: Callable[[int], None] | None = None) -> Sample:
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            argv = self.argv(Path(name) / "evidence")
            before = cpu_seconds()
            wall = run_to_end(argv, log=Path(name) / "output", look=look)
            return Sample(wall, cpu_seconds() - before)

    def argv(self, evidence: Path) -> tuple[str, ...]:
        forced = self.options.accelerator
        accel = () if forced is None else ("--accel", forced.value)
        command = Path(sys.executable).with_name("imakexec")
        files = str(self.options.files)
        return (str(command), "run", "--files", files, "--out", str(evidence), *accel)


@dataclass(frozen=True)
class _BareRun:
    """swtpm and QEMU; the clock runs only while QEMU does, the CPU time is that of both."""

    config: MachineConfig
    options: JobOptions
    scratch: Path
    templates: Path

    def run(self) -> Sample:
        token = new_token()
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            folder = Path(name)
            console = folder / "console.log"
            swtpm = start_swtpm(
                self.config.banks, templates=self.templates, log=folder / "swtpm.log"
            )
            with swtpm as tpm:
                before = cpu_seconds()
                connection = tpm.connection.fileno()
                argv = bare_argv(
                    self.config,
                    parameters=f"imakexec.files={self.options.files} imakexec.next={token}",
                    console=console,
                    tpm=connection,
                )
                wall = run_to_end(argv, log=folder / "qemu.log", pass_fds=[connection])
                tpm.connection.close()  # or swtpm waits for another QEMU
            said = console.read_text(errors="replace")
        require_both_boots(said, token=token, files=self.options.files)
        return Sample(wall, cpu_seconds() - before)


def bare_argv(
    config: MachineConfig, *, parameters: str, console: Path, tpm: int
) -> tuple[str, ...]:
    """The command line of a QEMU that has the main job's machine and nothing to talk to it.

    Args:
        parameters: added to the kernel command line, for `images/init-bare`.
        console: the file that receives what the guest writes to its first serial port.
        tpm: number of the inherited socket that swtpm listens on.
    """
    # fmt: off
    return (
        config.arch.qemu,
        *config.arch.machine,
        "-accel", config.accelerator.value,
        "-m", str(config.memory_mib),
        "-smp", str(config.cpus),
        "-nodefaults", "-no-user-config", "-display", "none",
        "-no-reboot",
        "-kernel", str(config.kernel),
        "-initrd", str(config.initrd),
        "-append", f"{config.cmdline} {parameters}",
        "-chardev", f"file,id=console,path={console}",
        "-serial", "chardev:console",
        "-chardev", f"socket,id=tpm,fd={tpm}",
        "-tpmdev", "emulator,id=tpm0,chardev=tpm",
        "-device", f"{config.arch.tpm_device},tpmdev=tpm0",
    )
    # fmt: on


def require_both_boots(console: str, *, token: str, files: int) -> None:
    """Check that a bare run did its work: a run that stops half way is fast.

    Args:
        console: what its guest wrote.
        token: what the second kernel must have on its command line.
        files: how many records its log must have carried.

    Raises:
        InfraError: it did not.
    """
    banners = sum(find_banner(line) is not None for line in console.splitlines())
    end = _BARE_END.search(console)
    found = end.groups() if end is not None else None
    if banners == 2 and found == (token, str(files)):
        return
    raise InfraError(
        f"the bare run did not do its work: {banners} kernels of 2 started, "
        f"the end says {found}, expected {(token, str(files))}",
        where="images/init-bare",
        remedy="see the last lines of the guest's console",
        tail=_tail(console),
    )


def _bare_image(
    workshop: Workshop, prepared: Prepared, options: JobOptions, scratch: Path
) -> GuestImage:
    """The main job's guest with `init-bare` as its /init, packed by the same recipe."""
    project = scratch / "bare"
    shutil.copytree(workshop.project / "images", project / "images")
    (project / "images" / "init-bare").replace(project / "images" / "init")
    packer = Workshop(project, workshop.progress, workshop.cache)
    return packer.image(prepared.next_image, options.arch)


# Clocks


def run_to_end(
    argv: Sequence[str],
    *,
    log: Path,
    pass_fds: Sequence[int] = (),
    look: Callable[[int], None] | None = None,
) -> float:
    """Run a child until it ends by itself with exit status 0, and return the seconds it took.

    Args:
        log: receives its output.
        look: called with its process id again and again.

    Raises:
        InfraError: it cannot be started, does not end, or ends otherwise.
    """
    deadline = Deadline.after(_RUN_SECONDS)
    with log.open("wb") as output:
        started = time.monotonic()
        with process.spawn(argv, stdout=output, pass_fds=pass_fds) as child:
            ended = _wait(child, deadline, look)
            wall = time.monotonic() - started
            status = child.wait() if ended else None
    if status == 0:
        return wall
    how = f"ended with status {status}" if ended else f"did not end within {_RUN_SECONDS:.0f} s"
    raise InfraError(
        f"a run of the benchmark {how}: {' '.join(argv)}",
        remedy="see the last lines of its output; `imakexec run` and `imakexec doctor` tell more",
        tail=_tail(log.read_text(errors="replace")),
    )


def _wait(
    child: subprocess.Popen[bytes], deadline: Deadline, look: Callable[[int], None] | None
) -> bool:
    """Whether the child ended in time; `Popen.wait` with a limit may notice it 50 ms late."""
    descriptor = os.pidfd_open(child.pid)
    try:
        while not deadline.expired:
            pause = deadline.remaining if look is None else _LOOK_SECONDS
            if select.select([descriptor], [], [], pause)[0]:
                return True
            if look is not None:
                look(child.pid)
        return False
    finally:
        os.close(descriptor)


def cpu_seconds() -> float:
    """User and system time of all children that were waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-_TAIL_LINES:])


# Memory


@dataclass(frozen=True)
class ProcessState:
    """What /proc/PID/stat says of a process (Documentation/filesystems/proc.rst, table 1-4).

    Attributes:
        pid: its number.
        parent: its parent's number.
        name: of its program, cut to 15 bytes by the kernel.
        memory: resident bytes.
        stack: where its stack starts; random, so shared only by a process and its unchanged copy.
            0 if the kernel does not tell.
    """

    pid: int
    parent: int
    name: str
    memory: int
    stack: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one line; a program's name may hold blanks and parentheses."""
        pid, _, rest = text.partition(" (")
        name, _, rest = rest.rpartition(") ")
        fields = rest.split()  # the first is the state, field 3 of proc(5)
        return cls(int(pid), int(fields[1]), name, int(fields[21]) * _PAGE, int(fields[25]))


@dataclass
class MemoryPeak:
    """The most memory that a process and its descendants were seen to have at one time.

    Attributes:
        without: programs that do not count.
        peak: in bytes.
    """

    without: Sequence[str]
    peak: int = field(default=0, init=False)

    def look(self, pid: int) -> None:
        """Look at the process `pid` now."""
        self.peak = max(self.peak, resident_memory(_processes(), pid, without=self.without))


def resident_memory(processes: Iterable[ProcessState], root: int, *, without: Sequence[str]) -> int:
    """Bytes resident in the process `root` and its descendants.

    A child between fork and exec still has its parent's memory, and is not counted again.

    Args:
        without: programs that do not count.
    """
    names = {name[:15] for name in without}
    known = list(processes)
    family = {root}
    while grown := {p.pid for p in known if p.parent in family} - family:
        family |= grown
    counted = (p for p in known if p.pid in family and p.name not in names)
    memory = {p.stack or p.pid: p.memory for p in counted}
    return sum(memory.values())


def _processes() -> Iterator[ProcessState]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            yield ProcessState.parse(stat.read_text(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended


# What is asked for


def parse_records(text: str) -> tuple[int, ...]:
    """The lengths in a text such as "1000,10000".

    Raises:
        UserError: it is not made of positive numbers.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UserError(
            f"not a list of lengths: {text!r}",
            where="--records",
            remedy="give positive numbers separated by commas, such as 1000,10000",
        )
    return tuple(int(word) for word in words)


# The host


def _describe_host(prepared: Prepared) -> Host:
    return Host(
        cpu=cpu_model(Path("/proc/cpuinfo").read_text()),
        cpus=len(os.sched_getaffinity(0)),
        system=platform.platform(),
        load=os.getloadavg()[0],
        qemu=tool_version(X86_64.qemu),
        accelerator=prepared.accelerator.accelerator,
        reason=prepared.accelerator.reason,
    )


def cpu_model(cpuinfo: str) -> str:
    """The first processor's model in the text of /proc/cpuinfo."""
    match = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    return match[1] if match else platform.machine()
