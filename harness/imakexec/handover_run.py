# SPDX-License-Identifier: GPL-2.0-only
"""One kernel with its guest, taken from power-on through a kexec to the figures of that run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure
from imakexec.handover_meter import (
    CMDLINE,
    GROW,
    MEASURED,
    PROBES,
    Held,
    Interval,
    MemoryState,
    find_intervals,
)
from imakexec.job import JobOptions, Prepared, kernel_cmdline, machine_config
from imakexec.kernel.build import KernelRequest
from imakexec.machine.accelerator import Accelerator
from imakexec.machine.complaint import complaint_lines
from imakexec.machine.guest import TOKEN_PARAMETER, BootInfo, Guest
from imakexec.machine.qemu import Machine, MachineConfig
from imakexec.progress import Step
from imakexec.scenario import new_token
from imakexec.scenario.handover import find_handover_buffer
from imakexec.scenario.steps import MEASUREMENTS, NEXT_INITRD, NEXT_KERNEL

MEMORY_MIB = 1024
"""Of the guest. 100000 records and their copies take a tenth of it."""

_PAGE = 4096  # of the guest, an x86_64 one
_COUNT = "/sys/kernel/security/ima/runtime_measurements_count"
_CHUNK = 2000  # records between two signs of life

# Far above any loaded host: what is slow is no failure here.
_STEP_SECONDS = 300.0
_SECONDS_PER_RECORD = 0.02

# There is no TPM, and IMA says so.
_EXPECTED_COMPLAINT = "activating TPM-bypass"

# QEMU's clock of the guest then moves by a nanosecond with each instruction of the guest, and when
# it idles jumps to the next timer (docs/devel/tcg-icount.rst of QEMU).
_COUNTING = ("-icount", "shift=0,sleep=off")


@dataclass(frozen=True)
class Sample:
    """One run.

    Attributes:
        records: in the list before the execution, all of which the next kernel has.
        size: bytes of these records.
        load: seconds that the system call of the first load took.
        execute: seconds from the beginning of the restart to the end of the reboot notifiers.
        segment: bytes of the segment of the image that the list is handed over in.
        held: what the loaded kernel holds that it did not hold before the first load.
        kept: what it still held of that after the first image was unloaded.
    """

    records: int
    size: int
    load: float
    execute: float
    segment: int
    held: Held
    kept: Held


@dataclass(frozen=True)
class Subject:
    """A kernel and its guest, ready to be booted any number of times.

    Attributes:
        name: what it is called in tables, e.g. "6.1, 7 patches".
        request: what the kernel was made from.
        prepared: all that its machine is made of.
    """

    name: str
    request: KernelRequest
    prepared: Prepared

    @property
    def source(self) -> str:
        """What the kernel was made from, for people."""
        kernel = self.prepared.kernel
        return f"{kernel.base}, {len(kernel.patches)} patches" if kernel.patches else kernel.base

    @property
    def can_count(self) -> bool:
        """Whether its instructions can be counted."""
        return self.prepared.accelerator.accelerator is Accelerator.TCG

    def config(self, *, counting: bool) -> MachineConfig:
        """The machine of one run, with a fresh token."""
        config = machine_config(self.prepared, self._options)
        machine = (*config.arch.machine, *_COUNTING) if counting else config.arch.machine
        return replace(config, tpm=False, arch=replace(config.arch, machine=machine))

    def sample(
        self, wanted: int, step: Step, *, folder: Path, templates: Path, counting: bool = False
    ) -> Sample:
        """Boot it, add records to its list, take it through kexec, and look.

        Args:
            wanted: how many records to add.
            folder: where console and QEMU write.
            templates: see `Machine`.
            counting: have the guest's clock count instructions, a nanosecond each.

        Raises:
            GuestFailure: the kernel failed, or did not carry its list.
            InfraError: the host failed.
        """
        config = self.config(counting=counting)
        with Machine(config, folder, templates=templates) as machine:
            return _Run(machine, wanted, kernel_cmdline(self._options), step).take()

    @property
    def _options(self) -> JobOptions:
        return JobOptions(kernel=self.request, cmdline=CMDLINE, memory_mib=MEMORY_MIB)


class _Run:
    """A machine that was just started, from there to its sample."""

    def __init__(self, machine: Machine, wanted: int, cmdline: str, step: Step) -> None:
        self._machine = machine
        self._guest = Guest(machine)
        self._wanted = wanted
        self._cmdline = cmdline
        self._step = step

    def take(self) -> Sample:
        self._boot()
        self._grow()
        before = self._memory()
        self._load(new_token())
        self._unload()
        unloaded = self._memory()
        token = new_token()
        self._load(token)
        loaded = self._memory()
        listed = self._list()
        records = self._count()
        self._execute(token)
        require_carried(listed, self._list(), records=(records, self._count()))
        load, execute = self._times()
        return Sample(
            records=records,
            size=len(listed),
            load=load,
            execute=execute,
            segment=self._segment(),
            held=Held.between(before, loaded, page=_PAGE),
            kept=Held.between(before, unloaded, page=_PAGE),
        )

    def _budget(self) -> Deadline:
        """A deadline for anything that may have to go through the whole list."""
        return Deadline.after(_STEP_SECONDS + _SECONDS_PER_RECORD * self._wanted)

    def _script(self, text: str, *arguments: str) -> bytes:
        return self._guest.run(["sh", "-c", text, "sh", *arguments], self._budget()).stdout

    def _boot(self) -> None:
        self._step.update("booting")
        token = self._machine.epochs.current.token or ""
        self._identify(self._guest.wait_for_agent(self._budget(), token=token))
        self._script(PROBES)

    def _identify(self, info: BootInfo) -> None:
        self._machine.epochs.identify(boot_id=info.boot_id, token=info.token)

    def _grow(self) -> None:
        """Add the records."""
        for start in range(0, self._wanted, _CHUNK):
            self._step.update("making records", start / self._wanted)
            end = min(start + _CHUNK, self._wanted)
            self._script(GROW, MEASURED, str(start), str(end))

    def _memory(self) -> MemoryState:
        """What the kernel says of its memory, without caches; no process is started for it."""
        deadline = self._budget()
        self._guest.write_file("/proc/sys/vm/drop_caches", b"3\n", deadline)
        texts = {
            name: self._guest.read_file(f"/proc/{name}", deadline).decode()
            for name in ("zoneinfo", "vmallocinfo")
        }
        return MemoryState.parse(**texts, page=_PAGE)

    def _load(self, token: str) -> None:
        self._step.update("loading")
        cmdline = f"--command-line={self._cmdline} {TOKEN_PARAMETER}={token}"
        argv = ["kexec", "-s", "-l", NEXT_KERNEL, f"--initrd={NEXT_INITRD}", cmdline]
        self._guest.run(argv, self._budget())
        self._machine.epochs.loaded()

    def _unload(self) -> None:
        self._guest.run(["kexec", "-s", "-u"], self._budget())
        self._machine.epochs.unloaded()

    def _list(self) -> bytes:
        self._step.update("reading the list")
        return self._guest.read_file(MEASUREMENTS, self._budget())

    def _count(self) -> int:
        return int(self._guest.read_file(_COUNT, self._budget()))

    def _segment(self) -> int:
        """The size in bytes of the segment in which the running kernel was handed its list."""
        arch = self._machine.config.arch
        found = find_handover_buffer(self._guest, arch, self._budget())
        if found is None:
            raise GuestFailure(
                "the kernel has the list of the one before it, and shows no segment",
                where=arch.handover.path,
                remedy="look whether this kernel tells it in another place (imakexec.arch)",
            )
        return found[1]

    def _execute(self, token: str) -> None:
        self._step.update("executing")
        self._machine.epochs.executing(token)
        info = self._guest.replace_kernel(["kexec", "-s", "-e"], self._budget(), token=token)
        self._machine.wait_for_kernel(self._budget())
        self._identify(info)

    def _times(self) -> tuple[float, float]:
        """Seconds of the first load and of the execution, as both kernels' console says."""
        lines = [line.text for line in self._machine.console.lines()]
        require_no_complaint(lines)
        loads = find_intervals(lines, Interval.LOAD)
        executions = find_intervals(lines, Interval.EXECUTE)
        # A load, an unload by the same system call, another load.
        if len(loads) != 3 or len(executions) != 1:
            raise GuestFailure(
                f"the kernel timed {len(loads)} loads of 3 and {len(executions)} executions of 1",
                where="console lines with imakexec_load and imakexec_execute",
                remedy="look whether a probed function was renamed (imakexec.handover_meter)",
                tail=self._machine.console.tail(),
            )
        return loads[0], executions[0]


def require_carried(before: bytes, after: bytes, *, records: tuple[int, int]) -> None:
    """Check that a kernel was handed the whole list: a kernel that carries less is fast.

    Args:
        before: the list before the execution.
        after: the next kernel's.
        records: how many each kernel counts.

    Raises:
        GuestFailure: it was not.
    """
    if after.startswith(before) and records[1] > records[0]:
        return
    pairs = enumerate(zip(before, after, strict=False))
    same = next((at for at, (old, new) in pairs if old != new), min(len(before), len(after)))
    raise GuestFailure(
        f"the next kernel has {records[1]} records, there were {records[0]}; of the "
        f"{len(before)} bytes of the list before the kexec the first {same} begin its list",
        where=MEASUREMENTS,
        remedy="`imakexec run` tells what is missing and why",
    )


def require_no_complaint(lines: Iterable[str]) -> None:
    """Check that no kernel said anything against the hand-over.

    Raises:
        GuestFailure: one did.
    """
    said = [line for line in complaint_lines(lines) if _EXPECTED_COMPLAINT not in line]
    if said:
        raise GuestFailure(
            "a kernel complained of the hand-over that was to be measured",
            where="the guest's console",
            remedy="`imakexec run` with the same kernel tells more",
            tail="\n".join(said),
        )
