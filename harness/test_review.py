# SPDX-License-Identifier: GPL-2.0-only
"""A review finds the patch of a series that warns, and the one that loses records."""

from __future__ import annotations

from pathlib import Path

import pytest

from imakexec.arch import X86_64
from imakexec.job import Workshop
from imakexec.kernel.build import KernelRequest
from imakexec.kernel.series import PatchSeries
from imakexec.project import find_project
from imakexec.report.review import render
from imakexec.review.behaviour import Change
from imakexec.review.review import ReviewRequest, run_review
from imakexec.series.cells import Row, Status
from imakexec.suite.runner import Selection

pytestmark = pytest.mark.nightly

GOOD = ("innocent-text", "innocent-message")
BAD = ("innocent-text", "warns", "lost-records")
OURS = 7
REGRESSIONS = "harness/regressions"


def mails(folder: Path, names: tuple[str, ...]) -> Path:
    """The project's series, and some of harness/regressions as patches of another author."""
    folder.mkdir()
    project = find_project()
    ours = PatchSeries.read(project / "patches/linux-6.1.y").patches
    for patch in ours:
        (folder / patch.name).write_text(patch.text)
    for number, name in enumerate(names, len(ours) + 1):
        _, _, diff = (project / REGRESSIONS / f"{name}.patch").read_text().partition("\n")
        head = f"From: A <a@b>\nSubject: [PATCH] ima: {name}\n\nWhy.\n\nSigned-off-by: A <a@b>\n"
        (folder / f"{number:04}-{name}.patch").write_text(head + diff)
    # Mails of two numberings: the order is that of quilt.
    listing = "".join(f"{path.name}\n" for path in sorted(folder.glob("*.patch")))
    (folder / "series").write_text(listing)
    return folder


def test_a_series_with_two_bad_patches(workshop: Workshop, tmp_path: Path) -> None:
    shown: list[Row] = []
    request = ReviewRequest(
        series=str(mails(tmp_path / "new", BAD)),
        against=str(mails(tmp_path / "old", GOOD)),
        tree=None,
        kernel=KernelRequest(X86_64, patches=0),
        selection=Selection.parse(["test_gap_events.py::test_gap_events[given-15]"]),
        accelerator=None,
        folder=tmp_path / "review",
    )
    review = run_review(workshop, request, shown.append)
    red = {
        (row.patches, name)
        for row in shown
        for name, cell in row.cells.items()
        if cell.status is Status.RED
    }
    assert (OURS + 2, "build") in red
    assert (OURS + 3, "carries") in red
    assert {patches for patches, name in red if name not in ("checkpatch", "git am")} == {9, 10}
    assert review.exit_code == 1
    assert [item.change for item in review.changes(0)] == [Change.WORSE]
    assert [item.change for item in review.changes(1)] == [Change.WORSE]
    text = render(review, "A Tester <a@b>")
    assert "unused variable 'unused'" in text
    assert "security/integrity/ima/ima_kexec.c:1" in text, "the line of the warning"
    assert "lost-records" in review.range_diff
    assert "Tested-by" not in text
