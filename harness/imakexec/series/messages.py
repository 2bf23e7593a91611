# SPDX-License-Identifier: GPL-2.0-only
"""What the compiler, sparse and kernel-doc say, comparable between two states of a tree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# A line of kbuild's short log. CHECK, which is sparse, is part of what makes an object.
_TARGET = re.compile(r"  (?!CHECK )[A-Z][A-Z0-9_]* +(\S+)")
_OBJECT = re.compile(r"  (?:CC|AS) +(\S+\.o)")

# Compilers and sparse give line and column, kernel-doc the line, objtool neither.
_MESSAGE = re.compile(
    r"(?P<file>[^\s:]+)(?::\d+){0,2}: (?P<kind>(?:fatal )?error|warning): (?P<text>.+)"
)
_PLACE_IN_TEXT = re.compile(r"(\.[chS])(?::\d+){1,2}\b")


@dataclass(frozen=True, order=True)
class Message:
    """One complaint.

    Attributes:
        file: relative to the tree.
        text: without line numbers, which every edit above changes.
    """

    file: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


def parse_messages(output: str, tree: str) -> Counter[Message]:
    """The complaints of a build, and how often each was made.

    A header's count once: it is compiled as often as it is included.

    Args:
        output: of make, with `W=1` and sparse or not.
        tree: the source folder, which the files' names start with.
    """
    counter: Counter[Message] = Counter()
    for line in output.splitlines():
        match = _MESSAGE.match(line.replace(f"{tree}/", ""))
        if match is None:
            continue
        text = _PLACE_IN_TEXT.sub(r"\1", match["text"])
        message = Message(match["file"], f"{match['kind']}: {text}")
        counter[message] = 1 if message.file.endswith(".h") else counter[message] + 1
    return counter


def said_by_object(output: str) -> dict[str, str]:
    """What was said while each object was made, by its name relative to the build folder.

    Args:
        output: of make with `--output-sync=target`, which keeps it together.
    """
    said: dict[str, str] = {}
    name = ""
    for line in output.splitlines():
        made = _OBJECT.match(line)
        if made is not None:
            name = made[1]
            said[name] = ""
        elif _TARGET.match(line):
            name = ""
        if name:
            said[name] += f"{line}\n"
    return said


def new_messages(now: Counter[Message], before: Counter[Message]) -> list[str]:
    """The complaints that are made now, and were not, or less often, before."""
    return [
        f"{message} (now {count} times, before {before[message]})"
        if before[message]
        else str(message)
        for message, count in sorted(now.items())
        if count > before[message]
    ]


def lines_of(output: str, tree: str, messages: Iterable[str]) -> Iterator[str]:
    """Where in the tree each of some complaints is made: "FILE:LINE:COLUMN: warning: ...".

    Args:
        output: see `parse_messages`, which the complaints were found in.
        tree: likewise.
        messages: the complaints as texts; one that is not in the output stays as it is.
    """
    places: dict[str, str] = {}
    for line in output.splitlines():
        plain = line.replace(f"{tree}/", "")
        for message in parse_messages(line, tree):
            places.setdefault(str(message), plain)
    for text in messages:
        yield places.get(text, text)
