"""What an answer's headers say about the file. Broken ones say nothing: no errors here."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.message import Message
from email.utils import collapse_rfc2231_value, parsedate_to_datetime
from functools import lru_cache

from multidict import CIMultiDictProxy

Headers = CIMultiDictProxy[str]

_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')
_CONTENT_RANGE = re.compile(r"bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.IGNORECASE)
#: Longest Content-Disposition that is read, in characters.
MAX_DISPOSITION_CHARS = 2048
_SECONDS = re.compile(r"\d{1,9}")
_DIGITS = re.compile(r"\d{1,19}")
# RFC 9530 §2, §3: a Structured Fields dictionary of byte sequences.
_DIGEST_FIELD = re.compile(r"\s*([a-z0-9-]+)=:([A-Za-z0-9+/=]*):\s*")
# RFC 3230 §4.3.2: comma-separated name=base64, names in any case.
_DIGEST_INSTANCE = re.compile(r"\s*([A-Za-z0-9-]+)=([A-Za-z0-9+/=]+)\s*")

_ALGORITHMS = {"sha-256": ("sha256", 32), "md5": ("md5", 16)}

#: RFC 9110 §8.8.2.2 lets a date pass for a strong validator one second after
#: the change, RFC 7232 §2.2.2 asked for sixty: the clocks of a storage and of
#: the server before it may differ, and all that is lost is a resumption.
_STRONG_DATE_AGE = 60.0


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The range that a 206 answer says it holds (RFC 9110 §14.4)."""

    start: int
    #: Last byte, inclusive.
    end: int
    #: Bytes of the whole file; None for ``*``.
    size: int | None


@lru_cache(maxsize=512)
def http_date(text: str) -> float | None:
    """Read an HTTP date in any of its three forms (RFC 9110 §5.6.7)."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _date(headers: Headers, name: str) -> float | None:
    text = headers.get(name)
    return None if text is None else http_date(text)


def modified(headers: Headers) -> float | None:
    """``Last-Modified``, seconds since the epoch."""
    return _date(headers, "Last-Modified")


def validator(headers: Headers) -> str | None:
    """What may stand in ``If-Range`` (RFC 9110 §13.1.5).

    A strong ETag; only where there is no ETag at all, a date that is a strong
    validator; nothing where the source says that it serves no ranges.
    """
    if headers.get("Accept-Ranges", "").strip().lower() == "none":
        return None
    etag = headers.get("ETag")
    if etag is not None:
        return etag if _STRONG_ETAG.fullmatch(etag) else None
    changed, sent = _date(headers, "Last-Modified"), _date(headers, "Date")
    if changed is None or sent is None or sent - changed < _STRONG_DATE_AGE:
        return None
    return headers["Last-Modified"]


def same_version(headers: Headers, expected: str) -> bool:
    """Whether a 206 answer is of the version that ``expected`` names, as far as it says."""
    name = "ETag" if expected.startswith('"') else "Last-Modified"
    return headers.get(name, expected) == expected


def content_range(headers: Headers) -> ContentRange | None:
    """``Content-Range`` of bytes; None where it is missing or makes no sense."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None:
        return None
    start, end = int(match[1]), int(match[2])
    size = None if match[3] == "*" else int(match[3])
    if end < start or (size is not None and end >= size):
        return None
    return ContentRange(start, end, size)


def is_of_nothing(headers: Headers) -> bool:
    """Whether the ``Content-Range`` of a refused range says that the file is empty."""
    return headers.get("Content-Range", "").strip().lower() == "bytes */0"


def content_length(headers: Headers) -> int | None:
    """``Content-Length``, bytes."""
    text = headers.get("Content-Length")
    return int(text) if text is not None and _DIGITS.fullmatch(text) else None


def content_type(headers: Headers) -> str | None:
    """Media type without parameters, lower case."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower() or None


def content_encoding(headers: Headers) -> str | None:
    """``Content-Encoding``, lower case; None for identity."""
    text = ", ".join(headers.getall("Content-Encoding", ())).strip().lower()
    return None if text in ("", "identity") else text


def retry_after(headers: Headers, now: float) -> float | None:
    """Seconds to wait by ``Retry-After`` (RFC 9110 §10.2.3), not below 0."""
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    moment = http_date(text) if text else None
    return None if moment is None else max(0.0, moment - now)


def digests(headers: Headers, *, whole: bool) -> Mapping[str, str]:
    """Digests of the whole file: lower-case hex by "sha256" and "md5".

    ``Repr-Digest`` (RFC 9530 §3) and ``Digest`` (RFC 3230) speak of the whole
    file in a partial answer too; ``Content-Digest`` (RFC 9530 §2) and
    ``Content-MD5`` (RFC 1864) only of what is sent, so they count when that is
    ``whole``. Where a body comes encoded only ``Repr-Digest`` is believed:
    whatever encodes on the way tends to leave the others as they were.
    """
    found: dict[str, str] = {}
    _collect(found, headers.getall("Repr-Digest", ()), _DIGEST_FIELD)
    if content_encoding(headers) is not None:
        return found
    if whole:
        _collect(found, headers.getall("Content-Digest", ()), _DIGEST_FIELD)
    _collect(found, headers.getall("Digest", ()), _DIGEST_INSTANCE)
    if whole and (text := headers.get("Content-MD5")) is not None:
        _add(found, "md5", text.strip())
    return found


def _collect(found: dict[str, str], values: list[str] | tuple[()], form: re.Pattern[str]) -> None:
    for member in ",".join(values).split(","):
        if match := form.fullmatch(member):
            _add(found, match[1].lower(), match[2])


def _add(found: dict[str, str], name: str, text: str) -> None:
    if name not in _ALGORITHMS:
        return
    algorithm, length = _ALGORITHMS[name]
    try:
        value = base64.b64decode(text, validate=True)
    except binascii.Error:
        return
    if len(value) == length:
        found.setdefault(algorithm, value.hex())


def file_name(headers: Headers) -> str | None:
    """The name in ``Content-Disposition``, ``filename*`` before ``filename`` (RFC 6266 §4.3).

    Read by the standard library's lenient parser, which also takes names with
    unquoted spaces and in continued pieces (RFC 2231). Raw: not made safe.
    """
    text = headers.get("Content-Disposition")
    if text is None or len(text) > MAX_DISPOSITION_CHARS:
        return None
    message = Message()
    message["Content-Disposition"] = _decoded(text)
    names: list[str | tuple[str | None, str | None, str]]
    try:
        params = message.get_params(failobj=[], header="Content-Disposition")
        names = [value for key, value in params if key.lower() == "filename"]
        names.sort(key=lambda value: isinstance(value, str))
        return _text(names[0]) if names else None
    except (ValueError, TypeError, LookupError):
        # The source chooses the charset, and some of Python's codecs are
        # strict; continued pieces in a wrong order are too much for the parser.
        return None


def _text(value: str | tuple[str | None, str | None, str]) -> str | None:
    text = collapse_rfc2231_value(value)
    # Some codecs, "unicode_escape" say, can make surrogates.
    return text.encode("utf-8", "replace").decode().strip() or None


def _decoded(text: str) -> str:
    """Undo aiohttp's decoding where it was not UTF-8: then it is Latin-1."""
    raw = text.encode("utf-8", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
