# SPDX-License-Identifier: GPL-2.0-only
"""The accelerators that a guest may run under, by name."""

from __future__ import annotations

from enum import StrEnum


class Accelerator(StrEnum):
    """QEMU's name of an accelerator."""

    KVM = "kvm"
    TCG = "tcg"
