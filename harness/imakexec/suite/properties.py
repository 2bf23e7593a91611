# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel sets out to do with its measurement list at a kexec.

It is told from the texts in the boot image, from the configuration and from the version, never from
what a run shows: a kernel that sets out to carry its list and loses it is broken, while one that
never meant to is a control.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from imakexec.errors import UserError
from imakexec.kernel.build import KernelImage
from imakexec.kernel.config import EXTRA_MEMORY, values
from imakexec.kernel.texts import kernel_texts

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")

# Messages of security/integrity/ima/ima_kexec.c that only the code in question can print: of the
# series here, or of the one merged for 6.16 and its stable backports.
_COPIES_AT_EXECUTE = (b"Kexec segment is not mapped", b"Kexec buffer not set")
_WHOLE_RECORDS = (b"Kexec segment is full",)
_SUSPENDS = (b"measurements_suspended\0",)
_MARKERS = (b"kexec_execute\0",)
_STAGING = (b"ascii_runtime_measurements_staged",)


@dataclass(frozen=True)
class KernelProperties:
    """What a kernel sets out to do.

    Attributes:
        release: `uname -r`.
        version: its first numbers, e.g. (6, 1, 176).
        carries_events_after_load: it copies the list at execute; else at load.
        whole_records: it copies nothing of a record that has no room.
        suspends_on_execute: it refuses to measure once it has copied.
        has_markers: it measures kexec_load and kexec_execute.
        has_staging: records can be staged and deleted.
        places_in_cma: segments are placed in contiguous memory if there is some.
        extra_memory: bytes that are reserved for records after the load.
        config: its configuration.
    """

    release: str
    version: tuple[int, ...]
    carries_events_after_load: bool
    whole_records: bool
    suspends_on_execute: bool
    has_markers: bool
    has_staging: bool
    places_in_cma: bool
    extra_memory: int
    config: Mapping[str, str]

    @classmethod
    def of(cls, kernel: KernelImage) -> Self:
        """Look at a kernel.

        Raises:
            UserError: its image cannot be read.
            InfraError: the program that uncompresses it is missing.
        """
        return cls.told(kernel.release, kernel_texts(kernel.image), values(kernel.config))

    @classmethod
    def told(cls, release: str, texts: bytes, config: Mapping[str, str]) -> Self:
        """The same from what is in the image and in the configuration; pure."""

        def says(messages: tuple[bytes, ...]) -> bool:
            return any(message in texts for message in messages)

        kb = int(config.get(EXTRA_MEMORY, "0"))
        return cls(
            release=release,
            version=version_of(release),
            carries_events_after_load=says(_COPIES_AT_EXECUTE),
            whole_records=says(_WHOLE_RECORDS),
            suspends_on_execute=says(_SUSPENDS),
            has_markers=says(_MARKERS),
            has_staging=says(_STAGING),
            # It says nothing of it.
            places_in_cma=version_of(release) >= (6, 17) and config.get("DMA_CMA") == "y",
            # Half a page by default: ima_add_kexec_buffer(), ima_kexec.c.
            extra_memory=kb << 10 if kb else _page_size(config) // 2,
            config=config,
        )

    @property
    def features(self) -> tuple[str, ...]:
        """What it sets out to do that a plain base does not, in words that are stable."""
        named = {
            "late-records": self.carries_events_after_load,
            "whole-records": self.whole_records,
            "suspension": self.suspends_on_execute,
            "markers": self.has_markers,
            "staging": self.has_staging,
        }
        return tuple(name for name, there in named.items() if there)

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return _page_size(self.config)

    @property
    def is_ours(self) -> bool:
        """Whether it has this project's series, which alone copies whole records only."""
        return self.whole_records

    @property
    def copies_bytes(self) -> bool:
        """Whether it copies at execute and stops where the segment does, inside a record too."""
        return self.carries_events_after_load and not self.whole_records

    @property
    def finds_leaks(self) -> bool:
        """Whether it looks for memory that it has lost, when it is asked to."""
        return self.config.get("DEBUG_KMEMLEAK") == "y"


def _page_size(config: Mapping[str, str]) -> int:
    """Of arm64, which alone has a choice here; x86 knows 4 KiB."""
    sizes = {"ARM64_16K_PAGES": 16, "ARM64_64K_PAGES": 64}
    return next((kib << 10 for name, kib in sizes.items() if config.get(name) == "y"), 4096)


def version_of(release: str) -> tuple[int, ...]:
    """The numbers that a release begins with.

    Raises:
        UserError: it begins with none.
    """
    match = _VERSION.match(release)
    if match is None:
        raise UserError(f"not a kernel release: {release!r}", where="uname -r")
    return tuple(int(number) for number in match.groups() if number is not None)
