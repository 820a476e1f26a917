"""What the download manager of seeds/004 asks, in its own words (SPEC §6)."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from downloadd.model import Archive, Job, Link
from downloadd.web import keys
from downloadd.web.handlers import jobs
from downloadd.web.views import (
    Case,
    managed_link_view,
    managed_path,
    managed_retry_view,
    managed_view,
)


def _link(request: web.Request, job: Job, archive: Archive, link: Link) -> dict[str, Any]:
    bucket = request.app[keys.BUCKET]
    return managed_link_view(job, archive, link, bucket=bucket, now=time.time())


status = jobs.status(managed_view, files=True, usual=Case.CAMEL)
retry = jobs.retry(managed_retry_view, usual=Case.CAMEL, path=managed_path)
download_url = jobs.result(_link, usual=Case.CAMEL)
