"""Which addresses are not global unicast, and which hide another one.

The tables follow the IANA IPv4 and IPv6 Special-Purpose Address Registries
and the IPv6 Address Space registry. ``ipaddress.is_global`` is not asked: it
is true for 224.0.0.1, 64:ff9b::7f00:1, 2002:7f00:1::, fec0::1 and
168.63.129.16, and changes from one Python to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

_SPECIAL_V4 = tuple(
    (IPv4Network(network), name)
    for network, name in (
        ("0.0.0.0/8", "this network (RFC 791)"),
        ("10.0.0.0/8", "private use (RFC 1918)"),
        ("100.64.0.0/10", "shared address space (RFC 6598)"),
        ("127.0.0.0/8", "loopback (RFC 1122)"),
        ("168.63.129.16/32", "cloud metadata"),
        ("169.254.0.0/16", "link local (RFC 3927)"),
        ("172.16.0.0/12", "private use (RFC 1918)"),
        ("192.0.0.0/24", "IETF protocol assignments (RFC 6890)"),
        ("192.0.2.0/24", "documentation (RFC 5737)"),
        ("192.31.196.0/24", "AS112-v4 (RFC 7535)"),
        ("192.52.193.0/24", "AMT (RFC 7450)"),
        ("192.88.99.0/24", "6to4 relay anycast (RFC 7526)"),
        ("192.168.0.0/16", "private use (RFC 1918)"),
        ("192.175.48.0/24", "AS112 service (RFC 7534)"),
        ("198.18.0.0/15", "benchmarking (RFC 2544)"),
        ("198.51.100.0/24", "documentation (RFC 5737)"),
        ("203.0.113.0/24", "documentation (RFC 5737)"),
        ("224.0.0.0/4", "multicast (RFC 5771)"),
        ("240.0.0.0/4", "reserved (RFC 1112)"),
    )
)

#: All of IPv6 that is allocated as global unicast (RFC 4291 §2.4, RFC 3587).
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")

#: Exceptions within it.
_SPECIAL_V6 = tuple(
    (IPv6Network(network), name)
    for network, name in (
        ("2001::/23", "IETF protocol assignments (RFC 2928)"),
        ("2001:db8::/32", "documentation (RFC 3849)"),
        ("2002::/16", "6to4 (RFC 3056)"),
        ("2620:4f:8000::/48", "AS112 service (RFC 7534)"),
        ("3ffe::/16", "6bone, returned (RFC 3701)"),
        ("3fff::/20", "documentation (RFC 9637)"),
    )
)

#: Where clouds answer a machine's questions about itself, credentials
#: included. No range that is allowed as a whole opens these.
METADATA: frozenset[Address] = frozenset(
    {
        IPv4Address("169.254.169.254"),  # AWS, Google, Azure, OpenStack, …
        IPv4Address("169.254.170.2"),  # AWS ECS tasks
        IPv4Address("169.254.170.23"),  # AWS EKS pods
        IPv4Address("169.254.42.42"),  # Scaleway
        IPv4Address("169.254.0.23"),  # Tencent
        IPv4Address("168.63.129.16"),  # Azure WireServer
        IPv4Address("100.100.100.200"),  # Alibaba
        IPv4Address("192.0.0.192"),  # Oracle Classic
        IPv6Address("fd00:ec2::23"),  # AWS EKS pods
        IPv6Address("fd00:ec2::254"),  # AWS
        IPv6Address("fd20:ce::254"),  # Google
        IPv6Address("fd00:42::42"),  # Scaleway
    }
)

#: Names that mean this machine, its neighbours or its cloud, and never anything
#: public; with all that lies under them. They need not be looked up.
PRIVATE_NAMES = frozenset(
    {
        "localhost",  # RFC 6761 §6.3
        "localdomain",  # these and the next in /etc/hosts of distributions
        "localhost4",
        "localhost6",
        "localdomain4",
        "localdomain6",
        "ip6-localhost",
        "ip6-loopback",
        "local",  # RFC 6762 §3
        "internal",  # reserved by ICANN in 2024; Google's and AWS' metadata, Docker's host
        "metadata",  # Google
        "metadata.goog",
        "instance-data",  # AWS
        "metadata.platformequinix.com",
        "metadata.tencentyun.com",
        "kubernetes",  # the API, as pods see it
        "kubernetes.default",
        "svc",
    }
)


def is_private_name(host: str) -> bool:
    """Whether a name, in canonical form, is one of those or lies under one."""
    labels = host.split(".")
    return any(".".join(labels[start:]) in PRIVATE_NAMES for start in range(len(labels)))


_ISATAP_MARKS = (0x00005EFE, 0x02005EFE)


def special_use(address: Address) -> str | None:
    """Say why an address is not global unicast; None where it is."""
    if isinstance(address, IPv4Address):
        return _listed(address, _SPECIAL_V4)
    if address.scope_id is not None:
        return "has a zone"
    if address not in _GLOBAL_UNICAST_V6:
        return "outside global unicast 2000::/3 (RFC 4291)"
    return _listed(address, _SPECIAL_V6)


def _listed(
    address: Address, table: tuple[tuple[IPv4Network | IPv6Network, str], ...]
) -> str | None:
    return next((name for network, name in table if address in network), None)


def _low(bits: int) -> int:
    return bits & 0xFFFFFFFF


def _teredo_server(bits: int) -> int:
    return _low(bits >> 64)


def _teredo_client(bits: int) -> int:
    return _low(~bits)


def _after_16(bits: int) -> int:
    return _low(bits >> 80)


def _around_the_u_octet(bits: int) -> int:
    """RFC 6052 §2.2: a /48 prefix has bits 48–63 and 72–87."""
    return ((bits >> 64) & 0xFFFF) << 16 | ((bits >> 40) & 0xFFFF)


#: Prefixes that carry an IPv4 address, and how it is read from the 128 bits.
_CARRIERS: tuple[tuple[IPv6Network, Callable[[int], int]], ...] = (
    (IPv6Network("::/96"), _low),  # compatible, RFC 4291 §2.5.5.1
    (IPv6Network("::ffff:0:0/96"), _low),  # mapped, RFC 4291 §2.5.5.2
    (IPv6Network("::ffff:0:0:0/96"), _low),  # translated, RFC 2765 §2.1
    (IPv6Network("64:ff9b::/96"), _low),  # NAT64, RFC 6052 §2.1
    (IPv6Network("64:ff9b:1::/48"), _low),  # local NAT64, RFC 8215, as /96
    (IPv6Network("64:ff9b:1::/48"), _around_the_u_octet),  # the same, as /48
    (IPv6Network("2001::/32"), _teredo_server),  # RFC 4380 §4
    (IPv6Network("2001::/32"), _teredo_client),
    (IPv6Network("2002::/16"), _after_16),  # 6to4, RFC 3056 §2
)


def embedded_ipv4(address: Address) -> Iterator[IPv4Address]:
    """Yield every IPv4 address that an IPv6 address may lead to."""
    if isinstance(address, IPv4Address):
        return
    bits = int(address)
    for network, read in _CARRIERS:
        if address in network and bits > 1:
            yield IPv4Address(read(bits))
    if _low(bits >> 32) in _ISATAP_MARKS:  # RFC 5214 §6.1
        yield IPv4Address(_low(bits))
