"""Counting requests to S3: every one that is sent, by both clients of ``s3.py``.

Repeated requests count each by itself, as S3 itself counts and bills them: an
outage is seen while it is still being got over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError

from downloadd.errors import StorageError
from downloadd.objects import faults
from downloadd.telemetry.metrics import Metrics

_OK, _CANCELLED = "ok", "cancelled"
#: Where botocore's requests keep the time of their start.
_BEGAN = "downloadd.began"
#: What is part of storing an archive; the others read, list, look or remove.
_UPLOADS = frozenset(
    {
        "CreateMultipartUpload",
        "UploadPart",
        "UploadPartCopy",
        "ListParts",
        "CompleteMultipartUpload",
        "PutObject",
    }
)


class Attempt:
    """One request on its way."""

    def __init__(self, metrics: Metrics, operation: str) -> None:
        self._metrics = metrics
        self._operation = operation
        self._began = time.perf_counter()
        self.is_answered = False

    def answered(self) -> None:
        """Its answer begins; what follows is as slow as its reader."""
        if not self.is_answered:
            self.is_answered = True
            self._metrics.storage_answered(self._operation, time.perf_counter() - self._began)


class Meter:
    """Counts the requests to one bucket."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    @contextmanager
    def request(self, operation: str, failed_here: Callable[[], bool]) -> Iterator[Attempt]:
        """Count a request that is made in this context; raised in it are ``StorageError``s.

        ``failed_here`` says whether such an error comes from the body that was to be sent.
        """
        attempt = Attempt(self._metrics, operation)
        try:
            yield attempt
        except StorageError as exc:
            if failed_here():
                self._metrics.stored(operation, _CANCELLED)
                raise
            attempt.answered()
            self._metrics.stored(operation, exc.code)
            raise
        except BaseException:
            # Cancelled, or the body or its reader failed: it is not wanted any more, unless
            # the server had done its part already.
            self._metrics.stored(operation, _OK if attempt.is_answered else _CANCELLED)
            raise
        attempt.answered()
        self._metrics.stored(operation, _OK)

    def retried(self, operation: str) -> None:
        """Count a request that is about to be made once more."""
        self._metrics.retried("upload" if operation in _UPLOADS else "storage")

    # --- botocore's own requests ---

    def watch(self, client: Any) -> None:
        """Count what a client of aiobotocore's sends."""
        events = client.meta.events
        # First, so that a request that cannot be signed is known as well.
        events.register_first("request-created.s3", self._created)
        events.register("response-received.s3", self._received)
        events.register("after-call-error.s3", self._failed)

    def _created(self, request: Any, operation_name: str, **_: object) -> None:
        request.context[_BEGAN] = (operation_name, time.perf_counter())
        if request.context["retries"]["attempt"] > 1:
            self.retried(operation_name)

    def _received(
        self,
        context: dict[str, Any],
        parsed_response: dict[str, Any] | None,
        exception: Exception | None,
        **_: object,
    ) -> None:
        if exception is None and parsed_response is not None and "Error" in parsed_response:
            exception = ClientError(parsed_response, "")
        self._ended(context, exception)

    def _failed(self, context: dict[str, Any], exception: Exception, **_: object) -> None:
        # What is no answer of S3's, and what was not sent, is not received.
        if _BEGAN in context:
            self._ended(context, exception)

    def _ended(self, context: dict[str, Any], exception: Exception | None) -> None:
        operation, began = context.pop(_BEGAN)
        self._metrics.storage_answered(operation, time.perf_counter() - began)
        self._metrics.stored(operation, _status(operation, exception))


def _status(operation: str, exception: Exception | None) -> str:
    if exception is None:
        return _OK
    if isinstance(exception, faults.TRANSLATED):
        return faults.from_exception(operation, exception).code
    return StorageError.code
