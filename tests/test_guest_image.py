# SPDX-License-Identifier: GPL-2.0-only
"""The guest's initramfs: the archive, the recipe, the libraries, the cache."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from imakexec.arch import ARM64, X86_64, Arch
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.kernel import guest_image
from imakexec.kernel.apt import Apt
from imakexec.kernel.cache import Cache
from imakexec.kernel.guest_image import (
    GuestImage,
    Node,
    build_guest_image,
    compile_agent,
    pack_base,
    pack_next,
    read_dependencies,
    read_names,
    write_cpio,
)
from imakexec.progress import Progress, SilentProgress

IMAGES = Path(__file__).parent.parent / "images"
NODES = [
    Node("dev", stat.S_IFDIR | 0o755),
    Node("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
    Node("bin", stat.S_IFDIR | 0o755),
    Node("bin/busybox", stat.S_IFREG | 0o755, b"ELF?!"),
    Node("bin/sh", stat.S_IFLNK | 0o777, b"busybox"),
]


def soon() -> Deadline:
    return Deadline.after(60)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    yield
    os.umask(before)


# The archive


def test_the_archive_depends_on_the_nodes_alone() -> None:
    shuffled = random.Random(1).sample(NODES, len(NODES))
    assert write_cpio(shuffled) == write_cpio(NODES)


def test_a_member_has_the_documented_bytes() -> None:
    assert write_cpio([Node("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))]).startswith(
        b"070701"
        b"00000001000021800000000000000000000000010000000000000000"
        b"00000000000000000000000500000001"
        b"0000000C00000000"
        b"dev/console\0\0\0"
    )


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is the judge here")
def test_cpio_reads_the_archive() -> None:
    listing = subprocess.run(
        ["cpio", "--list", "--verbose", "--numeric-uid-gid", "--quiet"],
        input=write_cpio(NODES),
        env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
    )
    assert listing.stderr == b""
    assert [" ".join(line.split()) for line in listing.stdout.decode().splitlines()] == [
        "drwxr-xr-x 2 0 0 0 Jan 1 1970 bin",
        "-rwxr-xr-x 1 0 0 5 Jan 1 1970 bin/busybox",
        "lrwxrwxrwx 1 0 0 7 Jan 1 1970 bin/sh -> busybox",
        "drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
        "crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
    ]


def test_the_next_kernel_stands_behind_the_base() -> None:
    archive = pack_next(b"kernel!", b"base")
    names = [b"boot\0", b"boot/next\0", b"boot/next/initrd\0", b"boot/next/kernel\0"]
    positions = [archive.index(name) for name in names]
    assert positions == sorted(positions)
    assert b"kernel!" in archive


# The recipe


def pack(tmp_path: Path, recipe: str) -> bytes:
    """The archive of a recipe, whose locations are all the same folder."""
    (tmp_path / "list").write_text(recipe)
    locations = dict.fromkeys(("images", "packages", "build"), str(tmp_path))
    return gzip.decompress(pack_base(tmp_path / "list", locations, soon()))


def test_the_recipe_speaks_the_kernels_language(tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(b"ELF?!")
    recipe = """
        # a comment
        dir /dev 0755 0 0
        nod /dev/console 0600 0 0 c 5 1
        dir /bin 0755 0 0
        file /bin/busybox ${build}/busybox 0755 0 0
        slink /bin/sh busybox 0777 0 0
    """
    assert pack(tmp_path, recipe) == write_cpio(NODES)


@pytest.mark.parametrize(
    "line",
    [
        "file /x ${build}/missing 0644 0 0",
        "file /x ${unknown}/x 0644 0 0",
        "dir /x 0755 1000 0",
        "dir /x 0799 0 0",
        "nod /x 0600 0 0 b 5 1",
        "sock /x 0600 0 0",
        "dir",
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(InfraError) as failure:
        pack(tmp_path, f"# first\n{line}\n")
    assert line in failure.value.what
    assert failure.value.where.endswith("list:2")


def test_the_base_ends_where_another_archive_may_begin(tmp_path: Path) -> None:
    for length in range(8):
        (tmp_path / "list").write_text(f"slink /x {'x' * (length + 1)} 0777 0 0\n")
        packed = pack_base(tmp_path / "list", {"packages": str(tmp_path)}, soon())
        assert len(packed) % 4 == 0
        assert packed[3:8] == bytes(5), "gzip's flags (a file name) and time"


def test_package_names_are_read_without_comments() -> None:
    names = read_names(IMAGES / "packages.txt")
    assert {"busybox-static", "kexec-tools", "libc6"} <= set(names)
    assert all(" " not in name and "#" not in name for name in names)


def test_base_and_agent_come_out_the_same_anywhere(tmp_path: Path) -> None:
    packed = []
    for mask, name in ((0o022, "here"), (0o077, "elsewhere/deeper")):
        folder = tmp_path / name
        with umask(mask):
            folder.mkdir(parents=True)
            shutil.copytree(IMAGES, folder / "images")
            compile_agent(folder / "images" / "agent.c", folder / "agent", soon(), arch=X86_64)
            (folder / "list").write_text(
                "file /init ${images}/init 0755 0 0\nfile /sbin/agent ${build}/agent 0755 0 0\n"
            )
            locations = {
                "images": str(folder / "images"),
                "build": str(folder),
                "packages": str(folder),
            }
            packed.append(pack_base(folder / "list", locations, soon()))
        os.utime(folder / "agent", (1, 1))
    assert packed[0] == packed[1]


# Shared libraries


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A program that needs libone, which needs libtwo and the loader, like unpacked packages."""
    libraries = tmp_path / "usr/lib/any-linux-gnu"
    libraries.mkdir(parents=True)
    (tmp_path / "lib/any-linux-gnu").mkdir(parents=True)
    (tmp_path / "one.c").write_text("int two(void); int one(void) { return two(); }")
    (tmp_path / "two.c").write_text("int two(void) { return 2; }")
    (tmp_path / "main.c").write_text("int one(void); int _start(void) { return one(); }")
    compile_in(tmp_path, "-shared", "-Wl,-soname,libtwo.so.2", "-o", "libtwo.so", "two.c")
    (tmp_path / "loader.c").write_text('const char name[] = "the loader";')
    loader = "lib/any-linux-gnu/ld-any.so.1"
    compile_in(tmp_path, "-shared", "-Wl,-soname,ld-any.so.1", "-o", loader, "loader.c")
    needed = ["-Wl,--no-as-needed", "libtwo.so", loader]
    compile_in(tmp_path, "-shared", "-Wl,-soname,libone.so.1", "-o", "libone.so", "one.c", *needed)
    link = ["-Wl,-dynamic-linker,/lib64/ld-any.so.1", "-Wl,--allow-shlib-undefined"]
    compile_in(tmp_path, *link, "-o", "main", "main.c", "libone.so")
    (tmp_path / "libone.so").rename(libraries / "libone.so.1.0")
    (libraries / "libone.so.1").symlink_to("libone.so.1.0")
    (tmp_path / "libtwo.so").rename(libraries / "libtwo.so.2")
    return tmp_path


def compile_in(folder: Path, *arguments: str) -> None:
    subprocess.run(["gcc", "-nostdlib", *arguments], cwd=folder, check=True)


def test_dependencies_are_read_from_the_file(tree: Path) -> None:
    assert read_dependencies(tree / "main", soon()) == ("/lib64/ld-any.so.1", ("libone.so.1",))
    library = tree / "usr/lib/any-linux-gnu/libtwo.so.2"
    assert read_dependencies(library, soon()) == (None, ())


def test_a_program_brings_its_libraries_and_their_libraries(tree: Path) -> None:
    archive = pack(tree, "file /bin/main ${packages}/main 0755 0 0\n")
    folder = b"usr/lib/any-linux-gnu"
    for name in (b"lib64", b"lib64/ld-any.so.1", folder, folder + b"/libone.so.1"):
        assert name + b"\0" in archive
    assert folder + b"/libtwo.so.2\0" in archive
    assert archive.count(b"the loader") == 1


def test_a_library_without_a_package_is_named(tree: Path) -> None:
    (tree / "usr/lib/any-linux-gnu/libtwo.so.2").unlink()
    with pytest.raises(InfraError, match=r"libone\.so\.1.* needs libtwo\.so\.2"):
        pack(tree, "file /bin/main ${packages}/main 0755 0 0\n")


# The whole, with an apt-get that serves one package of ours


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "package"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text(
        "Package: hello\nVersion: 1:2-3\nArchitecture: all\n"
        "Maintainer: nobody <nobody@example.org>\nDescription: greets\n"
    )
    (package / "bin").mkdir()
    (package / "bin/hello").write_text("#!/bin/sh\n")
    deb = tmp_path / "hello_1%3a2-3_all.deb"
    subprocess.run(["dpkg-deb", "--build", package, deb], check=True, stdout=subprocess.DEVNULL)
    (tmp_path / "stub").mkdir()
    apt_get = tmp_path / "stub/apt-get"
    apt_get.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\ncp {deb} .\n')
    apt_get.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt_get.parent}:{os.environ['PATH']}")
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(IMAGES / "agent.c", images)
    (images / "packages.txt").write_text("hello # greets\n")
    (images / "initramfs.list").write_text(
        "file /bin/hello ${packages}/bin/hello 0755 0 0\nfile /agent ${build}/agent 0755 0 0\n"
    )
    (tmp_path / "kernel").write_bytes(b"the next kernel")
    return tmp_path


class Recorder(SilentProgress):
    """Keeps how each step ended."""

    def __init__(self) -> None:
        self.results: list[str] = []
        self._title = ""

    @contextmanager
    def step(self, title: str) -> Iterator[Recorder]:
        self._title = title
        yield self

    def update(self, detail: str, fraction: float | None = None) -> None:
        pass

    def done(self, result: str) -> None:
        self.results.append(f"{self._title}: {result}")


def build(
    project: Path,
    progress: Progress | None = None,
    *,
    arch: Arch = X86_64,
    further: Path | None = None,
) -> GuestImage:
    return build_guest_image(
        project / "kernel",
        arch=arch,
        project=project,
        cache=Cache(project / "cache"),
        progress=progress or SilentProgress(),
        deadline=soon(),
        further=further,
    )


def test_a_users_files_are_in_both_initramfs(project: Path) -> None:
    archive = project / "own.cpio"
    archive.write_bytes(write_cpio([Node("own", stat.S_IFREG | 0o644, b"a file of the user's")]))
    plain, more = build(project), build(project, further=archive)
    assert plain.key != more.key
    assert more.initrd.read_bytes().count(b"a file of the user's") == 2
    archive.write_bytes(gzip.compress(b"070701, or so the kernel will find out"))
    assert len(build(project, further=archive).initrd.read_bytes()) % 4 == 0


@pytest.mark.parametrize("content", [None, b"", b"\xfd7zXZ\0", b"#!/bin/sh\n"])
def test_a_users_archive_that_no_guest_could_unpack(project: Path, content: bytes | None) -> None:
    archive = project / "own.cpio"
    if content is not None:
        archive.write_bytes(content)
    with pytest.raises(UserError, match="initramfs") as error:
        build(project, further=archive)
    assert f"--initrd {archive}" in error.value.where
    assert "cpio -o -H newc" in error.value.remedy


def test_an_image_is_built_once(project: Path) -> None:
    first = build(project)
    assert first.packages == ("hello=1:2-3",)
    assert (project / "calls").read_text() == "download hello:amd64\n"
    recorder = Recorder()
    started = time.monotonic()
    assert build(project, recorder) == first
    assert time.monotonic() - started < 0.5
    assert recorder.results == ["guest image: cached"]
    assert (project / "calls").read_text() == "download hello:amd64\n"


def test_packages_of_another_architecture_are_fetched_by_an_apt_for_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def settings(architecture: str, *_: object) -> Apt:
        asked.append(architecture)
        return Apt(("-oX=Y",))

    monkeypatch.setattr(guest_image, "apt_for", settings)
    image = build(project, arch=replace(ARM64, cross_compile=""))
    assert asked == ["arm64"]
    assert (project / "calls").read_text() == "-oX=Y download hello:arm64\n"
    assert image.key != build(project).key
    with pytest.raises(InfraError, match="cannot start no-such-gcc"):
        build(project, arch=replace(ARM64, cross_compile="no-such-"))


def test_whatever_goes_in_changes_the_key(project: Path) -> None:
    keys = {build(project).key}
    for path in ("kernel", "images/agent.c", "images/initramfs.list"):
        with (project / path).open("a") as file:
            file.write("\n")
        keys.add(build(project).key)
    assert len(keys) == 4


def test_a_failed_download_shows_apts_words(project: Path) -> None:
    (project / "stub/apt-get").write_text("#!/bin/sh\necho 'E: no such package'\nexit 100\n")
    with pytest.raises(
        InfraError, match="exit status 100: apt-get download hello:amd64"
    ) as failure:
        build(project)
    assert "E: no such package" in failure.value.tail


def test_a_missing_kernel_is_the_users_error(project: Path) -> None:
    (project / "kernel").unlink()
    with pytest.raises(UserError, match="cannot read the kernel"):
        build(project)
