"""Archives in a folder of this machine, for whoever holds a signed link."""

from __future__ import annotations

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from downloadd.objects.headers import CACHE_CONTROL
from downloadd.objects.local import LocalFile
from downloadd.web import keys
from downloadd.web.conditions import not_modified, precondition_failed, wanted_range

#: Bytes read at once where the system cannot send the file by itself.
CHUNK = 1024 * 1024

#: What is decided before the file is sent.
_CONDITIONS = (
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "If-Unmodified-Since",
    "Range",
)


async def archive(request: web.Request) -> web.StreamResponse:
    """``GET /v1/files/{key}``: the bytes, with ranges; 403 for a link not of ours or too old."""
    query = request.query
    file = await request.app[keys.LOCAL_STORE].resolve(
        request.match_info["key"],
        query.get("expires", ""),
        query.get("name", ""),
        query.get("signature", ""),
    )
    if precondition_failed(request, file):
        raise web.HTTPPreconditionFailed(text="The file is another one than the request is for.")
    if not_modified(request, file):
        headers = {"ETag": f'"{file.etag}"', "Cache-Control": CACHE_CONTROL}
        return web.Response(status=304, headers=headers)
    return _Archive(file, wanted_range(request, file))


class _Archive(web.FileResponse):
    """A file, or the bytes from a first to a last one, whatever else the request says."""

    def __init__(self, file: LocalFile, span: tuple[int, int] | None) -> None:
        super().__init__(
            file.path,
            chunk_size=CHUNK,
            headers={
                "Content-Type": file.content_type,
                "Content-Disposition": file.disposition,
                "Cache-Control": CACHE_CONTROL,
            },
        )
        self._span = span

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        headers = CIMultiDict(request.headers)
        for name in _CONDITIONS:
            headers.popall(name, None)
        if self._span is not None:
            headers["Range"] = "bytes={}-{}".format(*self._span)
        return await super().prepare(request.clone(headers=headers))
