# SPDX-License-Identifier: GPL-2.0-only
"""The architectures a guest can have, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from imakexec.arch.arm64 import ARM64
from imakexec.arch.model import Arch, Feature, HandoverPlace, KexecObjects, LateRefusal, Uefi
from imakexec.arch.x86_64 import X86_64

ARCHES: Mapping[str, Arch] = MappingProxyType({arch.name: arch for arch in (X86_64, ARM64)})

__all__ = [
    "ARCHES",
    "ARM64",
    "X86_64",
    "Arch",
    "Feature",
    "HandoverPlace",
    "KexecObjects",
    "LateRefusal",
    "Uefi",
]
