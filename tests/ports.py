"""Ports for servers that are started a moment later."""

from __future__ import annotations

import socket
from contextlib import suppress
from random import SystemRandom

#: Below those that the kernel gives to connections (net.ipv4.ip_local_port_range):
#: one of them could take the port until the server is there.
_FIRST, _LAST = 10_000, 32_000

# Tests seed the other one, in each worker alike.
_random = SystemRandom()


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    for _ in range(100):
        port = _random.randint(_FIRST, _LAST)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("there is no free port")
