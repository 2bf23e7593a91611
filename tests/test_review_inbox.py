# SPDX-License-Identifier: GPL-2.0-only
"""A series is read as it comes: whatever form its mails have, the same patches come out."""

from __future__ import annotations

import base64
import quopri
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from test_bisect_driver import git

from imakexec.errors import UserError
from imakexec.review.inbox import MailedSeries, read_series

DIFF = """\
---
 {name} | 1 +
 1 file changed, 1 insertion(+)

diff --git a/{name} b/{name}
index 573541a..d00491f 100644
--- a/{name}
+++ b/{name}
@@ -1 +1,2 @@
 {name}
+a line = {number} with ümlauts, which is longer than a line of quoted-printable can be
"""


def mail(subject: str, body: str, *headers: str) -> str:
    lines = [
        "From: Mimi Zöhar <zohar@example.org>",
        "Date: Tue, 1 Dec 2026 12:00:00 +0000",
        f"Message-ID: <{abs(hash(subject))}@example.org>",
        f"Subject: {subject}",
        *headers,
    ]
    return "\n".join(lines) + f"\n\n{body}"


def patch(number: int, total: int, *, tag: str = "PATCH", name: str = "file") -> str:
    body = f"Why number {number}.\n\nSigned-off-by: Mimi Zöhar <zohar@example.org>\n"
    subject = f"[{tag} {number}/{total}] ima: change number {number}"
    return mail(subject, body + DIFF.format(name=name, number=number))


def encoded(text: str, form: str) -> str:
    head, _, body = text.partition("\n\n")
    if form == "base64":
        coded = base64.encodebytes(body.encode()).decode()
    elif form == "quoted-printable":
        coded = quopri.encodestring(body.encode()).decode()
    else:
        coded = body
    plain = "Content-Type: text/plain; charset=utf-8"
    return f"{head}\nMIME-Version: 1.0\n{plain}\nContent-Transfer-Encoding: {form}\n\n{coded}"


def as_mbox(*mails: str) -> str:
    """As archives have them: a line "From ..." before each, and one quoted that looks like it."""
    return "".join(f"From mboxrd@z Thu Jan  1 00:00:00 1970\n{text.rstrip()}\n\n" for text in mails)


COVER = mail("[PATCH 0/3] ima: three changes", "What it is for.\n\n file | 3 +++\n")
THREE = [patch(number, 3) for number in (1, 2, 3)]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., MailedSeries]:
    def read(source: Path | str, **more: Path) -> MailedSeries:
        return read_series(str(source), tmp_path / "out", **{"tree": None, **more})

    return read


def assert_is_the_series(read: MailedSeries) -> None:
    assert read.subjects == tuple(f"ima: change number {n}" for n in (1, 2, 3))
    assert read.authors == ("Mimi Zöhar <zohar@example.org>",) * 3
    assert len(read.series.patches) == 3
    for number, each in enumerate(read.series.patches, 1):
        assert each.name == f"{number:04}-ima-change-number-{number}.patch"
        assert f"+a line = {number} with ümlauts, which is longer than" in each.text
        assert f"\nWhy number {number}.\n" in each.text


@pytest.mark.parametrize("form", ["8bit", "base64", "quoted-printable"])
def test_an_mbox_of_an_archive(
    read: Callable[..., MailedSeries], tmp_path: Path, form: str
) -> None:
    mails = [encoded(text, form) for text in (COVER, THREE[2], THREE[0], THREE[1])]
    answer = mail("Re: [PATCH 2/3] ima: change number 2", "> +a line\n\nNo.\n" + DIFF)
    (tmp_path / "mbox").write_text(as_mbox(*mails, answer))
    found = read(tmp_path / "mbox")
    assert_is_the_series(found)
    assert found.title == "[PATCH 0/3] ima: three changes"
    assert found.message_id.endswith("@example.org")


def test_lines_of_windows(read: Callable[..., MailedSeries], tmp_path: Path) -> None:
    text = as_mbox(*THREE).replace("\n", "\r\n")
    (tmp_path / "mbox").write_bytes(text.encode())
    assert_is_the_series(read(tmp_path / "mbox"))


def test_a_folder_of_files(read: Callable[..., MailedSeries], tmp_path: Path) -> None:
    folder = tmp_path / "patches"
    folder.mkdir()
    (folder / "0000-cover-letter.patch").write_text(COVER)
    for number, text in enumerate(THREE, 1):
        (folder / f"{number:04}-a.patch").write_text(text)
    (folder / "notes").write_text("not one of them")
    found = read(folder)
    assert_is_the_series(found)
    assert found.title == "[PATCH 0/3] ima: three changes"


def test_a_folder_with_the_order_of_quilt(
    read: Callable[..., MailedSeries], tmp_path: Path
) -> None:
    folder = tmp_path / "patches"
    folder.mkdir()
    names = ["z.patch", "a.patch", "m.patch"]
    for name, text in zip(names, THREE, strict=True):
        (folder / name).write_text(text)
    (folder / "series").write_text("".join(f"{name}\n" for name in names))
    assert_is_the_series(read(folder))


def test_a_git_range(read: Callable[..., MailedSeries], tmp_path: Path) -> None:
    tree = tmp_path / "linux"
    tree.mkdir()
    git(tree, "init", "--quiet")
    (tree / "file").write_text("file\n")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "--message", "base")
    for text in THREE:
        (tree / "file").write_text("file\n")
        subprocess.run(["git", "apply"], cwd=tree, input=text, text=True, check=True)
        subject = text.partition("Subject: ")[2].partition("\n")[0].partition("] ")[2]
        body = text.partition("\n\n")[2].partition("\n---")[0]
        author = "--author=Mimi Zöhar <zohar@example.org>"
        git(tree, "commit", "--quiet", "--all", author, "--message", f"{subject}\n\n{body}")
    assert_is_the_series(read("HEAD~3..HEAD", tree=tree))


def test_a_single_mail(read: Callable[..., MailedSeries], tmp_path: Path) -> None:
    text = mail("[PATCH] ima: one change", "Why.\n" + DIFF.format(name="file", number=1))
    (tmp_path / "mail.eml").write_text(text)
    found = read(tmp_path / "mail.eml")
    assert (found.subjects, found.version) == (("ima: one change",), 1)


def test_the_newest_version_is_taken(read: Callable[..., MailedSeries], tmp_path: Path) -> None:
    newer = [patch(number, 2, tag="PATCH v3") for number in (1, 2)]
    (tmp_path / "mbox").write_text(as_mbox(COVER, *THREE, *newer))
    found = read(tmp_path / "mbox")
    assert (found.version, len(found.subjects)) == (3, 2)


@pytest.mark.parametrize(
    ("mails", "said"),
    [
        ([THREE[0], THREE[2]], "has 3 patches, of which are missing: 2"),
        ([COVER], "there is no patch in it"),
        ([], "there is no patch in it"),
        ([mail("Re: [PATCH 1/1] a", DIFF)], "there is no patch in it"),
    ],
)
def test_what_is_no_whole_series(
    read: Callable[..., MailedSeries], tmp_path: Path, mails: list[str], said: str
) -> None:
    (tmp_path / "mbox").write_text(as_mbox(*mails))
    with pytest.raises(UserError, match=said):
        read(tmp_path / "mbox")


@pytest.mark.parametrize("source", ["/nonexistent", "nowhere..HEAD"])
def test_what_is_no_series_at_all(
    read: Callable[..., MailedSeries], tmp_path: Path, source: str
) -> None:
    with pytest.raises(UserError, match="there is no"):
        read(source, tree=tmp_path)


def test_bytes_that_are_no_text(read: Callable[..., MailedSeries], tmp_path: Path) -> None:
    (tmp_path / "mbox").write_bytes(
        as_mbox(THREE[0].replace("1/3", "1/1")).encode() + b"\xff\xfe\0"
    )
    assert len(read(tmp_path / "mbox").subjects) == 1
