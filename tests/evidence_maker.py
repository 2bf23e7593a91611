# SPDX-License-Identifier: GPL-2.0-only
"""Genuine-looking evidence, made from nothing: a machine with a TPM, as naive as can be.

It shares no code with what it tests but the dataclasses of `imakexec.evidence`. Lists are kept
as Python lists of records, replayed record by record; quotes are packed by hand and signed with
a fresh P-256 key.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from imakexec.evidence import Boot, BootKind, Evidence, EvidenceWriter, QuoteRecord, Snapshot

ALG = {"sha1": 4, "sha256": 0xB, "sha384": 0xC, "sha512": 0xD}
SIZE = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
# fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign
AK_ATTRIBUTES = 0x2 | 0x10 | 0x20 | 0x40 | 0x10000 | 0x40000
PCRS_0_TO_10 = bytes([0xFF, 0x07, 0x00])
HEADER = 24


def two_b(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


@dataclass(frozen=True)
class Rec:
    """One record: what is written, and what the PCR is extended with."""

    template: bytes
    data: bytes
    violation: bool = False
    pcr: int = 10
    digest: bytes | None = None

    def pack(self, order: str = "<") -> bytes:
        digest = bytes(20) if self.violation else self.digest or hashlib.sha1(self.data).digest()
        head = struct.pack(f"{order}I20sI", self.pcr, digest, len(self.template)) + self.template
        return head + struct.pack(f"{order}I", len(self.data)) + self.data

    def extend(self, bank: str, value: bytes) -> bytes:
        measured = hashlib.new(bank, self.data).digest()
        if self.violation:
            measured = b"\xff" * SIZE[bank]
        return hashlib.new(bank, value + measured).digest()


def fields(*parts: bytes, order: str = "<") -> bytes:
    return b"".join(struct.pack(f"{order}I", len(part)) + part for part in parts)


def ng(path: str, *, pcr: int = 10, digest: bytes | None = None) -> Rec:
    content = b"sha256:\0" + hashlib.sha256(path.encode()).digest()
    return Rec(b"ima-ng", fields(content, path.encode() + b"\0"), pcr=pcr, digest=digest)


def buf(event: str, content: bytes, digest: bytes | None = None) -> Rec:
    value = hashlib.sha256(content).digest() if digest is None else digest
    return Rec(b"ima-buf", fields(b"sha256:\0" + value, event.encode() + b"\0", content))


def violation(path: str) -> Rec:
    return Rec(b"ima-ng", fields(b"sha256:\0" + bytes(32), path.encode() + b"\0"), violation=True)


def pack(records: Sequence[Rec]) -> bytes:
    return b"".join(record.pack() for record in records)


def marker(event: str, before: Sequence[Rec], segment_size: int) -> Rec:
    """A marker with the values that are right after `before`."""
    return buf(event, payload(segment_size, HEADER + len(pack(before)), len(before)))


def payload(segment_size: int, runtime_size: int, count: int) -> bytes:
    return (
        f"kexec_segment_size={segment_size};ima_binary_runtime_size={runtime_size};"
        f"ima_runtime_measurements_count={count};"
    ).encode()


@dataclass
class Key:
    """An attestation key: primary in the endorsement hierarchy unless told otherwise."""

    attributes: int = AK_ATTRIBUTES
    hierarchy: int = 0x4000000B
    private: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def area(self) -> bytes:
        numbers = self.private.public_key().public_numbers()
        point = two_b(numbers.x.to_bytes(32, "big")) + two_b(numbers.y.to_bytes(32, "big"))
        return (
            struct.pack(">HHI", 0x23, 0xB, self.attributes)
            + two_b(b"")
            + struct.pack(">HHHHH", 0x10, 0x18, 0xB, 3, 0x10)
            + point
        )

    @property
    def public(self) -> bytes:
        return two_b(self.area)

    @property
    def pem(self) -> str:
        key = self.private.public_key()
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def qualified_name(self) -> bytes:
        name = b"\0\x0b" + hashlib.sha256(self.area).digest()
        return b"\0\x0b" + hashlib.sha256(struct.pack(">I", self.hierarchy) + name).digest()

    def sign(self, data: bytes) -> bytes:
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(hashes.SHA256())))
        return struct.pack(">HH", 0x18, 0xB) + b"".join(
            two_b(part.to_bytes(32, "big")) for part in (r, s)
        )


@dataclass(frozen=True)
class Attestation:
    """The members of a TPMS_ATTEST, each of which a test can falsify before it is signed."""

    signer: bytes
    nonce: bytes
    clock: int
    reset: int
    restart: int
    selections: tuple[tuple[int, bytes], ...]
    pcr_digest: bytes
    magic: int = 0xFF544347
    kind: int = 0x8018
    safe: int = 1
    firmware: int = 1
    trailing: bytes = b""

    def pack(self) -> bytes:
        selections = b"".join(
            struct.pack(">HB", alg, len(bitmap)) + bitmap for alg, bitmap in self.selections
        )
        return (
            struct.pack(">IH", self.magic, self.kind)
            + two_b(self.signer)
            + two_b(self.nonce)
            + struct.pack(">QIIB", self.clock, self.reset, self.restart, self.safe)
            + struct.pack(">QI", self.firmware, len(self.selections))
            + selections
            + two_b(self.pcr_digest)
            + self.trailing
        )


Falsify = Callable[[Attestation], Attestation]


def honest(attestation: Attestation) -> Attestation:
    return attestation


class Machine:
    """A TPM, the list of the kernel that runs, and what the harness writes down about them."""

    def __init__(self, banks: Sequence[str] = ("sha1", "sha256"), key: Key | None = None) -> None:
        self.banks = tuple(banks)
        self.key = key or Key()
        self.firmware = {bank: [bytes([n + 1]) * SIZE[bank] for n in range(10)] for bank in banks}
        self.pcr10 = {bank: bytes(SIZE[bank]) for bank in banks}
        self.reset, self.restart, self.clock, self.safe = 2, 0, 100, 1
        self.records: list[Rec] = []
        self.epoch = -1
        self.boots: list[Boot] = []
        self.snapshots: list[Snapshot] = []
        self.nonces = 0

    # The kernel.

    def measure(self, *records: Rec) -> None:
        for record in records:
            self.records.append(record)
            self.extend(record)

    def extend(self, record: Rec) -> None:
        if record.pcr == 10:
            self.pcr10 = {bank: record.extend(bank, value) for bank, value in self.pcr10.items()}

    def boot_aggregate(self, bank: str = "sha256", value: bytes | None = None) -> Rec:
        count = 8 if bank == "sha1" else 10
        digest = value or hashlib.new(bank, b"".join(self.firmware[bank][:count])).digest()
        return Rec(b"ima-ng", fields(bank.encode() + b":\0" + digest, b"boot_aggregate\0"))

    def files(self, count: int, prefix: str = "/tmp/new") -> None:
        self.measure(*(ng(f"{prefix}-{self.epoch}-{n}") for n in range(count)))

    def boot(self, claimed: BootKind = BootKind.COLD) -> None:
        """A kernel starts and adds its own first records."""
        self.epoch += 1
        self.boots.append(
            Boot(self.epoch, f"token{self.epoch}", f"id{self.epoch}", "Linux", "6.1", "", claimed)
        )
        self.measure(self.boot_aggregate(), buf("kernel_version", b"6.1.192"))

    def load(self, extra: int = 2048) -> int:
        """kexec_load by a kernel with markers; returns the segment size."""
        size = (HEADER + len(pack(self.records)) + extra + 4095) // 4096 * 4096
        self.measure(marker("kexec_load", self.records, size))
        return size

    def execute(self, segment_size: int) -> None:
        """kexec by a kernel with markers; a list that does not fit is cut at a record."""
        self.measure(marker("kexec_execute", self.records, segment_size))
        kept: list[Rec] = []
        used = HEADER
        for record in self.records:
            used += len(record.pack())
            if used > segment_size:
                break
            kept.append(record)
        self.records = kept
        self.boot(BootKind.KEXEC)

    def cold_reset(self, claimed: BootKind = BootKind.COLD, *, tpm_restart: bool = False) -> None:
        self.reset, self.restart = (
            (self.reset, self.restart + 1) if tpm_restart else (self.reset + 1, 0)
        )
        self.pcr10 = {bank: bytes(SIZE[bank]) for bank in self.banks}
        self.records = []
        self.boot(claimed)

    # The harness.

    def quote(
        self, falsify: Falsify = honest, *, key: Key | None = None, nonce: bytes | None = None
    ) -> QuoteRecord:
        self.nonces += 1
        self.clock += 10
        if nonce is None:
            nonce = hashlib.sha256(b"nonce%d" % self.nonces).digest()
        pcrs = {
            bank: dict(enumerate([*self.firmware[bank], self.pcr10[bank]])) for bank in self.banks
        }
        values = b"".join(b"".join(pcrs[bank].values()) for bank in self.banks)
        key = key or self.key
        attest = falsify(
            Attestation(
                signer=key.qualified_name,
                nonce=nonce,
                clock=self.clock,
                reset=self.reset,
                restart=self.restart,
                safe=self.safe,
                selections=tuple((ALG[bank], PCRS_0_TO_10) for bank in self.banks),
                pcr_digest=hashlib.sha256(values).digest(),
            )
        ).pack()
        return QuoteRecord(attest, key.sign(attest), nonce, pcrs)

    def snapshot(self, name: str, log: bytes | None = None) -> None:
        before = self.quote()
        log = pack(self.records) if log is None else log
        self.snapshots.append(Snapshot(name, self.epoch, before, log, self.quote()))

    def evidence(self) -> Evidence:
        return Evidence(
            run={},
            required_banks=self.banks,
            boots=tuple(self.boots),
            snapshots=tuple(self.snapshots),
            ak_public=self.key.public,
            ak_pem=self.key.pem,
        )


def patched_run(
    count: int = 25, *, extra: int = 16384, banks: Sequence[str] = ("sha1", "sha256")
) -> Machine:
    """The main job on a kernel with all patches: boot, load, `count` records, execute."""
    machine = Machine(banks)
    machine.boot()
    machine.files(5)
    machine.snapshot("boot")
    size = machine.load(extra)
    machine.files(count)
    machine.snapshot("before-execute")
    machine.execute(size)
    machine.files(3)
    machine.snapshot("after-kexec")
    return machine


def plain_run(count: int = 20, *, carry_all: bool = False) -> Machine:
    """The main job on a kernel without markers, which copies its list at the load or, patched
    up to the copy at execute, whole."""
    machine = Machine()
    machine.boot()
    machine.files(5)
    machine.snapshot("boot")
    carried = list(machine.records)
    machine.files(count)
    machine.snapshot("before-execute")
    machine.records = machine.records if carry_all else carried
    machine.boot(BootKind.KEXEC)
    machine.files(3)
    machine.snapshot("after-kexec")
    return machine


def written(evidence: Evidence, folder: Path) -> Path:
    """Evidence as a folder of files."""
    assert evidence.ak_public is not None
    assert evidence.ak_pem is not None
    with EvidenceWriter.create(folder) as writer:
        writer.set_required_banks(evidence.required_banks)
        writer.set_ak(evidence.ak_public, evidence.ak_pem)
        for boot in evidence.boots:
            writer.add_boot(boot)
        for snapshot in evidence.snapshots:
            writer.add_snapshot(snapshot)
    return folder
