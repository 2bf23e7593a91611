# SPDX-License-Identifier: GPL-2.0-only
"""Kernel messages about the hand-over that no healthy run prints.

A kexec_file_load succeeds even when the measurement list will not be carried, and a restore that
failed leaves a kernel that runs: the only immediate sign of either is a line in the log.
"""

from __future__ import annotations

from collections.abc import Iterable

# Substrings, by the side that prints them: security/integrity/ima/ima_kexec.c, ima_template.c,
# ima_queue.c, ima_init.c and arch/x86/kernel/setup.c of Linux 6.1 to 7.3, and of the series.
FORBIDDEN: tuple[str, ...] = (
    # at load
    "Binary measurement list too large",
    "Not enough memory for the kexec measurement buffer",
    "Error passing over kexec measurement buffer",
    "Could not map",
    "Could not allocate ima pages array",
    "Trying to vfree",
    # at execute
    "Kexec segment is full",
    "Kexec segment is not mapped",
    "Dump measurements failed",
    "Kexec buffer not set",
    "Kexec file buf not allocated",
    "Error Communicating to TPM chip",
    # at restore
    "Failed to restore the measurement list",
    "incompatible measurement list",
    "nr of fields mismatch",
    "buf end mismatch",
    "too many measurements",
    "unsupported template",
    "template name that is too long",
    "attempting to initialize the template",
    "attempting to restore the template fmt",
    "cannot calculate template digest",
    "activating TPM-bypass",
    "lies outside available memory",
    "beyond memory",
    "Passed IMA kexec data, but CONFIG_IMA not set",
    "ima dump:",
    # anywhere
    "RCU-list traversed",
    "suspicious RCU",
    "pagealloc: ",
    "WARNING:",
    "BUG:",
    "Oops",
)


def complaints(lines: Iterable[str]) -> tuple[str, ...]:
    """The lines that hold a forbidden message, as they are."""
    return tuple(line for line in lines if any(text in line for text in FORBIDDEN))
