# SPDX-License-Identifier: GPL-2.0-only
"""The key for tests is the same each time, and its signatures are what the kernel looks for."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from imakexec.scenario.signing import TRUSTED_KEYS, SigningKey


def test_a_kernel_that_trusts_it_is_found_again() -> None:
    assert SigningKey().patch() == SigningKey().patch()


def test_the_patch_adds_the_certificate(tmp_path: Path) -> None:
    (tmp_path / "key.patch").write_text(SigningKey().patch())
    subprocess.run(["git", "apply", "key.patch"], cwd=tmp_path, check=True)
    added = x509.load_pem_x509_certificate((tmp_path / TRUSTED_KEYS).read_bytes())
    assert added == SigningKey().certificate


def test_a_signature_is_of_the_content_and_names_its_key() -> None:
    key = SigningKey()
    signature = key.sign(b"content")
    # Digital signature, version 2, SHA-256: security/integrity/integrity.h, hash_info.h.
    assert signature[:3] == bytes([3, 2, 4])
    identity = key.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert signature[3:7] == identity.value.digest[-4:]
    assert int.from_bytes(signature[7:9], "big") == len(signature[9:])
    public = key.certificate.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature[9:], b"content", ec.ECDSA(hashes.SHA256()))
