# SPDX-License-Identifier: GPL-2.0-only
"""How the hand-over of the measurement list is measured inside a guest.

Time is taken by the kernel's own trace events, between two places that every kernel passes once and
that are the same source in Linux 6.1, 6.12 and 7.3:

- load: from the entry of the system call kexec_file_load to its return (an unload is one too);
- execute: from the entry of `kernel_restart_prepare` (kernel/reboot.c) to that of `device_shutdown`
  (drivers/base/core.c). Between them lies the chain of reboot notifiers, in which every kernel that
  copies at execute does it. The rest is the same for all: a few other notifiers, a flag and
  `usermodehelper_disable`. Probes on the copying functions themselves would compare functions of
  different extent, and those are static.

A kernel that is replaced keeps no trace, so the result has to leave through the console while it
still runs (`tp_printk`). Printing both ends there and taking the difference of their time stamps is
not fair: the first line would be sent inside of the interval, where 6.1 and 6.12 wait for the
serial port and 7.3, whose 8250 console is an nbcon one, leaves that to a thread. So the kernel
subtracts: a hist trigger keeps the time of the beginning, the one at the end hands the difference
to a synthetic event (Documentation/trace/histogram.rst), and only that event is printed, after the
end. Nothing is subtracted from what it says: what the same interval takes with the list as booted
is reported beside it.

Memory is what the kernel says in /proc/vmallocinfo and /proc/zoneinfo, before and after the load.
Free are the free pages of all zones, which are MemFree of /proc/meminfo, and those in the lists
that every CPU keeps of free pages, which MemFree leaves out: they hold some MiB, more or less by
chance. In zoneinfo both are of the same moment; 6.12 and 7.3 empty the lists now and then.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

SYMBOLS = (
    "CONFIG_MODULES=y",  # what KPROBES depends on in 6.1
    "CONFIG_KPROBES=y",
    "CONFIG_FTRACE=y",
    "CONFIG_KPROBE_EVENTS=y",
    "CONFIG_HIST_TRIGGERS=y",
)
"""What a kernel needs beyond the project's fragments to be measured."""

CMDLINE = "tp_printk"
"""The kernel parameter that has trace events printed."""


class Interval(StrEnum):
    """What is timed."""

    LOAD = "load"
    EXECUTE = "execute"


# clock=mono is CLOCK_MONOTONIC. sched_clock() goes by what the kernel took for the frequency of the
# TSC early in its boot, which is a guess on a loaded host.
PROBES = """
set -e
mount -t tracefs tracefs /sys/kernel/tracing
cd /sys/kernel/tracing
{
    echo 'p:imakexec/load_begins __x64_sys_kexec_file_load'
    echo 'r:imakexec/load_ends __x64_sys_kexec_file_load'
    echo 'p:imakexec/execute_begins kernel_restart_prepare'
    echo 'p:imakexec/execute_ends device_shutdown'
} >kprobe_events
for what in load execute; do
    echo "imakexec_$what u64 nsecs" >>synthetic_events
    echo "hist:keys=common_pid:begin=common_timestamp:clock=mono" \\
        >"events/imakexec/${what}_begins/trigger"
    echo "hist:keys=common_pid:nsecs=common_timestamp-\\$begin:clock=mono:\\
onmatch(imakexec.${what}_begins).trace(imakexec_$what,\\$nsecs)" \\
        >"events/imakexec/${what}_ends/trigger"
    echo 1 >"events/synthetic/imakexec_$what/enable"
done
"""
"""A script for the guest that makes the kernel print how long each `Interval` took."""

_INTERVAL = re.compile(r"\bimakexec_(load|execute): nsecs=(\d+)\b")


def find_intervals(lines: Iterable[str], interval: Interval) -> tuple[float, ...]:
    """How long `interval` took, in seconds, each time it went by.

    Args:
        lines: of the guest's console.
    """
    found = (match for line in lines for match in _INTERVAL.finditer(line))
    return tuple(int(match[2]) / 1e9 for match in found if match[1] == interval)


# A record of the template "ima-ng" with SHA-256 has 87 bytes and its path: 129 bytes of these.
MEASURED = "/usr/lib/x86_64-linux-gnu/libmeasured.so.1"
"""The file in the guest that is measured again and again."""

# A file that was written is measured anew, and with another content it is another record. So the
# list grows while nothing else does: new files would cost far more memory than their records.
GROW = """
set -e
file=$1 i=$2 end=$3
mkdir -p "${file%/*}"
while [ $i -lt $end ]; do
    i=$((i + 1))
    echo $i >"$file"
    read -r _ <"$file"
done
"""
"""A script for the guest: make records `$2` + 1 to `$3` of the file `$1`."""


# Memory


@dataclass(frozen=True)
class Area:
    """What tells one kind of line in /proc/vmallocinfo from another (mm/vmalloc.c).

    Attributes:
        caller: the function that asked for the area, without its offset.
        size: of the virtual range in bytes, with its guard page.
        pages: how many pages the area itself owns; a mapping of somebody else's owns none.
    """

    caller: str
    size: int
    pages: int


_AREA = re.compile(r"^0x\S+\s+(\d+)\s+([^\s+]+)(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?(.*)$", re.MULTILINE)
_PAGES = re.compile(r" pages=(\d+)\b")
# Of a zone, and of a CPU's list of the zone.
_FREE = re.compile(r"^ +(?:pages free|count:) +(\d+)$", re.MULTILINE)


def parse_areas(vmallocinfo: str) -> Counter[Area]:
    """The areas in the text of /proc/vmallocinfo.

    They have no identity: the kernel may show every address as the same word.
    """
    areas: Counter[Area] = Counter()
    for size, caller, rest in _AREA.findall(vmallocinfo):
        pages = _PAGES.search(rest)
        areas[Area(caller, int(size), int(pages[1]) if pages else 0)] += 1
    return areas


def parse_free(zoneinfo: str, *, page: int) -> int:
    """Bytes of free memory in the text of /proc/zoneinfo (mm/vmstat.c).

    Args:
        page: size of a page in the guest, in bytes.

    Raises:
        ValueError: no zone has any.
    """
    pages = sum(map(int, _FREE.findall(zoneinfo)))
    if not pages:
        raise ValueError("no free pages in this zoneinfo")
    return pages * page


@dataclass(frozen=True)
class MemoryState:
    """What a kernel says of its memory at one moment.

    Attributes:
        free: bytes of free memory.
        areas: of vmalloc.
    """

    free: int
    areas: Counter[Area]

    @classmethod
    def parse(cls, *, zoneinfo: str, vmallocinfo: str, page: int) -> Self:
        """Read the texts of the files in /proc that are called so.

        Args:
            page: size of a page in the guest, in bytes.
        """
        return cls(parse_free(zoneinfo, page=page), parse_areas(vmallocinfo))


@dataclass(frozen=True)
class Held:
    """What a kernel holds that it did not hold before.

    Attributes:
        free: bytes by which there is less free memory.
        owned: bytes of pages in vmalloc areas of the hand-over, by the function that asked.
        mapped: bytes of virtual ranges in which it maps pages of the image, by the same.
    """

    free: int
    owned: Mapping[str, int]
    mapped: Mapping[str, int]

    @classmethod
    def between(cls, before: MemoryState, after: MemoryState, *, page: int) -> Self:
        """The difference of two states.

        Args:
            page: size of a page in the guest, in bytes.
        """
        owned: Counter[str] = Counter()
        mapped: Counter[str] = Counter()
        for area, count in (after.areas - before.areas).items():
            if area.caller.startswith(_CALLERS):
                if area.pages:
                    owned[area.caller] += count * area.pages * page
                else:
                    mapped[area.caller] += count * (area.size - page)
        return cls(before.free - after.free, dict(owned), dict(mapped))


# Whoever keeps something for the hand-over, in any of the kernels: ima_alloc_kexec_file_buf or what
# it was inlined into, and kimage_map_segment.
_CALLERS = ("ima_", "kimage_", "kexec_")
