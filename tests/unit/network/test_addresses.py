"""Which addresses count as global unicast, and which hide an IPv4 one."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.network.addresses import METADATA, embedded_ipv4, special_use

# First and last address of each refused range, and its neighbours that are
# open (None where the neighbour belongs to another refused range).
RANGES = [
    (None, "0.0.0.0", "0.255.255.255", "1.0.0.0"),
    ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"),
    ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"),
    ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"),
    ("168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17"),
    ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"),
    ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"),
    ("191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"),
    ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"),
    ("192.31.195.255", "192.31.196.0", "192.31.196.255", "192.31.197.0"),
    ("192.52.192.255", "192.52.193.0", "192.52.193.255", "192.52.194.0"),
    ("192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"),
    ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"),
    ("192.175.47.255", "192.175.48.0", "192.175.48.255", "192.175.49.0"),
    ("198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"),
    ("198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"),
    ("203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"),
    ("223.255.255.255", "224.0.0.0", "239.255.255.255", None),
    (None, "240.0.0.0", "255.255.255.255", None),
    (None, "::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"),
    ("2000:ffff::", "2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"),
    ("2001:db7:ffff::", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::"),
    ("2001:ffff::", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::"),
    ("2620:4f:7fff::", "2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff", "2620:4f:8001::"),
    ("3ffd:ffff::", "3ffe::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
    (None, "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"),
    ("3fff:ffff::", "4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
]


@pytest.mark.parametrize(("before", "first", "last", "after"), RANGES)
def test_ranges_end_where_the_registry_says(
    before: str | None, first: str, last: str, after: str | None
) -> None:
    """The first and last address of a special range are refused, their open neighbours not."""
    assert special_use(ip_address(first)) is not None
    assert special_use(ip_address(last)) is not None
    for neighbour in (before, after):
        if neighbour is not None:
            assert special_use(ip_address(neighbour)) is None


@pytest.mark.parametrize(
    "address",
    [
        "::1",
        "::7f00:1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1",
        "100::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "5f00::1",
        "ff02::1",
    ],
)
def test_what_is_outside_2000_3_is_refused(address: str) -> None:
    """Nothing outside the allocated global unicast space passes."""
    assert special_use(ip_address(address)) is not None


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00::1"])
def test_ordinary_addresses_pass(address: str) -> None:
    """Addresses of the public Internet are open and hide nothing."""
    assert special_use(ip_address(address)) is None
    assert not list(embedded_ipv4(ip_address(address)))


@pytest.mark.parametrize("address", ["2a00::1%eth0", "fe80::1%1"])
def test_zones_are_refused(address: str) -> None:
    """An address with a zone is never global."""
    assert special_use(ip_address(address)) == "has a zone"


@pytest.mark.parametrize("address", sorted(map(str, METADATA)))
def test_metadata_addresses_are_special_anyway(address: str) -> None:
    """Each metadata address lies in a refused range."""
    assert special_use(ip_address(address)) is not None


EMBEDDINGS = {
    "compatible": lambda v4: v4,
    "mapped": lambda v4: 0xFFFF << 32 | v4,
    "translated": lambda v4: 0xFFFF << 48 | v4,
    "nat64": lambda v4: 0x0064FF9B << 96 | v4,
    "nat64-local-96": lambda v4: 0x0064FF9B0001 << 80 | v4,
    "nat64-local-48": lambda v4: 0x0064FF9B0001 << 80 | (v4 >> 16) << 64 | (v4 & 0xFFFF) << 40,
    "6to4": lambda v4: 0x2002 << 112 | v4 << 80 | 1,
    "teredo-server": lambda v4: 0x20010000 << 96 | v4 << 64,
    "teredo-client": lambda v4: 0x20010000 << 96 | (v4 ^ 0xFFFFFFFF),
    "isatap": lambda v4: 0x2A001450 << 96 | 0x00005EFE << 32 | v4,
    "isatap-global": lambda v4: 0x2A001450 << 96 | 0x02005EFE << 32 | v4,
}


@pytest.mark.parametrize("form", EMBEDDINGS)
@given(number=st.integers(2, 2**32 - 1))
def test_every_embedding_is_read(form: str, number: int) -> None:
    """The IPv4 address in each transition form is found."""
    address = IPv6Address(EMBEDDINGS[form](number))
    assert IPv4Address(number) in list(embedded_ipv4(address))


def test_the_unspecified_and_loopback_addresses_are_no_embeddings() -> None:
    """``::`` and ``::1`` are not IPv4-compatible addresses (RFC 4291 §2.5)."""
    assert not list(embedded_ipv4(IPv6Address("::")))
    assert not list(embedded_ipv4(IPv6Address("::1")))
