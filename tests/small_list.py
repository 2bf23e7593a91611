# SPDX-License-Identifier: GPL-2.0-only
"""A small measurement list of a machine without firmware measurements: PCR 0-9 are zero.

As a program it writes the list to a file, and prints for each record what a TPM's banks must be
extended with: `tests/tpm2-tools/make` is its reader.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from list_writer import Entry, entry, pack

_BANKS = ("sha1", "sha256")


def small_list() -> list[Entry]:
    """A boot_aggregate and some records of several templates, a violation among them."""
    firmware = b"sha256:\0" + hashlib.sha256(bytes(10 * 32)).digest()
    version = b"6.1.192"
    return [
        Entry("ima-ng", (firmware, b"boot_aggregate\0")),
        Entry(
            "ima-buf",
            (b"sha256:\0" + hashlib.sha256(version).digest(), b"kernel_version\0", version),
        ),
        entry("/usr/bin/true"),
        entry("/usr/lib/a.so", template="ima-sig"),
        Entry("ima-ng", (b"sha256:\0" + bytes(32), b"/var/log/journal\0"), violation=True),
        entry("/usr/bin/false"),
    ]


def _extension(item: Entry, bank: str) -> bytes:
    digest = hashlib.new(bank, item.hashed("little")).digest()
    return b"\xff" * len(digest) if item.violation else digest


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(pack(small_list()))
    for item in small_list():
        print(",".join(f"{bank}={_extension(item, bank).hex()}" for bank in _BANKS))
