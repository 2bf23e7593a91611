# SPDX-License-Identifier: GPL-2.0-only
"""What is done to a guest: load, activity, execute, and the evidence of it."""

from __future__ import annotations

from imakexec.scenario.activity import (
    LONG_PATHS,
    generate_activity,
    measure_again,
    measure_bytes,
    paths_of_records,
    storm,
    storm_paths,
)
from imakexec.scenario.handover import (
    KEEPS_BUFFER,
    find_handover_buffer,
    is_handed_a_list,
    read_handover_buffer,
)
from imakexec.scenario.leaks import find_leaks
from imakexec.scenario.session import Session
from imakexec.scenario.steps import (
    MEASUREMENTS,
    NEXT_INITRD,
    NEXT_KERNEL,
    Load,
    LoadedKernel,
    boot,
    cold_reset,
    crash,
    end,
    kernel_log,
    kexec_execute,
    kexec_execute_refused,
    kexec_load,
    kexec_load_refused,
    kexec_unload,
    new_token,
    put_next_kernel,
    read_list,
    reading_budget,
    take_snapshot,
)

__all__ = [
    "KEEPS_BUFFER",
    "LONG_PATHS",
    "MEASUREMENTS",
    "NEXT_INITRD",
    "NEXT_KERNEL",
    "Load",
    "LoadedKernel",
    "Session",
    "boot",
    "cold_reset",
    "crash",
    "end",
    "find_handover_buffer",
    "find_leaks",
    "generate_activity",
    "is_handed_a_list",
    "kernel_log",
    "kexec_execute",
    "kexec_execute_refused",
    "kexec_load",
    "kexec_load_refused",
    "kexec_unload",
    "measure_again",
    "measure_bytes",
    "new_token",
    "paths_of_records",
    "put_next_kernel",
    "read_handover_buffer",
    "read_list",
    "reading_budget",
    "storm",
    "storm_paths",
    "take_snapshot",
]
