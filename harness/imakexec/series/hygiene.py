# SPDX-License-Identifier: GPL-2.0-only
"""What a patch must look like as a mail (Documentation/process/submitting-patches.rst)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import policy
from email.parser import Parser
from pathlib import Path

from imakexec.kernel.series import Patch, PatchSeries

_LONGEST_SUBJECT = 75
_COVER = "0000-cover-letter.patch"

_TAGGED = re.compile(r"\[PATCH(?: [^]]*?)? ?(?P<number>\d+)/(?P<total>\d+)\] (?P<subject>.+)")
_SUBSYSTEM = re.compile(r"(?:ima|kexec): \S")
_SIGNED = re.compile(r"^Signed-off-by: (.+)$", re.MULTILINE)
_AUTHOR_IN_BODY = re.compile(r"\s*From: (.+)\n")


@dataclass(frozen=True)
class Mail:
    """A patch as a mail.

    Attributes:
        author: who wrote the change: the body's From line, which outranks the header's.
        number: n of "[PATCH n/m]", None without.
        total: m of it.
        subject: what stands behind it.
        signers: of the Signed-off-by lines above the first "---".
    """

    author: str
    number: int | None
    total: int | None
    subject: str
    signers: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Mail:
        """Read a mail as `git format-patch` writes it."""
        message = Parser(policy=policy.default).parsestr(text)
        body = str(message.get_payload())
        description = re.split(r"^---$", body, maxsplit=1, flags=re.MULTILINE)[0]
        own = _AUTHOR_IN_BODY.match(body)
        title = " ".join(str(message["Subject"] or "").split())
        tagged = _TAGGED.fullmatch(title)
        return cls(
            author=own[1] if own else str(message["From"] or ""),
            number=int(tagged["number"]) if tagged else None,
            total=int(tagged["total"]) if tagged else None,
            subject=tagged["subject"] if tagged else title,
            signers=tuple(_SIGNED.findall(description)),
        )


def patch_faults(patch: Patch, *, number: int, total: int) -> Iterator[str]:
    """What is wrong with the mail of patch `number` of `total`, counted from 1."""
    mail = Mail.parse(patch.text)
    if (mail.number, mail.total) != (number, total):
        yield f"the subject is not numbered {number}/{total}"
    if not patch.name.startswith(f"{number:04d}-"):
        yield f"the file name does not start with {number:04d}-"
    if not _SUBSYSTEM.match(mail.subject):
        yield f"the subject does not start with ima: or kexec: ({mail.subject})"
    if len(mail.subject) > _LONGEST_SUBJECT:
        yield f"the subject has {len(mail.subject)} characters, {_LONGEST_SUBJECT} are allowed"
    if mail.author not in mail.signers:
        yield f"no Signed-off-by of its author {mail.author}"


def folder_faults(folder: Path, series: PatchSeries) -> Iterator[str]:
    """What is wrong with the series' folder and its cover letter."""
    present = {path.name for path in folder.glob("*.patch")} - {_COVER}
    for name in sorted(present - set(series.names)):
        yield f"{name} is not in the file `series`"
    try:
        text = (folder / _COVER).read_text(encoding="utf-8", errors="surrogateescape")
        cover = Mail.parse(text)
    except FileNotFoundError:
        yield f"there is no cover letter {_COVER}"
        return
    total = len(series.patches)
    if (cover.number, cover.total) != (0, total):
        yield f"the subject of the cover letter is not numbered 0/{total}"
    if len(cover.subject) > _LONGEST_SUBJECT:
        yield f"the subject of the cover letter is longer than {_LONGEST_SUBJECT} characters"
