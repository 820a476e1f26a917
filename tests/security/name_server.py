"""A name server that answers mixed, changing, late, wrong and not at all.

Its zone is ``example``; what a name does is its first label:

    good, bad, meta, own     one address: public, loopback, metadata, the server's own
    mixed, mixed6            a public address, and one that is not, among its own
    mapped, nat64, sixtofour an IPv4 loopback address in an IPv6 one
    ula, link                private and link-local IPv6 addresses
    many                     two hundred public addresses, and one that is not
    turn                     public the first time it is asked, loopback from then on
    turn-late                public twice, then loopback
    alias, alias-loop        a CNAME for ``bad``; for itself
    a-b-c-d.ip               the address that the name says, as sslip.io does
    late-N                   ``good`` after N tenths of a second
    never-N                  no answer
    nx, fail, refused, empty NXDOMAIN, SERVFAIL, REFUSED, no record
    noise, cut               bytes that are no DNS; half an answer
    other                    an answer to another question
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Self

from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, A, DNSRecord

LOOPBACK, METADATA = "127.0.0.1", "169.254.169.254"
_PUBLIC = "9.9.{}.{}"
#: Ports that are tried where any will do.
_TRIES = 20

_CODES = {"nx": RCODE.NXDOMAIN, "fail": RCODE.SERVFAIL, "refused": RCODE.REFUSED}


class NameServer(asyncio.DatagramProtocol):
    """UDP and TCP on a port of an address; 0 takes a free one. Times to live are in seconds."""

    def __init__(
        self, public: str, *, address: str = LOOPBACK, port: int = 53, ttl: int = 0
    ) -> None:
        self._public = public
        self._address = address
        self.port = port
        self._ttl = ttl
        self.asked: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        for _ in range(0 if self.port else _TRIES):
            # What is free for UDP may be somebody's for TCP.
            with suppress(OSError):
                await self._listen()
                return self
        await self._listen()
        return self

    async def _listen(self) -> None:
        self._udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: self, local_addr=(self._address, self.port)
        )
        port = self._udp.get_extra_info("sockname")[1]
        try:
            self._tcp = await asyncio.start_server(self._accept, self._address, port)
        except OSError:
            self._udp.close()
            raise
        self.port = port

    async def __aexit__(self, *_: object) -> None:
        self._udp.close()
        self._tcp.close()
        for task in self._tasks:
            task.cancel()

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        task = asyncio.ensure_future(self._reply(data, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, data: bytes, peer: tuple[str, int]) -> None:
        answer = await self._answer(data)
        if answer is None:
            return
        if len(answer) > 512:
            # Truncated: who wants it whole asks by TCP (RFC 1035 §4.2.1).
            short = DNSRecord.parse(data).reply()
            short.header.tc = 1
            answer = short.pack()
        self._udp.sendto(answer, peer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                answer = await self._answer(await reader.readexactly(size))
                if answer is not None:
                    writer.write(len(answer).to_bytes(2, "big") + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, data: bytes) -> bytes | None:
        request = DNSRecord.parse(data)
        name = str(request.q.qname).rstrip(".").lower()
        kind = QTYPE[request.q.qtype]
        what, _, number = name.partition(".")[0].partition("-")
        self.asked[f"{kind} {name}"] += 1
        if what == "never":
            return None
        if what == "late":
            await asyncio.sleep(int(number) / 10)
        if what == "noise":
            return b"\xff" * 40
        reply = request.reply()
        if what in _CODES:
            reply.header.rcode = _CODES[what]
        elif what == "other":
            reply = DNSRecord.question("somebody.else").reply()
            reply.header.id = request.header.id
            reply.add_answer(RR("somebody.else", QTYPE.A, rdata=A(self._public), ttl=0))
        else:
            self._fill(reply, name, kind)
        packed: bytes = reply.pack()
        return packed[: len(packed) // 2] if what == "cut" else packed

    def _fill(self, reply: DNSRecord, name: str, kind: str) -> None:
        if name.startswith("alias"):
            target = name if name.startswith("alias-loop") else "bad.example"
            reply.add_answer(RR(name, QTYPE.CNAME, rdata=CNAME(target), ttl=0))
            if target != name and kind == "A":
                reply.add_answer(RR(target, QTYPE.A, rdata=A(LOOPBACK), ttl=0))
            return
        for address in self._addresses(name, kind):
            record = A(address) if kind == "A" else AAAA(address)
            reply.add_answer(RR(name, getattr(QTYPE, kind), rdata=record, ttl=self._ttl))

    def _addresses(self, name: str, kind: str) -> list[str]:
        what, _, rest = name.partition(".")
        if kind == "AAAA":
            return {
                "mixed6": ["::1"],
                "mapped": ["::ffff:7f00:1"],
                "nat64": ["64:ff9b::7f00:1"],
                "sixtofour": ["2002:7f00:1::"],
                "ula": ["fd00::1"],
                "link": ["fe80::1"],
            }.get(what, [])
        if kind != "A":
            return []
        if rest.startswith("ip."):
            return [what.replace("-", ".")]
        if what == "turn" or what == "turn-late":
            limit = 1 if what == "turn" else 2
            return [self._public if self.asked[f"A {name}"] <= limit else LOOPBACK]
        found = {
            "good": [self._public],
            "own": [self._public],
            "bad": [LOOPBACK],
            "meta": [METADATA],
            "mixed": [self._public, LOOPBACK],
            "mixed6": [self._public],
            "mapped": [self._public],
            "many": [*(_PUBLIC.format(it // 100, it % 100) for it in range(200)), "10.0.0.1"],
        }
        return [self._public] if what.startswith("late") else found.get(what, [])
