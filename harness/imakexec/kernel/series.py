# SPDX-License-Identifier: GPL-2.0-only
"""A patch series in quilt order, and what a tree looks like with some of it applied."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import UserError
from imakexec.kernel import git

_TOUCHED = re.compile(
    r"^(?:diff --git a/(\S+) b/(\S+)|(?:---|\+\+\+) [ab]/(\S+)|rename (?:from|to) (\S+))",
    re.MULTILINE,
)
_FAILED = re.compile(r"^error: patch failed: (.+):(\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Patch:
    """One patch file.

    Attributes:
        name: as in the `series` file.
        path: where it was read.
        text: its content; bytes that are no UTF-8 are kept as surrogates.
    """

    name: str
    path: Path
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the content, as hexadecimal digits."""
        return hashlib.sha256(self.text.encode(errors="surrogateescape")).hexdigest()

    @property
    def touched(self) -> frozenset[str]:
        """Every path that the patch may change, create or remove, relative to the tree.

        A line of the mail that only looks like a header can add a path too many, never hide one.
        """
        paths = {path for groups in _TOUCHED.findall(self.text) for path in groups if path}
        return frozenset(path for path in paths if ".." not in Path(path).parts)


@dataclass(frozen=True)
class PatchSeries:
    """Patches in the order in which they apply."""

    patches: tuple[Patch, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> PatchSeries:
        """Read the series that the quilt `series` file of `folder` lists.

        Raises:
            UserError: no such file, a patch is missing, or a line carries options (quilt's `-p0`).
        """
        listing = folder / "series"
        try:
            lines = listing.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise UserError(
                "no patch series: the file that lists the patches is missing",
                where=str(listing),
                remedy="restore it, or use --patches 0 for the plain base",
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"no patch series: the file that lists the patches cannot be read: {error}",
                where=str(listing),
                remedy="make it a text in UTF-8 with a file name a line",
            ) from error
        names = [line.partition("#")[0].split() for line in lines]
        return cls(tuple(_read_patch(folder, words, listing) for words in names if words))

    @classmethod
    def read_any(cls, folder: Path) -> PatchSeries:
        """Read the patches of a folder: those of its `series` file, or else its files by name.

        `git format-patch` numbers them; a cover letter, which holds no diff, is left out.

        Raises:
            UserError: there is no patch, or the folder cannot be read.
        """
        if (folder / "series").is_file():
            return cls.read(folder)
        nothing = UserError(
            "there are no patches in this folder",
            where=str(folder),
            remedy="name a folder with *.patch files, as `git format-patch -o DIR` makes it",
        )
        paths = [path for path in sorted(folder.glob("*.patch")) if path.is_file()]
        patches = [_read_file(path.name, path, nothing) for path in paths]
        found = tuple(patch for patch in patches if patch.touched)
        if not found:
            raise nothing
        return cls(found)

    def first(self, n: int) -> PatchSeries:
        """The series that ends after its first `n` patches.

        Raises:
            UserError: the series is shorter.
        """
        if not 0 <= n <= len(self.patches):
            raise UserError(
                f"the series has {len(self.patches)} patches, {n} were asked for",
                remedy=f"use --patches 0 to {len(self.patches)}",
            )
        return PatchSeries(self.patches[:n])

    def and_then(self, files: Iterable[Path]) -> PatchSeries:
        """The series with further patch files at its end.

        Raises:
            UserError: one does not exist.
        """
        return PatchSeries((*self.patches, *(_read_further(path) for path in files)))

    @property
    def names(self) -> tuple[str, ...]:
        """The patches' names, in order."""
        return tuple(patch.name for patch in self.patches)

    @property
    def touched(self) -> frozenset[str]:
        """Every path that any of the patches may change."""
        return frozenset().union(*(patch.touched for patch in self.patches))

    def apply(self, folder: Path, base: str, deadline: Deadline) -> None:
        """Apply all patches in `folder`, which holds the touched files of the tree `base`.

        No context line may differ (no fuzz); an offset is accepted.

        Raises:
            UserError: a patch does not apply; names patch, file, hunk and tree.
        """
        for patch in self.patches:
            applied = process.run(
                ["git", "apply", "--whitespace=nowarn", str(patch.path)],
                cwd=folder,
                env=git.environment(folder),
                deadline=deadline,
                check=False,
            )
            if applied.returncode != 0:
                raise _does_not_apply(patch, base, applied.output)


def _read_patch(folder: Path, words: list[str], listing: Path) -> Patch:
    name, *options = words
    if options not in ([], ["-p1"]):
        raise UserError(
            f"options of the patch {name} are not supported: {' '.join(options)}",
            where=str(listing),
            remedy="patches apply with -p1, as git makes them",
        )
    return _read_file(
        name,
        folder / name,
        UserError(
            f"the series lists a patch that does not exist: {name}",
            where=str(listing),
            remedy="restore the patch or take its line out",
        ),
    )


def _read_further(path: Path) -> Patch:
    return _read_file(
        path.name,
        path,
        UserError(
            f"there is no such patch: {path.name}",
            where=str(path),
            remedy="name a patch file that exists",
        ),
    )


def _read_file(name: str, path: Path, missing: UserError) -> Patch:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        raise missing from None
    return Patch(name, path, text)


def _does_not_apply(patch: Patch, base: str, output: str) -> UserError:
    failed = _FAILED.search(output)
    place = ""
    if failed is not None:
        hunk = _hunk(patch, failed[1], int(failed[2]))
        place = f", file {failed[1]}, hunk {hunk}"
    return UserError(
        f"the patch {patch.name} does not apply to {base}",
        where=f"{patch.path}{place}",
        remedy="rebase the patch onto this tree, or use --patches N to stop before it",
        tail=output,
    )


def _hunk(patch: Patch, name: str, line: int) -> str:
    """The header of the hunk of file `name` whose old text starts at `line`."""
    for path, header, start in _hunks(patch.text):
        if path == name and start == line:
            return header
    return f"at line {line}"


def _hunks(text: str) -> Iterator[tuple[str, str, int]]:
    """Path, header and first old line of every hunk of a patch."""
    path = ""
    for line in text.splitlines():
        if line.startswith(("--- a/", "+++ b/")):
            path = line[6:].partition("\t")[0]
        elif match := re.match(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@", line):
            yield path, match[0], int(match[1])
