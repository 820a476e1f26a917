"""The document as it is sent, made when it is first asked for."""

from __future__ import annotations

from threading import Lock

from marshmallow import Schema

from downloadd.web.views import dumps


class Contract:
    """The server's own OpenAPI document."""

    def __init__(self, new_job: Schema, *, local_files: bool) -> None:
        """See ``make_document``."""
        self._new_job = new_job
        self._local_files = local_files
        self._lock = Lock()
        self._body: bytes | None = None

    def read(self) -> bytes:
        """Return it as JSON; for a thread, because the first time takes some 100 ms."""
        with self._lock:
            if self._body is None:
                # Servers are started more often than asked for this.
                from downloadd.web.openapi.document import make_document

                document = make_document(self._new_job, local_files=self._local_files)
                self._body = dumps(document).encode()
            return self._body
