"""URLs as they may be shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd.urls import host_of, redact


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h.example/a/b.pdf", "https://h.example/a/b.pdf"),
        ("https://h.example:8443/a", "https://h.example:8443/a"),
        ("https://[2001:db8::1]:80/a", "https://[2001:db8::1]:80/a"),
        ("https://bücher.example/ä%20b", "https://bücher.example/ä%20b"),
        ("https://u:p@h.example/a", "https://h.example/a"),
        ("https://u@h.example/a", "https://h.example/a"),
        ("https://u:p@ss@h.example/a", "https://h.example/a"),
        ("https://h.example/a@b", "https://h.example/a@b"),
        ("https://h.example/?a=1&b=2", "https://h.example/?a=***&b=***"),
        ("https://h.example/?a=1=2&a=", "https://h.example/?a=***&***"),
        ("https://h.example/?token", "https://h.example/?***"),
        ("https://h.example/?", "https://h.example/"),
        ("https://h.example?a=b?c=d", "https://h.example?a=***"),
        ("https://h.example/a#token", "https://h.example/a"),
        ("https://h.example/?a=1#b?c", "https://h.example/?a=***"),
        ("//u:p@h.example/a", "//h.example/a"),
        ("https:\\\\u:p@h.example\\a", "https:\\\\h.example\\a"),
        ("u:p@h.example/a", "h.example/a"),
        # A password with a slash or question mark runs over into other fields.
        ("https://u:pa/ss@h.example/a", "https://***"),
        ("https://u:pa?ss@h.example/a", "https://***?***"),
        ("https://h/p?QWxhZGRpbjpvcGVu=", "https://h/p?***"),
        ("https://h/p?QWxhZGRpbjpvcGVu==&a=1", "https://h/p?***&a=***"),
        ("https://h/p?a=QWxhZGRpbjpvcGVu==", "https://h/p?a=***"),
        ("", ""),
        ("not a url", "not a url"),
        ("https://", "https://"),
        ("http://[::1", "http://***"),
    ],
)
def test_shown(url: str, shown: str) -> None:
    """Host and path stay; user, query values and fragment go."""
    assert redact(url) == shown


@given(st.text())
def test_never_raises(url: str) -> None:
    """Garbage is no reason to fail, and what is redacted stays as it is."""
    once = redact(url)
    assert "#" not in once
    assert redact(once) == once


_SECRETS = st.text("0123456789abcdef:@%;,\U0001f600", min_size=1).map(lambda text: f"SECRET{text}")


@given(_SECRETS, _SECRETS, _SECRETS, _SECRETS)
def test_no_secret_is_shown(user: str, password: str, value: str, fragment: str) -> None:
    """Whatever stands for user, password, query value or fragment is gone."""
    url = f"https://{user}:{password}@h.example/path?key={value}&{value}#{fragment}"
    assert redact(url) == "https://h.example/path?key=***&***"


@pytest.mark.parametrize(
    "url",
    ["http://h/a", "http://h:80/b", "HTTP://user@H./c", "http://h.:80"],
)
def test_a_host_has_one_name(url: str) -> None:
    """However it is spelled, the bound on requests to one host counts it as one."""
    assert host_of(url) == "h:80"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://M\u00fcnchen.example/a", "xn--mnchen-3ya.example:80"),
        ("http://xn--mnchen-3ya.example/a", "xn--mnchen-3ya.example:80"),
        ("http://h\uff0eexample:8080/a", "h.example:8080"),
        ("https://h\u3002example./a", "h.example:443"),
        ("http://[2001:DB8:0:0::1]/a", "2001:db8::1:80"),
        ("http://[2001:db8::0.0.0.1]:80/a", "2001:db8::1:80"),
    ],
)
def test_a_host_in_other_letters(url: str, host: str) -> None:
    """The spellings that name servers and the kernel take for one are one."""
    assert host_of(url) == host


def test_what_is_no_url_has_no_host() -> None:
    """Whoever fetches it says what is wrong with it."""
    assert host_of("http://[::1/a") == ""
    assert host_of("http://h:99999/a") == "h:99999"
    assert host_of("http://user:password@h:99999/a") == "h:99999"
