# SPDX-License-Identifier: GPL-2.0-only
"""JSON that somebody else has written, read member by member, with a place for each complaint."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

NAME_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""What can be a file's or a thing's name: it needs no quoting anywhere."""
HEX = re.compile(r"(?:[0-9a-f]{2})+")
SHA256_HEX = re.compile(r"[0-9a-f]{64}")
# What could deface a terminal, or cannot be encoded. A kernel command line may hold tabs and lines.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

_PLAIN_NAME_LIMIT = 64
_NUMBER_BITS = 63
_VALUE_WIDTH = 60

T = TypeVar("T")


class JsonFault(Exception):
    """A file does not hold what it must; whoever reads it knows what that means.

    Args:
        what: what was expected and what was seen.
        file: its name.
        field: the member concerned, e.g. "snapshots[1].epoch"; empty for the whole file.
    """

    def __init__(self, what: str, *, file: str, field: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.file = file
        self.field = field


@dataclass(frozen=True)
class Value:
    """A JSON value that knows where it stands, so that each complaint names its field.

    Its methods raise JsonFault where it is not what they read.

    Args:
        value: as json.loads() gave it.
        file: that it is from.
        path: of members and indices that leads to it; empty for the whole file.
        name: of the member that it is the value of; empty if it is none.
    """

    value: object
    file: str
    path: str = ""
    name: str = ""

    def members(self, *names: str) -> tuple[Value, ...]:
        """The members of an object that must have exactly these, in the order asked for."""
        found = {item.name: item for item in self.items()}
        for name in names:
            if name not in found:
                raise self.wrong(f"member {name!r} is missing")
        for name, item in found.items():
            if name not in names:
                raise item.wrong("unknown member")
        return tuple(found[name] for name in names)

    def items(self) -> list[Value]:
        """The members of an object, whatever their names."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object expected")
        prefix = f"{self.path}." if self.path else ""
        return [
            Value(value, self.file, f"{prefix}{name}", name) for name, value in self.value.items()
        ]

    def elements(self) -> list[Value]:
        """The elements of an array."""
        if not isinstance(self.value, list):
            raise self.wrong("an array expected")
        return [
            Value(value, self.file, f"{self.path}[{index}]")
            for index, value in enumerate(self.value)
        ]

    def string(self) -> str:
        """A string that can be printed."""
        if not isinstance(self.value, str):
            raise self.wrong("a string expected")
        if UNPRINTABLE.search(self.value):
            raise self.wrong("a string without control characters and lone surrogates expected")
        return self.value

    def plain_name(self) -> str:
        """A short name that can stand in a message as it is."""
        name = self.string()
        if not is_plain_name(name):
            raise self.wrong(f"a plain name of up to {_PLAIN_NAME_LIMIT} characters expected")
        return name

    def natural(self) -> int:
        """A whole number from 0, of at most 63 bits."""
        # bool is a subclass of int, and JSON true is not a number.
        if type(self.value) is not int or self.value < 0:
            raise self.wrong("a whole number expected")
        if self.value.bit_length() > _NUMBER_BITS:
            raise self.wrong(f"a whole number of up to {_NUMBER_BITS} bits expected")
        return self.value

    def number(self) -> float:
        """A finite number from 0."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.wrong("a number expected")
        if not 0 <= self.value < math.inf:
            raise self.wrong("a finite number from 0 expected")
        return float(self.value)

    def boolean(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false expected")
        return self.value

    def optional(self, read: Callable[[Value], T]) -> T | None:
        """What `read` makes of it, or None for null."""
        return None if self.value is None else read(self)

    def digits(self) -> bytes:
        """Bytes, as lower-case hexadecimal digits."""
        return bytes.fromhex(self.matching(HEX, "lower-case hex digits"))

    def matching(self, pattern: re.Pattern[str], expected: str) -> str:
        """A string that is all of a pattern, which `expected` describes."""
        text = self.string()
        if not pattern.fullmatch(text):
            raise self.wrong(f"{expected} expected")
        return text

    def wrong(self, what: str) -> JsonFault:
        """The complaint that something else was expected here."""
        return JsonFault(f"{what}, {quoted(self.value)} found", file=self.file, field=self.path)


def parse_json(text: bytes, file: str) -> Value:
    """Read a file's content.

    Raises:
        JsonFault: it is no JSON, or an object in it has two members of one name.
    """
    try:
        return Value(json.loads(text, object_pairs_hook=_unique_members), file)
    except (ValueError, RecursionError) as error:
        raise JsonFault(f"not JSON: {error}", file=file) from error


def is_plain_name(name: str) -> bool:
    """Whether a name is short and can stand in a message as it is."""
    return len(name) <= _PLAIN_NAME_LIMIT and NAME_PART.fullmatch(name) is not None


def quoted(value: object) -> str:
    """A value as it was read, fit for a message whatever its size and depth."""
    short = reprlib.Repr()
    short.maxlevel = 3
    short.maxstring = _VALUE_WIDTH
    return shortened(short.repr(value), _VALUE_WIDTH)


def shortened(text: str, width: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Two members of one name would let two readers see two different files."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has two members of the same name")
    return members
