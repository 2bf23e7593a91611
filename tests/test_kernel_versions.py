# SPDX-License-Identifier: GPL-2.0-only
"""The versions that a distribution serves: asked once, taken once, and never a reason to fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from imakexec.deadline import Deadline
from imakexec.errors import InfraError
from imakexec.kernel import versions
from imakexec.kernel.apt import Apt, OtherSuites, Package
from imakexec.kernel.cache import Cache
from imakexec.kernel.source import SourceTree
from imakexec.kernel.versions import SourceFiles, served_versions, take_files, upstream
from imakexec.progress import Progress, SilentProgress

_NAME = "linux-source-6.1"
_FILES = ("ima/log.c", "ima/none-in-old-ones.c")


class _Notes(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


class _Archive:
    """A distribution with a host's suite and one more; nothing is asked of a network.

    Attributes:
        host: the versions of the host's suite.
        other: of the other one.
        broken: versions that cannot be downloaded.
        asked: how often the lists were asked.
        downloads: the versions downloaded.
        silent: the suites that do not answer.
    """

    def __init__(self) -> None:
        self.host = ["6.1.176-1", "6.1.170-3"]
        self.other = ["6.1.192-2", "6.1.192-1", "6.1.176-1"]
        self.broken: set[str] = set()
        self.asked = 0
        self.downloads: list[str] = []
        self.silent: list[str] = []

    def offers(self) -> tuple[list[tuple[Package, Apt]], list[str]]:
        offered = [] if self.silent else self.other
        return [(Package(_NAME, version, 1), Apt()) for version in offered], self.silent

    def versions(self) -> list[Package]:
        self.asked += 1
        return [Package(_NAME, version, 1) for version in self.host]

    def download(self, package: Package, folder: Path) -> Path:
        if package.version in self.broken:
            raise InfraError("no route to host")
        self.downloads.append(package.version)
        deb = folder / "it.deb"
        deb.write_text(package.version)
        return deb


def _take(deb: Path, names: frozenset[str], _scratch: Path, target: Path, _: Deadline) -> None:
    (target / "ima").mkdir()
    (target / "ima/log.c").write_text(deb.read_text() + str(sorted(names)))


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> _Archive:
    made = _Archive()
    monkeypatch.setattr(Apt, "versions", lambda *_: made.versions())
    monkeypatch.setattr(OtherSuites, "find_all", lambda *_: made.offers())
    monkeypatch.setattr(Apt, "download", lambda _, package, to, __: made.download(package, to))
    monkeypatch.setattr(versions, "take_files", _take)
    monkeypatch.setattr(versions, "lists_state", lambda: "monday")
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def _served(
    cache: Cache, names: tuple[str, ...] = _FILES, progress: Progress | None = None
) -> list[str]:
    source = SourceTree(Path("base"), f"{_NAME}=6.1.176-1", "6.1.176", "w", "base")
    found = served_versions(
        source,
        names,
        cache=cache,
        progress=progress or SilentProgress(),
        deadline=Deadline.after(20),
    )
    for files in found:
        assert files.base.startswith(f"{_NAME} {files.version}-")
        assert (files.folder / "ima/log.c").read_text().startswith(files.version)
    return [files.version for files in found]


def test_one_package_of_every_other_kernel_version(archive: _Archive, cache: Cache) -> None:
    assert _served(cache) == ["6.1.170", "6.1.192"]
    assert archive.downloads == ["6.1.170-3", "6.1.192-2"]


def test_what_is_known_is_not_asked_again(archive: _Archive, cache: Cache) -> None:
    _served(cache)
    assert _served(cache) == ["6.1.170", "6.1.192"]
    assert (archive.asked, len(archive.downloads)) == (1, 2)


def test_other_files_are_taken_anew(archive: _Archive, cache: Cache) -> None:
    _served(cache)
    assert _served(cache, ("ima/log.c",)) == ["6.1.170", "6.1.192"]
    assert len(archive.downloads) == 4


def test_new_package_lists_are_looked_at(
    archive: _Archive, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    _served(cache)
    monkeypatch.setattr(versions, "lists_state", lambda: "tuesday")
    archive.other.insert(0, "6.1.195-1")
    assert _served(cache) == ["6.1.170", "6.1.192", "6.1.195"]
    assert archive.downloads[2:] == ["6.1.195-1"]


def test_a_suite_that_is_gone_takes_nothing_away(
    archive: _Archive, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    _served(cache)
    monkeypatch.setattr(versions, "lists_state", lambda: "tuesday")
    archive.other.clear()
    assert _served(cache) == ["6.1.170", "6.1.192"]
    assert len(archive.downloads) == 2


def test_who_does_not_answer_is_named_and_asked_again(archive: _Archive, cache: Cache) -> None:
    archive.silent = ["bookworm-security"]
    notes = _Notes()
    assert _served(cache, progress=notes) == ["6.1.170"]
    assert notes.texts == [f"{_NAME}: the suite bookworm-security does not answer"]
    archive.silent = []
    assert _served(cache) == ["6.1.170", "6.1.192"]


def test_a_version_that_is_lost_is_named(archive: _Archive, cache: Cache) -> None:
    _served(cache)
    archive.host, archive.other = ["6.1.176-1"], []
    notes = _Notes()
    assert _served(cache, ("ima/log.c",), notes) == []
    assert [text.partition(" is left out")[0] for text in notes.texts] == [
        f"{_NAME} 6.1.170-3",
        f"{_NAME} 6.1.192-2",
    ]


def test_what_cannot_be_downloaded_is_left_out_for_now(archive: _Archive, cache: Cache) -> None:
    archive.broken = {"6.1.192-2"}
    assert _served(cache) == ["6.1.170"]
    archive.broken = set()
    assert _served(cache) == ["6.1.170", "6.1.192"]


def test_a_tree_of_the_users_has_no_other_versions(archive: _Archive, cache: Cache) -> None:
    source = SourceTree(Path("tree"), "tree=1f3a", "6.1.192", "w", "tree", {"Makefile": "1"})
    found = served_versions(
        source, _FILES, cache=cache, progress=SilentProgress(), deadline=Deadline.after(20)
    )
    assert found == ()
    assert archive.asked == 0


@pytest.mark.parametrize(
    ("version", "expected"),
    [("6.1.170-3", "6.1.170"), ("6.12.95-1~bpo12+1", "6.12.95"), ("1:2.3", "2.3")],
)
def test_upstream_versions(version: str, expected: str) -> None:
    assert upstream(version) == expected


def test_ages() -> None:
    files = [SourceFiles(version, "", Path()) for version in ("6.1.9", "6.1.10", "6.1.8")]
    ordered = [each.version for each in sorted(files, key=SourceFiles.by_age)]
    assert ordered == ["6.1.8", "6.1.9", "6.1.10"]


def test_only_the_wanted_files_come_out_of_a_package(tmp_path: Path) -> None:
    tree = tmp_path / "linux-source-6.1"
    (tree / "ima").mkdir(parents=True)
    for name in ("log.c", "other.c"):
        (tree / "ima" / name).write_text(f"{name} {'x' * 20000}\n")
    package = tmp_path / "deb"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text(
        "Package: linux-source-6.1\nVersion: 1\nArchitecture: all\n"
        "Maintainer: A <a@example.org>\nDescription: x\n"
    )
    (package / "usr/src").mkdir(parents=True)
    archive = package / "usr/src/linux-source-6.1.tar.xz"
    subprocess.run(["tar", "-C", tmp_path, "-cJf", archive, tree.name], check=True)
    deb = tmp_path / "it.deb"
    subprocess.run(["dpkg-deb", "--build", package, deb], check=True, stdout=subprocess.DEVNULL)
    for folder in ("scratch", "target"):
        (tmp_path / folder).mkdir()
    take_files(
        deb, frozenset(_FILES), tmp_path / "scratch", tmp_path / "target", Deadline.after(20)
    )
    [taken] = [path for path in (tmp_path / "target").rglob("*") if path.is_file()]
    assert taken.read_text() == (tree / "ima/log.c").read_text()
    assert taken.relative_to(tmp_path / "target") == Path("ima/log.c")
