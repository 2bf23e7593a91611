# SPDX-License-Identifier: GPL-2.0-only
"""Reviews a series: each patch, the whole against the base, and against an older version.

The figures of a kernel are taken with the list as booted and without a TPM, see `handover_meter`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, InfraError, UserError
from imakexec.handover_run import Sample
from imakexec.job import Workshop
from imakexec.kernel.build import KernelRequest
from imakexec.kernel.cache import explained
from imakexec.kernel.repository import Repository
from imakexec.kernel.series import PatchSeries
from imakexec.machine.accelerator import Accelerator
from imakexec.machine.qemu import require_programs
from imakexec.review.behaviour import Change, Difference, Ending, differences, endings, measure
from imakexec.review.checks import PatchChecks, request_with
from imakexec.review.inbox import MailedSeries, read_series
from imakexec.series.cells import Row, Status
from imakexec.series.mail import base_files
from imakexec.suite.outcome import Outcome
from imakexec.suite.runner import Selection, options_for, run_tests, subject_of

_TESTS_SECONDS = 2 * 3600.0
"""For the tests of one kernel, with all kernels that they configure for themselves."""

REPORT = "review.txt"


@dataclass(frozen=True)
class ReviewRequest:
    """What is reviewed.

    Attributes:
        series: an mbox, a folder or a git range, see `read_series`.
        against: an older version of it; empty for none.
        tree: the repository of a range; None for the one in the working folder.
        kernel: the kernel that it is applied to.
        selection: the tests that are run on each kernel.
        accelerator: forced, or None to find out.
        folder: a new or empty one for all that is left.
    """

    series: str
    against: str
    tree: Path | None
    kernel: KernelRequest
    selection: Selection
    accelerator: Accelerator | None
    folder: Path


@dataclass(frozen=True)
class Looked:
    """What a kernel does.

    Attributes:
        name: base, old, new.
        endings: of the tests, by name.
        sample: what the hand-over costs; None if that could not be measured.
        why: it could not.
        folder: what the tests have left.
    """

    name: str
    endings: Mapping[str, Ending]
    sample: Sample | None
    why: str
    folder: Path


@dataclass(frozen=True)
class Review:
    """What a review came to.

    Attributes:
        mailed: the series.
        older: the version that it is held against; None without one.
        base: what it is applied to, for people.
        platform: what it ran on.
        rows: the base's and each patch's.
        kernels: the base, the older version if there is one, and the series, in this order.
        range_diff: from the older version; empty without one.
        selection: the tests that were run.
        seconds: all of it took.
        folder: has all that is left.
    """

    mailed: MailedSeries
    older: MailedSeries | None
    base: str
    platform: str
    rows: tuple[Row, ...]
    kernels: tuple[Looked, ...]
    range_diff: str
    selection: Selection
    seconds: float
    folder: Path

    @property
    def new(self) -> Looked:
        """The kernel with the whole series."""
        return self.kernels[-1]

    def changes(self, before: int) -> tuple[Difference, ...]:
        """How the series' behaviour differs from an earlier kernel's: 0 for the base's."""
        return tuple(differences(self.kernels[before].endings, self.new.endings))

    @property
    def red_cells(self) -> int:
        """Cells of the table that speak against a patch."""
        return self._count(Status.RED)

    @property
    def failures(self) -> tuple[str, ...]:
        """The tests that fail on the series, or are worse than on the base."""
        failed = [name for name, it in self.new.endings.items() if it.outcome is Outcome.FAIL]
        worse = [it.name for it in self.changes(0) if it.change is Change.WORSE]
        return tuple(dict.fromkeys([*failed, *worse]))

    @property
    def unknown(self) -> int:
        """What has come to no result because of the host."""
        tests = sum(it.outcome is Outcome.INFRA for it in self.new.endings.values())
        return self._count(Status.INFRA) + tests + (self.new.sample is None)

    @property
    def is_green(self) -> bool:
        """Whether nothing speaks against the series, and everything was looked at."""
        return not self.red_cells and not self.failures and not self.unknown

    @property
    def exit_code(self) -> int:
        """Of the command: something red counts more than a host that failed."""
        if self.red_cells or self.failures:
            return GuestFailure.exit_code
        return InfraError.exit_code if self.unknown else 0

    def _count(self, status: Status) -> int:
        return sum(cell.status is status for row in self.rows for cell in row.cells.values())


def run_review(workshop: Workshop, request: ReviewRequest, show: Callable[[Row], None]) -> Review:
    """Review a series.

    Args:
        show: called with each row of the table of patches when it is complete.

    Raises:
        UserError: there is no series, or it does not apply.
        InfraError: the host failed before there was anything to say.
    """
    started = time.monotonic()
    require_programs(request.kernel.arch)
    _claim(request.folder)
    mailed = read_series(request.series, request.folder / "series", tree=request.tree)
    older = None
    if request.against:
        older = read_series(request.against, request.folder / "older", tree=request.tree)
    logs = request.folder / "patches"
    logs.mkdir()
    source = workshop.source(request.kernel)
    checks = PatchChecks(workshop, request.kernel, source, mailed, request.accelerator, logs)
    rows = []
    for row in checks.rows():
        rows.append(row)
        show(row)
    series = [("base", PatchSeries())]
    if older is not None:
        series.append(("old", older.series))
    series.append(("new", mailed.series))
    kernels = tuple(_look(workshop, request, name, patches) for name, patches in series)
    choice = checks.choice
    arch = request.kernel.arch.name
    return Review(
        mailed=mailed,
        older=older,
        base=source.base,
        platform=f"{arch}, {choice.accelerator}" if choice else arch,
        rows=tuple(rows),
        kernels=kernels,
        range_diff=_range_diff(workshop, request, older, mailed) if older else "",
        selection=request.selection,
        seconds=time.monotonic() - started,
        folder=request.folder,
    )


def _claim(folder: Path) -> None:
    """Make the folder, or take an empty one.

    Raises:
        UserError: it is in use.
        InfraError: it cannot be made.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(
            "the folder for the review is not empty",
            where=f"--out {folder}",
            remedy="name another folder, or remove this one",
        )


def _look(workshop: Workshop, request: ReviewRequest, name: str, series: PatchSeries) -> Looked:
    """Run the tests on one kernel, and measure it."""
    kernel = request_with(request.kernel, series)
    folder = request.folder / name
    with workshop.progress.step(f"{request.selection} on {name}") as step:
        run = run_tests(
            workshop.project,
            [
                *options_for(kernel, request.accelerator),
                *request.selection.arguments(subject_of(kernel)),
            ],
            folder,
            deadline=Deadline.after(_TESTS_SECONDS),
            on_line=step.update,
            to_the_end=True,
        )
        step.done(f"{len(run.tests)} tests")
    try:
        sample, why = measure(workshop, kernel, request.accelerator, title=name), ""
    except (UserError, GuestFailure, InfraError) as error:
        sample, why = None, error.what
    return Looked(name, endings(run), sample, why, folder)


def _range_diff(
    workshop: Workshop, request: ReviewRequest, older: MailedSeries, newer: MailedSeries
) -> str:
    """What `git range-diff` says of two versions of a series.

    Raises:
        InfraError: git failed.
    """
    both = PatchSeries((*older.series.patches, *newer.series.patches))
    with workshop.cache.scratch() as scratch:
        folder = scratch / "repository"
        files = base_files(workshop.source(request.kernel), both, scratch / "files")
        shutil.copytree(files.folder, folder)
        repository = Repository(folder)
        repository.git("init", "--quiet", "--template=")
        repository.git("add", "--all", "--force")
        repository.git("commit", "--quiet", "--allow-empty", "--message=base")
        base = repository.head()
        tips = []
        for mailed in (older, newer):
            repository.git("checkout", "--quiet", "--detach", base)
            for patch in mailed.series.patches:
                if repository.tried("am", str(patch.path)).returncode != 0:
                    return f"{patch.name} does not apply: there is no range-diff"
            tips.append(repository.head())
        return repository.git("range-diff", "--no-color", *(f"{base}..{tip}" for tip in tips))
