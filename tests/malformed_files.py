# SPDX-License-Identifier: GPL-2.0-only
"""Loose quotes and checkpoints with some bytes that are wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from random import Random

import test_checkpoint
import test_detached

from imakexec.attest import Proof, QuoteFiles, Vouchers, authenticate
from imakexec.attest.checkpoint import Checkpoint

VOUCHERS = tuple(
    test_detached.vouchers(name, public=public)
    for name in test_detached.KEYS
    for public in ("public", "pem")
)

_NUMBERS: tuple[object, ...] = (-1, 0, 1, 2**31, 2**63, 2**64, 10**30, 1.5, True, None, "1", [], {})


@dataclass(frozen=True)
class LooseQuote:
    """A quote in files.

    Args:
        genuine: what it was made from.
        vouchers: what it is now.
    """

    genuine: Vouchers
    vouchers: Vouchers

    @property
    def size(self) -> int:
        """Of all files in bytes."""
        [quote] = self.vouchers.quotes
        parts = (self.vouchers.key, quote.message, quote.signature, quote.nonce)
        return sum(map(len, parts)) + (len(quote.pcrs) if isinstance(quote.pcrs, bytes) else 0)

    @property
    def proof(self) -> Proof:
        """What the genuine one proves."""
        return authenticate(self.genuine)


def malformed_quote(random: Random) -> LooseQuote:
    """One file of a quote with wrong bytes, or with those of another quote."""
    genuine, other = random.choice(VOUCHERS), random.choice(VOUCHERS)
    if random.random() < 0.2:
        return LooseQuote(genuine, replace(genuine, key=_spoiled(random, genuine.key, other.key)))
    [quote], [another] = genuine.quotes, other.quotes
    assert isinstance(quote.pcrs, bytes)
    assert isinstance(another.pcrs, bytes)
    changed: QuoteFiles = random.choice(
        (
            replace(quote, message=_spoiled(random, quote.message, another.message)),
            replace(quote, signature=_spoiled(random, quote.signature, another.signature)),
            replace(quote, nonce=_spoiled(random, quote.nonce, another.message)),
            replace(quote, pcrs=_spoiled(random, quote.pcrs, another.pcrs)),
        )
    )
    return LooseQuote(genuine, replace(genuine, quotes=(changed,)))


def checkpoints() -> tuple[Checkpoint, ...]:
    """One at the end of a list, and one with an anchor."""
    machine, anchored = test_checkpoint.anchored()
    return test_checkpoint.kept(test_checkpoint.now(machine, anchored)), anchored


def malformed_checkpoint(random: Random, whole: tuple[Checkpoint, ...]) -> bytes:
    """A checkpoint's file with members or bytes that are wrong."""
    document = random.choice(whole).to_json()
    if random.random() < 0.6:
        _spoil_member(random, document)
    content = json.dumps(document).encode()
    return _spoiled(random, content, content) if random.random() < 0.5 else content


def _spoil_member(random: Random, document: dict[str, object]) -> None:
    """Change one member, anywhere in it."""
    place: dict[str, object] = document
    while True:
        name = random.choice(list(place))
        value = place[name]
        if isinstance(value, list) and value:
            value = random.choice(value)
        if not isinstance(value, dict) or not value or random.random() < 0.3:
            break
        place = value
    form = random.randrange(3)
    if form == 0:
        del place[name]
    elif form == 1:
        place[f"{name}{random.choice('_x')}"] = place[name]
    else:
        place[name] = random.choice((*_NUMBERS, "00" * random.randrange(70)))


def _spoiled(random: Random, content: bytes, other: bytes) -> bytes:
    """The same with some bytes changed, left out, put in or cut off, or another content."""
    data = bytearray(content)
    at = random.randrange(len(data) + 1)
    form = random.randrange(7)
    if form == 0:
        return other
    if form == 1:
        del data[at:]
    elif form == 2:
        del data[at : at + random.choice((1, 2, 4, 32))]
    elif form == 3:
        data[at:at] = random.randbytes(random.choice((1, 2, 4, 600)))
    elif form == 4:
        data[at:] = other[at:]
    elif form == 5:
        data[at : at + 4] = random.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0"))
    else:
        data[at : at + 1] = random.randbytes(1)
    return bytes(data)
