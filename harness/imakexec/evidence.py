# SPDX-License-Identifier: GPL-2.0-only
"""What crosses from the machine to the verifier: one folder, to be copied and judged anywhere.

    manifest.json                     schema "imakexec-evidence/1"; it names all other files
    ak.pub  ak.pem                    attestation key: TPM2B_PUBLIC bytes, SubjectPublicKeyInfo PEM
    snapshots/00-boot/attest          TPMS_ATTEST as the TPM signed it
                     /signature       TPMT_SIGNATURE
                     /nonce           the qualifying data that was asked for
                     /pcrs.json       {"sha256": {"0": "<hex>", ...}, ...}
                     /binary_runtime_measurements
                     /attest-after  signature-after  nonce-after  pcrs-after.json
    console.log, kernel-a.config ...  anything else that explains the run

The manifest names every file with its SHA-256 and size. That finds damage, not an attacker: who can
rewrite the folder can rewrite the manifest, so the verifier trusts the TPM's signatures alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from io import BufferedReader
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import ClassVar, Self

from imakexec.errors import ImaKexecError, InfraError, UserError
from imakexec.strict_json import (
    NAME_PART,
    SHA256_HEX,
    UNPRINTABLE,
    JsonFault,
    Value,
    is_plain_name,
    parse_json,
    quoted,
    shortened,
)

SCHEMA = "imakexec-evidence/1"
MANIFEST = "manifest.json"

AK_PUBLIC = "ak.pub"
AK_PEM = "ak.pem"
LOG = "binary_runtime_measurements"

_MANIFEST_LIMIT = 16 << 20
_FILE_NAME_LIMIT = 255
_PLACE_WIDTH = 120


class EvidenceFault(ImaKexecError):
    """The contents of an evidence folder are not what they must be.

    Args:
        what: what was expected and what was seen.
        file: the file concerned, relative to the evidence folder.
        field: the field inside that file, e.g. "snapshots[1].epoch"; empty for the whole file.
        remedy: what the reader can do.
    """

    def __init__(
        self, what: str, *, file: str, field: str = "", remedy: str = "take the evidence again"
    ) -> None:
        where = f"{_place(file)}, field {_place(field)}" if field else _place(file)
        super().__init__(what, where=where, remedy=remedy)
        self.file = file
        self.field = field


class InvalidEvidence(EvidenceFault):
    """A file is missing, damaged or leads out of the folder."""

    exit_code: ClassVar[int] = 13


class MalformedEvidence(EvidenceFault):
    """A file cannot be read as what it is meant to be."""

    exit_code: ClassVar[int] = 14


class BootKind(StrEnum):
    """How the harness says that a kernel was started. The TPM's counters have the last word."""

    COLD = "cold"
    KEXEC = "kexec"


@dataclass(frozen=True)
class Boot:
    """One boot epoch as the harness observed it.

    Args:
        epoch: 0 for the first kernel, one more for each kernel after it.
        token: the random word that the harness put on the kernel's command line.
        boot_id: /proc/sys/kernel/random/boot_id.
        banner: the kernel's "Linux version ..." line.
        release: uname -r.
        cmdline: /proc/cmdline.
        transition: how this kernel came to run.
    """

    epoch: int
    token: str
    boot_id: str
    banner: str
    release: str
    cmdline: str
    transition: BootKind


@dataclass(frozen=True)
class QuoteRecord:
    """One TPM2_Quote with what is needed to check it, unchecked.

    Args:
        attest: TPMS_ATTEST bytes.
        signature: TPMT_SIGNATURE bytes.
        nonce: the qualifying data that the verifier asked for.
        pcrs: bank name ("sha256") to PCR index to value, as PCR_Read gave them.
    """

    attest: bytes
    signature: bytes
    nonce: bytes
    pcrs: Mapping[str, Mapping[int, bytes]]


@dataclass(frozen=True)
class Snapshot:
    """The list between two quotes, so that a growing list can be told from a wrong one.

    Args:
        name: a short name such as "boot" or "before-execute", of which there is only one: up to 64
            letters, digits, ".", "_", "+", "-".
        epoch: the boot epoch that it was taken in.
        before: the quote taken before the list was read.
        log: the bytes of binary_runtime_measurements; None if only a quote was taken.
        after: the quote taken after the list was read, if any.
    """

    name: str
    epoch: int
    before: QuoteRecord
    log: bytes | None
    after: QuoteRecord | None

    @property
    def quotes(self) -> tuple[QuoteRecord, ...]:
        """The quotes of this snapshot in the order in which they were taken."""
        return (self.before,) if self.after is None else (self.before, self.after)


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says about one file: lower-case hex SHA-256, and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Evidence:
    """The contents of one evidence folder, complete and undamaged, but not yet believed.

    Args:
        run: free metadata of the run (versions, command lines, options): for people, never judged.
        required_banks: the banks that the TPM reported as allocated by GetCapability(PCRS).
        boots: one entry per boot epoch, ascending.
        snapshots: in the order in which they were taken.
        ak_public: TPM2B_PUBLIC bytes of the attestation key; None if the run ended before it.
        ak_pem: the same key as PEM; None likewise.
        files: every file that the manifest names.
        complete: whether the writer was closed, that is, the run was not killed.
    """

    run: Mapping[str, object]
    required_banks: tuple[str, ...]
    boots: tuple[Boot, ...]
    snapshots: tuple[Snapshot, ...]
    ak_public: bytes | None
    ak_pem: str | None
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    complete: bool = True

    @classmethod
    def load(cls, folder: Path) -> Evidence:
        """Read a folder and check every file that its manifest names.

        Raises:
            UserError: there is no such folder or no manifest in it.
            InvalidEvidence: a file is missing, damaged, a symbolic link or outside the folder.
            MalformedEvidence: the manifest or a file is not of the documented form.
        """
        try:
            return _Loader(folder).load()
        except JsonFault as fault:
            raise MalformedEvidence(fault.what, file=fault.file, field=fault.field) from fault


class EvidenceWriter:
    """Writes an evidence folder piece by piece.

    The manifest is replaced atomically after each addition: whenever the process is killed, the
    folder can be read and holds everything that was added before. Every method raises InfraError
    if the file system refuses.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, FileEntry] = {}
        self._run: dict[str, object] = {}
        self._banks: tuple[str, ...] = ()
        self._boots: list[Boot] = []
        self._snapshots: list[dict[str, object]] = []
        self._has_ak = False
        self._complete = False

    @classmethod
    def create(cls, folder: Path) -> EvidenceWriter:
        """Start an evidence folder. It must not exist yet, or be empty.

        Raises:
            UserError: there is something at `folder` already.
        """
        if folder.is_symlink() or (folder.exists() and not _is_empty_folder(folder)):
            raise UserError(
                "the evidence folder exists already and is not empty",
                where=str(folder),
                remedy="name another folder with --out, or remove this one",
            )
        writer = cls(folder)
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        writer._publish()
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()

    def add_file(self, name: str, content: bytes | Path) -> None:
        """Add a file under a relative name. Nothing is ever replaced.

        Args:
            name: parts of letters, digits, ".", "_", "+", "-", joined by "/".
            content: the bytes, or a file to copy. A file that is at its place already is taken
                as it is, so nothing may write to it any more.

        Raises:
            ValueError: the name is taken, or could lead out of the folder.
        """
        self._store(name, content)
        self._publish()

    def set_run(self, run: Mapping[str, object]) -> None:
        """Set the free metadata (anything that JSON can express)."""
        self._run = dict(run)
        self._publish()

    def set_required_banks(self, banks: Sequence[str]) -> None:
        """Set the banks that GetCapability(PCRS) reported as allocated, e.g. ["sha1", "sha256"]."""
        self._banks = tuple(banks)
        self._publish()

    def set_ak(self, public: bytes, pem: str) -> None:
        """Set the attestation key: TPM2B_PUBLIC bytes, and the same key as PEM."""
        self._store(AK_PUBLIC, public)
        self._store(AK_PEM, pem.encode("ascii"))
        self._has_ak = True
        self._publish()

    def add_boot(self, boot: Boot) -> None:
        """Add the next boot epoch. What the loader would not take as text is written as an escape.

        Raises:
            ValueError: the epoch is not the next one.
        """
        if boot.epoch != len(self._boots):
            raise ValueError(f"boot epoch {boot.epoch} added, {len(self._boots)} is the next one")
        self._boots.append(boot)
        self._publish()

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Add a snapshot; its files are all written before the manifest names one of them.

        Raises:
            ValueError: the name is not a plain file name, too long or taken.
        """
        if not is_plain_name(snapshot.name):
            raise ValueError(f"snapshot name {snapshot.name!r} is not a plain file name")
        if any(snapshot.name == earlier["name"] for earlier in self._snapshots):
            raise ValueError(f"there is a snapshot {snapshot.name!r} already")
        place = f"snapshots/{len(self._snapshots):02d}-{snapshot.name}"
        after = snapshot.after
        entry: dict[str, object] = {
            "name": snapshot.name,
            "epoch": snapshot.epoch,
            "before": self._store_quote(place, "", snapshot.before),
            "log": None if snapshot.log is None else self._store(f"{place}/{LOG}", snapshot.log),
            "after": None if after is None else self._store_quote(place, "-after", after),
        }
        self._snapshots.append(entry)
        self._publish()

    def close(self) -> None:
        """Mark the evidence as complete."""
        self._complete = True
        self._publish()

    def _store_quote(self, place: str, suffix: str, quote: QuoteRecord) -> dict[str, str]:
        pcrs = {
            bank: {str(index): value.hex() for index, value in sorted(values.items())}
            for bank, values in quote.pcrs.items()
        }
        return {
            "attest": self._store(f"{place}/attest{suffix}", quote.attest),
            "signature": self._store(f"{place}/signature{suffix}", quote.signature),
            "nonce": self._store(f"{place}/nonce{suffix}", quote.nonce),
            "pcrs": self._store(f"{place}/pcrs{suffix}.json", _json(pcrs)),
        }

    def _store(self, name: str, content: bytes | Path) -> str:
        if not _is_safe_name(name) or name == MANIFEST:
            raise ValueError(f"{name!r} cannot be a file of an evidence folder")
        if name in self._files:
            # Killed between the new file and the new manifest, the folder would look damaged.
            raise ValueError(f"{name!r} is in the evidence already")
        path = self.folder / name
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif not (path.exists() and content.samefile(path)):
                shutil.copyfile(content, path)
            with path.open("rb") as file:
                self._files[name] = _measure(file)
        return name

    def _publish(self) -> None:
        manifest = {
            "schema": SCHEMA,
            "complete": self._complete,
            "run": self._run,
            "required_banks": self._banks,
            "ak": {"public": AK_PUBLIC, "pem": AK_PEM} if self._has_ak else None,
            "boots": [_boot_entry(boot) for boot in self._boots],
            "snapshots": self._snapshots,
            "files": {name: asdict(entry) for name, entry in sorted(self._files.items())},
        }
        path = self.folder / MANIFEST
        draft = self.folder / f".{MANIFEST}.new"
        try:
            with _writing(path):
                draft.write_bytes(_json(manifest))
                draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)  # what an interruption leaves


class _Loader:
    """Reads one folder; holds what all steps of that need."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, FileEntry] = {}
        self._contents: dict[str, bytes] = {}

    def load(self) -> Evidence:
        manifest = parse_json(self._read_manifest(), MANIFEST)
        _check_schema(manifest)
        keys = ("schema", "complete", "run", "required_banks", "ak", "boots", "snapshots", "files")
        part = dict(zip(keys, manifest.members(*keys), strict=True))
        self._files = {
            self._safe_name(item.name, item): _file_entry(item) for item in part["files"].items()
        }
        self._check_all()
        ak = part["ak"].optional(self._ak)
        return Evidence(
            run={item.name: item.value for item in part["run"].items()},
            required_banks=tuple(item.plain_name() for item in part["required_banks"].elements()),
            boots=_boots(part["boots"]),
            snapshots=self._snapshots(part["snapshots"]),
            ak_public=ak[0] if ak else None,
            ak_pem=ak[1] if ak else None,
            files=self._files,
            complete=part["complete"].boolean(),
        )

    def _read_manifest(self) -> bytes:
        if not self._folder.is_dir():
            raise UserError(
                "there is no such evidence folder",
                where=str(self._folder),
                remedy="name the folder that a run of imakexec has written",
            )
        # A link that leads nowhere is something else than no manifest.
        if not os.path.lexists(self._folder / MANIFEST):
            raise UserError(
                "the folder holds no evidence: its manifest is missing",
                where=str(self._folder / MANIFEST),
                remedy="name the folder that a run of imakexec has written",
            )
        with self._open(MANIFEST) as file:
            # One byte more than there is, as it may grow; not the limit, which would be allocated.
            size = os.fstat(file.fileno()).st_size
            content = file.read(min(size, _MANIFEST_LIMIT) + 1)
        if len(content) > _MANIFEST_LIMIT:
            raise MalformedEvidence(f"longer than {_MANIFEST_LIMIT} bytes", file=MANIFEST)
        return content

    def _check_all(self) -> None:
        """Compare every file with the manifest, also those that no judgement needs."""
        for name, expected in self._files.items():
            with self._open(name) as file:
                seen_size = os.fstat(file.fileno()).st_size
                if seen_size != expected.size:
                    raise InvalidEvidence(
                        f"{expected.size} bytes expected, {seen_size} found", file=name
                    )
                seen = _measure(file)
            if seen != expected:
                raise InvalidEvidence(
                    f"SHA-256 {expected.sha256} expected, {seen.sha256} found", file=name
                )

    @contextmanager
    def _open(self, name: str) -> Iterator[BufferedReader]:
        """Open a regular file inside the folder, following no symbolic link on the way."""
        try:
            self._refuse_linked_folders(name)
            file = self._open_unfollowed(name)
        except OSError as error:
            reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
            raise InvalidEvidence(f"cannot be opened: {reason}", file=name) from error
        with file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidEvidence("not a regular file", file=name)
            yield file

    def _refuse_linked_folders(self, name: str) -> None:
        for parent in PurePosixPath(name).parents:
            if parent.name and (self._folder / parent).is_symlink():
                raise InvalidEvidence("a folder on its path is a symbolic link", file=name)

    def _open_unfollowed(self, name: str) -> BufferedReader:
        # O_NONBLOCK: a FIFO in the folder must not make the verifier hang.
        more = os.O_NOFOLLOW | os.O_NONBLOCK
        return open(
            self._folder / name, "rb", opener=lambda path, flags: os.open(path, flags | more)
        )

    def _safe_name(self, name: str, at: Value) -> str:
        if not _is_safe_name(name) or name == MANIFEST:
            raise InvalidEvidence(
                f"{quoted(name)} is not a plain relative file name of up to {_FILE_NAME_LIMIT}"
                " characters",
                file=MANIFEST,
                field=at.path,
            )
        return name

    def _content(self, at: Value) -> tuple[str, bytes]:
        """The name and the bytes of the file that a manifest field refers to."""
        name = at.string()
        if name not in self._files:
            raise InvalidEvidence(
                f"{quoted(name)} is not among the files of the manifest",
                file=MANIFEST,
                field=at.path,
            )
        # A manifest may name a file as often as it likes: that must cost no memory.
        if name not in self._contents:
            with self._open(name) as file:
                self._contents[name] = file.read(self._files[name].size + 1)
        return name, self._contents[name]

    def _ak(self, at: Value) -> tuple[bytes, str]:
        public, pem = at.members("public", "pem")
        name, text = self._content(pem)
        if not text.isascii():
            raise MalformedEvidence("PEM holds bytes that are not ASCII", file=name)
        return self._content(public)[1], text.decode("ascii")

    def _snapshots(self, at: Value) -> tuple[Snapshot, ...]:
        snapshots = tuple(self._snapshot(item) for item in at.elements())
        if any(later.epoch < earlier.epoch for earlier, later in pairwise(snapshots)):
            raise at.wrong("snapshots in the order of their epochs expected")
        if len({snapshot.name for snapshot in snapshots}) != len(snapshots):
            raise at.wrong("snapshots of different names expected")
        return snapshots

    def _snapshot(self, at: Value) -> Snapshot:
        name, epoch, before, log, after = at.members("name", "epoch", "before", "log", "after")
        return Snapshot(
            name=name.plain_name(),
            epoch=epoch.natural(),
            before=self._quote(before),
            log=log.optional(lambda value: self._content(value)[1]),
            after=after.optional(self._quote),
        )

    def _quote(self, at: Value) -> QuoteRecord:
        attest, signature, nonce, pcrs = at.members("attest", "signature", "nonce", "pcrs")
        name, text = self._content(pcrs)
        return QuoteRecord(
            attest=self._content(attest)[1],
            signature=self._content(signature)[1],
            nonce=self._content(nonce)[1],
            pcrs=_banks(parse_json(text, name)),
        )


def _check_schema(manifest: Value) -> None:
    schema = {item.name: item for item in manifest.items()}.get("schema")
    if schema is None:
        raise manifest.wrong("member 'schema' is missing")
    if schema.string() != SCHEMA:
        raise MalformedEvidence(
            f"schema {SCHEMA!r} expected, {quoted(schema.value)} found",
            file=MANIFEST,
            field="schema",
            remedy="verify with the version of imakexec that wrote the folder",
        )


def _file_entry(at: Value) -> FileEntry:
    sha256, size = at.members("sha256", "size")
    return FileEntry(
        sha256=sha256.matching(SHA256_HEX, "64 lower-case hex digits"), size=size.natural()
    )


def _boots(at: Value) -> tuple[Boot, ...]:
    boots = tuple(_boot(item) for item in at.elements())
    if [boot.epoch for boot in boots] != list(range(len(boots))):
        raise at.wrong("epochs 0, 1, 2 ... expected")
    return boots


def _boot(at: Value) -> Boot:
    epoch, transition, *texts = at.members(
        "epoch", "transition", "token", "boot_id", "banner", "release", "cmdline"
    )
    token, boot_id, banner, release, cmdline = (text.string() for text in texts)
    kinds = "|".join(BootKind)
    kind = BootKind(transition.matching(re.compile(kinds), f"one of {kinds}"))
    return Boot(epoch.natural(), token, boot_id, banner, release, cmdline, kind)


def _boot_entry(boot: Boot) -> dict[str, object]:
    return {
        name: UNPRINTABLE.sub(lambda found: _escaped(found[0]), value)
        if isinstance(value, str)
        else value
        for name, value in asdict(boot).items()
    }


def _banks(at: Value) -> dict[str, dict[int, bytes]]:
    """The PCR values of each bank."""
    banks = at.items()
    for bank in banks:
        if not is_plain_name(bank.name):
            raise bank.wrong("a PCR bank expected as name")
    return {bank.name: _bank(bank) for bank in banks}


def _bank(at: Value) -> dict[int, bytes]:
    """The PCR values of one bank: decimal index to lower-case hex."""
    values: dict[int, bytes] = {}
    for item in at.items():
        if item.name not in map(str, range(24)):
            raise item.wrong("a PCR index from 0 to 23 expected as name")
        values[int(item.name)] = item.digits()
    return values


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=True).encode("ascii") + b"\n"


def _is_safe_name(name: str) -> bool:
    return len(name) <= _FILE_NAME_LIMIT and all(map(NAME_PART.fullmatch, name.split("/")))


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a file, there or not yet, is inside a folder once all links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _place(text: str) -> str:
    """The name of a file or a field, which anybody may have chosen, fit for a message."""
    return shortened(text if text.isprintable() else _escaped(text), _PLACE_WIDTH)


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")


def _measure(file: BufferedReader) -> FileEntry:
    digest = hashlib.file_digest(file, "sha256")
    return FileEntry(sha256=digest.hexdigest(), size=file.tell())


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and next(path.iterdir(), None) is None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error that names the file."""
    try:
        yield
    except OSError as error:
        raise InfraError(
            f"evidence cannot be written: {error.strerror}",
            where=str(error.filename or path),
            remedy="make room or choose another folder with --out",
        ) from error
