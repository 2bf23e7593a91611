# SPDX-License-Identifier: GPL-2.0-only
"""Which function of a kernel an address lies in, by the System.map of its build."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_LINE = re.compile(r"([0-9a-f]+) ([A-Za-z]) (\S+)")
_CODE = frozenset("tTwW")
_END = "_etext"


@dataclass(frozen=True)
class Symbols:
    """The functions of a kernel that runs where it was linked to.

    Attributes:
        addresses: where each begins, ascending; the last entry is the end of the kernel's code.
        names: of the functions.
    """

    addresses: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def read(cls, system_map: Path) -> Self:
        """Read a System.map, as nm writes it (scripts/mksysmap): address, type, name.

        Raises:
            OSError: it cannot be read.
            ValueError: it is none.
        """
        found = _LINE.findall(system_map.read_text(encoding="ascii", errors="replace"))
        code = sorted({(int(at, 16), name) for at, kind, name in found if kind in _CODE})
        if not code:
            raise ValueError(f"{system_map} names no function")
        ends = [int(at, 16) for at, _, name in found if name == _END]
        last = ends[0] if ends else code[-1][0]
        inside = [(at, name) for at, name in code if at <= last]
        return cls(tuple(at for at, _ in inside), tuple(name for _, name in inside))

    def name_of(self, address: int) -> str:
        """The function that an address lies in: "panic+0x1b/0x289"; empty if it is in none."""
        place = bisect_right(self.addresses, address) - 1
        if place < 0 or place + 1 >= len(self.addresses):
            return ""
        begin, end = self.addresses[place], self.addresses[place + 1]
        return f"{self.names[place]}+{address - begin:#x}/{end - begin:#x}"
