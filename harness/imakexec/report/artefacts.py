# SPDX-License-Identifier: GPL-2.0-only
"""The files that a test has left, as links."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from imakexec.evidence import lies_in

_MOST_FILES = 400
_DEEPEST = 4  # folders
_UNITS = ((30, "GiB"), (20, "MiB"), (10, "KiB"))


@dataclass(frozen=True)
class Artefact:
    """One file.

    Attributes:
        name: of it.
        href: relative to the page.
        size: in words.
    """

    name: str
    href: str
    size: str


@dataclass(frozen=True)
class Shelf:
    """The files of one folder.

    Attributes:
        name: of the folder, relative to the test's; empty for that itself.
        files: by name.
    """

    name: str
    files: tuple[Artefact, ...]


@dataclass(frozen=True)
class Artefacts:
    """All files of a test.

    Attributes:
        shelves: with something on them, the test's own folder first.
        more: whether there are further files.
    """

    shelves: tuple[Shelf, ...]
    more: bool


def folder_of(page: Path, name: str) -> Path | None:
    """The folder of that name beside the page; None if there is none, or it is elsewhere."""
    if not name:
        return None
    folder = page / name
    try:
        return folder if lies_in(folder, page) and folder.is_dir() else None
    except (OSError, ValueError):  # a loop of links; a name that no file can have
        return None


def find_artefacts(page: Path, folder: Path, *, without: Sequence[Path] = ()) -> Artefacts:
    """The files in a folder and below it.

    Args:
        page: the folder of the page.
        folder: beside it.
        without: folders in it that are shown elsewhere.
    """
    shelves: dict[str, list[Artefact]] = {}
    more = False
    for count, (path, size) in enumerate(_files(folder, set(without), 0)):
        if count == _MOST_FILES:
            more = True
            break
        name = path.parent.relative_to(folder).as_posix()
        shelf = shelves.setdefault("" if name == "." else name, [])
        shelf.append(Artefact(path.name, link(page, path), in_words(size)))
    return Artefacts(tuple(Shelf(name, tuple(files)) for name, files in shelves.items()), more)


def link(page: Path, path: Path) -> str:
    """A relative link; no name can make another link of it."""
    return quote(os.fsencode(path.relative_to(page)))


def regular_file(page: Path, path: Path) -> Path | None:
    """The path, if a file is there that is in the page's folder and makes no reader wait."""
    try:
        return path if path.is_file() and lies_in(path, page) else None
    except OSError:
        return None


def in_words(size: int) -> str:
    """A number of bytes: "812 B", "34 KiB"."""
    if size < 1 << 10:
        return f"{size} B"
    shift, unit = next((item for item in _UNITS if size >= 1 << item[0]), _UNITS[-1])
    value = size / (1 << shift)
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"


def _files(folder: Path, without: set[Path], depth: int) -> Iterator[tuple[Path, int]]:
    """Its files and their sizes, then those of the folders in it, in the order of their names."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
    except OSError:
        return
    for entry, size in zip(entries, sizes, strict=True):
        if entry.is_file(follow_symlinks=False):
            yield Path(entry.path), size
    for entry in entries:
        path = Path(entry.path)
        inner = entry.is_dir(follow_symlinks=False) and path not in without
        if inner and depth < _DEEPEST:
            yield from _files(path, without, depth + 1)
