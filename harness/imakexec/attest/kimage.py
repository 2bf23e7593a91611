# SPDX-License-Identifier: GPL-2.0-only
"""The kernel image that waits for its execution, as it lies in memory before the jump.

Its segments are not in one piece: a list of entries says from which page each page is copied at the
jump (`kimage_entry_t`, include/linux/kexec.h): an address of a page, with flags in its low bits.

    IND_DESTINATION 1   the pages that follow go there, one after the other
    IND_INDIRECTION 2   the list goes on there
    IND_DONE        4   the list ends
    IND_SOURCE      8   the next page is copied from there

`struct kimage` begins with the first entry, in all kernels from 2.6.13 on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from imakexec.attest.core import CoreDump, MalformedDump

PAGE = 4096
_DESTINATION, _INDIRECTION, _DONE, _SOURCE = 1, 2, 4, 8
_FLAGS = PAGE - 1

# x86-64 without address space randomisation: Documentation/x86/x86_64/mm.rst, and
# __START_KERNEL_map in arch/x86/include/asm/page_64_types.h.
_KERNEL_MAP = 0xFFFFFFFF80000000
_DIRECT_MAP = 0xFFFF888000000000
_KERNEL_MAP_SIZE = 1 << 30

_IMAGE = "kexec_image"
_DIRECT_MAP_BASE = "page_offset_base"
_PHYSICAL_BASE = "phys_base"
_ALIGNMENT = 2 << 20


@dataclass(frozen=True)
class LoadedImage:
    """What is to be copied at the jump.

    Attributes:
        pages: the physical address of the page that is copied from, by that of its destination.
    """

    pages: Mapping[int, int]

    def runs(self) -> Iterator[list[int]]:
        """The destinations that lie behind one another, ascending."""
        run: list[int] = []
        for page in sorted(self.pages):
            if run and page != run[-1] + PAGE:
                yield run
                run = []
            run.append(page)
        if run:
            yield run

    def content(self, core: CoreDump, destinations: list[int]) -> bytes:
        """What will lie at these pages after the jump; zeroes where the dump has nothing."""
        return b"".join(core.read(self.pages[page], PAGE) or bytes(PAGE) for page in destinations)


def find_image(core: CoreDump, symbols: Mapping[str, int]) -> LoadedImage | None:
    """The image that waits; None if none does.

    Args:
        symbols: addresses in the running kernel, by name, from its System.map.

    Raises:
        MalformedDump: it is another kernel's System.map, or the list of entries is no list, or
            nobody can tell which of several kernels runs.
    """
    kernel = _Kernel(core, symbols, _running_at(core, symbols))
    pointer = kernel.number(_IMAGE)
    if pointer is None:
        raise MalformedDump(f"the dump has no memory where {_IMAGE} should be")
    if not pointer:
        return None
    base = kernel.number(_DIRECT_MAP_BASE) or _DIRECT_MAP
    head = core.number(pointer - base) if pointer >= base else None
    if head is None:
        raise MalformedDump(f"{_IMAGE} is {pointer:#x}, which is not in this memory")
    return LoadedImage(dict(_walk(core, pointer - base, head)))


@dataclass(frozen=True)
class _Kernel:
    """A kernel in a dump.

    Attributes:
        core: the dump.
        symbols: where it was linked to.
        base: by how much its physical addresses are higher than those it was linked to.
    """

    core: CoreDump
    symbols: Mapping[str, int]
    base: int

    def number(self, name: str) -> int | None:
        """A variable of 64 bits; None if it is not in the dump."""
        address = self.symbols.get(name, 0) - _KERNEL_MAP
        return self.core.number(address + self.base) if 0 <= address < _KERNEL_MAP_SIZE else None


def _running_at(core: CoreDump, symbols: Mapping[str, int]) -> int:
    """The physical base of the kernel that runs: each knows its own (arch/x86/kernel/head_64.S).

    The kernel before a kexec is still in memory, at 0 if it was booted by firmware, with all that
    it knew when it jumped. The next one lies elsewhere.

    Raises:
        MalformedDump: none or several of them.
    """
    end = max(region.start + region.size for region in core.regions)
    found = [
        base
        for base in range(0, end, _ALIGNMENT)
        if _Kernel(core, symbols, base).number(_PHYSICAL_BASE) == base
    ]
    if not found:
        raise MalformedDump(
            f"no kernel is where its {_PHYSICAL_BASE} says: is this the System.map of the x86-64 "
            "kernel that ran, and does that run where it was linked to (no KASLR)?"
        )
    later = [base for base in found if base]
    if len(later) > 1:
        raise MalformedDump(f"{len(found)} kernels are in this memory: nobody knows which one runs")
    return later[0] if later else 0


def _walk(core: CoreDump, place: int, entry: int) -> Iterator[tuple[int, int]]:
    """Destination and source of every page."""
    seen: set[int] = set()
    destination: int | None = None
    left = core.size // 8  # there cannot be more entries than fit into memory
    while entry and not entry & _DONE:
        page = entry & ~_FLAGS
        if entry & _DESTINATION:
            destination = page
        elif entry & _SOURCE:
            if destination is None:
                raise MalformedDump("the list of the loaded image has a source without destination")
            yield destination, page
            destination += PAGE
        if entry & _INDIRECTION:
            if page in seen:
                raise MalformedDump("the list of the loaded image runs in a circle")
            seen.add(page)
            place = page
        else:
            place += 8
        left -= 1
        following = core.number(place)
        if following is None or left == 0:
            raise MalformedDump(f"the list of the loaded image leads out of memory at {place:#x}")
        entry = following
