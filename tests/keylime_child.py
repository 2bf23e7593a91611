# SPDX-License-Identifier: GPL-2.0-only
"""Asks Keylime about ASCII lists: run in Keylime's own environment, imported by nothing of ours.

Reads a JSON array of {"text": ASCII LIST, "pcr": HEX, "bank": NAME} and writes one with an answer
for each: "accepted", or the names of the failures.
"""

from __future__ import annotations

import json
import logging
import sys
import types

# keylime.signing imports it, for signatures that nobody asks for here; the package needs libgpgme.
sys.modules["gpg"] = types.ModuleType("gpg")
logging.disable(logging.CRITICAL)

from keylime.common.algorithms import Hash  # noqa: E402  # after the module that it needs
from keylime.ima import ima  # noqa: E402  # likewise


def answer(question: dict[str, str]) -> str:
    """What it says of one list; its failure object is true where something failed."""
    lines = question["text"].splitlines()
    bank = Hash(question["bank"])
    _, failure = ima.process_measurement_list(None, lines, pcrval=question["pcr"], hash_alg=bank)
    return " ".join(event.event_id for event in failure.events) if failure else "accepted"


json.dump([answer(question) for question in json.load(sys.stdin)], sys.stdout)
