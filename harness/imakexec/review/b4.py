# SPDX-License-Identifier: GPL-2.0-only
"""Answers b4's review hooks: `b4.review-perpatch-check-cmd` and `b4.review-series-check-cmd`.

b4 pipes a mail to the command and runs it at the top of the kernel tree, whose review branch has
the series. The command answers with a JSON array of objects with "tool", "status" ("pass", "warn"
or "fail"), "summary", "details"; what is no JSON, or an exit status without it, b4 shows as a
failure (b4's docs/reviewer.rst, "JSON protocol"). So whatever happens is an answer, and what the
host could not find out is a warning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from imakexec.deadline import Deadline
from imakexec.errors import ImaKexecError, UserError, counted
from imakexec.job import Workshop
from imakexec.kernel.build import KernelRequest
from imakexec.kernel.repository import Repository, own_place, share_objects
from imakexec.machine.accelerator import Accelerator
from imakexec.review.checks import PatchChecks
from imakexec.review.inbox import MailedPatch, MailedSeries, read_mail, read_series
from imakexec.series.cells import Cell, Row, Status

TRACKING = "B4_TRACKING_FILE"
"""The variable in which b4 names a JSON file about the series."""

_TOOL = "imakexec"
_LOCK_SECONDS = 3600.0


class Verdict(StrEnum):
    """b4's words."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Result:
    """One entry of the answer.

    Attributes:
        status: in b4's words.
        summary: a line.
        details: some lines.
    """

    status: Verdict
    summary: str
    details: str = ""

    def to_json(self) -> dict[str, str]:
        """The object that b4 reads."""
        return {
            "tool": _TOOL,
            "status": self.status,
            "summary": self.summary,
            "details": self.details,
        }


@dataclass(frozen=True)
class Hook:
    """What a hook of b4 works on.

    Attributes:
        workshop: builds and packs.
        kernel: how the kernels are built, but for their tree.
        accelerator: forced, or None to find out.
        tree: the top of the kernel tree, on b4's review branch.
        folder: a new one for what the checks leave.
    """

    workshop: Workshop
    kernel: KernelRequest
    accelerator: Accelerator | None
    tree: Path
    folder: Path

    def answer(self, mail: bytes) -> str:
        """The answer to a mail as b4 pipes it, as JSON.

        A patch is judged as the state of the tree after it; of a cover letter all patches are.
        """
        try:
            result = self._check(read_mail(mail))
        except ImaKexecError as error:
            result = Result(Verdict.WARN, f"nothing is known: {error.what}", str(error))
        return json.dumps([result.to_json()], indent=2) + "\n"

    def _check(self, mail: MailedPatch) -> Result:
        base, user = base_commit(os.environ), Repository(self.tree)
        commits = f"{base}..{user.head()}"
        mailed = read_series(commits, self.folder / "series", tree=self.tree)
        patch = _number_of(mail, mailed)
        cache, progress = self.workshop.cache, self.workshop.progress
        place = own_place(cache, self.tree)
        with cache.lock(place.name, Deadline.after(_LOCK_SECONDS), progress):
            own = share_objects(user, place)
            own.git("checkout", "--quiet", "--force", "--detach", base)
            checks = self._checks(own, mailed)
            # A patch is held against the kernel before it.
            rows = list(checks.rows() if patch is None else checks.rows(patch - 1, patch))
        return summarised([row for row in rows if row.patches and patch in (None, row.patches)])

    def _checks(self, own: Repository, mailed: MailedSeries) -> PatchChecks:
        request = replace(self.kernel, kernel_tree=own.path, patches=0)
        source = self.workshop.source(request)
        logs = self.folder / "patches"
        logs.mkdir(parents=True)
        return PatchChecks(self.workshop, request, source, mailed, self.accelerator, logs)


def base_commit(environment: Mapping[str, str]) -> str:
    """What b4 has applied the series to.

    Raises:
        UserError: b4 does not say.
    """
    path = environment.get(TRACKING, "")
    try:
        base = json.loads(Path(path).read_text(encoding="utf-8"))["series"]["base-commit"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "b4 does not say what the series is applied to",
            where=f"{TRACKING}={path}",
            remedy="check the series out first (b4 review), then run the checks",
        ) from error
    return str(base)


def _number_of(mail: MailedPatch, mailed: MailedSeries) -> int | None:
    """Which patch a mail is, counted from 1; None for a cover letter.

    Raises:
        UserError: it is none of the series, or no mail at all.
    """
    if not mail.subject:
        raise UserError(
            "this is no mail: it has no subject",
            where="standard input",
            remedy="set this command as b4.review-perpatch-check-cmd, b4 pipes the mail to it",
        )
    if not mail.is_patch:
        return None
    if mail.subject in mailed.subjects:
        return mailed.subjects.index(mail.subject) + 1
    raise UserError(
        f"no commit of the review branch has this subject: {mail.subject}",
        where=mailed.what,
        remedy="check the series out again: the branch has other patches",
    )


def summarised(rows: list[Row]) -> Result:
    """What the rows of some patches come to."""
    red = list(_cells(rows, Status.RED))
    unknown = list(_cells(rows, Status.INFRA))
    details = "\n".join(line for title, cell in [*red, *unknown] for line in _lines(title, cell))
    if red:
        return Result(Verdict.FAIL, f"{red[0][0]}: {red[0][1].text}", details)
    if unknown:
        return Result(Verdict.WARN, f"{unknown[0][0]}: {unknown[0][1].text}", details)
    carried = "/".join(dict.fromkeys(row.cells["carries"].text for row in rows))
    verdict = rows[-1].cells["verdict"].text if rows else ""
    told = f"{counted(len(rows), 'kernel')} compiled and went through a kexec"
    return Result(Verdict.PASS, f"{told}; carried: {carried}; {verdict}", details)


def _cells(rows: list[Row], status: Status) -> Iterator[tuple[str, Cell]]:
    for row in rows:
        for name, cell in row.cells.items():
            if cell.status is status:
                yield f"{row.title} {name}", cell


def _lines(title: str, cell: Cell) -> Iterator[str]:
    yield f"{title}: {cell.text}"
    yield from (f"    {line}" for line in cell.details)
