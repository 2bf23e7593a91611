# SPDX-License-Identifier: GPL-2.0-only
"""Choices that the command line offers by name."""

from __future__ import annotations

from enum import StrEnum


class Accelerator(StrEnum):
    """QEMU's name of an accelerator."""

    KVM = "kvm"
    TCG = "tcg"


class Policy(StrEnum):
    """Which IMA policy the guest has."""

    BUILTIN = "builtin"
    """The kernel's own "tcb" and "critical_data", from the command line."""
    TCB = "tcb"
    """The kernel's own "tcb" alone: critical data, and so the markers, are not measured."""
    LOADED = "loaded"
    """The guest image's /etc/ima/policy, loaded by /init."""


class ShellIn(StrEnum):
    """Where the main job stops for an interactive shell."""

    BOOT = "boot"
    KEXEC = "kexec"


class Aim(StrEnum):
    """What a bisection looks for: the first commit that does not come past this stage."""

    CONFIG = "config"
    """The configuration that a guest needs can be made of the tree."""
    BUILD = "build"
    """It compiles."""
    BOOT = "boot"
    """It boots a guest."""
    SCENARIO = "scenario"
    """It stands the tests."""
