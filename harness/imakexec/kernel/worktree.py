# SPDX-License-Identifier: GPL-2.0-only
"""The working copy that kernels are built from: a source tree with some patches applied.

There is one per source, kept between runs, and going from one state to the next rewrites only the
files whose content differs, so that make rebuilds what they reach and nothing else. Patches are
applied to copies of the files they touch, in a folder of their own, and the results are renamed
into place: a patch that does not apply leaves the working copy as it was, and a hard link to the
pristine tree is replaced, never written through.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import UserError
from imakexec.kernel.cache import Cache, explained, write_atomically, writing
from imakexec.kernel.series import PatchSeries
from imakexec.kernel.source import SourceTree, file_digest, user_tree
from imakexec.progress import SilentProgress, Step

_KIND = "work"


@dataclass(frozen=True)
class WorkTree:
    """The working copy of one source.

    Unlike other entries of the cache it changes: whoever uses it holds the lock `lock_name`.

    Attributes:
        source: the pristine tree.
        cache: where the copy lives.
    """

    source: SourceTree
    cache: Cache

    @property
    def lock_name(self) -> str:
        """The cache lock that guards the copy and the build folders beside it."""
        return f"{_KIND}-{self.source.workspace}"

    @property
    def folder(self) -> Path:
        """What the copy and its build folders share."""
        return self.cache.root / _KIND / self.source.workspace

    @property
    def tree(self) -> Path:
        """The copy's top folder."""
        return self.folder / "tree"

    def prepare(self, series: PatchSeries, step: Step, deadline: Deadline) -> None:
        """Make the copy equal to the source with the series applied.

        Raises:
            UserError: a patch does not apply, or the user's tree changed meanwhile.
            InfraError: the disk is full.
        """
        with self.cache.scratch() as stage:
            step.update(f"applying {len(series.patches)} patches")
            self._stage(series, stage, deadline)
            if self.cache.lookup(_KIND, self.source.workspace) is None:
                step.update("making the working copy")
                self._create(deadline)
            with explained(self.cache.root):
                self._update(series, stage)
        self._check_source(deadline)

    def _stage(self, series: PatchSeries, stage: Path, deadline: Deadline) -> None:
        """Put the patched form of every file that the series touches into `stage`."""
        for name in series.touched:
            pristine = self.source.file(name)
            if pristine is not None:
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(pristine, stage / name, follow_symlinks=False)
        series.apply(stage, self.source.base, deadline)

    def _create(self, deadline: Deadline) -> None:
        with self.cache.publish(_KIND, self.source.workspace) as folder, writing(folder):
            if self.source.digests is None:
                _link_tree(self.source.path, folder / "tree", deadline)
            else:
                names = folder / "names"
                names.write_bytes(b"".join(os.fsencode(n) + b"\0" for n in self.source.digests))
                _copy_files(self.source.path, names, folder / "tree", deadline)
                names.unlink()
            _State((), self.source.digests).write(folder)

    def _update(self, series: PatchSeries, stage: Path) -> None:
        state = _State.read(self.folder)
        suspects = state.suspects(self.source.digests) | series.touched
        wanted: dict[str, Path | None] = {}
        for name in sorted(suspects):
            staged = stage / name if (stage / name).is_file() else None
            wanted[name] = staged if name in series.touched else self.source.file(name)
        # Should this be killed half way, the next run looks at all of them again.
        _State(tuple(wanted), state.digests).write(self.folder)
        # Removals first: a folder may make way for a file, and a file for a folder.
        for name, path in wanted.items():
            if path is None:
                _remove(self.tree, name)
        for name, path in wanted.items():
            if path is not None:
                _replace(path, self.tree / name)
        _State(tuple(sorted(series.touched)), self.source.digests).write(self.folder)

    def _check_source(self, deadline: Deadline) -> None:
        """Notice an edit of the user's tree that the copy may have caught half way."""
        if self.source.digests is None:
            return
        now = user_tree(self.source.path, self.cache, SilentProgress(), deadline)
        if now.identity != self.source.identity:
            raise UserError(
                "the kernel tree changed while it was being copied",
                where=str(self.source.path),
                remedy="run again when nothing writes to it",
            )


@dataclass(frozen=True)
class _State:
    """What is known of a working copy.

    Attributes:
        touched: the files that may differ from the source.
        digests: of the source as last copied; None if it never changes.
    """

    touched: tuple[str, ...]
    digests: Mapping[str, str] | None

    @classmethod
    def read(cls, folder: Path) -> _State:
        fields = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return cls(tuple(fields["touched"]), fields["digests"])

    def write(self, folder: Path) -> None:
        digests = None if self.digests is None else dict(self.digests)
        fields = {"touched": self.touched, "digests": digests}
        write_atomically(folder / "state.json", json.dumps(fields))

    def suspects(self, digests: Mapping[str, str] | None) -> set[str]:
        """The files that can differ from a source that now has these digests."""
        old = set((self.digests or {}).items())
        new = set((digests or {}).items())
        return {name for name, _ in old ^ new} | set(self.touched)


def _link_tree(source: Path, target: Path, deadline: Deadline) -> None:
    copy = ["cp", "--archive", "--link", "--no-target-directory", str(source), str(target)]
    process.run(copy, deadline=deadline)


def _copy_files(source: Path, names: Path, target: Path, deadline: Deadline) -> None:
    """Copy the files that the NUL-separated list names, sharing their blocks where that works."""
    target.mkdir()
    copy = ["cp", "--parents", "--no-dereference", "--preserve=mode", "--reflink=auto"]
    process.run(
        ["xargs", "--null", f"--arg-file={names}", *copy, f"--target-directory={target}"],
        cwd=source,
        deadline=deadline,
    )


def _remove(tree: Path, name: str) -> None:
    path = tree / name
    path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent == tree or not parent.is_dir() or any(parent.iterdir()):
            break
        parent.rmdir()


def _replace(source: Path, target: Path) -> None:
    """Give `target` the content of `source` and a new time; leave it alone if it has it already."""
    if target.exists() and file_digest(target) == file_digest(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(target.name + ".imakexec-new")
    shutil.copyfile(source, scratch, follow_symlinks=False)
    if not scratch.is_symlink():
        shutil.copymode(source, scratch)
    scratch.replace(target)
