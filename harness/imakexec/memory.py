# SPDX-License-Identifier: GPL-2.0-only
"""Opens a memory dump with what helps to read it, and asks `attest.memory`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from imakexec.attest.core import MalformedDump, open_core
from imakexec.attest.memory import MemoryVerdict, judge_memory
from imakexec.errors import UserError
from imakexec.evidence import Evidence, EvidenceFault

SCHEMA = "imakexec-memory/1"

_SYMBOL = re.compile(r"^([0-9a-f]+) [A-Za-z] (\S+)$", re.MULTILINE)


def look(dump: Path, *, log: bytes | None, system_map: Path | None) -> MemoryVerdict:
    """What a dump tells of the hand-over buffer.

    Args:
        log: the binary list that was read last in the same run; None if nobody knows it.
        system_map: of the kernel that ran; None if nobody has it.

    Raises:
        UserError: the dump is none, or the System.map cannot be read.
    """
    symbols = None if system_map is None else read_symbols(system_map)
    try:
        with open_core(dump) as core:
            return judge_memory(core, symbols, log)
    except OSError as error:
        message = f"the dump cannot be read: {error.strerror}"
        raise UserError(message, where=str(dump), remedy="name a file that exists") from error
    except MalformedDump as error:
        raise UserError(
            f"this is no memory dump: {error}",
            where=str(dump),
            remedy="name what --dump-memory has kept, or QEMU's dump-guest-memory has written",
        ) from error


def read_symbols(path: Path) -> Mapping[str, int]:
    """Every symbol of a System.map with its address.

    Raises:
        UserError: it is none.
    """
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        message = f"the System.map cannot be read: {error.strerror}"
        raise UserError(message, where=str(path), remedy="name that of the kernel") from error
    found = {name: int(address, 16) for address, name in _SYMBOL.findall(text)}
    if not found:
        raise UserError(
            "this is no System.map: no line is an address, a type and a name",
            where=str(path),
            remedy="name the one that the kernel's build has made",
        )
    return found


def newest_list(folder: Path) -> bytes | None:
    """The binary list that was read last in a run; None if none was.

    Raises:
        UserError: it is no evidence folder.
    """
    try:
        lists = [item.log for item in Evidence.load(folder).snapshots if item.log is not None]
    except EvidenceFault as fault:
        raise UserError(
            f"the evidence cannot be read: {fault}",
            where=str(folder),
            remedy="name the evidence folder of the run that the dump is of",
        ) from fault
    return lists[-1] if lists else None


def memory_document(found: MemoryVerdict) -> dict[str, object]:
    """A document of the form "imakexec-memory/1"."""
    return {"schema": SCHEMA, "is_good": found.is_good, **asdict(found)}
