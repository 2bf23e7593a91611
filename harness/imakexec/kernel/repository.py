# SPDX-License-Identifier: GPL-2.0-only
"""git repositories: the user's, which is only read, and those that a bisection makes for itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import UserError
from imakexec.kernel import git
from imakexec.kernel.cache import Cache

_SECONDS = 600.0
"""For one command; the longest checks out a whole kernel tree."""

_SHORT = 12
_DIGEST = 16

# Nothing of the user's settings counts, and nothing of a repository's own is run.
_SETTINGS = (
    *("-c", "safe.directory=*"),
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "gc.auto=0"),
)

_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (
        ("NAME", "imakexec"),
        ("EMAIL", "imakexec@localhost"),
        ("DATE", "@0 +0000"),
    )
}


@dataclass(frozen=True)
class Repository:
    """A git repository.

    Attributes:
        path: its work tree, or the repository itself if it has none.
    """

    path: Path

    def git(self, *arguments: str) -> str:
        """Run git, and return what it says without the last newline.

        Raises:
            InfraError: it fails.
        """
        return self._run(arguments, check=True).output.rstrip("\n")

    def tried(self, *arguments: str) -> process.Completed:
        """Run git, whatever comes of it."""
        return self._run(arguments, check=False)

    def _run(self, arguments: Sequence[str], *, check: bool) -> process.Completed:
        return process.run(
            ["git", *_SETTINGS, "-C", str(self.path), *arguments],
            env={**git.environment(self.path), **_IDENTITY},
            deadline=Deadline.after(_SECONDS),
            check=check,
        )

    @property
    def exists(self) -> bool:
        """Whether there is one at all."""
        return self.tried("rev-parse", "--git-dir").returncode == 0

    def file(self, name: str) -> Path:
        """Where git keeps one of its own files, for this work tree."""
        return self.path / self.git("rev-parse", "--git-path", name)

    def commit(self, revision: str) -> str:
        """The full name of a commit.

        Raises:
            UserError: there is none.
        """
        asked = self.tried("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        if asked.returncode != 0 or revision.startswith("-"):
            raise UserError(
                f"there is no commit {revision!r}",
                where=str(self.path),
                remedy="name one that `git log` shows, or fetch it first",
            )
        return asked.output.strip()

    def head(self) -> str:
        """The full name of the commit that is checked out; empty if there is none."""
        asked = self.tried("rev-parse", "--verify", "--quiet", "HEAD")
        return asked.output.strip() if asked.returncode == 0 else ""

    def subject(self, commit: str) -> str:
        """The first line of a commit's message."""
        return self.git("show", "--no-patch", "--format=%s", commit)


def user_of(folder: Path) -> str:
    """Whom the user's settings name as the author of commits: "Name <address>"; empty for nobody.

    It is the only question for which they count. What git would make up of account and host does
    not.
    """
    told = []
    for name in ("user.name", "user.email"):
        asked = process.run(
            ["git", "-C", str(folder.absolute()), "config", name],
            deadline=Deadline.after(_SECONDS),
            check=False,
        )
        told.append(asked.output.strip() if asked.returncode == 0 else "")
    return f"{told[0]} <{told[1]}>" if all(told) else ""


def short(commit: str) -> str:
    """The name of a commit, for people."""
    return commit[:_SHORT]


def own_place(cache: Cache, of: Path) -> Path:
    """Where the repository of our own is that stands for a tree or a series of the user's.

    There is one for all uses, so that its work tree and what is built of it can be shared: whoever
    has it checked out holds the lock of its name.
    """
    digest = hashlib.sha256(str(of.resolve()).encode()).hexdigest()
    return cache.root / "repositories" / digest[:_DIGEST]


def share_objects(source: Repository, folder: Path) -> Repository:
    """A repository of our own in a folder, with all commits of the user's; that one is only read.

    Raises:
        InfraError: git, or the disk.
    """
    if not (folder / ".git").exists():
        folder.mkdir(parents=True, exist_ok=True)
        form = source.git("rev-parse", "--show-object-format")
        Repository(folder).git("init", "--quiet", f"--object-format={form}")
    own = Repository(folder)
    alternates = folder / ".git" / "objects" / "info" / "alternates"
    alternates.write_text(f"{source.file('objects').resolve()}\n", encoding="utf-8")
    shallow = source.file("shallow")
    if shallow.is_file():
        (folder / ".git" / "shallow").write_bytes(shallow.read_bytes())
    return own
