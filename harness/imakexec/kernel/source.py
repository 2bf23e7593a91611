# SPDX-License-Identifier: GPL-2.0-only
"""Where a kernel's source comes from: Debian's source packages, or a tree of the user's.

Debian's tree is unpacked once into the cache, keyed by package and version, and never changed.
Which version a base stands for is remembered until the host's package lists change: `apt-get
update` is thus how a newer version is taken, and a run in between costs no look-up (the cheapest
one takes 0.3 s, thirty times the whole rest).

The user's tree is only read. Its identity is its content, so that an uncommitted edit counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.kernel import git
from imakexec.kernel.apt import Apt, OtherSuites, Package
from imakexec.kernel.cache import Cache, write_atomically, writing
from imakexec.progress import Progress, Step

_BASE = re.compile(r"linux-[1-9]\d*\.\d+")
_APT_LISTS = Path("/var/lib/apt/lists")

# Debian's linux-source has a .gitignore with "/*" in it, which hides the whole tree. These patterns
# outrank it: everything at the top is a source but for what make leaves there.
_TOP_PATTERNS = (
    "!/*",
    "/.config*",
    "/.tmp_*",
    "/.version",
    "/*.[aos]",
    "/*.cmd",
    "/*.d",
    "/*vmlinux*",
    "/Module.symvers",
    "/System.map",
    "/modules*.*",
)

_TAR_CHECKPOINT = 2000  # records of 10 KiB


@dataclass(frozen=True)
class SourceTree:
    """A kernel source tree, unpatched.

    Attributes:
        path: its top folder, to be read only.
        identity: of its content, e.g. "linux-source-6.1=6.1.192-2" or "tree=1f3a...".
        version: as its Makefile says, e.g. "6.1.192".
        workspace: the name of the working copy that successive states of this tree share.
        base: for people, e.g. "linux-source-6.1 6.1.192-2" or the user's path.
        digests: of a tree that may change, the SHA-256 of every source file by relative path;
            None for a tree that never changes and may be hard-linked.
    """

    path: Path
    identity: str
    version: str
    workspace: str
    base: str
    digests: Mapping[str, str] | None = None

    def file(self, name: str) -> Path | None:
        """The source file `name`, or None if the tree has none (build products do not count)."""
        path = self.path / name
        known = path.is_file() if self.digests is None else name in self.digests
        return path if known else None


def debian_source(base: str, cache: Cache, progress: Progress, deadline: Deadline) -> SourceTree:
    """The source of "linux-X.Y" as Debian packages it, unpacked in the cache.

    Raises:
        UserError: no suite of the distribution offers the package, or `base` is not "linux-X.Y".
        InfraError: the package cannot be downloaded or unpacked.
    """
    if not _BASE.fullmatch(base):
        raise UserError(
            f"not a kernel base: {base!r}",
            remedy='name one as "linux-6.1", or use --kernel-tree DIR for a tree of your own',
        )
    name = base.replace("linux-", "linux-source-")
    memo = _Memo(cache.root / "source" / f"{name}.json")
    tree = _unpacked(memo.fresh(), cache)
    if tree is not None:
        return tree
    with progress.step(f"kernel source {name}") as step, cache.lock(name, deadline, progress):
        try:
            tree = _fetch(name, cache, step, deadline)
        except InfraError as error:
            tree = _unpacked(memo.last(), cache)
            if tree is None:
                raise
            progress.note(f"cannot look for a newer {name}, using {tree.identity}: {error.what}")
            return tree
        memo.remember(tree.identity)
        step.done(tree.base)
    return tree


@dataclass(frozen=True)
class _Memo:
    """Which version a base stood for, and for which state of the host's package lists."""

    path: Path

    def fresh(self) -> str | None:
        """The remembered identity if the package lists are as they were."""
        entry = self._read()
        return entry["identity"] if entry.get("lists") == lists_state() else None

    def last(self) -> str | None:
        """The remembered identity, whatever the package lists say by now."""
        return self._read().get("identity")

    def remember(self, identity: str) -> None:
        """Remember `identity` for the package lists of now."""
        write_atomically(self.path, json.dumps({"identity": identity, "lists": lists_state()}))

    def _read(self) -> dict[str, str]:
        try:
            entry: dict[str, str] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        return entry


def lists_state() -> str:
    """What changes whenever `apt-get update` brings something: it renames files into place."""
    try:
        return str(_APT_LISTS.stat().st_mtime_ns)
    except FileNotFoundError:
        return ""


def _unpacked(identity: str | None, cache: Cache) -> SourceTree | None:
    entry = cache.lookup("source", identity) if identity is not None else None
    if identity is None or entry is None:
        return None
    path = entry / "tree"
    name, _, version = identity.partition("=")
    return SourceTree(
        path=path,
        identity=identity,
        version=makefile_version(path),
        workspace=_workspace(f"{name}-{version}"),
        base=f"{name} {version}",
    )


def _workspace(name: str) -> str:
    """A name that make can have in a path: "=" would make it forget what it has built."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _fetch(name: str, cache: Cache, step: Step, deadline: Deadline) -> SourceTree:
    step.update("looking for the package")
    package, apt = _find(name, cache, step, deadline)
    identity = f"{package.name}={package.version}"
    tree = _unpacked(identity, cache)
    if tree is None:
        with cache.publish("source", identity) as folder:
            step.update(f"downloading {package.size >> 20} MiB, version {package.version}")
            deb = apt.download(package, folder, deadline)
            _unpack(deb, folder, step, deadline)
        tree = _unpacked(identity, cache)
        assert tree is not None
    return tree


def _find(name: str, cache: Cache, step: Step, deadline: Deadline) -> tuple[Package, Apt]:
    """The package by the host's own settings, else in another suite of the distribution."""
    host = Apt()
    package = host.show(name, deadline)
    if package is not None:
        return package, host
    others = OtherSuites(cache.root / "apt")
    return others.find(name, step, deadline)


def _unpack(deb: Path, folder: Path, step: Step, deadline: Deadline) -> None:
    """Turn a linux-source package into `folder`/tree, leaving nothing else."""
    package = folder / "package"
    tree = folder / "tree"
    tree.mkdir()

    def show(line: str) -> None:
        _, _, records = line.rpartition(" ")
        if records.isdigit():
            step.update(f"unpacking, {int(records) * 10 >> 10} MiB")

    with writing(folder):
        process.run(["dpkg-deb", "--extract", str(deb), str(package)], deadline=deadline)
        [archive] = package.glob("usr/src/linux-source-*.tar.xz")
        tar = ["tar", "--extract", "--xz", "--no-same-owner", "--strip-components=1"]
        checkpoint = [f"--checkpoint={_TAR_CHECKPOINT}", "--checkpoint-action=echo=%u"]
        process.run(
            [*tar, *checkpoint, f"--file={archive}", f"--directory={tree}"],
            env={**os.environ, "LC_ALL": "C"},
            deadline=deadline,
            on_line=show,
        )
    deb.unlink()
    shutil.rmtree(package)


def user_tree(path: Path, cache: Cache, progress: Progress, deadline: Deadline) -> SourceTree:
    """The user's own kernel tree, with uncommitted edits, without what its .gitignore names.

    Nothing is written below `path`. Of the files only those are read whose size, times or inode
    changed since the last time.

    Raises:
        UserError: `path` is no kernel tree.
    """
    path = path.resolve()
    if not (path / "Kconfig").is_file() or not (path / "Makefile").is_file():
        raise UserError(
            "not a kernel source tree: it has no Makefile and Kconfig",
            where=str(path),
            remedy="give the top folder of a kernel tree to --kernel-tree",
        )
    workspace = _workspace(f"{path.name}-{hashlib.sha256(bytes(path)).hexdigest()[:12]}")
    with progress.step(f"kernel tree {path}") as step, cache.lock(workspace, deadline, progress):
        with cache.scratch() as scratch:
            names = _source_files(path, scratch, deadline)
        digests = _Digests(cache.root / "source" / f"{workspace}.json").of(path, names)
        total = hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()
        step.done(f"{len(digests)} files")
    return SourceTree(
        path=path,
        identity=f"tree={total}",
        version=makefile_version(path),
        workspace=workspace,
        base=str(path),
        digests=MappingProxyType(digests),
    )


def _source_files(path: Path, scratch: Path, deadline: Deadline) -> list[str]:
    """The source files of a tree, relative; build products are left out.

    git tells them apart by the tree's .gitignore files, and by its index if it is a work tree;
    other trees are looked at from an empty repository elsewhere. The user's own exclude files do
    not count: they may name sources, which the build needs all the same.
    """
    # A tree of another user's is fine: nothing of it is run.
    command = ["git", "-c", "safe.directory=*"]
    env = git.environment(path)
    if not (path / ".git").exists():
        process.run(
            [*command, "init", "--quiet", "--bare", str(scratch)], deadline=deadline, env=env
        )
        command += [f"--git-dir={scratch}", f"--work-tree={path}"]
    command += ["ls-files", "-z", "--cached", "--others", "--exclude-per-directory=.gitignore"]
    command += [f"--exclude={pattern}" for pattern in _TOP_PATTERNS]
    listed = process.run(command, cwd=path, env=env, deadline=deadline)
    return sorted({name for name in listed.output.rstrip("\n").split("\0") if name})


@dataclass(frozen=True)
class _Digests:
    """The digests of a tree's files, remembered by what stat says of them."""

    path: Path

    def of(self, tree: Path, names: Sequence[str]) -> dict[str, str]:
        """The digest of every file of `names` that exists, by name."""
        known = self._read()
        entries: dict[str, list[str]] = {}
        for name in names:
            entry = _digest_entry(tree / name, known.get(name, ["", ""]))
            if entry is not None:
                entries[name] = entry
        if entries != known:
            self._write(entries)
        return {name: digest for name, (_, digest) in entries.items()}

    def _read(self) -> dict[str, list[str]]:
        try:
            entries: dict[str, list[str]] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        return entries

    def _write(self, entries: Mapping[str, list[str]]) -> None:
        write_atomically(self.path, json.dumps(entries))


def _digest_entry(path: Path, known: Sequence[str]) -> list[str] | None:
    """The stat signature and the digest of one file; None if it is gone or a submodule."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        return None
    signature = " ".join(
        str(number)
        for number in (
            status.st_mode,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
        )
    )
    return [signature, known[1] if known[0] == signature else file_digest(path)]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's kind, executable bit and content, as hexadecimal digits."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        kind, content = "link", os.fsencode(path.readlink())
    else:
        kind = "program" if status.st_mode & stat.S_IXUSR else "file"
        content = path.read_bytes()
    return hashlib.sha256(kind.encode() + b"\0" + content).hexdigest()


def makefile_version(tree: Path) -> str:
    """The kernel's version from the first lines of its top Makefile, e.g. "6.1.192".

    Raises:
        UserError: the Makefile is not a kernel's.
    """
    makefile = tree / "Makefile"
    fields: dict[str, str] = dict(
        re.findall(r"^([A-Z]+) *= *(\S*)$", makefile.read_text(encoding="utf-8"), re.MULTILINE)
    )
    try:
        numbers = ".".join(fields[name] for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    except KeyError as error:
        raise UserError(
            f"not a kernel's Makefile: it does not set {error.args[0]}",
            where=str(makefile),
            remedy="give the top folder of a kernel tree to --kernel-tree",
        ) from None
    return numbers + fields.get("EXTRAVERSION", "")
