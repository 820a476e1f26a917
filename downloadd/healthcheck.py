"""``python -I -m downloadd.healthcheck``: exit status 0 while the server takes requests.

What a container's HEALTHCHECK runs every few seconds, so it imports nothing but
the standard library: the command line as a whole takes a second of a processor.
It asks ``/health/ready``, which is about this process alone: a container that is
called unhealthy because Redis is away is not helped by being started again.
"""

from __future__ import annotations

import os
import socket
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

#: As ``config.sections`` has it.
DEFAULT_PORT = 3000
TIMEOUT = 4.0


def main() -> int:
    """Ask the server; say on stderr what is wrong with it, and return 1."""
    try:
        where = port(os.environ, Path("config.toml"))
        answer = status_line(where)
    except (OSError, ValueError) as exc:
        print(f"downloadd: not ready: {exc}", file=sys.stderr)  # noqa: T201 - it is a command
        return 1
    if answer.split()[1:2] == [b"200"]:
        return 0
    print(f"downloadd: not ready: {answer.decode(errors='replace')}", file=sys.stderr)  # noqa: T201
    return 1


def port(environ: Mapping[str, str], file: Path) -> int:
    """Where the server listens by environment or ./config.toml, in their order (SPEC §8).

    Settings that the server refused never come here: it is not running then.
    """
    for name in ("DOWNLOADD_SERVER_PORT", "PORT"):
        if text := environ.get(name):
            return int(text)
    if file.is_file():
        given = tomllib.loads(file.read_text("utf-8"))
        return int(given.get("server", {}).get("port", DEFAULT_PORT))
    return DEFAULT_PORT


def status_line(where: int) -> bytes:
    """The first line of what ``/health/ready`` answers on this machine."""
    with socket.create_connection(("127.0.0.1", where), timeout=TIMEOUT) as connection:
        connection.sendall(
            b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        with connection.makefile("rb") as answer:
            return answer.readline().strip()


if __name__ == "__main__":
    sys.exit(main())
