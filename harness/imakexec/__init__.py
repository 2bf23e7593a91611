# SPDX-License-Identifier: GPL-2.0-only
"""Prove that Linux carries its IMA measurement log across kexec."""

__version__ = "0.1.0"
