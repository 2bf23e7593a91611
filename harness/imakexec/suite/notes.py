# SPDX-License-Identifier: GPL-2.0-only
"""What becomes known of a test while it runs, and what its result is made of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from imakexec.arch import Arch
from imakexec.kernel.build import KernelImage
from imakexec.kernel.cache import write_atomically
from imakexec.report.machine import judgement_document
from imakexec.scenario import Session
from imakexec.suite.artefacts import JUDGEMENT
from imakexec.suite.result import Complaint, KernelIdentity, Step

if TYPE_CHECKING:
    from imakexec.attest import Judgement
    from imakexec.suite.trial import Trial


@dataclass
class Notes:
    """Of one try of a test.

    Attributes:
        folder: for its artefacts.
        attempt: 1 for the first try.
        started: UTC, ISO 8601 with a final Z.
        subject: the name of the kernel that it is tried on; empty if it makes its own choice.
        kernel: the kernel that it has booted first.
        accelerator: of its machine; empty without one.
        steps: what was done to its machines.
        judgement: the verifier's last one.
        complaints: of its kernels, as far as anybody has looked.
        boot_seconds: that its first boot took; 0 without one.
        trial: of a scenario.
    """

    folder: Path
    attempt: int
    started: str
    subject: str = ""
    kernel: KernelIdentity | None = None
    accelerator: str = ""
    steps: list[Step] = field(default_factory=list)
    judgement: Judgement | None = None
    complaints: tuple[Complaint, ...] = ()
    boot_seconds: float = 0.0
    trial: Trial | None = None

    def take_kernel(self, kernel: KernelImage, arch: Arch, accelerator: str) -> None:
        """A machine was started: the first kernel of a test is the one under test."""
        self.accelerator = accelerator
        if self.kernel is None:
            self.kernel = identity_of(kernel, arch, self.subject)

    def take_judgement(self, judgement: Judgement, evidence: Path) -> None:
        """The verifier was asked: keep what it has said.

        Args:
            evidence: what it was asked about.

        Raises:
            InfraError: the file system refuses.
        """
        self.judgement = judgement
        document = judgement_document(judgement, folder=evidence)
        write_atomically(self.folder / JUDGEMENT, json.dumps(document, indent=2) + "\n")

    def take_steps(self, session: Session) -> None:
        """A machine is off: keep what was done to it."""
        self.steps += [Step(*step) for step in session.steps]
        if not self.boot_seconds and any(name == "boot" for name, _, _ in session.steps):
            self.boot_seconds = session.boot_seconds


def now() -> str:
    """UTC, ISO 8601 with a final Z."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def identity_of(kernel: KernelImage, arch: Arch, subject: str) -> KernelIdentity:
    """What tells a kernel from all others, for reports.

    Args:
        subject: the name that it has in this run of the tests; empty for another one.
    """
    return KernelIdentity(
        subject=subject,
        release=kernel.release,
        banner=kernel.banner,
        base=kernel.base,
        patches=tuple(zip(kernel.patches, kernel.patch_digests, strict=True)),
        key=kernel.key,
        config=hashlib.sha256(kernel.config.read_bytes()).hexdigest(),
        arch=arch.name,
    )
