"""What tests of several rooms need."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture
def _heeds_interrupts():
    """Let programs that are started here hear SIGINT, which a shell's background jobs ignore and their children too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
