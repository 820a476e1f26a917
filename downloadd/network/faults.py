"""The one table from aiohttp's exceptions, and from statuses, to downloadd's errors.

Messages name the host at most: paths and queries may be secrets.
"""

from __future__ import annotations

import time
from http import HTTPStatus

import aiohttp

from downloadd.errors import (
    DownloaddError,
    SourceChanged,
    SourceError,
    SourceProtocolError,
    SourceRefused,
    SourceStalled,
    SourceTruncated,
    SourceUnavailable,
    SourceUnreachable,
)
from downloadd.network.dial import DialRefused
from downloadd.network.headers import Headers, retry_after

#: What the reading of a body may raise, bar cancellation.
READ_FAULTS = (aiohttp.ClientError, OSError)

#: What a request may raise: a header that cannot be sent is a ``ValueError``.
REQUEST_FAULTS = (*READ_FAULTS, ValueError)

#: Most specific first: several are subclasses of OSError and TimeoutError.
_TABLE: tuple[tuple[type[Exception], type[SourceError], str], ...] = (
    (
        aiohttp.ClientConnectorCertificateError,
        SourceProtocolError,
        "The certificate of {host} is not valid; it is not trusted with a request.",
    ),
    (aiohttp.ClientConnectorSSLError, SourceUnreachable, "No TLS connection to {host} came about."),
    (aiohttp.ClientConnectorDNSError, SourceUnreachable, "The name {host} cannot be resolved."),
    (aiohttp.ClientConnectorError, SourceUnreachable, "No connection to {host} came about."),
    (aiohttp.ConnectionTimeoutError, SourceUnreachable, "Connecting to {host} took too long."),
    (aiohttp.ServerTimeoutError, SourceStalled, "The {peer} at {host} sent nothing for too long."),
    (
        aiohttp.ServerDisconnectedError,
        SourceUnreachable,
        "The {peer} at {host} closed the connection without an answer.",
    ),
    (
        aiohttp.ClientConnectionError,
        SourceUnreachable,
        "The connection to {host} was lost.",
    ),
    (
        aiohttp.ClientPayloadError,
        SourceTruncated,
        "The source at {host} stopped before the end of the file.",
    ),
    (aiohttp.InvalidURL, SourceProtocolError, "The address at {host} is not a proper URL."),
    (
        aiohttp.ClientError,
        SourceProtocolError,
        "The {peer} at {host} sent an answer that is not proper HTTP.",
    ),
    (TimeoutError, SourceStalled, "The {peer} at {host} took too long to begin its answer."),
    (OSError, SourceUnreachable, "The connection to {host} was lost."),
    (
        ValueError,
        SourceProtocolError,
        "The request to {host} cannot be sent: a header is not valid.",
    ),
)

_UNAVAILABLE = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)


def translated(exc: Exception, host: str, *, peer: str = "source") -> DownloaddError:
    """Return what ``exc``, one of ``REQUEST_FAULTS``, means; to be raised from it.

    ``peer`` is what the other side is to us.
    """
    if isinstance(exc, aiohttp.ClientConnectorError) and isinstance(exc.os_error, DialRefused):
        return exc.os_error.blocked
    for kind, error, message in _TABLE:
        if isinstance(exc, kind):
            return error(message.format(host=host, peer=peer))
    raise exc


def telling_no_url(exc: Exception) -> BaseException | None:
    """Return what an error of ours may be raised from: it ends up in logs and traces.

    Some of aiohttp's exceptions quote the URL, which may be signed.
    """
    if isinstance(exc, ValueError):
        return None
    if isinstance(exc, (aiohttp.ConnectionTimeoutError, aiohttp.ClientResponseError)):
        return exc.__cause__
    return exc


def refusal(status: int, headers: Headers, host: str, *, ranged: bool) -> SourceError:
    """Return what a status that brings no file means."""
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and ranged:
        return SourceChanged(f"The file at {host} is shorter than it was.")
    message = f"The source at {host} answered {status}."
    if status in _UNAVAILABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return SourceUnavailable(message, retry_after=retry_after(headers, time.time()))
    if status >= HTTPStatus.BAD_REQUEST:
        return SourceRefused(message)
    return SourceProtocolError(f"The source at {host} answered {status}, which brings no file.")
