"""Archives in a folder of this machine, for whoever holds a signed link."""

from __future__ import annotations

from aiohttp import web

from downloadd.objects.headers import CACHE_CONTROL
from downloadd.web import keys

#: Bytes read at once where the system cannot send the file by itself.
CHUNK = 1024 * 1024


async def archive(request: web.Request) -> web.StreamResponse:
    """``GET /v1/files/{key}``: the bytes, with ranges; 403 for a link not of ours or too old."""
    query = request.query
    file = await request.app[keys.LOCAL_STORE].resolve(
        request.match_info["key"],
        query.get("expires", ""),
        query.get("name", ""),
        query.get("signature", ""),
    )
    return web.FileResponse(
        file.path,
        chunk_size=CHUNK,
        headers={
            "Content-Type": file.content_type,
            "Content-Disposition": file.disposition,
            "Cache-Control": CACHE_CONTROL,
        },
    )
