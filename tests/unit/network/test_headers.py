"""What is read from an answer's headers, broken ones included."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from downloadd.network import headers as read

NOON = "Sun, 06 Nov 1994 12:00:00 GMT"
MINUTE_LATER = "Sun, 06 Nov 1994 12:01:00 GMT"


def of(*pairs: tuple[str, str], **named: str) -> read.Headers:
    named_pairs = [(name.replace("_", "-"), value) for name, value in named.items()]
    return CIMultiDictProxy(CIMultiDict([*pairs, *named_pairs]))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777.0),
        ("Sun Nov  6 08:49:37 1994", 784111777.0),
        ("Sun, 06 Nov 1994 08:49:37 -0000", 784111777.0),
        ("", None),
        ("yesterday", None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 99999999999 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 +99999999999", None),
    ],
)
def test_dates_in_three_forms(text: str, seconds: float | None) -> None:
    """All forms of RFC 9110 §5.6.7 are read; anything else is no date."""
    assert read.http_date(text) == seconds


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (of(ETag='"abc"'), '"abc"'),
        (of(ETag='""'), '""'),
        (of(ETag='W/"abc"'), None),
        (of(ETag="abc"), None),
        (of(ETag='"a"b"'), None),
        (of(ETag='"ä"'), None),
        (of(ETag='"abc"', Accept_Ranges="none"), None),
        (of(ETag='"abc"', Accept_Ranges="bytes"), '"abc"'),
        (of(Last_Modified=NOON, Date=MINUTE_LATER), NOON),
        (of(Last_Modified=NOON, Date="Sun, 06 Nov 1994 12:00:59 GMT"), None),
        (of(Last_Modified=NOON, Date=NOON), None),
        (of(Last_Modified=NOON), None),
        (of(Last_Modified="garbage", Date=NOON), None),
        (of(ETag='W/"abc"', Last_Modified=NOON, Date=MINUTE_LATER), None),
        (of(), None),
    ],
)
def test_validators_are_strong(headers: read.Headers, expected: str | None) -> None:
    """Only strong ETags, and strong dates where there is no ETag, serve in If-Range."""
    assert read.validator(headers) == expected


def test_another_version_is_noticed() -> None:
    """A 206 is compared by the header its validator came from; silence is consent."""
    assert read.same_version(of(ETag='"a"'), '"a"')
    assert not read.same_version(of(ETag='"b"'), '"a"')
    assert read.same_version(of(), '"a"')
    assert read.same_version(of(Last_Modified=NOON, ETag='"b"'), NOON)
    assert not read.same_version(of(Last_Modified=MINUTE_LATER), NOON)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 5-9/10", (5, 9, 10)),
        ("Bytes  5-9/*", (5, 9, None)),
        ("bytes 9-5/10", None),
        ("bytes 5-10/10", None),
        ("bytes */10", None),
        ("bytes -5/10", None),
        ("items 5-9/10", None),
        ("", None),
        ("bytes 5-" + "9" * 5000 + "/*", None),
    ],
)
def test_content_range(text: str, expected: tuple[int, int, int | None] | None) -> None:
    """A Content-Range is read whole or not at all."""
    found = read.content_range(of(Content_Range=text))
    assert (None if found is None else (found.start, found.end, found.size)) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37.0),
        ("Sun, 06 Nov 1994 08:48:37 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("9" * 5000, None),
        ("", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    """Seconds and dates are read, the past is now."""
    assert read.retry_after(of(Retry_After=text), now=784111740.0) == seconds


DATA = b"the file"
SHA, MD5 = hashlib.sha256(DATA), hashlib.md5(DATA)
SHA64 = base64.b64encode(SHA.digest()).decode()
MD564 = base64.b64encode(MD5.digest()).decode()
OTHER64 = base64.b64encode(b"x" * 16).decode()
BOTH = {"sha256": SHA.hexdigest(), "md5": MD5.hexdigest()}


@pytest.mark.parametrize(
    ("headers", "whole", "part"),
    [
        (of(Repr_Digest=f"sha-256=:{SHA64}:, md5=:{MD564}:"), BOTH, BOTH),
        (of(("Repr-Digest", "unixsum=:AA==:"), ("Repr-Digest", f"md5=:{MD564}:")), "md5", "md5"),
        (of(Content_Digest=f"sha-256=:{SHA64}:"), "sha256", ""),
        (of(Digest=f"SHA-256={SHA64},md5={MD564}"), BOTH, BOTH),
        (of(Digest=f"unixsum=30637, MD5={MD564}"), "md5", "md5"),
        (of(Content_MD5=MD564), "md5", ""),
        (of(Content_MD5=MD564, Content_Encoding="gzip"), "", ""),
        (of(Digest=f"MD5={MD564}", Content_Encoding="gzip"), "", ""),
        (of(Repr_Digest=f"md5=:{MD564}:", Content_Encoding="gzip"), "md5", "md5"),
        (of(Content_MD5=MD564, Content_Encoding="identity"), "md5", ""),
        (of(Content_MD5=SHA64), "", ""),
        (of(Content_MD5="???"), "", ""),
        (of(Content_MD5=MD5.hexdigest()), "", ""),
        (of(Repr_Digest=f"sha-256={SHA64}"), "", ""),
        (of(Repr_Digest="sha-256=:A:"), "", ""),
        (of(Repr_Digest=f"md5=:{MD564}:", Content_MD5=OTHER64), "md5", "md5"),
    ],
)
def test_digests(
    headers: read.Headers, whole: str | dict[str, str], part: str | dict[str, str]
) -> None:
    """Digests of the whole file are taken, those of a part or of a decoded body left."""
    for expected, is_whole in ((whole, True), (part, False)):
        if isinstance(expected, str):
            expected = {expected: BOTH[expected]} if expected else {}
        assert read.digests(headers, whole=is_whole) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('attachment; filename="a.pdf"', "a.pdf"),
        ("attachment; filename=a.pdf", "a.pdf"),
        ("attachment; filename=a b.pdf", "a b.pdf"),
        ("inline; FileName=a.pdf;", "a.pdf"),
        ('attachment; filename="a;b.pdf"; size=1', "a;b.pdf"),
        ('attachment; filename="a\\"b.pdf"', 'a"b.pdf'),
        ("attachment; filename*=UTF-8''na%C3%AFve%20%e2%82%ac.pdf", "naïve €.pdf"),
        ("attachment; filename*=utf-8'en'%c3%a4.pdf; filename=a.pdf", "ä.pdf"),
        ("attachment; filename=\"a.pdf\"; filename*=UTF-8''%c3%a4.pdf", "ä.pdf"),
        ("attachment; filename*=iso-8859-1''%e4.pdf", "ä.pdf"),
        ('attachment; filename="ä.pdf"', "ä.pdf"),
        ('attachment; filename="\udce4.pdf"', "ä.pdf"),
        ('attachment; filename*0="a"; filename*1="b.pdf"', "ab.pdf"),
        ("attachment; filename*=no-such-charset''a%20b.pdf", "a b.pdf"),
        ("attachment; filename*=UTF-8''%ff%fe.pdf", "\ufffd\ufffd.pdf"),
        ("attachment; filename*=unicode_escape''%5Cud800.pdf", "?.pdf"),
        ("attachment; filename*=idna''%ff%ff.pdf", None),
        ("attachment; filename*=utf-8''a; filename*0=b", None),
        ("attachment; filename*=utf%00''x", None),
        (f"attachment; filename*{'9' * 5000}=x", None),
        ('attachment; filename="../../etc/passwd"', "../../etc/passwd"),
        ('attachment; filename=""', None),
        ("attachment", None),
        ("attachment; name=x", None),
        ("", None),
        (";;;===", None),
    ],
)
def test_file_names(text: str, name: str | None) -> None:
    """Names are read as RFC 6266 says, and as servers send them instead."""
    assert read.file_name(of(Content_Disposition=text)) == name


@pytest.mark.parametrize("piece", ['";"', '\\\\;"', "\\;", "a=b;"])
def test_a_name_that_takes_long_to_find_is_none(piece: str) -> None:
    """The parser's time grows with the square of the length; a name has 255 bytes at the end."""
    text = 'attachment; filename="a.pdf"; ' + piece * 8000
    assert read.file_name(of(Content_Disposition=text)) is None
    # Three bytes in a name may be nine characters, and there is room for a second form of it.
    long = "%E2%82%AC" * 85
    text = f"attachment; filename=\"{'x' * 255}\"; filename*=utf-8''{long}"
    assert read.file_name(of(Content_Disposition=text)) == "€" * 85


LATIN = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"))
RAW = st.one_of(
    st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    LATIN,
    st.text(st.sampled_from(list(";=*'\"%\\0 afilen-:,/bytes")), max_size=60).map(
        lambda text: "attachment; filename" + text
    ),
)


@given(RAW)
def test_nothing_is_raised_for_broken_headers(text: str) -> None:
    """Whatever stands in a header, reading it raises nothing."""
    names = "Content-Disposition Content-Range Content-Length Content-Type Content-Encoding ETag"
    names += " Last-Modified Date Digest Repr-Digest Content-Digest Content-MD5 Retry-After"
    headers = of(*((name, text) for name in names.split()))
    for function in (
        read.file_name,
        read.content_range,
        read.content_length,
        read.content_type,
        read.content_encoding,
        read.validator,
        read.modified,
    ):
        function(headers)
    read.digests(headers, whole=True)
    read.retry_after(headers, now=0.0)


def test_plain_fields() -> None:
    """Type, encoding and length are read in their plain forms."""
    headers = of(Content_Type=" Text/HTML; charset=x", Content_Encoding="GZip", Content_Length="12")
    assert read.content_type(headers) == "text/html"
    assert read.content_encoding(headers) == "gzip"
    assert read.content_length(headers) == 12
    assert read.content_type(of()) is None
    assert read.content_length(of(Content_Length="-1")) is None
