"""Hostile URLs: refused as they stand, from every side from which they can come."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.errors import AddressBlocked
from downloadd.network.addresses import embedded_ipv4, special_use
from downloadd.network.guard import AddressGuard
from tests.integration.web.conftest import Server, Start
from tests.origin import Origin
from tests.security.corpora import cases, lines

HOSTILE: list[str] = cases("urls.txt")
SAFE: list[str] = cases("safe_urls.txt")
MESSAGE = "This address may not be fetched."

GUARD = AddressGuard(own=[("127.0.0.1", 3000)])


def test_there_are_as_many_as_asked_for(tried: Callable[[str, int], None]) -> None:
    tried("URLs", len(HOSTILE))
    assert len(HOSTILE) >= 400
    assert len(SAFE) >= 60


@pytest.mark.parametrize("url", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_url_is_refused(url: str) -> None:
    """By one sentence for all; why, and with which address, is for the log, less credentials."""
    with pytest.raises(AddressBlocked) as caught:
        GUARD.check_url(url)
    assert caught.value.message == MESSAGE
    assert caught.value.reason
    assert caught.value.code == "address_blocked"
    _, at, _ = url.partition("@")
    if at:
        assert url not in caught.value.reason


@pytest.mark.parametrize("url", SAFE, ids=range(len(SAFE)))
def test_a_harmless_url_passes(url: str) -> None:
    """What is sent is ASCII, has no fragment, and goes to the same host as every parser says."""
    passed = GUARD.check_url(url)
    assert str(passed).isascii()
    assert not passed.raw_fragment
    assert str(GUARD.check_url(str(passed))) == str(passed)


# --- over the wire ------------------------------------------------------------------------

#: What JSON cannot carry is refused before it is a URL.
SENT = [url for url in HOSTILE if "\ud800" not in url]


async def refused(server: Server, path: str, body: Any) -> str:
    async with server.client.post(path, json=body) as response:
        text = await response.text()
    answer = json.loads(text)
    assert (response.status, answer["code"]) == (400, "validation_error"), (body, text)
    for word in ("loopback", "private", "denied", "link local", "RFC", "port "):
        assert word not in answer["details"][next(iter(answer["details"]))][0]
    return text


async def test_as_source_and_as_callback(start: Start) -> None:
    """400 whichever way it is given, and no job is made of it."""
    async with start(network__allow=[], webhooks__secret="whsec_" + "A" * 40) as server:
        before = set(await server.redis_keys())
        for url in SENT:
            await refused(server, "/v1/download/initiate", {"source_urls": [url]})
            await refused(server, "/v1/export", {"files": [{"url": url}]})
            await refused(server, "/v1/download/check", {"source_urls": [url]})
            body = {"source_urls": ["https://example.com/"], "callback_url": url}
            await refused(server, "/v1/download/initiate", body)
        assert set(await server.redis_keys()) == before


#: What an origin can send in a header, and what is a URL by itself: not one
#: that is relative to the origin's, nor one that is repaired (a blank is %20).
POINTED_AT = [
    url
    for url in SENT
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]", url) and url.isprintable() and " " not in url
]
#: How a file ends whose origin points there: the address is closed, or it is no address.
CONTAINED = {"address_blocked", "source_protocol_error"}


async def test_as_redirect(start: Start, origin: Origin) -> None:
    """No origin sends us where we may not go; nothing is dialled, nothing is told of why."""
    here = f"localhost:{origin.port}"
    async with start(network__allow=[here], limits__jobs_per_minute=100) as server:
        asked = [
            (target, url)
            for n, target in enumerate(POINTED_AT)
            if len(url := origin.url(size=1, host="localhost", to=target, n=n)) <= 2048
        ]
        assert len(asked) > 350
        found: list[dict[str, Any]] = []
        for first in range(0, len(asked), 200):
            files = [{"url": url} for _, url in asked[first : first + 200]]
            job = await server.initiate({"files": files, "options": {"onError": "skip"}})
            ended = await server.ended(job["jobId"])
            assert (ended["status"], ended["errorCode"]) == ("failed", "all_files_failed")
            found += ended["files"]
        for (target, _), file in zip(asked, found, strict=True):
            assert file["errorCode"] in CONTAINED, (target, file)
        blocked = [file for file in found if file["errorCode"] == "address_blocked"]
        assert len(blocked) > 300
        assert {file["error"] for file in blocked} == {MESSAGE}
        # One request for each, and none to where it points.
        assert len(origin.requests) == len(found)


# --- addresses ------------------------------------------------------------------------------


def ranges() -> list[tuple[Any, str]]:
    return [(ip_network(line.split()[0]), line.split()[1]) for line in lines("ranges.txt")]


@pytest.mark.parametrize(("network", "special"), ranges(), ids=[str(it) for it, _ in ranges()])
def test_each_range_to_its_edges(network: Any, special: str) -> None:
    """The first and the last address are closed; those just outside open, if not special too."""
    for address in (network[0], network[-1], network[network.num_addresses // 2]):
        with pytest.raises(AddressBlocked):
            GUARD.check_address(address, "example.com", 443)
    size = 32 if network.version == 4 else 128
    make = IPv4Address if network.version == 4 else IPv6Address
    for name, number in (("below", int(network[0]) - 1), ("above", int(network[-1]) + 1)):
        if special not in (name, "both") and 0 <= number < 1 << size:
            GUARD.check_address(make(number), "example.com", 443)


def test_the_code_has_no_range_that_the_registries_have_not() -> None:
    """Between the listed ranges of IPv4 every address is open: its edges, and some within."""
    listed = sorted((it for it, _ in ranges() if it.version == 4), key=lambda it: int(it[0]))
    position = 0
    for network in [*listed, None]:
        end = int(network[0]) if network is not None else 1 << 32
        if end > position:
            for number in {position, (position + end) // 2, end - 1}:
                GUARD.check_address(IPv4Address(number), "example.com", 443)
        position = max(position, int(network[-1]) + 1) if network is not None else end


#: How an IPv6 address may hold an IPv4 address, in 128 bits.
CARRIERS = {
    "compatible": lambda v4: v4,
    "mapped": lambda v4: 0xFFFF << 32 | v4,
    "translated": lambda v4: 0xFFFF << 48 | v4,
    "nat64": lambda v4: 0x64FF9B << 96 | v4,
    "local nat64": lambda v4: 0x64FF9B0001 << 80 | v4,
    "6to4": lambda v4: 0x2002 << 112 | v4 << 80,
    "teredo server": lambda v4: 0x20010000 << 96 | v4 << 64,
    "teredo client": lambda v4: 0x20010000 << 96 | (v4 ^ 0xFFFFFFFF),
    "isatap": lambda v4: 0x26064700 << 96 | 0x5EFE << 32 | v4,
    "isatap global": lambda v4: 0x26064700 << 96 | 0x02005EFE << 32 | v4,
}


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(CARRIERS)))
def test_ipv4_in_ipv6_is_found(number: int, carrier: str) -> None:
    """Whatever carries a closed IPv4 address is closed as well."""
    address, hidden = IPv6Address(CARRIERS[carrier](number)), IPv4Address(number)
    if number > 1:
        assert hidden in set(embedded_ipv4(address))
    # Only ISATAP lies in global unicast: the others are closed whatever they carry.
    if special_use(hidden) is not None or not carrier.startswith("isatap"):
        with pytest.raises(AddressBlocked):
            GUARD.check_address(address, "example.com", 443)


@given(st.ip_addresses())
def test_what_is_open_is_global(address: Any) -> None:
    """By the standard library's word too, which takes more for global than there is."""
    try:
        GUARD.check_address(address, "example.com", 443)
    except AddressBlocked:
        return
    assert address.is_global
    assert not address.is_multicast


@given(st.text(max_size=40))
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    """Any text at all is a URL that passes, or one that is refused."""
    for url in (text, f"http://{text}", f"http://{text}/", f"http://a@{text}:80/{text}"):
        try:
            passed = GUARD.check_url(url)
        except AddressBlocked:
            continue
        assert passed.scheme in ("http", "https")
        assert str(passed).isascii()


@given(st.sampled_from(SAFE), st.sampled_from(HOSTILE))
def test_deny_wins(safe: str, hostile: str) -> None:
    """A host that is denied is so in every spelling, and no allowed one opens another."""
    host = GUARD.check_url(safe).raw_host
    assert host is not None
    entry = f"[{host}]" if ":" in host else host
    closed = AddressGuard(allow=[entry], deny=[entry])
    with pytest.raises(AddressBlocked):
        closed.check_url(safe)
    opened = AddressGuard(allow=[entry], own=[("127.0.0.1", 3000)])
    try:
        passed = opened.check_url(hostile)
    except AddressBlocked:
        return
    if passed.raw_host == host:
        return
    # An allowed network may hold what a name leads to; this machine it does not open.
    for address in ("127.0.0.1", "::1", "169.254.169.254"):
        with pytest.raises(AddressBlocked):
            opened.check_address(address, passed.raw_host or "", 80)


def test_anchored() -> None:
    """``allow`` and ``deny`` mean hosts, not what they end, begin with or hold."""
    guard = AddressGuard(allow=["files.example:9000"], deny=["evil.example", "198.51.101.0/24"])
    assert guard.check_url("http://files.example:9000/")
    for url in (
        "http://xfiles.example:9000/",
        "http://files.example.evil:9000/",
        "http://a.files.example:9000/",
        "http://files.example:9001/",
        "http://files.example@other.example:9000/",
        "http://evil.example/",
        "http://EVIL.example./",
        "http://198.51.101.7/",
    ):
        with pytest.raises(AddressBlocked):
            guard.check_url(url)
    for url in ("http://notevil.example/", "http://evil.example.org/", "http://a.evil.example/"):
        assert guard.check_url(url)
    assert ip_address("198.51.101.7").is_global
