# SPDX-License-Identifier: GPL-2.0-only
"""What is done to a guest: load, activity, execute, and the evidence of it."""

from __future__ import annotations

from imakexec.scenario.messages import FORBIDDEN, complaints
from imakexec.scenario.steps import (
    LoadedKernel,
    Session,
    boot,
    cold_reset,
    generate_activity,
    kernel_log,
    kexec_execute,
    kexec_load,
    new_token,
    take_snapshot,
)

__all__ = [
    "FORBIDDEN",
    "LoadedKernel",
    "Session",
    "boot",
    "cold_reset",
    "complaints",
    "generate_activity",
    "kernel_log",
    "kexec_execute",
    "kexec_load",
    "new_token",
    "take_snapshot",
]
