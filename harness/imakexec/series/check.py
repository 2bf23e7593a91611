# SPDX-License-Identifier: GPL-2.0-only
"""Does every prefix of the series keep what the series promises?

The base is the control, and what the prefixes are compared with; each further row has one patch
more. A cell is found when it is asked for, and once: the command and the tests ask for the same.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from imakexec.arch import Arch
from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, ImaKexecError, InfraError, UserError
from imakexec.job import Workshop
from imakexec.kernel.build import (
    KernelImage,
    KernelRequest,
    find_source,
    series_folder,
    wanted_symbols,
)
from imakexec.kernel.cache import explained
from imakexec.kernel.series import PatchSeries
from imakexec.kernel.source import SourceTree
from imakexec.kernel.worktree import WorkTree
from imakexec.machine.accelerator import Accelerator
from imakexec.machine.qemu import require_programs
from imakexec.series.boots import BootChecks
from imakexec.series.cells import Cell, CheckReport, Column, Row, Status
from imakexec.series.hygiene import Mail
from imakexec.series.logs import make_log_folder
from imakexec.series.mail import MailChecks
from imakexec.series.objects import BOOTABLE, PERMUTATIONS, ObjectChecks

_SOURCE_SECONDS = 3600.0

COLUMNS: tuple[Column, ...] = (
    Column("git am", ("git am",), 7, "the mails apply to these versions, without fuzz"),
    Column("checkpatch", ("check", "patch"), 5, "errors/warnings/checks; and the form of the mail"),
    Column("build", ("W=1", "C=1"), 3, "no warning in the kernel, none new with W=1 and sparse"),
    *(
        Column(permutation.name, permutation.heading, permutation.width, permutation.meaning)
        for permutation in PERMUTATIONS
    ),
    Column("carries", ("car-", "ries"), 4, "all records, or the part until the load, as promised"),
    Column("twice", ("load", "twice"), 5, "the same after a second, larger load"),
    Column("reload", ("re-", "load"), 4, "the same after an unload and another load"),
    Column("verdict", ("verdict",), 12, "what the verifier says, as it must"),
)
"""All properties, those first that are known soonest."""


@dataclass(frozen=True)
class CheckRequest:
    """What is checked.

    Attributes:
        arch: what the kernels run on.
        logs: a new or empty folder for all output.
        base: "linux-X.Y", whose series is checked.
        kernel_tree: a tree of the user's instead, and the project's series on it.
        patch: the only row to look at; None for all.
        accelerator: forced, or None to find out.
    """

    arch: Arch
    logs: Path
    base: str = KernelRequest.base
    kernel_tree: Path | None = None
    patch: int | None = None
    accelerator: Accelerator | None = None

    def kernel(self, patches: int) -> KernelRequest:
        """The kernel with the first `patches` patches."""
        return KernelRequest(
            self.arch, base=self.base, kernel_tree=self.kernel_tree, patches=patches
        )


@dataclass(frozen=True)
class Subject:
    """What is under test.

    Attributes:
        source: the base.
        series: the whole series.
        folder: where it lies.
    """

    source: SourceTree
    series: PatchSeries
    folder: Path


class SeriesCheck:
    """The table of one check.

    Args:
        workshop: builds and packs; its project holds the series.
        request: what is checked.

    Attributes:
        request: the same.
        subject: what it stands for.

    Raises:
        UserError: there is no such base, tree, series or patch, or the log folder is in use.
        InfraError: the source cannot be had, or a tool is missing.
    """

    def __init__(self, workshop: Workshop, request: CheckRequest) -> None:
        require_programs(request.arch)
        _require_patch(
            PatchSeries.read(series_folder(request.kernel(0), workshop.project)), request
        )
        project = _freeze(workshop.project, request.logs)
        self.request = request
        self._workshop = Workshop(project, workshop.progress, workshop.cache)
        self.subject = _read(self._workshop, request)
        self._boots = BootChecks(self._workshop, request.arch, request.accelerator, request.logs)
        self._kernels: dict[int, KernelImage | ImaKexecError] = {}
        self._cells: dict[tuple[int, str], Cell] = {}
        self._objects = ObjectChecks(
            series=self.subject.series,
            work=WorkTree(self.subject.source, workshop.cache),
            arch=request.arch,
            wanted=tuple(wanted_symbols(request.kernel(0), project)),
            cache=workshop.cache,
            progress=workshop.progress,
            logs=request.logs,
        )
        self._tools = self._objects.tools
        self._looks = self._all_looks()

    @property
    def numbers(self) -> tuple[int, ...]:
        """The rows: how many patches are applied."""
        one = self.request.patch
        return tuple(range(len(self.subject.series.patches) + 1)) if one is None else (one,)

    def rows(self) -> Iterator[Row]:
        """Every row, again with each cell that is found."""
        for patches in self.numbers:
            started = time.monotonic()
            cells: dict[str, Cell] = {}
            for column in COLUMNS:
                cells[column.name] = self.cell(patches, column)
                yield Row(
                    patches=patches,
                    total=len(self.subject.series.patches),
                    subject=self._subject_line(patches),
                    cells=dict(cells),
                    seconds=time.monotonic() - started,
                )

    def report(self, rows: Iterable[Row], seconds: float) -> CheckReport:
        """What came out, with what it was found on."""
        arch, choice = self.request.arch, self._boots.choice
        return CheckReport(
            base=self.subject.source.base,
            platform=f"{arch.name}, {choice.accelerator}" if choice else arch.name,
            tools=self._tools,
            logs=self.request.logs,
            columns=COLUMNS,
            rows=tuple(rows),
            seconds=seconds,
        )

    def cell(self, patches: int, column: Column) -> Cell:
        """One cell, found when it is asked for the first time."""
        key = (patches, column.name)
        if key not in self._cells:
            try:
                self._cells[key] = self._looks[column.name](patches)
            except (UserError, GuestFailure) as error:
                self._cells[key] = self._failed(Status.RED, error, patches, column)
            except InfraError as error:
                self._cells[key] = self._failed(Status.INFRA, error, patches, column)
        return self._cells[key]

    def _all_looks(self) -> Mapping[str, Callable[[int], Cell]]:
        """What finds the cells of each column."""
        subject, workshop, logs = self.subject, self._workshop, self.request.logs
        mail = MailChecks(
            subject.series, subject.folder, subject.source, workshop.cache, workshop.progress, logs
        )
        boots, compare = self._boots, self._objects.compare
        return {
            "git am": mail.applies,
            "checkpatch": mail.reads_well,
            "build": self._build,
            **{each.name: partial(compare, permutation=each) for each in PERMUTATIONS},
            **{
                way: self._booted(partial(boots.carries, way=way))
                for way in ("carries", "twice", "reload")
            },
            "verdict": self._booted(boots.verdict),
        }

    def _build(self, patches: int) -> Cell:
        """The bootable kernel, and its objects with W=1 and sparse.

        Raises:
            ImaKexecError: there is no kernel.
        """
        kernel = self._kernel(patches)
        if isinstance(kernel, ImaKexecError):
            raise kernel
        # The base's warnings are not ours.
        if kernel.warnings and patches:
            plural = "warning" if len(kernel.warnings) == 1 else "warnings"
            faults = [f"{len(kernel.warnings)} compiler {plural}", *kernel.warnings]
            return Cell.judged(faults, "", kernel.log)
        return self._objects.compare(patches, BOOTABLE)

    def _booted(self, look: Callable[[int, KernelImage], Cell]) -> Callable[[int], Cell]:
        """What finds a cell by booting, if there is a kernel."""

        def find(patches: int) -> Cell:
            kernel = self._kernel(patches)
            if isinstance(kernel, ImaKexecError):
                return Cell(Status.SKIPPED, "there is no kernel to boot")
            return look(patches, kernel)

        return find

    def _kernel(self, patches: int) -> KernelImage | ImaKexecError:
        """The kernel with the first patches, or why there is none; what failed is not repeated."""
        if patches not in self._kernels:
            try:
                self._kernels[patches] = self._workshop.kernel(self.request.kernel(patches))
            except ImaKexecError as error:
                self._kernels[patches] = error
        return self._kernels[patches]

    def _failed(self, status: Status, error: ImaKexecError, patches: int, column: Column) -> Cell:
        """The cell of a look that ended with an error, which its log holds as a whole."""
        log = self.request.logs / f"{patches}-{column.name.replace(' ', '-')}-error.log"
        log.write_text(f"{error}\n\n{_read_if_file(error.where)}", encoding="utf-8")
        return Cell(status, error.what, tuple(error.tail.splitlines()), log)

    def _subject_line(self, patches: int) -> str:
        if not patches:
            return self.subject.source.base
        return Mail.parse(self.subject.series.patches[patches - 1].text).subject


def _read_if_file(where: str) -> str:
    """The file that an error names; nothing if it names something else, such as a command."""
    try:
        return Path(where).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def run_check(
    workshop: Workshop,
    request: CheckRequest,
    show: Callable[[Row], None],
    keep: Callable[[CheckReport], None],
) -> CheckReport:
    """Find all cells, row by row.

    Args:
        show: called with the row whenever one of its cells was found.
        keep: called with what was found so far whenever a row is complete, so that an interrupted
            check leaves it.

    Raises:
        UserError: there is nothing to check.
        InfraError: the source cannot be had, or a tool is missing.
    """
    started = time.monotonic()
    check = SeriesCheck(workshop, request)
    rows: dict[int, Row] = {}
    for row in check.rows():
        rows[row.patches] = row
        show(row)
        report = check.report(rows.values(), time.monotonic() - started)
        if len(row.cells) == len(COLUMNS):
            keep(report)
    return report


def _freeze(project: Path, logs: Path) -> Path:
    """Copy what is checked, so that an edit meanwhile does not mix two states of it.

    Raises:
        UserError: the folder is in use.
        InfraError: the disk is full, or the folder cannot be written.
    """
    make_log_folder(logs)
    frozen = logs.absolute() / "checked"
    with explained(logs):
        frozen.mkdir()
        shutil.copytree(project / "patches", frozen / "patches")
        for fragment in project.glob("Kconfig*"):
            shutil.copyfile(fragment, frozen / fragment.name)
        shutil.copytree(project / "images", frozen / "images")
    return frozen


def _require_patch(series: PatchSeries, request: CheckRequest) -> None:
    """Refuse a number that is none before anything is made for it.

    Raises:
        UserError: the series is not that long.
    """
    if request.patch is not None and request.patch > len(series.patches):
        raise UserError(
            f"the series has {len(series.patches)} patches",
            where=f"--patch {request.patch}",
            remedy=f"give 0 for the base, or 1 to {len(series.patches)}",
        )


def _read(workshop: Workshop, request: CheckRequest) -> Subject:
    folder = series_folder(request.kernel(0), workshop.project)
    series = PatchSeries.read(folder)
    deadline = Deadline.after(_SOURCE_SECONDS)
    source = find_source(request.kernel(0), workshop.cache, workshop.progress, deadline)
    return Subject(source, series, folder)
