# SPDX-License-Identifier: GPL-2.0-only
"""A mail that breaks a rule is named, and so is a folder that does not match its series."""

from __future__ import annotations

from pathlib import Path

import pytest

from imakexec.kernel.series import Patch, PatchSeries
from imakexec.series.hygiene import Mail, folder_faults, patch_faults

_NAME = "0001-ima-do-one-thing.patch"
_MAIL = """\
From 05d34a530d6727df35dbc2b1fda82b3e1bb32f35 Mon Sep 17 00:00:00 2001
From: A Developer
 <a@example.org>
Date: Mon, 23 Nov 2026 20:59:32 +0000
Subject: [PATCH 1/2] ima: do one thing that takes
 two lines of a header

Why it is done.

Signed-off-by: A Developer <a@example.org>
---
 a.c | 2 +-

Signed-off-by: Nobody <below@the.line>
diff --git a/a.c b/a.c
"""


def _faults(text: str, *, name: str = _NAME, number: int = 1, total: int = 2) -> list[str]:
    return list(patch_faults(Patch(name, Path(name), text), number=number, total=total))


def test_a_good_mail() -> None:
    mail = Mail.parse(_MAIL)
    assert mail.subject == "ima: do one thing that takes two lines of a header"
    assert (mail.number, mail.total) == (1, 2)
    assert mail.author == "A Developer <a@example.org>"
    assert mail.signers == ("A Developer <a@example.org>",)
    assert _faults(_MAIL) == []


@pytest.mark.parametrize("tag", ["[PATCH 6.1.y 1/2]", "[PATCH v3 1/2]"])
def test_tags_with_a_version(tag: str) -> None:
    assert _faults(_MAIL.replace("[PATCH 1/2]", tag)) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[PATCH 1/2]", "[PATCH 2/2]", "not numbered 1/2"),
        ("[PATCH 1/2]", "[PATCH 1/3]", "not numbered 1/2"),
        ("[PATCH 1/2] ", "", "not numbered 1/2"),
        ("ima: do", "integrity: do", "does not start with ima: or kexec:"),
        ("one thing", "one thing and another thing and a third", "characters, 75 are allowed"),
        ("Signed-off-by: A ", "Signed-off-by: Another ", "no Signed-off-by of its author"),
        ("\nSigned-off-by: A Developer <a@example.org>\n---", "\n---", "no Signed-off-by"),
    ],
)
def test_a_broken_rule(old: str, new: str, complaint: str) -> None:
    [fault] = _faults(_MAIL.replace(old, new))
    assert complaint in fault


def test_the_author_of_the_body_outranks_the_sender() -> None:
    foreign = _MAIL.replace("\n\nWhy", "\n\nFrom: B Author <b@example.org>\n\nWhy")
    assert _faults(foreign) == ["no Signed-off-by of its author B Author <b@example.org>"]
    signed = "Signed-off-by: B Author <b@example.org>\nSigned-off-by: A"
    assert _faults(foreign.replace("Signed-off-by: A", signed)) == []


def test_a_file_name_with_another_number() -> None:
    [fault] = _faults(_MAIL, name="0002-ima-do-one-thing.patch")
    assert "0001-" in fault


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cover = "Subject: [PATCH 0/1] ima: do things\n\nWhy.\n"
    (tmp_path / "0000-cover-letter.patch").write_text(cover)
    (tmp_path / _NAME).write_text(_MAIL)
    (tmp_path / "series").write_text(f"{_NAME}\n")
    return tmp_path


def _folder_faults(folder: Path) -> list[str]:
    return list(folder_faults(folder, PatchSeries.read(folder)))


def test_a_good_folder(folder: Path) -> None:
    assert _folder_faults(folder) == []


def test_a_patch_that_the_series_does_not_list(folder: Path) -> None:
    (folder / "0002-forgotten.patch").touch()
    assert _folder_faults(folder) == ["0002-forgotten.patch is not in the file `series`"]


def test_cover_letters(folder: Path) -> None:
    cover = folder / "0000-cover-letter.patch"
    cover.write_text("Subject: [PATCH 0/7] ima: do things\n\n")
    assert _folder_faults(folder) == ["the subject of the cover letter is not numbered 0/1"]
    cover.write_text(f"Subject: [PATCH 0/1] ima: {'x' * 75}\n\n")
    assert "longer than 75" in _folder_faults(folder)[0]
    cover.unlink()
    assert _folder_faults(folder) == ["there is no cover letter 0000-cover-letter.patch"]
