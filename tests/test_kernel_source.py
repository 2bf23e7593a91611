# SPDX-License-Identifier: GPL-2.0-only
"""A user's tree is identified by content and only read; Debian's is unpacked once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from kernel_trees import make_tree

from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.kernel import source
from imakexec.kernel.apt import Apt, Package
from imakexec.kernel.cache import Cache
from imakexec.kernel.source import SourceTree, debian_source, makefile_version, user_tree
from imakexec.progress import SilentProgress


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(params=["plain", "git"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A user's tree, once without and once with a repository of its own."""
    folder = make_tree(tmp_path / "linux")
    if request.param == "git":
        git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x"]
        subprocess.run([*git, "init", "--quiet"], check=True)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", "start"], check=True)
    return folder


def _user_tree(path: Path, cache: Cache) -> SourceTree:
    return user_tree(path, cache, SilentProgress(), Deadline.after(20))


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_ino)
        for path in folder.rglob("*")
    }


def test_version_from_the_makefile(tmp_path: Path) -> None:
    assert makefile_version(make_tree(tmp_path / "linux")) == "6.1.192"
    (tmp_path / "linux/Makefile").write_text("all:\n")
    with pytest.raises(UserError, match="does not set VERSION"):
        makefile_version(tmp_path / "linux")


def test_a_users_tree_is_not_written(tree: Path, cache: Cache) -> None:
    before = _snapshot(tree)
    _user_tree(tree, cache)
    assert _snapshot(tree) == before


def test_identity_follows_content_not_times(tree: Path, cache: Cache) -> None:
    first = _user_tree(tree, cache)
    os.utime(tree / "ima/log.c")
    assert _user_tree(tree, cache).identity == first.identity


@pytest.mark.parametrize("change", ["edit", "add", "remove", "mode", "link"])
def test_identity_notices_every_uncommitted_change(tree: Path, cache: Cache, change: str) -> None:
    first = _user_tree(tree, cache)
    path = tree / "ima/log.c"
    match change:
        case "edit":
            path.write_text(path.read_text().replace("line 1\n", "line X\n"))
        case "add":
            (tree / "ima/new.c").touch()
        case "remove":
            path.unlink()
        case "mode":
            path.chmod(0o755)
        case "link":
            path.unlink()
            path.symlink_to("kexec.c")
    second = _user_tree(tree, cache)
    assert second.identity != first.identity
    assert second.workspace == first.workspace


def test_build_products_do_not_count(tree: Path, cache: Cache) -> None:
    first = _user_tree(tree, cache)
    (tree / "ima/log.o").write_bytes(b"object")
    second = _user_tree(tree, cache)
    assert second.identity == first.identity
    assert second.file("ima/log.o") is None
    assert second.file("ima/log.c") == tree / "ima/log.c"


def test_the_users_own_excludes_do_not_hide_sources(tmp_path: Path, cache: Cache) -> None:
    tree = make_tree(tmp_path / "linux")
    subprocess.run(["git", "init", "--quiet", str(tree)], check=True)
    (tree / ".git/info/exclude").write_text("*\n")
    assert _user_tree(tree, cache).file("ima/log.c") is not None


def test_a_gitignore_like_debians_does_not_hide_the_tree(tree: Path, cache: Cache) -> None:
    (tree / ".gitignore").write_text("*.o\n.*\n/*\n!/debian/\n")
    for product in (".config", "vmlinux", "ima/log.o", "System.map", ".vmlinux.cmd"):
        (tree / product).touch()
    (tree / "ima/new.c").touch()
    assert set(_user_tree(tree, cache).digests or {}) == {
        ".gitignore",
        "Kconfig",
        "Makefile",
        "ima/kexec.c",
        "ima/log.c",
        "ima/new.c",
    }


def test_only_changed_files_are_read_again(
    tree: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    _user_tree(tree, cache)
    (tree / "ima/log.c").write_text("edited\n")
    read: list[Path] = []
    digest = source.file_digest

    def watched(path: Path) -> str:
        read.append(path)
        return digest(path)

    monkeypatch.setattr(source, "file_digest", watched)
    _user_tree(tree, cache)
    assert read == [tree / "ima/log.c"]


def test_a_folder_that_is_no_kernel_tree(tmp_path: Path, cache: Cache) -> None:
    with pytest.raises(UserError, match="not a kernel source tree"):
        _user_tree(tmp_path, cache)


@pytest.mark.parametrize("base", ["6.1", "linux-6", "linux-6.1.5", "linux-6.1; rm", "linux-0.1"])
def test_a_base_that_is_none(cache: Cache, base: str) -> None:
    with pytest.raises(UserError, match="not a kernel base"):
        debian_source(base, cache, SilentProgress(), Deadline.after(5))


class _Archive:
    """Stands in for the package tool; packs a small tree the way linux-source packages do."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.version = "6.1.192-2"
        self.offline = False
        self.shown = 0
        self.downloads = 0

    def show(self, name: str, _deadline: Deadline) -> Package:
        self.shown += 1
        if self.offline:
            raise InfraError("no network")
        return Package(name, self.version, 1 << 20)

    def download(self, package: Package, folder: Path, _deadline: Deadline) -> Path:
        self.downloads += 1
        root = self.tmp_path / f"root-{self.version}"
        make_tree(self.tmp_path / self.version / package.name)
        (root / "usr/src").mkdir(parents=True)
        (root / "DEBIAN").mkdir()
        control = f"Package: {package.name}\nVersion: {package.version}\nArchitecture: all\n"
        (root / "DEBIAN/control").write_text(control + "Maintainer: x\nDescription: x\n")
        tarball = root / f"usr/src/{package.name}.tar.xz"
        pack = ["tar", "-C", str(self.tmp_path / self.version), "-cJf", str(tarball), package.name]
        subprocess.run(pack, check=True)
        deb = folder / "package.deb"
        build = ["dpkg-deb", "--build", "--root-owner-group", str(root), str(deb)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        return deb


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Archive:
    fake = _Archive(tmp_path)
    monkeypatch.setattr(Apt, "show", fake.show)
    monkeypatch.setattr(Apt, "download", fake.download)
    monkeypatch.setattr(source, "_APT_LISTS", tmp_path / "lists")
    (tmp_path / "lists").mkdir()
    return fake


def _debian(cache: Cache) -> SourceTree:
    return debian_source("linux-6.1", cache, SilentProgress(), Deadline.after(20))


def test_debian_source_is_unpacked_once_and_looked_up_once(archive: _Archive, cache: Cache) -> None:
    tree = _debian(cache)
    assert tree.identity == "linux-source-6.1=6.1.192-2"
    assert tree.base == "linux-source-6.1 6.1.192-2"
    assert tree.version == "6.1.192"
    assert sorted(path.name for path in tree.path.parent.iterdir()) == ["tree"]
    assert _debian(cache) == tree
    assert (archive.shown, archive.downloads) == (1, 1)


def test_new_package_lists_bring_a_newer_version(
    archive: _Archive, cache: Cache, tmp_path: Path
) -> None:
    _debian(cache)
    archive.version = "6.1.200-1"
    assert _debian(cache).identity == "linux-source-6.1=6.1.192-2"
    (tmp_path / "lists/new").touch()
    assert _debian(cache).identity == "linux-source-6.1=6.1.200-1"


def test_without_network_the_unpacked_version_goes_on(
    archive: _Archive, cache: Cache, tmp_path: Path
) -> None:
    tree = _debian(cache)
    (tmp_path / "lists/new").touch()
    archive.offline = True
    assert _debian(cache) == tree


def test_without_network_and_tree_there_is_an_error(archive: _Archive, cache: Cache) -> None:
    archive.offline = True
    with pytest.raises(InfraError, match="no network"):
        _debian(cache)


@pytest.mark.usefixtures("archive")
def test_the_name_of_the_working_copy_suits_make(cache: Cache) -> None:
    assert _debian(cache).workspace == "linux-source-6.1-6.1.192-2"
