# SPDX-License-Identifier: GPL-2.0-only
"""Evidence folders that are wrong in every way that somebody has thought of.

Each begins as a genuine-looking folder of `evidence_maker` and is changed in one to three places.
Most are sealed again afterwards: the manifest gets the new digests, and a changed quote a new
signature of the right key, so that what lies behind these checks is reached as well. From the same
numbers comes the same folder, but for the signatures themselves.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from evidence_maker import (
    Attestation,
    Key,
    Machine,
    pack,
)
from malformed_lists import CHANGES as LIST_CHANGES
from malformed_lists import Sample, opaque_sample, sample_of

from imakexec.evidence import AK_PEM, AK_PUBLIC, LOG, MANIFEST, BootKind, EvidenceWriter, Snapshot

Json = Any
"""What json.loads() returns."""


class Node(StrEnum):
    """What there is in the place of a file."""

    MISSING = "missing"
    FIFO = "fifo"
    FOLDER = "folder"
    LINK_TO_ITSELF = "link to itself"
    LINK_TO_FILE = "link to another file"
    LINK_TO_NOWHERE = "link to nowhere"
    LINK_TO_ZEROES = "link to a device without end"


@dataclass(frozen=True)
class Original:
    """A folder that is good.

    Args:
        manifest: of it.
        files: all others, by name.
        key: what its quotes are signed with.
    """

    manifest: Json
    files: Mapping[str, bytes]
    key: Key


@dataclass
class Draft:
    """A folder that is being changed."""

    original: Original
    manifest: Json
    files: dict[str, bytes | Node]
    text: bytes | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        files = sum(len(item) for item in self.files.values() if isinstance(item, bytes))
        return files + len(self.text or b"")

    def content(self, name: str) -> bytes:
        """Of a file, which is empty if it is none any more."""
        item = self.files.get(name, b"")
        return item if isinstance(item, bytes) else b""

    def pick(self, random: Random, part: str) -> str:
        """The name of a file with this part in its name."""
        return random.choice([name for name in self.files if part in name])

    def seal(self) -> None:
        """Have the manifest say what the files are now."""
        entries = self.manifest.get("files") if isinstance(self.manifest, dict) else None
        if not isinstance(entries, dict):
            return
        for name, item in self.files.items():
            if isinstance(item, bytes) and item != self.original.files.get(name):
                digest = hashlib.sha256(item).hexdigest()
                entries[name] = {"sha256": digest, "size": len(item)}


def originals(folder: Path) -> tuple[Original, ...]:
    """Genuine-looking evidence of three kinds; `folder` is where they are written once."""
    made = (_kexec(markers=True), _kexec(markers=False), _cold_boot())
    return tuple(_original(machine, folder / str(at)) for at, machine in enumerate(made))


def _machine() -> Machine:
    """With the same key each time: what it signs is the same, its signatures are not."""
    return Machine(key=Key(private=ec.derive_private_key(2026, ec.SECP256R1())))


def _kexec(*, markers: bool) -> Machine:
    machine = _machine()
    machine.boot()
    machine.files(1)
    before = machine.quote()
    machine.snapshots.append(Snapshot("before", 0, before, pack(machine.records), None))
    if markers:
        machine.execute(machine.load())
    else:
        machine.boot(BootKind.KEXEC)
    machine.snapshot("after")
    return machine


def _cold_boot() -> Machine:
    machine = _machine()
    machine.boot()
    machine.files(2)
    machine.snapshots.append(Snapshot("before", 0, machine.quote(), None, None))
    machine.cold_reset()
    after = machine.quote()
    machine.snapshots.append(Snapshot("after", 1, after, pack(machine.records), None))
    return machine


def _original(machine: Machine, folder: Path) -> Original:
    made = machine.evidence()
    assert made.ak_public is not None
    assert made.ak_pem is not None
    with EvidenceWriter.create(folder) as writer:
        writer.set_run({"command": ["imakexec", "run"], "files": 2})
        writer.set_required_banks(made.required_banks)
        writer.set_ak(made.ak_public, made.ak_pem)
        for boot in made.boots:
            writer.add_boot(boot)
        for snapshot in made.snapshots:
            writer.add_snapshot(snapshot)
        writer.add_file("console.log", b"Linux version\n")
    manifest = json.loads((folder / MANIFEST).read_bytes())
    files = {name: (folder / name).read_bytes() for name in manifest["files"]}
    return Original(manifest, files, machine.key)


def is_signed(key: Key, snapshot: Snapshot) -> bool:
    """Whether the key has signed every quote, by a second and shorter look at the signatures."""
    for quote in snapshot.quotes:
        r_size = int.from_bytes(quote.signature[4:6], "big")
        r, s = quote.signature[6 : 6 + r_size], quote.signature[8 + r_size :]
        der = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
        try:
            key.private.public_key().verify(der, quote.attest, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
    return True


# Files of any kind.


def _change_bytes(random: Random, draft: Draft) -> None:
    """One of the changes that lists undergo, whatever the file is."""
    _change_file(random, draft, draft.pick(random, ""))


def _change_list(random: Random, draft: Draft) -> None:
    name = draft.pick(random, LOG)
    if random.random() < 0.05:
        draft.files[name] = b""
    else:
        _change_file(random, draft, name)


def _change_file(random: Random, draft: Draft, name: str) -> None:
    content = draft.content(name)
    sample = _as_sample(draft.original.files[name], is_list=name.endswith(LOG))
    data = bytearray(content)
    random.choice(tuple(LIST_CHANGES.values()))(random, data, sample)
    draft.files[name] = bytes(data)


@cache
def _as_sample(content: bytes, *, is_list: bool) -> Sample:
    """Where the integers and records of a file are; of no list, any four bytes are one."""
    return sample_of(content) if is_list else opaque_sample(content)


def _swap_files(random: Random, draft: Draft) -> None:
    one = draft.pick(random, "")
    part = Path(one).name.partition("-after")[0] if random.random() < 0.7 else ""
    other = draft.pick(random, part)
    draft.files[one], draft.files[other] = draft.files[other], draft.files[one]


def _replace_file(random: Random, draft: Draft) -> None:
    """By something that is no file, or by none."""
    draft.files[draft.pick(random, "")] = random.choice(tuple(Node))


# Quotes.

_NUMBERS = (0, 1, 2, 3, 99, 100, 110, 130, 2**31, 2**32 - 1)
_BITMAPS = (b"\xff\x07\0", b"\0\x04\0", b"\0\0\0", b"\xff\xff\xff", b"", b"\xff\x07", bytes(255))
_ALGS = (4, 0xB, 0xC, 0xD, 0x10, 0x12, 0, 0xFFFF)


def unpack(attest: bytes) -> Attestation:
    """The reverse of `Attestation.pack`, of one that is good."""

    def sized() -> bytes:
        nonlocal attest
        size = int.from_bytes(attest[:2], "big")
        value, attest = attest[2 : 2 + size], attest[2 + size :]
        return value

    magic, kind = struct.unpack_from(">IH", attest)
    attest = attest[6:]
    signer, nonce = sized(), sized()
    clock, reset, restart, safe = struct.unpack_from(">QIIB", attest)
    count = int.from_bytes(attest[25:29], "big")
    attest = attest[29:]
    selections = []
    for _ in range(count):
        alg, size = struct.unpack_from(">HB", attest)
        selections.append((alg, attest[3 : 3 + size]))
        attest = attest[3 + size :]
    return Attestation(
        signer, nonce, clock, reset, restart, tuple(selections), sized(), magic, kind, safe
    )


def _change_quote(random: Random, draft: Draft) -> None:
    """Another statement, signed by the right key or not."""
    name = draft.pick(random, "/attest")
    old = unpack(draft.original.files[name])
    bank = (random.choice(_ALGS), random.choice(_BITMAPS))
    new = random.choice(
        (
            replace(old, signer=random.randbytes(random.choice((0, 1, 34, 64)))),
            replace(old, nonce=random.randbytes(random.choice((0, 15, 16, 32, 64)))),
            replace(old, clock=random.choice((*_NUMBERS, 2**64 - 1))),
            replace(old, reset=random.choice(_NUMBERS)),
            replace(old, restart=random.choice(_NUMBERS)),
            replace(old, selections=random.choice(((), old.selections[:1], old.selections[::-1]))),
            replace(old, selections=(*old.selections, bank)),
            replace(old, selections=(*old.selections[:1], bank)),
            replace(old, selections=old.selections * random.choice((2, 9))),
            replace(old, pcr_digest=random.randbytes(random.choice((0, 20, 32, 48)))),
            replace(old, magic=random.choice(_NUMBERS)),
            replace(old, kind=random.choice((0x8014, 0x8017, 0x8019, 0x801A, 0))),
            replace(old, safe=random.choice((0, 2, 255))),
            replace(old, trailing=random.randbytes(random.choice((1, 4)))),
        )
    )
    _sign(random, draft, name, new)
    if random.random() < 0.5:
        draft.files[name.replace("/attest", "/nonce")] = new.nonce


def _sign(random: Random, draft: Draft, name: str, new: Attestation) -> None:
    """Put a statement into its file, most times with a signature."""
    attest = bytearray(new.pack())
    if random.random() < 0.1:
        attest[random.randrange(len(attest))] ^= 1 << random.randrange(8)
    draft.files[name] = bytes(attest)
    if random.random() < 0.9:
        draft.files[name.replace("/attest", "/signature")] = draft.original.key.sign(bytes(attest))


def _change_pcrs(random: Random, draft: Draft) -> None:
    """Other PCR values, quoted or not."""
    name = draft.pick(random, "/pcrs")
    banks: Json = json.loads(draft.original.files[name])
    bank, index = random.choice(list(banks)), random.choice(("0", "9", "10", "11", "23"))
    value: Json = random.choice(
        (random.randbytes(20).hex(), random.randbytes(32).hex(), "0" * 40, *_STRINGS, *_VALUES)
    )
    form = random.randrange(6)
    if form == 0:
        del banks[bank]
    elif form == 1:
        banks[random.choice(("sha1", "sha384", "md5", *_STRINGS))] = banks[bank]
    elif form == 2:
        banks[bank].pop(index, None)
    elif form == 3:
        banks[bank][random.choice(("10", "010", "24", "-1", "x", *_STRINGS))] = value
    elif form == 4:
        banks[bank] = value
    else:
        banks[bank][index] = random.randbytes(len(banks[bank]["0"]) // 2).hex()
    draft.files[name] = _dumped(random, banks)
    try:
        values = b"".join(bytes.fromhex(item) for pcrs in banks.values() for item in pcrs.values())
    except (AttributeError, TypeError, ValueError):
        return
    attest = name.replace("/pcrs", "/attest").removesuffix(".json")
    digest = hashlib.sha256(values).digest()
    _sign(random, draft, attest, replace(unpack(draft.original.files[attest]), pcr_digest=digest))


def _change_nonce(random: Random, draft: Draft) -> None:
    """Another nonce, which the quote answers or does not."""
    name = draft.pick(random, "/nonce")
    nonce = random.choice(
        (draft.content(draft.pick(random, "/nonce")), random.randbytes(random.choice((0, 15, 32))))
    )
    draft.files[name] = nonce
    attest = name.replace("/nonce", "/attest")
    if random.random() < 0.7:
        _sign(random, draft, attest, replace(unpack(draft.original.files[attest]), nonce=nonce))


# The key.


@cache
def _pems() -> tuple[bytes, ...]:
    """Keys that are none of ours, in every form that a reader of PEM may know."""
    secret = ec.generate_private_key(ec.SECP256R1())
    keys = (
        secret.public_key(),
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        rsa.generate_private_key(65537, 2048).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
    )
    pems = [key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys]
    private = secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    point = keys[0].public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return (*pems, private, point.hex().encode(), pems[0] * 2, pems[0].replace(b"PUBLIC", b"RSA"))


_AREAS = (0, 0x50072, 0x10050072, 0x70072, 0x40072, 0x10072, 0x50070, 0xFFFFFFFF)


def _change_key(random: Random, draft: Draft) -> None:
    key = draft.original.key
    form = random.randrange(5)
    if form == 0:
        draft.files[AK_PEM] = random.choice(_pems())
    elif form == 1:
        draft.files[AK_PUBLIC] = Key(random.choice(_AREAS), private=key.private).public
    elif form == 2:
        _change_der(random, draft)
    else:
        public = bytearray(key.public)
        at = random.randrange(len(public))
        public[at] = random.choice((0, 1, 0xFF, public[at] ^ 1, random.randrange(256)))
        # A coordinate that is no number below the prime, or as long as the size can say.
        if random.random() < 0.3:
            coordinate = random.randbytes(random.choice((0, 31, 33, 64, 500)))
            area = key.area[: -34 * 2] + (len(coordinate).to_bytes(2, "big") + coordinate) * 2
            public = bytearray(len(area).to_bytes(2, "big") + area)
        draft.files[AK_PUBLIC] = bytes(public)


def _change_der(random: Random, draft: Draft) -> None:
    """A PEM of which the bytes inside are wrong."""
    der = bytearray(base64.b64decode("".join(draft.original.key.pem.splitlines()[1:-1])))
    for _ in range(random.choice((1, 1, 3))):
        der[random.randrange(len(der))] = random.choice((0, 1, 0x30, 0x80, random.randrange(256)))
    lines = [b"-----BEGIN PUBLIC KEY-----", base64.b64encode(der), b"-----END PUBLIC KEY-----", b""]
    draft.files[AK_PEM] = b"\n".join(lines)


# The manifest.

_STRINGS = (
    *("", ".", "..", "/", "/etc/passwd", "../ak.pub", "ak.pub/../ak.pem", "ak.pub/", "./ak.pub"),
    *("manifest.json", "snapshots", "snapshots/00-boot", "ak.pem", "console.log", "a" * 64),
    *(
        "a" * 65,
        "a" * 256,
        "a/" * 127 + "a",
        "a" * 10**5,
        "\0",
        "ak.pub\0",
        "\x1b[2J",
        "\n",
        "\ud800",
    ),
    *("\u202e", "é", "sha1", "sha256", "sha384", "md5", "SHA256", "cold", "kexec", "warm", "-1"),
    *("imakexec-evidence/1", "imakexec-evidence/2", "0" * 64, "f" * 63, "{", "%s", "true"),
)
_VALUES: tuple[Json, ...] = (
    *(None, True, False, 0, 1, -1, 2, 5, 2**31, 2**63 - 1, 2**63, 10**300, 0.0, 0.5, -1e308),
    *(float("inf"), float("nan"), [], {}, [[]], [{}], {"": None}, ["sha256"], ["sha1", "sha1"]),
    {"sha256": "0" * 64, "size": 0},
    {"public": "ak.pub", "pem": "ak.pub"},
)


def _places(value: Json) -> Iterator[tuple[Json, Json]]:
    """Every container and key below a value."""
    for key in range(len(value)) if isinstance(value, list) else list(value):
        yield value, key
        if isinstance(value[key], list | dict):
            yield from _places(value[key])


def _edit_manifest(random: Random, draft: Draft) -> None:
    """Anything in the place of anything: copies, lest a thing be inside itself or in two places."""
    places = list(_places(draft.manifest)) if isinstance(draft.manifest, list | dict) else []
    if not places or random.random() < 0.01:
        draft.manifest = deepcopy(random.choice((*_STRINGS, *_VALUES)))
        return
    container, key = random.choice(places)
    other, other_key = random.choice(places)
    form = random.randrange(8)
    if form == 0:
        del container[key]
    elif form == 1:
        container[key] = deepcopy(other[other_key])
    elif form == 2 and isinstance(container, dict):
        container[random.choice((*_STRINGS, str(other_key)))] = container.pop(key)
    elif form == 3 and isinstance(container, list):
        container.insert(random.randrange(len(container) + 1), deepcopy(container[key]))
    elif form == 4 and isinstance(container, list):
        random.shuffle(container)
    elif form == 5:
        container[key] = _nested(random.choice((3, 40, 200)))
    elif form == 6:
        container[key] = random.choice(_STRINGS)
    else:
        container[key] = deepcopy(random.choice(_VALUES))


def _nested(depth: int) -> Json:
    value: Json = []
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    return value


def _drop_snapshots(random: Random, draft: Draft) -> None:
    """Less evidence, in another order, or from boots that nobody knows of."""
    if not isinstance(draft.manifest, dict):
        return
    for name in ("snapshots", "boots", "required_banks"):
        items = draft.manifest.get(name)
        if isinstance(items, list) and items and random.random() < 0.5:
            chosen = random.choices(items, k=random.randrange(len(items) + 1))
            draft.manifest[name] = [deepcopy(item) for item in chosen]
    snapshots = draft.manifest.get("snapshots")
    for item in snapshots if isinstance(snapshots, list) else ():
        if isinstance(item, dict) and random.random() < 0.2:
            item[random.choice(("log", "after"))] = None
    if random.random() < 0.2:
        draft.manifest["complete"] = False


def _edit_text(random: Random, draft: Draft) -> None:
    """A manifest that is no JSON, or JSON that two readers read in two ways."""
    text = _dumped(random, draft.manifest)
    at = random.randrange(len(text) + 1)
    draft.text = random.choice(
        (
            lambda: text[:at],
            lambda: text + text,
            lambda: text[:at] + random.randbytes(random.choice((1, 4))) + text[at:],
            lambda: text[:at] + random.choice((b"[", b'"', b"{", b"\\", b"9")) * 5000 + text[at:],
            lambda: text.replace(b'"complete":', b'"complete": true, "complete":'),
            lambda: text.replace(b"true", b"1" * random.choice((20, 5000))),
            lambda: text.replace(b'"size":', b'"size": 0, "size":', 1),
            lambda: b"\xef\xbb\xbf" + text,
            lambda: text.decode("latin-1").encode(random.choice(("utf-16", "utf-32", "utf-16-be"))),
            lambda: b"[" * 100_000,
            lambda: text.replace(b'"run": ', b'"run": ' + b"[" * 900 + b"]" * 900 + b', "more": '),
            lambda: b"",
            lambda: random.randbytes(100),
            lambda: text + b" " * random.choice((10, 17 << 20)) if random.random() < 0.02 else text,
        )
    )()


def _dumped(random: Random, value: Json) -> bytes:
    text = json.dumps(value, ensure_ascii=random.random() < 0.8)
    return text.encode("utf-8", "surrogatepass")


Change = Callable[[Random, Draft], None]
_CHANGES: tuple[Change, ...] = (
    *(_change_bytes, _change_list, _change_list, _swap_files, _replace_file),
    *(_change_quote, _change_quote, _change_pcrs, _change_nonce, _change_key),
    *(_edit_manifest, _edit_manifest, _drop_snapshots, _edit_text),
)


def malformed_evidence(random: Random, made: Sequence[Original]) -> Draft:
    """A folder with one to three changes."""
    original = random.choice(made)
    manifest = json.loads(json.dumps(original.manifest))
    draft = Draft(original, manifest, dict(original.files))
    for change in random.choices(_CHANGES, k=random.choice((1, 1, 1, 2, 3))):
        change(random, draft)
    if random.random() < 0.9:
        draft.seal()
    if draft.text is None:
        draft.text = _dumped(random, draft.manifest)
    return draft


class Bench:
    """Has the folders on a file system, one for each original, and changes no more than needed."""

    def __init__(self, folder: Path, made: Sequence[Original]) -> None:
        self._places = {id(original): folder / f"{at}" for at, original in enumerate(made)}
        for original in made:
            for name, content in original.files.items():
                self._put(self._places[id(original)], name, content)

    @contextmanager
    def laid_out(self, draft: Draft) -> Iterator[Path]:
        """The folder as it was drafted."""
        folder, good = self._places[id(draft.original)], draft.original.files
        changed = [name for name, item in draft.files.items() if item != good[name]]
        try:
            for name in changed:
                self._put(folder, name, draft.files[name])
            (folder / MANIFEST).write_bytes(draft.text or b"")
            yield folder
        finally:
            for name in changed:
                self._put(folder, name, good[name])

    @staticmethod
    def _put(folder: Path, name: str, item: bytes | Node) -> None:
        """Put a file or something else where something may be already."""
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        match item:
            case bytes():
                path.write_bytes(item)
            case Node.FIFO:
                os.mkfifo(path)
            case Node.FOLDER:
                path.mkdir()
            case Node.LINK_TO_ITSELF:
                path.symlink_to(path)
            case Node.LINK_TO_FILE:
                path.symlink_to(os.path.relpath(folder / MANIFEST, path.parent))
            case Node.LINK_TO_NOWHERE:
                path.symlink_to("nowhere")
            case Node.LINK_TO_ZEROES:
                path.symlink_to("/dev/zero")
            case Node.MISSING:
                pass
