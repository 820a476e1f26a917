"""Answers what handlers raise, by the table in ``web/errors.py``."""

from __future__ import annotations

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from downloadd.errors import DownloaddError
from downloadd.web.errors import answer, http_answer, internal_answer

_log = structlog.get_logger(__name__)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into an answer; what is unknown is logged whole."""
    try:
        return await handler(request)
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        return http_answer(request, exc)
    except ConnectionError:
        # The client is gone; aiohttp closes what is left of the connection.
        raise
    except web.RequestPayloadError:
        # Its message holds what was sent. Where the body ends, nobody knows.
        refusal = http_answer(request, web.HTTPBadRequest(text="The body is not proper HTTP."))
        refusal.force_close()
        return refusal
    except Exception as exc:
        response = answer(request, exc) if isinstance(exc, DownloaddError) else None
        if response is None:
            _log.error("http.failed", exc_info=exc)
        elif response.status >= 500:
            _log.warning("http.unavailable", reason=str(exc))
        if request.writer.output_size > 0:
            # The answer has begun: only cutting it off tells that it is not whole.
            raise ConnectionAbortedError("the answer cannot be finished") from exc
        return response or internal_answer(request)
