# SPDX-License-Identifier: GPL-2.0-only
"""The other versions of a base that the distribution serves, as far as patches concern them.

To see whether a series applies to a version takes the handful of files that it touches, not the
tree. Those are taken out of the package's tarball once and kept, by package version and file names;
which versions there are is remembered until the host's package lists change, unless a suite did not
answer. So nothing is asked of the network that it has answered before.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError
from imakexec.kernel.apt import Apt, OtherSuites, Package
from imakexec.kernel.cache import Cache, write_atomically, writing
from imakexec.kernel.source import SourceTree, lists_state
from imakexec.progress import Progress, Step

_KIND = "source-files"


@dataclass(frozen=True)
class SourceFiles:
    """Some files of one version of a kernel's source.

    Attributes:
        version: as the kernel's Makefile has it, e.g. "6.1.170".
        base: for people, e.g. "linux-source-6.1 6.1.170-3".
        folder: holds the files under their names in the tree; what the tree lacks is not there.
    """

    version: str
    base: str
    folder: Path

    def by_age(self) -> tuple[int, ...]:
        """What versions are sorted by, oldest first."""
        return tuple(int(number) for number in re.findall(r"\d+", self.version))


def served_versions(
    source: SourceTree,
    names: Iterable[str],
    *,
    cache: Cache,
    progress: Progress,
    deadline: Deadline,
) -> tuple[SourceFiles, ...]:
    """Some files of every other version of a base that the distribution serves, oldest first.

    Of several packages of one kernel version the first that the package lists name is taken. A
    suite or a package that cannot be reached is left out, with a note; a tree that is no package
    has no other versions.

    Args:
        source: the base, which is not among the result.
        names: the files, relative to the tree.

    Raises:
        InfraError: the disk is full, or the cache cannot be written.
    """
    name, _, own = source.identity.partition("=")
    if source.digests is not None:
        return ()
    shop = _Shop(name, frozenset(names), cache, progress, deadline)
    with progress.step(f"other versions of {name}") as step, cache.lock(_KIND, deadline, progress):
        found = shop.known()
        if found is None:
            found = shop.fetch_all(own, step)
        found.sort(key=SourceFiles.by_age)
        step.done(" ".join(files.version for files in found) or "none")
    return tuple(found)


@dataclass(frozen=True)
class _Shop:
    """Where versions of one source package come from."""

    name: str
    files: frozenset[str]
    cache: Cache
    progress: Progress
    deadline: Deadline

    @property
    def _memo(self) -> Path:
        return self.cache.root / _KIND / f"{self.name}.json"

    def known(self) -> list[SourceFiles] | None:
        """All versions, if the package lists are as they were and all files are here."""
        lists, versions = self._remembered()
        found = [files for version in versions if (files := self._lookup(version)) is not None]
        complete = lists == lists_state() and len(found) == len(versions)
        return found if complete else None

    def fetch_all(self, own: str, step: Step) -> list[SourceFiles]:
        """All versions but the one of the package version `own`; asks the distribution.

        A version that was served once stays: the series applied to it, and is still meant to.
        """
        step.update("asking the package lists")
        offers, silent = self._offers()
        seen = {upstream(own)}
        chosen: list[str] = []
        for version in [*offers, *self._remembered()[1]]:
            if upstream(version) not in seen:
                seen.add(upstream(version))
                chosen.append(version)
        for suite in silent:
            self.progress.note(f"{self.name}: the suite {suite} does not answer")
        # Who did not answer is asked again the next time.
        lists = None if silent else lists_state()
        write_atomically(self._memo, json.dumps({"lists": lists, "versions": chosen}))
        found = [
            self._lookup(version) or self._fetch(version, offers.get(version), step)
            for version in chosen
        ]
        return [files for files in found if files is not None]

    def _offers(self) -> tuple[dict[str, tuple[Package, Apt]], list[str]]:
        """What is on offer, by package version, the host's own suites first; who is silent."""
        host = Apt()
        offers = {
            package.version: (package, host) for package in host.versions(self.name, self.deadline)
        }
        others, silent = OtherSuites(self.cache.root / "apt").find_all(self.name, self.deadline)
        for package, apt in others:
            offers.setdefault(package.version, (package, apt))
        return offers, silent

    def _remembered(self) -> tuple[str | None, list[str]]:
        try:
            memo = json.loads(self._memo.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None, []
        return memo["lists"], memo["versions"]

    def _key(self, version: str) -> str:
        names = hashlib.sha256("\0".join(sorted(self.files)).encode()).hexdigest()
        return f"{self.name}={version}={names[:16]}"

    def _lookup(self, version: str) -> SourceFiles | None:
        entry = self.cache.lookup(_KIND, self._key(version))
        if entry is None:
            return None
        return SourceFiles(upstream(version), f"{self.name} {version}", entry)

    def _fetch(
        self, version: str, offer: tuple[Package, Apt] | None, step: Step
    ) -> SourceFiles | None:
        """Take the files out of a package; None if it cannot be downloaded (any more)."""
        if offer is None:
            self.progress.note(f"{self.name} {version} is left out: nobody offers it any more")
            return None
        package, apt = offer
        with self.cache.scratch() as scratch:
            step.update(f"downloading {package.size >> 20} MiB, version {version}")
            try:
                deb = apt.download(package, scratch, self.deadline)
            except InfraError as error:
                self.progress.note(f"{self.name} {version} is left out: {error.what}")
                return None
            step.update(f"unpacking version {version}")
            with self.cache.publish(_KIND, self._key(version)) as folder:
                take_files(deb, self.files, scratch, folder, self.deadline)
        return self._lookup(version)


def upstream(version: str) -> str:
    """A Debian version without epoch and revision (deb-version(7)): "6.1.170" of "6.1.170-3"."""
    head, dash, _ = version.rpartition("-")
    return (head if dash else version).rpartition(":")[2]


def take_files(
    deb: Path, names: frozenset[str], scratch: Path, target: Path, deadline: Deadline
) -> None:
    """Put those files of a linux-source package that are in `names` below `target`.

    Raises:
        InfraError: it cannot be unpacked, or the disk is full.
    """
    package = scratch / "package"
    with writing(scratch):
        process.run(["dpkg-deb", "--extract", str(deb), str(package)], deadline=deadline)
    [archive] = package.glob("usr/src/linux-source-*.tar.xz")
    # As a stream: an index of 80000 members would have to be made first.
    with tarfile.open(archive, "r|xz") as members:
        for member in members:
            name = member.name.partition("/")[2]
            content = members.extractfile(member) if name in names else None
            if content is not None:
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
