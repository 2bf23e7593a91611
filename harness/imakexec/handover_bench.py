# SPDX-License-Identifier: GPL-2.0-only
"""What the hand-over of the measurement list costs a kernel, for lists of different length.

Every kernel boots in the same machine, fills its list, loads a kexec, unloads it, is looked at,
loads it again, is looked at again and executes it (`handover_run`). What is timed, and how, is told
in `handover_meter`. A run gives a figure only if the next kernel's list begins with every byte of
the list as it was before the execution: a kernel that carries less is fast.

The machine has no TPM, so that 100000 records are made within a minute and the records of the kexec
itself cost no TPM command: the figures are those of the hand-over alone. Every kernel has half a
page of room for late records, the only amount that all of them can have, and so segments of the
same size for the same list.

The runs take turns, so that other work on the host meets all kernels. It still shows in their
times. So under TCG every kernel makes one more run for each length, with a clock that counts its
instructions, and that figure is the same on every host. The list as booted is always among the
lengths: it shows what there is to pay for any list. The figures do not judge.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from imakexec.arch import X86_64
from imakexec.bench import Host, Spread, cpu_model
from imakexec.deadline import Deadline
from imakexec.handover_meter import SYMBOLS
from imakexec.handover_run import MEMORY_MIB, Sample, Subject
from imakexec.job import Prepared, Workshop, tool_version
from imakexec.kernel.build import KernelImage, KernelRequest, choose_series
from imakexec.kernel.config import EXTRA_MEMORY, has_extra_memory
from imakexec.kernel.source import debian_source
from imakexec.machine.accelerator import Accelerator, AcceleratorChoice
from imakexec.progress import Progress
from imakexec.project import find_project

SCHEMA = "imakexec-bench-handover/1"
DEFAULT_RECORDS = (1000, 10000, 100000)
"""Lengths of the list, beside the one that a kernel boots with."""
DEFAULT_BASES = ("linux-6.1", "linux-6.12", "linux-7.3")
"""The kernel that the series is for, and two that have the feature from elsewhere."""

_SOURCE_SECONDS = 3600.0


@dataclass(frozen=True)
class Row:
    """All runs of one kernel with one length of the list.

    Attributes:
        kernel: its name.
        wanted: how many records were added to the list as booted.
        samples: the timed runs, in their order.
        counted: the run whose seconds are thousand millions of instructions; None if the
            accelerator cannot count.
    """

    kernel: str
    wanted: int
    samples: tuple[Sample, ...]
    counted: Sample | None

    @property
    def load(self) -> Spread:
        """Of the load's duration."""
        return Spread.of(sample.load for sample in self.samples)

    @property
    def execute(self) -> Spread:
        """Of the hand-over's duration at execute."""
        return Spread.of(sample.execute for sample in self.samples)

    def median(self, value: Callable[[Sample], float]) -> float:
        """The middle of what `value` gives for the timed runs."""
        return Spread.of(map(value, self.samples)).median

    def to_json(self) -> dict[str, object]:
        """Every run, and the spreads of the timed ones: seconds and bytes."""
        return {**asdict(self), "load": asdict(self.load), "execute": asdict(self.execute)}


@dataclass(frozen=True)
class HandoverFigures:
    """What was measured.

    Attributes:
        host: where.
        memory_mib: of the guest.
        kernels: what each kernel was made from, by name.
        runs: timed runs of each kernel with each length.
        rows: by length, then by kernel; the list as booted comes first.
    """

    host: Host
    memory_mib: int
    kernels: Mapping[str, str]
    runs: int
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, object]:
        """All of it as JSON values: seconds and bytes; keys are stable per schema."""
        return {"schema": SCHEMA, **asdict(self), "rows": [row.to_json() for row in self.rows]}


def handover(
    progress: Progress,
    *,
    bases: Sequence[str] = DEFAULT_BASES,
    records: Sequence[int] = DEFAULT_RECORDS,
    runs: int = 3,
    accelerator: Accelerator | None = None,
) -> HandoverFigures:
    """Measure every kernel with every length of the list, in turns.

    Args:
        bases: which kernels. One that the project has patches for is measured without and with
            them.
        records: how many to add to the list as booted.
        runs: timed runs of each kernel with each length.
        accelerator: forced for all; None leaves the choice to the main job's probe.

    Raises:
        UserError: no such base, or a kernel cannot be built.
        GuestFailure: a kernel failed, or did not carry its list: then there is no figure.
        InfraError: the host failed.
    """
    workshop = Workshop(find_project(), progress)
    subjects = _prepare(workshop, bases, accelerator)
    host = _describe_host(subjects[0].prepared.accelerator)
    turns = [(wanted, subject) for wanted in sorted({0, *records}) for subject in subjects]
    timed = [
        list(_turn(workshop, turns, f"run {n + 1} of {runs}", counting=False)) for n in range(runs)
    ]
    counts: Iterable[Sample | None] = [None] * len(turns)
    if subjects[0].can_count:
        counts = _turn(workshop, turns, "instructions", counting=True)
    rows = zip(turns, zip(*timed, strict=True), counts, strict=True)
    return HandoverFigures(
        host=host,
        memory_mib=MEMORY_MIB,
        kernels={subject.name: subject.source for subject in subjects},
        runs=runs,
        rows=tuple(
            Row(subject.name, wanted, samples, counted)
            for (wanted, subject), samples, counted in rows
        ),
    )


def _turn(
    workshop: Workshop, turns: Iterable[tuple[int, Subject]], title: str, *, counting: bool
) -> Iterator[Sample]:
    """One run of every kernel with every length."""
    for wanted, subject in turns:
        length = f"{wanted} records" if wanted else "list as booted"
        with (
            workshop.progress.step(f"{title}: {subject.name}, {length}") as step,
            workshop.cache.scratch() as folder,
        ):
            sample = subject.sample(
                wanted, step, folder=folder, templates=workshop.templates, counting=counting
            )
            load, execute = sample.load * 1e3, sample.execute * 1e3
            unit = "million" if counting else "ms"
            step.done(f"load {load:.0f} {unit}, execute {execute:.1f} {unit}")
        yield sample


# What is compared


def kernels_of(bases: Iterable[str], project: Path) -> dict[str, KernelRequest]:
    """The kernels to measure, by name: each base, and where the project has patches also that."""
    found: dict[str, KernelRequest] = {}
    for base in bases:
        request = KernelRequest(arch=X86_64, base=base, symbols=SYMBOLS)
        version = base.removeprefix("linux-")
        patches = len(choose_series(request, project).patches)
        if patches:
            found[f"{version}, plain"] = replace(request, patches=0)
            found[f"{version}, {patches} patches"] = request
        else:
            found[version] = request
    return found


def _with_least_room(request: KernelRequest, workshop: Workshop) -> KernelRequest:
    """The request with half a page of room for late records, where that can be chosen at all."""
    deadline = Deadline.after(_SOURCE_SECONDS)
    source = debian_source(request.base, workshop.cache, workshop.progress, deadline)
    patches = choose_series(request, workshop.project).patches
    brought = any(f"config {EXTRA_MEMORY}\n" in patch.text for patch in patches)
    if brought or has_extra_memory(source.path):
        return replace(request, extra_memory_kb=0)
    return request


def _prepare(workshop: Workshop, bases: Iterable[str], forced: Accelerator | None) -> list[Subject]:
    """Make all kernels and guests, before the first run."""
    made: list[tuple[str, KernelRequest, KernelImage]] = []
    for name, wanted in kernels_of(bases, workshop.project).items():
        request = _with_least_room(wanted, workshop)
        made.append((name, request, workshop.kernel(request)))
    choice = workshop.accelerator(X86_64, forced, made[0][2].image)
    subjects = []
    for name, request, kernel in made:
        guest = workshop.image(kernel.image, X86_64)
        prepared = Prepared(kernel, kernel.image, kernel.banner, guest, choice)
        subjects.append(Subject(name, request, prepared))
    return subjects


def _describe_host(choice: AcceleratorChoice) -> Host:
    return Host(
        cpu=cpu_model(Path("/proc/cpuinfo").read_text()),
        cpus=len(os.sched_getaffinity(0)),
        system=platform.platform(),
        load=os.getloadavg()[0],
        qemu=tool_version(X86_64.qemu),
        accelerator=choice.accelerator,
        reason=choice.reason,
    )
