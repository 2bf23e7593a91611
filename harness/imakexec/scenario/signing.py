# SPDX-License-Identifier: GPL-2.0-only
"""A key that a kernel under test is built to trust, and signatures by it.

It is a key for tests: everybody can make it, and it is the same each time, so that a kernel which
was built with its certificate is found again.
"""

from __future__ import annotations

import hashlib
import tempfile
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.oracle import EVMCTL, require_evmctl
from imakexec.scenario.session import Session

TRUSTED_KEYS = "certs/imakexec-test.pem"
"""Where the certificate is in a patched tree, for CONFIG_SYSTEM_TRUSTED_KEYS."""

_SECRET = b"imakexec: a key for tests"
_SIGN_SECONDS = 20.0


class SigningKey:
    """A key on P-256 and its certificate, which it has signed itself."""

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        number = int.from_bytes(hashlib.sha256(_SECRET).digest(), "big")
        return ec.derive_private_key(number, ec.SECP256R1())

    @cached_property
    def certificate(self) -> x509.Certificate:
        """The same each time, to the byte."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "imakexec test")])
        public = self._key.public_key()
        return (
            x509.CertificateBuilder(name, name, public, serial_number=1)
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
            # A signature names its key by the end of this.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256(), ecdsa_deterministic=True)
        )

    def patch(self) -> str:
        """A patch that adds the certificate to a kernel tree, as `TRUSTED_KEYS`."""
        lines = self.certificate.public_bytes(Encoding.PEM).decode().splitlines()
        return "\n".join(
            [
                f"diff --git a/{TRUSTED_KEYS} b/{TRUSTED_KEYS}",
                "new file mode 100644",
                "--- /dev/null",
                f"+++ b/{TRUSTED_KEYS}",
                f"@@ -0,0 +1,{len(lines)} @@",
                *(f"+{line}" for line in lines),
                "",
            ]
        )

    def sign(self, content: bytes) -> bytes:
        """The signature of a file, as its attribute security.ima holds it.

        The format is struct signature_v2_hdr of security/integrity/integrity.h.

        Raises:
            InfraError: evmctl is missing, or does not sign.
        """
        require_evmctl()
        with tempfile.TemporaryDirectory(prefix="imakexec-sign-") as folder:
            key, file = Path(folder, "key.pem"), Path(folder, "file")
            key.write_bytes(
                self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            )
            file.write_bytes(content)
            process.run(
                [EVMCTL, "ima_sign", "--sigfile", "-a", "sha256", "--key", str(key), str(file)],
                deadline=Deadline.after(_SIGN_SECONDS),
            )
            return file.with_suffix(".sig").read_bytes()


def trust(session: Session, key: SigningKey) -> None:
    """Put the certificate on the keyring that IMA looks for keys in.

    Raises:
        GuestFailure: the guest's kernel does not trust who has signed it.
    """
    der = key.certificate.public_bytes(Encoding.DER)
    session.guest.write_file("/run/certificate", der, session.budget())
    script = 'keyctl padd asymmetric "" %keyring:.ima </run/certificate'
    session.guest.run(["sh", "-c", script], session.budget())


def set_signature(session: Session, path: str, signature: bytes) -> None:
    """Give a file of the guest a signature, in the attribute security.ima.

    Raises:
        GuestFailure: it is on a file system without extended attributes.
    """
    value = f"0x{signature.hex()}"
    session.guest.run(
        ["setfattr", "-n", "security.ima", "-v", value, path],
        session.budget(),
    )
