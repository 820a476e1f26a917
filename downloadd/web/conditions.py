"""What a request for a file asks of it: preconditions (RFC 9110 §13) and a range (§14).

``FileResponse`` knows no ETag in If-Range, answers 416 to ranges that are to be
ignored, and gives its refusals no body; so all is decided here, before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from aiohttp import ETag, web

from downloadd.objects.local import LocalFile

#: One range of bytes.
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)
#: More bytes than any file has.
_BEYOND = 2**63


def precondition_failed(request: web.Request, file: LocalFile) -> bool:
    """Whether If-Match, or else If-Unmodified-Since, forbids an answer (412)."""
    if request.if_match is not None:
        return not _any_match(file, (tag for tag in request.if_match if not tag.is_weak))
    since = _date(request, "if_unmodified_since")
    return since is not None and _modified(file) > since.timestamp()


def not_modified(request: web.Request, file: LocalFile) -> bool:
    """Whether the client has the file already (304)."""
    if request.if_none_match is not None:
        return _any_match(file, request.if_none_match)
    since = _date(request, "if_modified_since")
    return since is not None and _modified(file) <= since.timestamp()


def wanted_range(request: web.Request, file: LocalFile) -> tuple[int, int] | None:
    """The first and the last byte that are asked for; None for the whole file.

    What is no range, several of them, another unit, or a method other than GET
    is answered with the whole file, as §14.2 allows or demands. Raises
    aiohttp's 416 for a range that lies outside of the file.
    """
    found = _RANGE.fullmatch(", ".join(request.headers.getall("Range", ())))
    if request.method != "GET" or found is None or not _if_range(request, file):
        return None
    first, last = map(_position, found.groups())
    end = file.size - 1
    if first is None:
        if last is None:
            return None
        first = max(file.size - last, 0)
    elif last is not None:
        if last < first:
            return None
        end = min(last, end)
    if first > end:
        raise web.HTTPRequestRangeNotSatisfiable(
            text=f"The file has {file.size:,} bytes; the range lies outside of it.",
            headers={"Content-Range": f"bytes */{file.size}"},
        )
    return first, end


def _position(digits: str) -> int | None:
    # Python refuses to read thousands of them.
    if not digits:
        return None
    significant = digits.lstrip("0") or "0"
    return int(significant) if len(significant) <= 18 else _BEYOND


def _if_range(request: web.Request, file: LocalFile) -> bool:
    given = request.headers.get("If-Range")
    if given is None or given == f'"{file.etag}"':
        return True
    date = _date(request, "if_range")
    return date is not None and date.timestamp() == _modified(file)


def _date(request: web.Request, name: str) -> datetime | None:
    """A header's date; None for what is none (RFC 9110 §13.1.3)."""
    try:
        found: datetime | None = getattr(request, name)
    except OverflowError:  # which aiohttp lets through
        return None
    return found


def _any_match(file: LocalFile, tags: Iterable[ETag]) -> bool:
    return any(tag.value in (file.etag, "*") for tag in tags)


def _modified(file: LocalFile) -> int:
    """The file's Last-Modified, in whole seconds: as ``FileResponse`` has it, rounded up."""
    nanoseconds = int(file.etag.partition("-")[0], 16)
    return -(-nanoseconds // 10**9)
