# SPDX-License-Identifier: GPL-2.0-only
"""What is bisected: the commits of a kernel tree, or the patches of a series.

Both end as a git repository of our own, in which git itself chooses what is tried next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from imakexec.errors import UserError
from imakexec.kernel.build import KernelRequest
from imakexec.kernel.repository import Repository, share_objects, short
from imakexec.kernel.series import Patch, PatchSeries
from imakexec.progress import Step


class History(Protocol):
    """Commits, of which some are good and later ones are bad."""

    @property
    def repository(self) -> Repository:
        """Where git bisects; nobody else's."""

    @property
    def what(self) -> str:
        """What is bisected, for people."""

    @property
    def last(self) -> str:
        """What a user may call the last commit."""

    def commit(self, revision: str) -> str:
        """The full name of a commit that a user means.

        Raises:
            UserError: there is none.
        """

    def name(self, commit: str) -> str:
        """Its short name."""

    def title(self, commit: str) -> str:
        """Its subject line."""

    def identity(self, commit: str) -> str:
        """What tells it from all others, whatever else has changed since."""

    def request(self, commit: str, step: Step) -> KernelRequest:
        """Its kernel, ready to be built.

        Raises:
            InfraError: git, or the disk.
        """

    def patch(self, commit: str) -> str:
        """It as a patch with its message, without the last newline."""


@dataclass(frozen=True)
class TreeHistory:
    """The commits of a kernel tree of the user's, which is only read.

    Attributes:
        tree: the user's.
        repository: ours, with the same commits; its work tree holds the one that is tried.
        kernel: how each of them is built, but for its tree.
    """

    tree: Repository
    repository: Repository
    kernel: KernelRequest

    @classmethod
    def open(cls, tree: Path, folder: Path, kernel: KernelRequest) -> TreeHistory:
        """Look at a kernel tree.

        Args:
            tree: the user's: the top of a work tree, or a bare repository.
            folder: for our own.

        Raises:
            UserError: it is no git repository.
        """
        user = Repository(tree.resolve())
        if not tree.is_dir() or not user.exists:
            raise UserError(
                "there is no git repository to bisect",
                where=f"--tree {tree}",
                remedy="name a kernel tree with its history, or bisect a series with --patches DIR",
            )
        return cls(user, share_objects(user, folder), kernel)

    @property
    def what(self) -> str:
        """See `History`."""
        return str(self.tree.path)

    @property
    def last(self) -> str:
        """See `History`."""
        return "HEAD"

    def commit(self, revision: str) -> str:
        """See `History`."""
        return self.tree.commit(revision)

    def name(self, commit: str) -> str:
        """See `History`."""
        return short(commit)

    def title(self, commit: str) -> str:
        """See `History`."""
        return self.repository.subject(commit)

    def identity(self, commit: str) -> str:
        """See `History`."""
        return commit

    def request(self, commit: str, step: Step) -> KernelRequest:
        """See `History`."""
        step.update("check out")
        self.repository.git("checkout", "--quiet", "--force", "--detach", commit)
        self.repository.git("clean", "-d", "--force", "--quiet", "-x")
        return replace(self.kernel, kernel_tree=self.repository.path)

    def patch(self, commit: str) -> str:
        """See `History`."""
        return self.repository.git("format-patch", "--stdout", "--no-signature", "-1", commit)


@dataclass(frozen=True)
class SeriesHistory:
    """The patches of a series, one after the other on a base.

    The repository has a commit without files for the base and for each patch.

    Attributes:
        series: the patches.
        commits: the names of the commits, the base first.
        repository: ours.
        kernel: how each of them is built, but for its patches.
        source: identity of what it is applied to.
        folder: the patches were read from.
    """

    series: PatchSeries
    commits: tuple[str, ...]
    repository: Repository
    kernel: KernelRequest
    source: str
    folder: Path

    @classmethod
    def open(cls, patches: Path, folder: Path, kernel: KernelRequest, source: str) -> SeriesHistory:
        """Read a series.

        Args:
            patches: a folder of patch files, with a `series` file that lists them or without.
            folder: for the repository.
            source: identity of what it is applied to, see `SourceTree`.

        Raises:
            UserError: there is no patch in it.
        """
        series = PatchSeries.read_any(patches)
        if not (folder / ".git").exists():
            folder.mkdir(parents=True, exist_ok=True)
            Repository(folder).git("init", "--quiet")
        own = Repository(folder)
        empty = own.git("hash-object", "-t", "tree", "-w", "/dev/null")
        commits = [own.git("commit-tree", empty, "-m", "the base")]
        for patch in series.patches:
            # The same patches make the same names, which is how an interrupted bisection goes on.
            message = f"{patch.name}\n\n{patch.digest}"
            commits.append(own.git("commit-tree", empty, "-p", commits[-1], "-m", message))
        return cls(series, tuple(commits), own, kernel, source, patches)

    @property
    def what(self) -> str:
        """See `History`."""
        return f"{self.folder} on {self.kernel.kernel_tree or self.kernel.base}"

    @property
    def last(self) -> str:
        """See `History`."""
        return str(len(self.series.patches))

    def commit(self, revision: str) -> str:
        """The commit after so many patches."""
        last = len(self.commits) - 1
        if not revision.isdecimal() or int(revision) > last:
            raise UserError(
                f"there is no patch {revision!r}: the series has {last}",
                where=str(self.folder),
                remedy=f"give numbers, 0 for the base and {last} for the whole series",
            )
        return self.commits[int(revision)]

    def name(self, commit: str) -> str:
        """See `History`."""
        number = self.commits.index(commit)
        return f"patch {number}" if number else "base"

    def title(self, commit: str) -> str:
        """See `History`."""
        number = self.commits.index(commit)
        return self.series.patches[number - 1].name if number else str(self.kernel.base)

    def identity(self, commit: str) -> str:
        """See `History`."""
        digests = [patch.digest for patch in self._patches(commit)]
        return hashlib.sha256(" ".join([self.source, *digests]).encode()).hexdigest()

    def request(self, commit: str, step: Step) -> KernelRequest:
        """See `History`."""
        step.update("apply")
        files = tuple(patch.path.absolute() for patch in self._patches(commit))
        return replace(self.kernel, patches=0, further=files)

    def patch(self, commit: str) -> str:
        """See `History`."""
        number = self.commits.index(commit)
        return self.series.patches[number - 1].text.rstrip("\n") if number else ""

    def _patches(self, commit: str) -> Sequence[Patch]:
        return self.series.patches[: self.commits.index(commit)]
