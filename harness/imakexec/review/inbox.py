# SPDX-License-Identifier: GPL-2.0-only
"""Reads a patch series as it comes: an mbox, mails, files of git format-patch, or a git range.

Whatever it was, it ends as patch files in one folder, decoded and in order: a mail's text may be
quoted-printable or base64, which `git apply` cannot read.
"""

from __future__ import annotations

import mailbox
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import parseaddr
from pathlib import Path

from imakexec.errors import InfraError, UserError
from imakexec.kernel.cache import explained
from imakexec.kernel.repository import Repository
from imakexec.kernel.series import PatchSeries

_TAG = re.compile(r"^\s*\[(?P<tag>[^]]*)\]\s*(?P<subject>.*)$", re.DOTALL)
_VERSION = re.compile(r"\bv(\d+)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\b(\d+)/(\d+)\b")
_DIFF = re.compile(r"^(?:diff --git |--- \S)", re.MULTILINE)
_SLUG = 50


@dataclass(frozen=True)
class MailedPatch:
    """One mail of a series.

    Attributes:
        author: "Name <address>".
        date: as the mail has it.
        tag: what stands in brackets before its subject, e.g. "PATCH v2 3/7"; may be empty.
        subject: without that.
        body: its text, decoded; lines end with a newline alone.
        message_id: without angle brackets; may be empty.
    """

    author: str
    date: str
    tag: str
    subject: str
    body: str
    message_id: str = ""

    @property
    def version(self) -> int:
        """Of the series, 1 if it does not say."""
        found = _VERSION.search(self.tag)
        return int(found[1]) if found else 1

    @property
    def place(self) -> tuple[int, int] | None:
        """n and m of "n/m"; None without them."""
        found = _NUMBER.search(self.tag)
        return (int(found[1]), int(found[2])) if found else None

    @property
    def is_patch(self) -> bool:
        """Whether it holds a diff and is no answer to one."""
        return _DIFF.search(self.body) is not None and not self.is_answer

    @property
    def is_answer(self) -> bool:
        """Whether it answers another mail."""
        return self.subject.lower().startswith("re:")

    @property
    def title(self) -> str:
        """Tag and subject, as in the mail."""
        return f"[{self.tag}] {self.subject}" if self.tag else self.subject

    def render(self) -> str:
        """It as `git format-patch` would write it."""
        return (
            f"From: {self.author}\nDate: {self.date}\nSubject: {self.title}\n"
            "MIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\n"
            f"Content-Transfer-Encoding: 8bit\n\n{self.body}"
        )


@dataclass(frozen=True)
class MailedSeries:
    """A series that was read.

    Attributes:
        what: it was read from, for people.
        title: of its cover letter, or of its only patch.
        version: as its mails say.
        message_id: of the cover letter or of the first patch; may be empty.
        series: its patches, as files.
        subjects: of the patches.
        authors: of the patches.
        folder: has the files.
    """

    what: str
    title: str
    version: int
    message_id: str
    series: PatchSeries
    subjects: tuple[str, ...]
    authors: tuple[str, ...]
    folder: Path


def read_series(source: str, folder: Path, *, tree: Path | None) -> MailedSeries:
    """Read a series, and write its patches to a folder.

    Args:
        source: an mbox or a mail, a folder of mails or patch files, or a git range ("A..B").
        folder: which does not exist.
        tree: a git repository that a range is of; None for the one in the working folder.

    Raises:
        UserError: there is no such file or range, no patch in it, or one of the series is missing.
        InfraError: the disk is full.
    """
    path = Path(source)
    if path.is_dir():
        mails = _of_folder(path)
    elif path.exists():
        mails = _newest(_of_file(path), source)
    elif ".." in source:
        mails = list(_of_range(source, tree or Path()))
    else:
        raise UserError(
            "there is no such series",
            where=source,
            remedy="name an mbox, a folder of patches, or a git range such as v6.1..HEAD",
        )
    if not any(mail.is_patch for mail in mails):
        raise _no_patch(source)
    return _write(source, mails, folder)


def _of_folder(path: Path) -> list[MailedPatch]:
    """In the order of its `series` file, or of the numbers that all have, or else of the names."""
    if (path / "series").is_file():
        files = [patch.path for patch in PatchSeries.read(path).patches]
        covers = sorted(path.glob("0000-*.patch"))
        return [mail for file in [*covers, *files] for mail in _of_file(file)]
    suffixes = (".patch", ".eml", ".mbox", ".mbx", ".txt")
    files = sorted(item for item in path.iterdir() if item.suffix in suffixes)
    mails = [mail for file in files for mail in _of_file(file)]
    are_numbered = all(mail.place for mail in mails if mail.is_patch)
    return _newest(mails, str(path)) if are_numbered else mails


def _of_file(path: Path) -> Iterator[MailedPatch]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InfraError.refused("the series cannot be read", error, path) from error
    if content.startswith(b"From "):
        with closing(mailbox.mbox(path, create=False)) as box:
            for key in box.iterkeys():
                yield read_mail(box.get_bytes(key))
    else:
        yield read_mail(content)


def _of_range(source: str, tree: Path) -> Iterator[MailedPatch]:
    repository = Repository(tree.absolute())
    if not repository.exists:
        raise UserError(
            "there is no git repository for that range",
            where=f"{source} in {tree.absolute()}",
            remedy="run it inside of a kernel tree, or name one with --tree",
        )
    first, _, last = source.partition("..")
    commits = (repository.commit(first), repository.commit(last.lstrip(".") or "HEAD"))
    text = repository.git(
        "format-patch", "--stdout", "--no-signature", "--no-numbered", "..".join(commits)
    )
    for mail in re.split(
        r"^(?=From [0-9a-f]{40,64} Mon Sep 17 00:00:00 2001$)", text, flags=re.MULTILINE
    ):
        if mail.strip():
            yield read_mail(mail.encode("utf-8", "surrogateescape"))


def read_mail(content: bytes) -> MailedPatch:
    """Read one mail, with the "From " line of an mbox before it or without."""
    if content.startswith(b"From "):
        content = content.partition(b"\n")[2]
    message = BytesParser(policy=policy.default).parsebytes(content)
    assert isinstance(message, EmailMessage)
    subject = " ".join(str(message["Subject"] or "").split())
    tagged = _TAG.match(subject)
    author = str(message["From"] or "")
    return MailedPatch(
        author=author if parseaddr(author)[1] else f"{author} <unknown@localhost>",
        date=str(message["Date"] or "Thu, 1 Jan 1970 00:00:00 +0000"),
        tag=tagged["tag"] if tagged else "",
        subject=tagged["subject"] if tagged else subject,
        body=_text_of(message),
        message_id=str(message["Message-ID"] or "").strip("<> \t"),
    )


def _text_of(message: EmailMessage) -> str:
    """The text of a mail: its parts that are text, in order."""
    texts = []
    for part in message.walk():
        if part.get_content_maintype() != "text" or part.get_content_subtype() == "html":
            continue
        payload = part.get_payload(decode=True)
        if isinstance(payload, bytes):
            texts.append(payload.decode("utf-8", "surrogateescape"))
    return "\n".join(text.replace("\r\n", "\n") for text in texts)


def _newest(mails: Iterable[MailedPatch], source: str) -> list[MailedPatch]:
    """The cover letter, if there is one, and the patches of the newest version, in order.

    Raises:
        UserError: there is none, or some are missing.
    """
    found = [mail for mail in mails if not mail.is_answer]
    patches = [mail for mail in found if mail.is_patch]
    if not patches:
        raise _no_patch(source)
    version = max(mail.version for mail in patches)
    patches = [mail for mail in patches if mail.version == version]
    places = {mail.place: mail for mail in patches if mail.place}
    covers = [
        mail
        for mail in found
        if mail.version == version and mail.place and mail.place[0] == 0 and not mail.is_patch
    ]
    if not places:
        return [*covers[:1], *patches]
    total = max(total for _, total in places)
    by_number = {number: mail for (number, _), mail in places.items()}
    missing = [str(number) for number in range(1, total + 1) if number not in by_number]
    if missing:
        raise UserError(
            f"the series has {total} patches, of which are missing: {', '.join(missing)}",
            where=source,
            remedy="add the mails (`b4 am` fetches a whole series)",
        )
    return [*covers[:1], *(by_number[number] for number in range(1, total + 1))]


def _no_patch(source: str) -> UserError:
    return UserError(
        "there is no patch in it",
        where=source,
        remedy="give it mails with diffs, as `git format-patch` or `b4 am` writes them",
    )


def _write(source: str, mails: list[MailedPatch], folder: Path) -> MailedSeries:
    patches = [mail for mail in mails if mail.is_patch]
    names = [f"{number:04}-{_slug(mail.subject)}.patch" for number, mail in enumerate(patches, 1)]
    with explained(folder.parent):
        folder.mkdir(parents=True)
        for name, mail in zip(names, patches, strict=True):
            text = mail.render()
            (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
        (folder / "series").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return MailedSeries(
        what=source,
        title=mails[0].title,
        version=mails[0].version,
        message_id=mails[0].message_id,
        series=PatchSeries.read(folder),
        subjects=tuple(mail.subject for mail in patches),
        authors=tuple(mail.author for mail in patches),
        folder=folder,
    )


def _slug(subject: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", subject).strip("-.")[:_SLUG] or "patch"
