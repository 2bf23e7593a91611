# SPDX-License-Identifier: GPL-2.0-only
"""b4 gets an answer in its own words to whatever it pipes here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_bisect_driver import git
from test_review_report import OK, row

from imakexec.arch import X86_64
from imakexec.errors import UserError
from imakexec.job import Workshop
from imakexec.kernel.build import KernelRequest
from imakexec.kernel.cache import Cache
from imakexec.progress import SilentProgress
from imakexec.review.b4 import TRACKING, Hook, Verdict, base_commit, summarised
from imakexec.review.checks import PatchChecks
from imakexec.series.cells import Cell, Row, Status

RED = Cell(Status.RED, "1 new message", ("a.c:12:3: warning: unused variable 'x'",))
UNKNOWN = Cell(Status.INFRA, "no network")


def test_the_worst_of_some_patches_is_what_b4_is_told() -> None:
    good = summarised([row(1), row(2)])
    assert (good.status, good.details) == (Verdict.PASS, "")
    assert "2 kernels compiled" in good.summary
    bad = summarised([row(1, kexec=UNKNOWN), row(2, build=RED)])
    assert (bad.status, bad.summary) == (Verdict.FAIL, "2/2 build: 1 new message")
    assert "unused variable" in bad.details
    assert "no network" in bad.details
    assert summarised([row(1, kexec=UNKNOWN)]).status is Verdict.WARN


def test_b4_names_the_base(tmp_path: Path) -> None:
    file = tmp_path / "tracking.json"
    file.write_text(json.dumps({"series": {"base-commit": "abc"}}))
    assert base_commit({TRACKING: str(file)}) == "abc"


@pytest.mark.parametrize("content", [None, "", "{}", '{"series": []}', "[1]"])
def test_a_base_that_b4_does_not_name(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "tracking.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match="does not say"):
        base_commit({TRACKING: str(file)})
    with pytest.raises(UserError, match="does not say"):
        base_commit({})


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A review branch: a base, two patches, and b4's own commit without a change."""
    folder = tmp_path / "linux"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "Kconfig").touch()
    (folder / "Makefile").write_text("VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 0\nEXTRAVERSION =\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "base")
    tracking = tmp_path / "tracking.json"
    tracking.write_text(json.dumps({"series": {"base-commit": git(folder, "rev-parse", "HEAD")}}))
    monkeypatch.setenv(TRACKING, str(tracking))
    for number in (1, 2):
        (folder / "file").write_text(f"{number}\n")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", f"ima: number {number}")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "the cover letter")
    return folder


@pytest.fixture
def hook(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hook:
    def rows(checks: PatchChecks, first: int = 0, last: int | None = None) -> list[Row]:
        assert (checks.source.path / "file").exists() is False, "the base is checked out"
        total = len(checks.mailed.series.patches)
        numbers = range(first, (total if last is None else last) + 1)
        return [
            Row(n, total, "", {**OK, **({"build": RED} if n == 2 else {})}, 1.0) for n in numbers
        ]

    monkeypatch.setattr(PatchChecks, "rows", rows)
    workshop = Workshop(tmp_path, SilentProgress(), Cache(tmp_path / "cache"))
    return Hook(workshop, KernelRequest(X86_64), None, tree, tmp_path / "out")


def mail(subject: str, body: str = "") -> bytes:
    return f"From: A <a@b>\nSubject: {subject}\n\n{body}".encode()


DIFF = "Why.\n---\ndiff --git a/file b/file\n--- a/file\n+++ b/file\n@@ -0,0 +1 @@\n+1\n"


@pytest.mark.parametrize(
    ("piped", "status", "words"),
    [
        (mail("[PATCH 1/2] ima: number 1", DIFF), "pass", "1 kernel compiled"),
        (mail("[PATCH 2/2] ima: number 2", DIFF), "fail", "2/2 build: 1 new message"),
        (mail("[PATCH 0/2] ima: numbers"), "fail", "2/2 build"),
        (mail("[PATCH 1/1] ima: another", DIFF), "warn", "no commit of the review branch"),
        (b"", "warn", "it has no subject"),
        (bytes(range(256)), "warn", "it has no subject"),
    ],
)
def test_an_answer_is_an_array_of_results(
    hook: Hook, piped: bytes, status: str, words: str
) -> None:
    [result] = json.loads(hook.answer(piped))
    assert set(result) == {"tool", "status", "summary", "details"}
    assert (result["tool"], result["status"]) == ("imakexec", status)
    assert words in result["summary"]


def test_a_tree_without_the_series_is_a_warning(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRACKING)
    [result] = json.loads(hook.answer(mail("[PATCH 1/2] ima: number 1", DIFF)))
    assert result["status"] == "warn"
    assert "b4 review" in result["details"]
