# SPDX-License-Identifier: GPL-2.0-only
"""A quote is believed for one reason only: a TPM of that key signed exactly what was asked."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from evidence_maker import (
    AK_ATTRIBUTES,
    ALG,
    PCRS_0_TO_10,
    Attestation,
    Falsify,
    Key,
    Machine,
    ng,
    two_b,
)

from imakexec.attest.quote import AttestationKey, Quote, check_fresh_nonces, verify_quote
from imakexec.attest.reasons import Reason, Rejection
from imakexec.attest.selection import Selection
from imakexec.attest.structures import (
    Attest,
    EccPoint,
    PublicArea,
    Scheme,
    Signature,
    StructureError,
    WrongKindError,
)
from imakexec.evidence import QuoteRecord

# Taken from libtpms 0.9.2 (swtpm 0.7.1), fresh state: PCR 0-10 of sha1 and sha256, all zero; the
# nonce is 00 01 .. 1f. One key is a primary in the endorsement hierarchy, one in the owner's.
REAL_PUBLIC = bytes.fromhex(
    "00580023000b00050072000000100018000b00030010002050afe9322bc2e61a444734a96975ab40ddd54064"
    "3562707fa80813860e605f840020fabaeb6179eeb22900ed8169d7d6d20de556eab23711a6664d0fd1b39e93"
    "beec"
)
REAL_ATTEST = bytes.fromhex(
    "ff54434780180022000ba00224ba5f2b2fa99bdc73ed3d8d282710facbedf82f0c357fa99cda9e2a0a300020"
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f000000000000000900000002"
    "0000000001201910230016363600000002000403ff0700000b03ff070000200fcf40c74177936605ea861fa5"
    "eac3ab108c9ecaa13c579cf3f6846389b113a1"
)
REAL_SIGNATURE = bytes.fromhex(
    "0018000b0020cc58cb812262f4ddd7054737a53bb32796df02e1317b710c82e792b78425d12e0020094a8651"
    "680d411f47a7a3c153951006da35777e1b243fe2e1ab2021155da430"
)
REAL_OWNER_PUBLIC = bytes.fromhex(
    "00580023000b00050072000000100018000b0003001000209520424d338bbf50975cb3a812bc58fcb393d29e"
    "6f3a6d81627ad6d8e96ddbda0020de210d72009f7934ad2e8d9aca131e38417b5c537f007dd34422575bbec5"
    "d792"
)
REAL_OWNER_ATTEST = bytes.fromhex(
    "ff54434780180022000be3fad000cdd101fab581d7e5f74aa82f62bf492b2ac83c08b592e6971f0600e00020"
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f0000000000000006d9910e11"
    "3a9b1a2b01e22076790d9bffa700000002000403ff0700000b03ff070000200fcf40c74177936605ea861fa5"
    "eac3ab108c9ecaa13c579cf3f6846389b113a1"
)
REAL_OWNER_SIGNATURE = bytes.fromhex(
    "0018000b00205d61a1bb831f8cb03e097166a61c0f5b7f0ddd479cb07eec729bff96608504480020a4ae9842"
    "dba8d42194363b433490099992b93b54375eb92a3872f435a3e8fb20"
)
REAL_NONCE = bytes(range(32))
REAL_PCRS = {
    "sha1": dict.fromkeys(range(11), bytes(20)),
    "sha256": dict.fromkeys(range(11), bytes(32)),
}
BANKS = ("sha1", "sha256")
FROM_0_TO_10 = Selection.of_banks(BANKS)


def pem_of(public: bytes) -> str:
    point = PublicArea.parse(public).key
    assert isinstance(point, EccPoint)
    key = ec.EllipticCurvePublicNumbers(point.x, point.y, ec.SECP256R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def reason_of(call: Callable[[], object]) -> Reason:
    with pytest.raises(Rejection) as caught:
        call()
    return caught.value.reason


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    machine.boot()
    return machine


def loaded(key: Key) -> AttestationKey:
    return AttestationKey.load(key.public, key.pem)


def check(machine: Machine, record: QuoteRecord) -> Quote:
    return verify_quote(record, loaded(machine.key), Selection.of_banks(machine.banks))


def reason(machine: Machine, record: QuoteRecord) -> Reason:
    return reason_of(lambda: check(machine, record))


def falsified(machine: Machine, falsify: Falsify) -> Reason:
    """Why a quote is rejected that the very key has signed, falsehood included."""
    return reason(machine, machine.quote(falsify))


def test_quote_of_a_real_tpm() -> None:
    ak = AttestationKey.load(REAL_PUBLIC, pem_of(REAL_PUBLIC))
    record = QuoteRecord(REAL_ATTEST, REAL_SIGNATURE, REAL_NONCE, REAL_PCRS)
    quote = verify_quote(record, ak, FROM_0_TO_10)
    assert quote.clock_info is not None
    assert quote.clock_info.pair == (2, 0)
    assert quote.clock_info.clock == 9
    assert quote.clock_info.safe
    assert quote.pcr(10) == {"sha1": bytes(20), "sha256": bytes(32)}


def test_key_of_another_hierarchy_sees_obfuscated_counters() -> None:
    ak = AttestationKey.load(REAL_OWNER_PUBLIC, pem_of(REAL_OWNER_PUBLIC))
    assert Attest.parse(REAL_OWNER_ATTEST).clock_info.pair != (2, 0)
    record = QuoteRecord(REAL_OWNER_ATTEST, REAL_OWNER_SIGNATURE, REAL_NONCE, REAL_PCRS)
    assert reason_of(lambda: verify_quote(record, ak, FROM_0_TO_10)) is Reason.AK


def test_structures_of_a_real_tpm() -> None:
    attest = Attest.parse(REAL_ATTEST)
    assert attest.extra_data == REAL_NONCE
    assert [(item.bank, item.bitmap) for item in attest.selections] == [
        ("sha1", PCRS_0_TO_10),
        ("sha256", PCRS_0_TO_10),
    ]
    assert Signature.parse(REAL_SIGNATURE).scheme == Scheme(0x0018, 0x000B)
    area = PublicArea.parse(REAL_PUBLIC)
    assert isinstance(area.key, EccPoint)
    assert (area.name_alg, area.attributes, area.key.curve) == (0x000B, 0x00050072, 3)


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (Attest.parse, REAL_ATTEST),
        (Signature.parse, REAL_SIGNATURE),
        (PublicArea.parse, REAL_PUBLIC),
    ],
    ids=["attest", "signature", "public"],
)
def test_structures_are_neither_cut_nor_continued(
    parse: Callable[[bytes], object], data: bytes
) -> None:
    for cut in range(len(data)):
        with pytest.raises(StructureError):
            parse(data[:cut])
    with pytest.raises(StructureError):
        parse(data + b"\0")


def test_honest_quote(machine: Machine) -> None:
    quote = check(machine, machine.quote())
    assert quote.clock_info is not None
    assert quote.clock_info.pair == (2, 0)
    assert quote.pcr(10) == machine.pcr10


# Threat 1: replayed quotes and nonces.


def test_quote_for_another_nonce(machine: Machine) -> None:
    assert reason(machine, replace(machine.quote(), nonce=bytes(32))) is Reason.NONCE


@pytest.mark.parametrize("nonce", [b"", bytes(15)])
def test_short_nonce(machine: Machine, nonce: bytes) -> None:
    assert reason(machine, machine.quote(nonce=nonce)) is Reason.NONCE


def test_shortest_nonce(machine: Machine) -> None:
    check(machine, machine.quote(nonce=bytes(range(16))))


def test_nonce_used_twice(machine: Machine) -> None:
    quotes = [check(machine, machine.quote(nonce=bytes(32))) for _ in range(2)]
    assert reason_of(lambda: check_fresh_nonces(quotes)) is Reason.NONCE
    check_fresh_nonces(quotes[:1])


# Threat 2: another key, another kind of key, another kind of structure.


@pytest.mark.parametrize("missing", [0x2, 0x10, 0x20, 0x10000, 0x40000])
def test_key_that_could_sign_anything(missing: int) -> None:
    key = Key(attributes=AK_ATTRIBUTES & ~missing)
    assert reason_of(lambda: loaded(key)) is Reason.AK


def test_key_that_decrypts() -> None:
    assert reason_of(lambda: loaded(Key(attributes=AK_ATTRIBUTES | 0x20000))) is Reason.AK


def test_pem_of_another_key() -> None:
    assert reason_of(lambda: AttestationKey.load(Key().public, Key().pem)) is Reason.AK


def test_pem_of_another_kind_of_key() -> None:
    key = rsa.generate_private_key(65537, 2048).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert reason_of(lambda: AttestationKey.load(Key().public, pem)) is Reason.AK


@pytest.mark.parametrize("pem", ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"])
def test_pem_that_is_none(pem: str) -> None:
    assert reason_of(lambda: AttestationKey.load(Key().public, pem)) is Reason.AK


@pytest.mark.parametrize("identifier", ["06082a8648ce3d030107", "06072a8648ce3d0201"])
def test_pem_of_an_unknown_curve_or_kind_of_key(identifier: str) -> None:
    key = Key()
    der = base64.b64decode("".join(key.pem.splitlines()[1:-1]))
    known = bytes.fromhex(identifier)
    unknown = base64.b64encode(der.replace(known, known[:-1] + b"\x7f")).decode()
    pem = f"-----BEGIN PUBLIC KEY-----\n{unknown}\n-----END PUBLIC KEY-----\n"
    assert reason_of(lambda: AttestationKey.load(key.public, pem)) is Reason.AK


def test_point_off_the_curve() -> None:
    key = Key()
    public = key.public[:-1] + bytes([key.public[-1] ^ 1])
    assert reason_of(lambda: AttestationKey.load(public, key.pem)) is Reason.AK


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (2, 0x0001),  # type RSA
        (4, 0x0004),  # nameAlg SHA-1
        (12, 0x0006),  # symmetric AES: a storage key
        (14, 0x0010),  # scheme NULL
        (16, 0x0004),  # scheme hash SHA-1
        (18, 0x0004),  # curve P-384
        (20, 0x0020),  # a kdf
    ],
)
def test_public_area_of_another_kind(offset: int, value: int) -> None:
    key = Key()
    public = key.public[:offset] + value.to_bytes(2, "big") + key.public[offset + 2 :]
    assert reason_of(lambda: AttestationKey.load(public, key.pem)) is Reason.AK


def test_signed_by_another_key(machine: Machine) -> None:
    def pose(attest: Attestation) -> Attestation:
        return replace(attest, signer=machine.key.qualified_name)

    assert reason(machine, machine.quote(pose, key=Key())) is Reason.SIGNATURE


def test_key_outside_the_endorsement_hierarchy() -> None:
    machine = Machine(key=Key(hierarchy=0x40000001))
    assert reason(machine, machine.quote()) is Reason.AK


@pytest.mark.parametrize(
    ("falsify", "expected"),
    [
        (lambda attest: replace(attest, magic=0xFF544346), Reason.MAGIC_TYPE),
        (lambda attest: replace(attest, kind=0x8017), Reason.MAGIC_TYPE),
        (lambda attest: replace(attest, trailing=b"\0"), Reason.ATTEST),
        (lambda attest: replace(attest, safe=2), Reason.ATTEST),
        (lambda attest: replace(attest, selections=attest.selections * 9), Reason.ATTEST),
    ],
)
def test_attestation_that_is_no_quote(machine: Machine, falsify: Falsify, expected: Reason) -> None:
    assert falsified(machine, falsify) is expected


def test_magic_is_checked_by_the_parser() -> None:
    with pytest.raises(WrongKindError):
        Attest.parse(b"\0" + REAL_ATTEST[1:])


def test_every_bit_of_the_attestation_is_signed(machine: Machine) -> None:
    record = machine.quote()
    for offset in range(len(record.attest)):
        attest = bytearray(record.attest)
        attest[offset] ^= 1
        assert reason(machine, replace(record, attest=bytes(attest))) in (
            Reason.SIGNATURE,
            Reason.MAGIC_TYPE,
            Reason.ATTEST,
        )


def test_every_byte_of_the_signature_counts(machine: Machine) -> None:
    record = machine.quote()
    for offset in range(len(record.signature)):
        signature = bytearray(record.signature)
        signature[offset] ^= 1
        forged = replace(record, signature=bytes(signature))
        assert reason(machine, forged) is Reason.SIGNATURE


def test_trailing_bytes_after_the_signature(machine: Machine) -> None:
    record = machine.quote()
    forged = replace(record, signature=record.signature + b"\0")
    assert reason(machine, forged) is Reason.SIGNATURE


# Threat 3: other PCRs presented as these.


@pytest.mark.parametrize("bitmap", ["ffff00", "ff0300", "ff0701", "000401", "ff07", "ff070000"])
def test_other_pcrs(machine: Machine, bitmap: str) -> None:
    def relabel(attest: Attestation) -> Attestation:
        return replace(attest, selections=((4, bytes.fromhex(bitmap)), attest.selections[1]))

    assert falsified(machine, relabel) is Reason.SELECTION


def test_pcr16_as_pcr10(machine: Machine) -> None:
    def relabel(attest: Attestation) -> Attestation:
        return replace(attest, selections=tuple((alg, b"\0\0\1") for alg, _ in attest.selections))

    assert falsified(machine, relabel) is Reason.SELECTION


# Threat 4: wrong or missing banks.


def test_masked_bank(machine: Machine) -> None:
    def mask(attest: Attestation) -> Attestation:
        return replace(attest, selections=((4, bytes(3)), attest.selections[1]))

    assert falsified(machine, mask) is Reason.MISSING_BANK


def test_bank_left_out(machine: Machine) -> None:
    def omit(attest: Attestation) -> Attestation:
        return replace(attest, selections=attest.selections[1:])

    assert falsified(machine, omit) is Reason.MISSING_BANK


def test_bank_twice(machine: Machine) -> None:
    def double(attest: Attestation) -> Attestation:
        return replace(attest, selections=(*attest.selections, attest.selections[0]))

    assert falsified(machine, double) is Reason.SELECTION


def test_bank_that_is_not_allocated(machine: Machine) -> None:
    def add(attest: Attestation) -> Attestation:
        return replace(attest, selections=(*attest.selections, (ALG["sha384"], PCRS_0_TO_10)))

    assert falsified(machine, add) is Reason.SELECTION


def test_bank_of_an_unknown_algorithm(machine: Machine) -> None:
    def add(attest: Attestation) -> Attestation:
        return replace(attest, selections=(*attest.selections, (0x12, PCRS_0_TO_10)))

    assert falsified(machine, add) is Reason.SELECTION


def with_pcrs(record: QuoteRecord, **banks: dict[int, bytes]) -> QuoteRecord:
    return replace(record, pcrs={**record.pcrs, **banks})


def test_changed_pcr_value(machine: Machine) -> None:
    record = machine.quote()
    for bank in BANKS:
        for index in range(11):
            values = dict(record.pcrs[bank])
            values[index] = bytes(len(values[index]))
            forged = with_pcrs(record, **{bank: values})
            assert reason(machine, forged) is Reason.PCR_DIGEST


def test_values_of_another_bank(machine: Machine) -> None:
    record = machine.quote()
    forged = with_pcrs(record, sha1=dict(record.pcrs["sha256"]))
    assert reason(machine, forged) is Reason.PCR_DIGEST


def test_value_that_was_not_quoted(machine: Machine) -> None:
    record = machine.quote()
    forged = with_pcrs(record, sha1={**record.pcrs["sha1"], 11: bytes(20)})
    assert reason(machine, forged) is Reason.PCR_DIGEST


def test_values_of_a_bank_that_was_not_quoted(machine: Machine) -> None:
    record = machine.quote()
    forged = with_pcrs(record, sha384=dict.fromkeys(range(11), bytes(48)))
    assert reason(machine, forged) is Reason.PCR_DIGEST


def test_values_split_at_another_place(machine: Machine) -> None:
    """The digest covers the values joined, so their sizes must be checked, too."""
    record = machine.quote()
    values = dict(record.pcrs["sha1"])
    values[0], values[1] = values[0] + values[1][:1], values[1][1:]
    assert reason(machine, with_pcrs(record, sha1=values)) is Reason.PCR_DIGEST


@pytest.mark.parametrize("banks", [("sha256",), ("sha384", "sha512"), ("sha512", "sha1")])
def test_other_banks(banks: tuple[str, ...]) -> None:
    machine = Machine(banks)
    machine.measure(ng("/a"))
    assert check(machine, machine.quote()).pcr(10) == machine.pcr10


# RSA keys, and keys of which only the public part is known.


class RsaKey(Key):
    """A restricted RSA key, RSASSA with SHA-256 by its area, that can be made to sign otherwise."""

    def __init__(self, size: int = 2048, bits: int | None = None) -> None:
        super().__init__()
        self.rsa = rsa.generate_private_key(65537, size)
        self.bits = bits or size
        self.hash: hashes.HashAlgorithm = hashes.SHA256()
        self.padding: padding.AsymmetricPadding = padding.PKCS1v15()
        self.label = (0x14, 0xB)

    @property
    def area(self) -> bytes:
        modulus = self.rsa.public_key().public_numbers().n
        return (
            struct.pack(">HHI", 1, 0xB, self.attributes)
            + two_b(b"")
            + struct.pack(">HHHHI", 0x10, 0x14, 0xB, self.bits, 0)
            + two_b(modulus.to_bytes(-(-modulus.bit_length() // 8), "big"))
        )

    @property
    def pem(self) -> str:
        key = self.rsa.public_key()
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, data: bytes) -> bytes:
        signature = two_b(self.rsa.sign(data, self.padding, self.hash))
        second = two_b(b"") if self.label[0] == 0x18 else b""
        return struct.pack(">HH", *self.label) + signature + second


def pss(hash_alg: hashes.HashAlgorithm) -> padding.PSS:
    return padding.PSS(padding.MGF1(hash_alg), padding.PSS.DIGEST_LENGTH)


def by(key: Key, *, bare: bool) -> AttestationKey:
    return (
        AttestationKey.from_pem(key.pem, "f") if bare else AttestationKey.load(key.public, key.pem)
    )


def verified(key: Key, *, bare: bool) -> Quote:
    machine = Machine(key=key)
    return verify_quote(machine.quote(), by(key, bare=bare), FROM_0_TO_10, primary=not bare)


@pytest.mark.parametrize("bare", [False, True])
def test_rsa_key_of_a_machine(bare: bool) -> None:
    assert verified(RsaKey(), bare=bare).clock_info is not None


def test_key_is_bound_to_its_scheme() -> None:
    """A bare public key is bound to none, so that there any of them will do."""
    key = RsaKey()
    key.padding, key.label = pss(key.hash), (0x16, 0xB)
    assert reason_of(lambda: verified(key, bare=False)) is Reason.SIGNATURE
    verified(key, bare=True)


def test_signature_with_a_wrong_label() -> None:
    key = RsaKey()
    key.padding, key.label = pss(key.hash), (0x18, 0xB)
    assert reason_of(lambda: verified(key, bare=True)) is Reason.SIGNATURE
    key.label = (0x14, 0xB)
    assert reason_of(lambda: verified(key, bare=True)) is Reason.SIGNATURE


def test_sha1_signatures_are_worth_nothing() -> None:
    key = RsaKey()
    key.hash, key.label = hashes.SHA1(), (0x14, 0x4)
    assert reason_of(lambda: verified(key, bare=True)) is Reason.SIGNATURE


def test_rsa_key_that_is_too_short() -> None:
    key = RsaKey(1024)
    assert reason_of(lambda: by(key, bare=False)) is Reason.AK
    assert reason_of(lambda: by(key, bare=True)) is Reason.AK


def test_rsa_key_that_is_not_as_long_as_it_says() -> None:
    key = RsaKey(bits=2056)
    assert reason_of(lambda: by(key, bare=False)) is Reason.AK


def test_public_keys_of_other_kinds() -> None:
    keys = (
        ec.generate_private_key(ec.SECP521R1()).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
    )
    for key in keys:
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        with pytest.raises(Rejection) as caught:
            AttestationKey.from_pem(pem, "f")
        assert caught.value.reason is Reason.AK
