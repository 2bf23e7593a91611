# SPDX-License-Identifier: GPL-2.0-only
"""`git am` on a tiny repository, and what checkpatch says, as cells."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from kernel_trees import make_tree

from imakexec import process
from imakexec.errors import InfraError
from imakexec.kernel.cache import Cache
from imakexec.kernel.series import Patch, PatchSeries
from imakexec.kernel.source import SourceTree
from imakexec.kernel.versions import SourceFiles
from imakexec.progress import SilentProgress
from imakexec.series import mail
from imakexec.series.cells import Status
from imakexec.series.mail import (
    CheckpatchReport,
    MailChecks,
    apply_mails,
    run_checkpatch,
    short_version,
)

_MAIL = """\
From 05d34a530d6727df35dbc2b1fda82b3e1bb32f35 Mon Sep 17 00:00:00 2001
From: A Developer <a@example.org>
Date: Mon, 23 Nov 2026 20:59:32 +0000
Subject: [PATCH {number}/2] ima: change line {line}

Why.

Signed-off-by: A Developer <a@example.org>
---
 ima/log.c | 2 +-
 1 file changed, 1 insertion(+), 1 deletion(-)

diff --git a/ima/log.c b/ima/log.c
--- a/ima/log.c
+++ b/ima/log.c
@@ -{first},3 +{first},3 @@
 line {before}
-line {line}
+line {new}
 line {after}
--\x20
2.39.5

"""


def _mail(folder: Path, number: int, line: int, *, new: str = "changed", shift: int = 0) -> None:
    text = _MAIL.format(
        number=number,
        line=line,
        new=new,
        first=line - 1 + shift,
        before=line - 1,
        after=line + 1,
    )
    name = f"{number:04d}-ima-change-line-{line}.patch"
    (folder / name).write_text(text)
    with (folder / "series").open("a") as listing:
        listing.write(f"{name}\n")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "patches"
    made.mkdir()
    _mail(made, 1, 3)
    return made


def _files(folder: Path, version: str = "6.1.192") -> SourceFiles:
    return SourceFiles(version, f"linux {version}", make_tree(folder))


def _apply(folder: Path, cache: Cache, tmp_path: Path) -> mail.Applied:
    series = PatchSeries.read(folder)
    return apply_mails(series, _files(tmp_path / "files"), cache, tmp_path / "am.log")


def test_all_mails_apply(folder: Path, cache: Cache, tmp_path: Path) -> None:
    _mail(folder, 2, 7)
    applied = _apply(folder, cache, tmp_path)
    assert (applied.patches, applied.complaints) == (2, ())
    log = (tmp_path / "am.log").read_text()
    assert "== linux 6.1.192" in log
    assert "Applying: ima: change line 7" in log


def test_an_offset_is_no_fuzz(folder: Path, cache: Cache, tmp_path: Path) -> None:
    _mail(folder, 2, 6, shift=2)
    assert _apply(folder, cache, tmp_path).patches == 2


def test_a_context_that_differs_stops_it(folder: Path, cache: Cache, tmp_path: Path) -> None:
    _mail(folder, 2, 4)  # line 3 is another by now
    applied = _apply(folder, cache, tmp_path)
    assert applied.patches == 1
    assert applied.complaints == (
        "error: patch failed: ima/log.c:3",
        "error: ima/log.c: patch does not apply",
    )


def test_a_trailing_blank_stops_it(folder: Path, cache: Cache, tmp_path: Path) -> None:
    _mail(folder, 2, 7, new="changed ")
    applied = _apply(folder, cache, tmp_path)
    assert applied.patches == 1
    assert "trailing whitespace" in applied.complaints[0]


def test_the_users_settings_do_not_count(
    folder: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[am]\n\tthreeWay = true\n[apply]\n\twhitespace = fix\n")
    monkeypatch.setenv("HOME", str(home))
    _mail(folder, 2, 7, new="changed ")
    assert _apply(folder, cache, tmp_path).patches == 1


def _checks(
    folder: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> MailChecks:
    """Checks of a base 6.1.192, beside which 6.1.170 is served with another line 8."""
    other = _files(tmp_path / "other", "6.1.170")
    text = (other.folder / "ima/log.c").read_text()
    (other.folder / "ima/log.c").write_text(text.replace("line 8", "line eight"))
    monkeypatch.setattr(mail, "served_versions", lambda *_args, **_options: (other,))
    tree = make_tree(tmp_path / "base")
    source = SourceTree(tree, "linux-source-6.1=6.1.192-2", "6.1.192", "w", "linux 6.1.192-2")
    (tmp_path / "logs").mkdir()
    return MailChecks(
        PatchSeries.read(folder), folder, source, cache, SilentProgress(), tmp_path / "logs"
    )


def test_cells_name_the_versions(
    folder: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _mail(folder, 2, 7)
    checks = _checks(folder, cache, tmp_path, monkeypatch)
    for patches in (0, 1):
        cell = checks.applies(patches)
        assert (cell.status, cell.text) == (Status.OK, "170 192")
    cell = checks.applies(2)
    assert cell.status is Status.RED
    assert cell.text == "0002-ima-change-line-7.patch does not apply to linux 6.1.170"
    assert any("patch does not apply" in line for line in cell.details)
    assert cell.log is not None
    assert "patch does not apply" in cell.log.read_text()


@pytest.mark.parametrize(
    ("version", "short"), [("6.1.170", "170"), ("6.12.95", "6.12.95"), ("6.1", "6.1")]
)
def test_versions_are_short_beside_their_base(version: str, short: str) -> None:
    assert short_version(version, ("6", "1")) == short


_GOOD = "total: 0 errors, 0 warnings, 0 checks, 84 lines checked\n\nx has no obvious problems\n"
_BAD = """\
WARNING:LONG_LINE: line length of 120 exceeds 100 columns
#41: FILE: a.c:3:
+	x

CHECK:SPACING: spaces preferred around that '+' (ctx:VxV)
total: 0 errors, 1 warnings, 1 checks, 84 lines checked
"""


def test_what_checkpatch_says() -> None:
    good = CheckpatchReport.parse(_GOOD)
    assert good is not None
    assert (good.counts, list(good.faults)) == ("0/0/0", [])
    bad = CheckpatchReport.parse(_BAD)
    assert bad is not None
    assert bad.counts == "0/1/1"
    assert list(bad.faults) == [
        "checkpatch: 0 errors, 1 warnings, 1 checks",
        "WARNING:LONG_LINE: line length of 120 exceeds 100 columns",
        "CHECK:SPACING: spaces preferred around that '+' (ctx:VxV)",
    ]
    assert CheckpatchReport.parse("Can't locate Term/ANSIColor.pm in @INC\n") is None


class _FakePerl:
    """Answers in the place of checkpatch."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.argv: list[str] = []

    def run(self, argv: list[str], **_: object) -> process.Completed:
        self.argv = argv
        return process.Completed(0, self.output)


def _run(output: str, folder: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> _FakePerl:
    fake = _FakePerl(output)
    monkeypatch.setattr(process, "run", fake.run)
    dictionary = folder / "dictionary.txt"
    dictionary.touch()
    patch = Patch("1.patch", folder / "1.patch", "")
    run_checkpatch(patch, folder, cache, folder / "log", dictionary=dictionary)
    return fake


def test_checkpatch_leaves_nothing_out(
    folder: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = _run(_GOOD, folder, cache, monkeypatch).argv
    assert {"--strict", "--codespell", f"--codespellfile={folder}/dictionary.txt"} <= set(argv)
    assert not any("ignore" in word for word in argv)


@pytest.mark.parametrize(
    "output", ["Can't locate POSIX.pm\n", "No codespell typos will be found - file 'x'\n" + _GOOD]
)
def test_a_checkpatch_that_cannot_check_is_the_hosts_fault(
    output: str, folder: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InfraError, match="did not check all"):
        _run(output, folder, cache, monkeypatch)


def test_a_missing_dictionary_is_the_hosts_fault(
    folder: Path, cache: Cache, tmp_path: Path
) -> None:
    patch = Patch("1.patch", folder / "1.patch", "")
    with pytest.raises(InfraError, match="no dictionary") as caught:
        run_checkpatch(patch, folder, cache, tmp_path / "log", dictionary=tmp_path / "none")
    assert "codespell" in caught.value.remedy


def test_the_form_of_a_mail_is_part_of_the_cell(
    folder: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _mail(folder, 2, 7)
    [first, second] = PatchSeries.read(folder).patches
    second.path.write_text(second.text.replace("2/2", "3/2"))
    good = CheckpatchReport.parse(_GOOD)
    monkeypatch.setattr(mail, "run_checkpatch", lambda *_: good)
    checks = _checks(folder, cache, tmp_path, monkeypatch)
    assert checks.reads_well(1).text == "0/0/0"
    cell = checks.reads_well(2)
    assert (cell.status, cell.text) == (Status.RED, "the subject is not numbered 2/2")
    assert checks.reads_well(0).text == "there is no cover letter 0000-cover-letter.patch"
    shutil.copy(first.path, folder / "0000-cover-letter.patch")
    assert "cover letter is not numbered 0/2" in checks.reads_well(0).text
