# SPDX-License-Identifier: GPL-2.0-only
"""The guest's initramfs: Debian packages, `/init` and the agent, packed byte for byte alike.

What goes in is written down in `images/`: `packages.txt` names the packages that are unpacked for
the guest only, `initramfs.list` names the files. The archive is made of two parts:

    base    the root, gzip'ed and padded to four bytes
    next    /boot/next/kernel and /boot/next/initrd, the latter being the base again

so that the first kernel finds in its root what it needs for a kexec, while the initramfs of the
second one, which kexec must load and hash, stays as small as it can be.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import stat
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.kernel.apt import Apt, apt_for
from imakexec.kernel.cache import Cache
from imakexec.progress import Progress, Step

_COMPILE = ("-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror")
_C_LOCALE = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"}
_NEEDED = re.compile(r"\(NEEDED\)\s+Shared library: \[(.+)\]")
_INTERPRETER = re.compile(r"\[Requesting program interpreter: (.+)\]")


class _GuestArch(Protocol):
    """What the image needs to know of an architecture."""

    @property
    def debian_arch(self) -> str: ...
    @property
    def compiler(self) -> str: ...
    @property
    def set_up(self) -> str: ...


@dataclass(frozen=True)
class GuestImage:
    """An initramfs for the first kernel.

    Attributes:
        initrd: the file for QEMU's `-initrd`.
        key: identity of everything that went into it, 64 hexadecimal digits.
        packages: "name=version" of the Debian packages unpacked for it, sorted.
    """

    initrd: Path
    key: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """One entry of the archive.

    Attributes:
        name: path without a leading slash.
        mode: type and permissions as in st_mode.
        data: a file's contents or a symbolic link's target.
        device: major and minor number of a device node.
    """

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def build_guest_image(
    next_kernel: Path,
    *,
    arch: _GuestArch,
    project: Path,
    cache: Cache,
    progress: Progress,
    deadline: Deadline,
    further: Path | None = None,
) -> GuestImage:
    """Make the initramfs that carries `next_kernel`, or find it in the cache.

    The packages are fetched once and then kept: their versions are in the result, and clearing
    the cache is how newer ones are taken.

    Args:
        next_kernel: the kernel image that the guest will kexec into.
        project: the top folder of the tree, which holds `images/`.
        further: a cpio archive of the user's, whose files every kernel finds beside the others.

    Raises:
        UserError: `next_kernel` or `further` cannot be read, or is none.
        InfraError: a package cannot be fetched, the agent does not compile, or a library that
            an executable needs is in none of the packages.
    """
    images = project / "images"
    kernel = _read_kernel(next_kernel)
    archive = b"" if further is None else _read_archive(further)
    with progress.step("guest image") as step, cache.lock("guest-image", deadline, progress):
        tree = _packages_tree(images / "packages.txt", arch, cache, step, deadline)
        packages = tuple((tree / "versions").read_text().split())
        key = _image_key(images, (kernel, archive), packages, arch, deadline)
        entry = cache.lookup("guest-image", key)
        if entry is not None:
            step.done("cached")
            return GuestImage(entry / "initrd", key, packages)
        with cache.publish("guest-image", key) as scratch:
            step.update("compiling the agent")
            compile_agent(images / "agent.c", scratch / "agent", deadline, arch=arch)
            step.update("packing")
            locations = {
                "images": str(images),
                "packages": str(tree / "root"),
                "build": str(scratch),
            }
            base = pack_base(images / "initramfs.list", locations, deadline) + archive
            (scratch / "initrd").write_bytes(base + pack_next(kernel, base))
        entry = cache.lookup("guest-image", key)
        assert entry is not None, "published above, under the lock"
        step.done(f"{(entry / 'initrd').stat().st_size / 2**20:.1f} MiB")
    return GuestImage(entry / "initrd", key, packages)


def _read_kernel(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the kernel to kexec into: {error.strerror}",
            where=str(path),
            remedy="name a kernel image that exists, such as a bzImage",
        ) from error


def _read_archive(path: Path) -> bytes:
    """A user's archive, padded so that another one may follow.

    Linux unpacks archives that stand behind one another, each compressed or not
    (Documentation/driver-api/early-userspace/buffer-format.rst).
    """
    remedy = "make one by `find . | cpio -o -H newc >FILE`, which may be gzip'ed"
    try:
        content = path.read_bytes()
    except OSError as error:
        message = f"the initramfs cannot be read: {error.strerror}"
        raise UserError(message, where=f"--initrd {path}", remedy=remedy) from error
    if not content.startswith((b"070701", b"070702", b"\x1f\x8b")):
        raise UserError(
            "this is no initramfs that a guest's kernel can unpack: no newc archive, nor gzip",
            where=f"--initrd {path}",
            remedy=remedy,
        )
    return _padded(content)


def _image_key(
    images: Path,
    contents: tuple[bytes, ...],
    packages: tuple[str, ...],
    arch: _GuestArch,
    deadline: Deadline,
) -> str:
    """Identity of what goes in: the recipe, its reader (this file), packages, compiler, contents.

    Args:
        contents: the kernel, and the user's archive.
    """
    compiler = process.run([arch.compiler, "--version"], deadline=deadline, env=_C_LOCALE)
    parts = [" ".join((arch.debian_arch, *packages)).encode(), compiler.output.encode(), *contents]
    for path in (*sorted(images.iterdir()), Path(__file__)):
        parts += [path.name.encode(), path.read_bytes()]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


# Packages


def _packages_tree(
    listing: Path, arch: _GuestArch, cache: Cache, step: Step, deadline: Deadline
) -> Path:
    """The folder with the unpacked packages in `root` and their versions in `versions`."""
    names = [f"{name}:{arch.debian_arch}" for name in read_names(listing)]
    key = hashlib.sha256("\n".join(names).encode()).hexdigest()
    entry = cache.lookup("guest-packages", key)
    if entry is None:
        with cache.publish("guest-packages", key) as scratch:
            step.update("looking for packages")
            apt = apt_for(arch.debian_arch, cache.root / "apt", deadline)
            _fetch_packages(apt, names, scratch, step, deadline)
        entry = cache.lookup("guest-packages", key)
    assert entry is not None, "published above, under the lock"
    return entry


def read_names(listing: Path) -> tuple[str, ...]:
    """Package names of a list with one a line, comments from `#` to the end of the line."""
    lines = (line.partition("#")[0].strip() for line in listing.read_text().splitlines())
    return tuple(line for line in lines if line)


def _fetch_packages(
    apt: Apt, names: list[str], folder: Path, step: Step, deadline: Deadline
) -> None:
    """Download by the host's apt, which checks signatures, and unpack without installing."""
    step.update(f"fetching {len(names)} packages")
    process.run(
        ["apt-get", *apt.options, "download", *names],
        deadline=deadline,
        cwd=folder,
        on_line=step.update,
        remedy="run apt-get update; packages come from the host's own apt sources",
    )
    archives = sorted(folder.glob("*.deb"))
    versions = []
    for number, archive in enumerate(archives):
        step.update(f"unpacking {archive.name}", number / len(archives))
        process.run(["dpkg-deb", "-x", str(archive), str(folder / "root")], deadline=deadline)
        show = ["dpkg-deb", "-W", "--showformat=${Package}=${Version}", str(archive)]
        versions.append(process.run(show, deadline=deadline).output.strip())
        archive.unlink()
    (folder / "versions").write_text("\n".join(sorted(versions)) + "\n")


def compile_agent(source: Path, output: Path, deadline: Deadline, *, arch: _GuestArch) -> None:
    """Compile the agent for the guest: static, so that it brings no library into the log.

    Raises:
        InfraError: the compiler is missing or complains.
    """
    process.run(
        [arch.compiler, *_COMPILE, "-o", str(output), source.name],
        cwd=source.parent,
        deadline=deadline,
        env=_C_LOCALE,
        remedy=f"the agent needs a compiler and its static libc: {arch.set_up}",
    )


# The recipe


def pack_base(recipe: Path, locations: Mapping[str, str], deadline: Deadline) -> bytes:
    """The root as a gzip'ed archive, padded so that an uncompressed one may follow.

    Args:
        recipe: a list in the format of the kernel's usr/gen_init_cpio.c.
        locations: values of the `${name}` references in its file lines; "packages" is also
            where shared libraries are looked for.

    Raises:
        InfraError: a line is not understood, or a file or library is missing.
    """
    nodes = {}
    executables = []
    for number, line in enumerate(recipe.read_text().splitlines(), 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        try:
            node = _parse_node(fields, locations)
        except (ValueError, KeyError, IndexError, OSError) as error:
            raise InfraError(
                f"cannot follow the line {line!r}: {error}",
                where=f"{recipe}:{number}",
                remedy="correct the line; the format is that of the kernel's usr/gen_init_cpio",
            ) from error
        nodes[node.name] = node
        if node.data.startswith(b"\x7fELF"):
            executables.append(_expand(fields[2], locations))
    for node in _libraries(executables, Path(locations["packages"]), deadline):
        nodes[node.name] = node
    packed = gzip.compress(write_cpio(nodes.values()), mtime=0)
    return packed + bytes(-len(packed) % 4)


def _expand(location: str, locations: Mapping[str, str]) -> Path:
    return Path(string.Template(location).substitute(locations))


def _parse_node(fields: list[str], locations: Mapping[str, str]) -> Node:
    kind, name = fields[0], fields[1].lstrip("/")
    match kind, fields[2:]:
        case "dir", [mode, "0", "0"]:
            return Node(name, stat.S_IFDIR | int(mode, 8))
        case "file", [location, mode, "0", "0"]:
            data = _expand(location, locations).read_bytes()
            return Node(name, stat.S_IFREG | int(mode, 8), data)
        case "slink", [target, mode, "0", "0"]:
            return Node(name, stat.S_IFLNK | int(mode, 8), target.encode())
        case "nod", [mode, "0", "0", "c", major, minor]:
            device = (int(major), int(minor))
            return Node(name, stat.S_IFCHR | int(mode, 8), device=device)
    raise ValueError("not a dir, file, slink or character device of user and group 0")


def pack_next(kernel: bytes, base: bytes) -> bytes:
    """The archive with /boot/next, not compressed: the larger part of it mostly is already."""
    return write_cpio(
        [
            Node("boot", stat.S_IFDIR | 0o755),
            Node("boot/next", stat.S_IFDIR | 0o755),
            Node("boot/next/kernel", stat.S_IFREG | 0o644, kernel),
            Node("boot/next/initrd", stat.S_IFREG | 0o644, base),
        ]
    )


# Shared libraries


def read_dependencies(path: Path, deadline: Deadline) -> tuple[str | None, tuple[str, ...]]:
    """Program interpreter and NEEDED entries of an ELF file, of whatever architecture.

    The file is read, never run, unlike with ldd.
    """
    listing = process.run(
        ["readelf", "--wide", "--program-headers", "--dynamic", str(path)],
        deadline=deadline,
        env=_C_LOCALE,
        remedy="readelf comes with the package binutils",
    ).output
    interpreter = _INTERPRETER.search(listing)
    return interpreter and interpreter[1], tuple(_NEEDED.findall(listing))


def _libraries(executables: Iterable[Path], root: Path, deadline: Deadline) -> Iterator[Node]:
    """The interpreter and all libraries of the executables, and the folders they are in."""
    names = set()
    waiting = list(executables)
    while waiting:
        user = waiting.pop()
        interpreter, needed = read_dependencies(user, deadline)
        if interpreter is not None:
            # It is in memory already when a library asks for it by name.
            names.add(Path(interpreter).name)
            loader = _find_library(Path(interpreter).name, root, user)
            yield from _with_folders(interpreter.lstrip("/"), loader)
        for name in sorted(set(needed) - names):
            names.add(name)
            library = _find_library(name, root, user)
            waiting.append(library)
            yield from _with_folders(str(library.relative_to(root)), library)


def _find_library(name: str, root: Path, user: Path) -> Path:
    """Where Debian keeps it: a multiarch folder, which ld.so searches without being told."""
    for folder in ("lib", "usr/lib"):
        for path in sorted(root.glob(f"{folder}/*-linux-*/{name}")):
            return path
    raise InfraError(
        f"{user.name} needs {name}, which is in none of the guest's packages",
        where=str(user),
        remedy="add the Debian package that holds it to images/packages.txt",
    )


def _with_folders(name: str, source: Path) -> Iterator[Node]:
    for folder in reversed(Path(name).parents[:-1]):
        yield Node(str(folder), stat.S_IFDIR | 0o755)
    yield Node(name, stat.S_IFREG | 0o755, source.read_bytes())


# The archive


def write_cpio(nodes: Iterable[Node]) -> bytes:
    """A "newc" archive whose bytes depend on the nodes alone.

    Nodes are sorted by name, so a folder stands before what is in it; inode numbers count up,
    owner, group and time are 0. The format is described in
    Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    ordered = sorted(nodes, key=lambda node: node.name)
    trailer = Node("TRAILER!!!", 0)
    members = [_member(node, inode) for inode, node in enumerate(ordered, 1)]
    return b"".join(members) + _member(trailer, 0)


def _member(node: Node, inode: int) -> bytes:
    name = node.name.encode() + b"\0"
    fields = (
        inode,
        node.mode,
        0,  # uid
        0,  # gid
        2 if stat.S_ISDIR(node.mode) else 1,
        0,  # mtime
        len(node.data),
        0,  # major and minor number of the device the file is on
        0,
        *node.device,
        len(name),
        0,  # check sum, of another format
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(header) + _padded(node.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
