"""The guard's rules, URLs and ports."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.errors import AddressBlocked, ConfigError
from downloadd.network.addresses import special_use
from downloadd.network.guard import AddressGuard
from downloadd.urls import canonical_host
from tests.unit.network.test_addresses import EMBEDDINGS

CLOSED = AddressGuard()


def blocked(guard: AddressGuard, url: str) -> str:
    with pytest.raises(AddressBlocked) as caught:
        guard.check_url(url)
    assert caught.value.message == "This address may not be fetched."
    assert not caught.value.transient
    return caught.value.reason


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1:8000/",
        "http://user@127.0.0.1/",
        "http://files.example@127.0.0.1/",
        "http://127.0.0.1#@files.example/",
        "http://127.0.0.1?@files.example/",
        "http://169.254.169.254/latest/meta-data/",
        "http://2130706433/",
        "http://017700000001/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0X7F.1/",
        "http://127.1/",
        "http://127.0.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://127.0.0.01/",
        "http://0/",
        "http://0x/",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://example.0x7f/",
        "http://１２７.０.０.１/",
        "http://127。0。0。1/",
        "http://127．0．0．1/",
        "http://①②⑦.⓪.⓪.①/",
        "http://%31%32%37.0.0.1/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:8.8.8.8]/",
        "http://[0:0:0:0:0:ffff:7f00:1]/",
        "http://[64:ff9b::8.8.8.8]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[2a00::1%25eth0]/",
        "http://[::1",
        "http://::1/",
        "http://[v1.x]/",
        "http://[::1]files.example/",
    ],
)
def test_literals_in_every_spelling_are_refused(url: str) -> None:
    """Loopback and friends are refused however they are written."""
    assert blocked(CLOSED, url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "files.example/a",
        "//files.example/a",
        "file:///etc/passwd",
        "ftp://files.example/",
        "gopher://files.example/",
        "javascript:alert(1)",
        "http:files.example/",
        "http:///a",
        "http://",
        "http://@/",
        "http://:80/",
        "http://./",
        "http://a..b/",
        "http://files.example\\@evil.example/",
        "http:\\\\files.example\\",
        "http://files.exa\tmple/",
        "http://files.example/a\nb",
        "http://files.example/a\rb",
        "http://files.example/a b",
        " http://files.example/",
        "http://files.example/\x00",
        "http://files.example/\x7f",
        "http://files.example:99999/",
        "http://files.example:-1/",
        "http://files.example:0/",
        "http://files.example:http/",
        "http://files.example:22/",
        "http://files.example:6379/",
        "http://files.example:7999/",
        "http://files.example:9000/",
        "http://fi les.example/",
        "http://files.example%2fevil/",
        "http://files.example%00/",
        "http://files*.example/",
        "http://e\u200bvil.example/",
        "http://℀.example/",
        "http://ﬁles．example／x/",
        "http://" + "a" * 64 + ".example/",
        "http://" + "a." * 127 + "example/",
        "http://files.example/" + "x" * 2048,
        "http://files.example/\ud800",
        "http://[]@/x",
        "http://[.]v1.x@/",
        "http://[。]x@",
    ],
)
def test_urls_that_are_not_plain_are_refused(url: str) -> None:
    """Other schemes, closed ports, control characters and odd authorities are refused."""
    assert blocked(CLOSED, url)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://files.example", "http://files.example/"),
        ("HTTPS://Files.EXAMPLE./a#b", "https://files.example/a"),
        ("http://files.example:8000/a?b#c", "http://files.example:8000/a?b"),
        ("http://files.example:8999/", "http://files.example:8999/"),
        ("http://bücher.example/ü?ä=ß", "http://xn--bcher-kva.example/%C3%BC?%C3%A4=%C3%9F"),
        ("http://files。example/a", "http://files.example/a"),
        ("http://my_bucket.files.example/", "http://my_bucket.files.example/"),
        ("http://u:p@files.example/a", "http://u:p@files.example/a"),
        ("http://8.8.8.8/a", "http://8.8.8.8/a"),
        ("http://[2A00:0::1]:80/a", "http://[2a00::1]:80/a"),
        (
            "https://files.example/a%2Fb/../c//d?X-Sig=a%2bB%2F+=&&b=%zz&e=[1]'",
            "https://files.example/a%2Fb/../c//d?X-Sig=a%2bB%2F+=&&b=%zz&e=[1]'",
        ),
    ],
)
def test_urls_keep_their_bytes(url: str, sent: str) -> None:
    """Only the host is normalised, the fragment dropped, and non-ASCII encoded."""
    checked = CLOSED.check_url(url)
    assert f"{checked.scheme}://{checked.raw_authority}{checked.raw_path_qs}" == sent


def test_longer_urls_pass_where_asked_for() -> None:
    """Redirect targets may be longer than what callers may give."""
    url = "http://files.example/" + "x" * 3000
    assert str(CLOSED.check_url(url, max_length=4096)) == url


@given(number=st.integers(2, 2**32 - 1), form=st.sampled_from(sorted(EMBEDDINGS)))
def test_no_embedding_of_anything_passes(number: int, form: str) -> None:
    """An IPv4 address hidden in IPv6 is refused by default, open or not."""
    with pytest.raises(AddressBlocked):
        CLOSED.check_address(IPv6Address(EMBEDDINGS[form](number)), "files.example", 443)


@given(number=st.integers(2, 2**32 - 1), form=st.sampled_from(sorted(EMBEDDINGS)))
def test_an_open_prefix_leads_to_open_addresses_only(number: int, form: str) -> None:
    """With all of IPv6 allowed, what embeds a refused IPv4 address is still refused."""
    guard = AddressGuard(allow=["::/0"])
    hidden = IPv4Address(number)
    try:
        guard.check_address(IPv6Address(EMBEDDINGS[form](number)), "files.example", 443)
    except AddressBlocked:
        return
    assert special_use(hidden) is None


def test_an_allowed_nat64_prefix_reaches_the_public_internet() -> None:
    """A network with NAT64 can be configured, and leads to global addresses alone."""
    guard = AddressGuard(allow=["64:ff9b::/96"])
    guard.check_address("64:ff9b::8.8.8.8", "files.example", 443)
    with pytest.raises(AddressBlocked):
        guard.check_address("64:ff9b::10.0.0.1", "files.example", 443)


@given(st.ip_addresses())
def test_default_means_special_use(address: IPv4Address | IPv6Address) -> None:
    """Without rules, an address outside global unicast never passes."""
    if special_use(address) is None:
        return
    with pytest.raises(AddressBlocked) as caught:
        CLOSED.check_address(address, "files.example", 443)
    assert caught.value.reason


@pytest.mark.parametrize(
    ("allow", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:5555/"),
        ("127.0.0.0/8", "http://127.9.9.9/"),
        ("127.0.0.1:5555", "http://127.0.0.1:5555/"),
        ("[::1]:5555", "http://[::1]:5555/"),
        ("[::1]", "http://[::1]/"),
        ("::1", "http://[::1]:22/"),
        ("fd00::/8", "http://[fd12::1]/"),
        ("Minio.Internal.", "http://minio.internal:9000/"),
        ("minio.internal:9000", "http://MINIO.internal.:9000/"),
        ("bücher.example:9000", "http://xn--bcher-kva.example:9000/"),
        ("169.254.169.254", "http://169.254.169.254/"),
    ],
)
def test_allowed_entries_open(allow: str, url: str) -> None:
    """Hosts, addresses and networks that are allowed are open, at any port or the one named."""
    assert blocked(CLOSED, url)
    AddressGuard(allow=[allow]).check_url(url)


@pytest.mark.parametrize(
    ("allow", "url"),
    [
        ("127.0.0.1:5555", "http://127.0.0.1:5556/"),
        ("127.0.0.1", "http://127.0.0.2/"),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]/"),
        ("minio.internal:9000", "http://minio.internal:9001/"),
        ("minio.internal", "http://xminio.internal:9000/"),
        ("minio.internal", "http://sub.minio.internal:9000/"),
        ("minio.internal", "http://minio.internal.evil.example:9000/"),
        ("minio.internal", "http://minioxinternal:9000/"),
        ("169.254.0.0/16", "http://169.254.169.254/"),
        ("100.64.0.0/10", "http://100.100.100.200/"),
        ("0.0.0.0/0", "http://168.63.129.16/"),
        ("fc00::/7", "http://[fd00:ec2::254]/"),
    ],
)
def test_allowed_entries_open_nothing_else(allow: str, url: str) -> None:
    """Rules are anchored, ports count, and no network opens a metadata address."""
    assert blocked(AddressGuard(allow=[allow]), url)


def test_a_name_is_opened_whatever_it_resolves_to() -> None:
    """An allowed host may have a private address; the same address under another name not."""
    guard = AddressGuard(allow=["minio.internal"])
    guard.check_address("10.0.0.5", "minio.internal", 9000)
    with pytest.raises(AddressBlocked):
        guard.check_address("10.0.0.5", "files.example", 80)
    with pytest.raises(AddressBlocked):
        guard.check_address("169.254.169.254", "minio.internal", 80)


def test_an_allowed_network_opens_ports_of_names_in_it_alone() -> None:
    """A name at a closed port is judged when it is resolved."""
    guard = AddressGuard(allow=["10.0.0.0/8"])
    guard.check_url("http://files.example:5000/")
    guard.check_address("10.1.2.3", "files.example", 5000)
    with pytest.raises(AddressBlocked) as caught:
        guard.check_address("8.8.8.8", "files.example", 5000)
    assert "closed port" in caught.value.reason


@pytest.mark.parametrize(
    ("deny", "url"),
    [
        ("files.example", "http://FILES.example./"),
        ("bücher.example", "http://bücher.example/"),
        ("xn--bcher-kva.example", "http://BÜCHER.example/"),
        ("files.example:8080", "http://files.example:8080/"),
        ("8.8.8.0/24", "http://8.8.8.8/"),
        ("8.8.8.8", "http://8.8.8.8/"),
        ("2a00::/16", "http://[2a00::1]/"),
    ],
)
def test_denied_entries_win(deny: str, url: str) -> None:
    """What is denied stays closed even where it is allowed too."""
    CLOSED.check_url(url)
    assert blocked(AddressGuard(allow=[deny], deny=[deny]), url)


def test_denied_networks_hold_for_names_and_hidden_addresses() -> None:
    """Deny is applied to what a name resolves to and to embedded IPv4."""
    guard = AddressGuard(allow=["::/0"], deny=["8.8.8.0/24"])
    for address in ("8.8.8.8", "64:ff9b::8.8.8.8"):
        with pytest.raises(AddressBlocked):
            guard.check_address(address, "files.example", 443)


def test_ports_come_from_the_configuration() -> None:
    """Numbers, texts, ranges and pairs make the list of open ports."""
    guard = AddressGuard(ports=[80, "443", "9000-9001", (9100, 9101)])
    for port in (80, 443, 9000, 9001, 9100, 9101):
        guard.check_url(f"http://files.example:{port}/")
    for port in (81, 8000, 8999, 9002, 9099):
        assert blocked(guard, f"http://files.example:{port}/")


def test_this_server_is_closed_unless_its_port_is_named() -> None:
    """An allowed network does not open this server's own listener; host:port does."""
    own = [("127.0.0.1", 3000)]
    assert "itself" in blocked(
        AddressGuard(allow=["127.0.0.0/8"], own=own), "http://127.0.0.1:3000/"
    )
    AddressGuard(allow=["127.0.0.0/8"], own=own).check_url("http://127.0.0.1:3001/")
    AddressGuard(allow=["127.0.0.1:3000"], own=own).check_url("http://127.0.0.1:3000/")


@pytest.mark.parametrize("listening", ["0.0.0.0", "::", "localhost"])
def test_a_wildcard_listener_is_every_local_address(listening: str) -> None:
    """Listening everywhere, this server is at each address of the machine."""
    guard = AddressGuard(allow=["127.0.0.0/8"], own=[(listening, 3000)])
    assert "itself" in blocked(guard, "http://127.0.0.1:3000/")
    guard.check_url("http://127.0.0.1:3001/")


@pytest.mark.parametrize("listening", ["0.0.0.0", "::", "localhost"])
@pytest.mark.parametrize("host", ["127.0.0.5", "127.255.255.254", "[::ffff:127.0.0.5]", "[::1]"])
def test_a_wildcard_listener_is_all_of_loopback(listening: str, host: str) -> None:
    """The kernel answers at 127.0.0.5 too, though from 127.0.0.1."""
    guard = AddressGuard(allow=["0.0.0.0/0", "::/0"], own=[(listening, 3000)])
    assert "itself" in blocked(guard, f"http://{host}:3000/")
    guard.check_url(f"http://{host}:3001/")


@pytest.mark.parametrize("listening", ["0.0.0.0", "127.0.0.1", "::1"])
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "[::ffff:0.0.0.0]"])
def test_an_unspecified_address_is_this_machine(listening: str, host: str) -> None:
    """Dialled, it leads to loopback."""
    guard = AddressGuard(allow=["0.0.0.0/0", "::/0"], own=[(listening, 3000)])
    assert "itself" in blocked(guard, f"http://{host}:3000/")


def test_a_wildcard_listener_is_not_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without a route to it is not one of ours."""

    def refuse(self: socket.socket, address: object) -> None:
        raise OSError("Network is unreachable")

    guard = AddressGuard(own=[("0.0.0.0", 8000)])
    monkeypatch.setattr(socket.socket, "connect", refuse)
    guard.check_url("http://8.8.8.8:8000/")


@pytest.mark.parametrize(
    "entry",
    ["", "a b", "10.0.0.0/33", "host:", "host:0", "host:x", "[::1", "[::1]x", "127.1", "http://a/"],
)
def test_bad_rules_name_themselves(entry: str) -> None:
    """A rule that cannot be read stops the start with its text."""
    with pytest.raises(ConfigError, match=r"network\.deny"):
        AddressGuard(deny=[entry])


@pytest.mark.parametrize("entry", ["x", "0", "65536", "90-80", "1-", (2, 1)])
def test_bad_ports_name_themselves(entry: str | tuple[int, int]) -> None:
    """A port or range that makes no sense stops the start."""
    with pytest.raises(ConfigError, match=r"network\.ports"):
        AddressGuard(ports=[entry])


@given(st.text(max_size=40))
def test_canonical_hosts_are_stable(text: str) -> None:
    """A canonical host is ASCII and canonical again, and nothing but ValueError is raised."""
    try:
        host = canonical_host(text)
    except ValueError:
        return
    assert host.isascii()
    assert canonical_host(host) == host


@given(st.text(max_size=60))
def test_any_text_is_either_a_url_or_blocked(text: str) -> None:
    """The guard raises nothing but AddressBlocked, whatever it is given."""
    for url in (text, f"http://{text}", f"http://files.example/{text}"):
        try:
            checked = CLOSED.check_url(url)
        except AddressBlocked:
            continue
        assert str(checked).isascii()
        assert checked.scheme in ("http", "https")


@pytest.mark.parametrize(
    "url",
    [
        "https://downloads.example/v1/files/a",
        "https://DOWNLOADS.example:443/",
        "https://downloads\uff0eexample./",
    ],
)
def test_the_name_that_clients_know(url: str) -> None:
    """It is this server, too: closed but for the very port that is allowed."""
    known = "https://Downloads.example"
    assert "itself" in blocked(AddressGuard(known_as=known), url)
    assert "itself" in blocked(
        AddressGuard(known_as=known, allow=["downloads.example", "0.0.0.0/0"]), url
    )
    AddressGuard(known_as=known, allow=["downloads.example:443"]).check_url(url)
    AddressGuard(known_as=known).check_url("http://downloads.example/")
    AddressGuard(known_as=known).check_url("https://other.downloads.example/")


def test_an_address_that_clients_know() -> None:
    guard = AddressGuard(known_as="http://203.0.113.5", allow=["203.0.113.0/24"])
    assert "itself" in blocked(guard, "http://203.0.113.5/")
    guard.check_url("http://203.0.113.6/")
    guard.check_url("https://203.0.113.5/")


@pytest.mark.parametrize(
    "path",
    ["/downloads", "/downloads/v1/files/a", "//downloads/", "/x/../downloads/%61", "/%64ownloads"],
)
def test_a_path_that_clients_know(path: str) -> None:
    """Beside it the host is an application's own, with its files and callbacks."""
    guard = AddressGuard(known_as="https://app.example/downloads")
    assert "itself" in blocked(guard, f"https://app.example{path}")
    for other in ("/", "/webhooks/done", "/downloads-of-others", "/x/downloads"):
        guard.check_url(f"https://app.example{other}")


@pytest.mark.parametrize("url", ["http://1.2.3", "http://0x7f.1", "http://[fe80::1%25eth0]"])
def test_a_public_url_without_a_proper_host(url: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.public_url"):
        AddressGuard(known_as=url)
