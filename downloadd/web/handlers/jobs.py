"""Jobs: look up, cancel, retry, and get at the archive, each in the view that its path is for."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from downloadd.errors import Forbidden
from downloadd.model import Archive, Job, JobStatus, Link
from downloadd.telemetry.tracing import traceparent
from downloadd.web import keys
from downloadd.web.answers import json_answer, tagged_answer
from downloadd.web.middleware.sending import keep
from downloadd.web.requests import (
    SPAN,
    caller_name,
    caller_of,
    case_of,
    flag_of,
    job_id_of,
    number_of,
    statuses_of,
    with_token,
)
from downloadd.web.slots import turn_to_answer
from downloadd.web.views import Case, dumps, in_case, job_view, result_view, status_path

#: For nginx, which keeps it to itself: how long it may answer the same caller by itself,
#: in seconds. Only for states that nobody can change any more.
KEEP = {"X-Accel-Expires": "5"}
_FINAL = (JobStatus.COMPLETED, JobStatus.EXPIRED)

#: Jobs on a page of the list, and pages.
_PAGE, _MAX_PAGE, _MAX_PAGES = 20, 100, 1_000_000


class JobView(Protocol):
    """One of the shapes of a job's state."""

    def __call__(self, job: Job, *, files: bool) -> dict[str, Any]: ...


#: One of the shapes of where an archive is.
LinkView = Callable[[web.Request, Job, Archive, Link], dict[str, Any]]


def canonical_link(_: web.Request, job: Job, archive: Archive, link: Link) -> dict[str, Any]:
    """The canonical shape of where an archive is."""
    return result_view(job, archive, link)


def status(view: JobView = job_view, *, files: bool = False, usual: Case | None = None) -> Handler:
    """Return the handler of a state; 304 where the client has this answer already.

    ``files``: the view needs the job's files always. ``usual``: the case of
    its names; None: the one in which the job was asked for.
    """

    async def handler(request: web.Request) -> web.Response:
        whole = files or flag_of(request, "files")
        case = case_of(request) or usual
        job_id = job_id_of(request)
        service = request.app[keys.SERVICE]
        job = await service.get(job_id, caller_of(request))
        if job.status.ended or whole:
            await keep(request, turn_to_answer(request, job))
            job = await service.get(job_id, caller_of(request), files=True)
        shown = with_token(request, view(job, files=whole))
        body = dumps(in_case(shown, job, case)).encode()
        answer = tagged_answer(request, body, "application/json", "private, no-cache")
        # A kept 304 would be the answer to those who have nothing yet.
        if job.status in _FINAL and answer.status == HTTPStatus.OK:
            answer.headers.update(KEEP)
        return answer

    return handler


async def listed(request: web.Request) -> web.Response:
    """``GET /v1/download/jobs``: the caller's own, newest first, each as it was asked for.

    An admin's are those of all, or of one ``?user=``.
    """
    case = case_of(request)
    limit = number_of(request, "limit", default=_PAGE, most=_MAX_PAGE)
    page = number_of(request, "page", default=1, most=_MAX_PAGES)
    found = await request.app[keys.SERVICE].list(
        _listed_user(request), statuses_of(request), first=(page - 1) * limit, limit=limit
    )
    jobs = [in_case(with_token(request, job_view(job)), job, case) for job in found.jobs]
    return json_answer({"jobs": jobs, "total": found.total, "page": page, "limit": limit})


def _listed_user(request: web.Request) -> str | None:
    """Whose jobs are asked for; None: everybody's, as an admin sees them. ``Forbidden``."""
    caller, asked = caller_of(request), request.query.get("user")
    if caller.admin:
        return asked
    if asked not in (None, caller.user):
        raise Forbidden("Only an admin sees the jobs of others.")
    return caller.user


async def cancel(request: web.Request) -> web.Response:
    """``DELETE /v1/download/{jobId}`` and ``DELETE /v1/download/cancel/{jobId}``."""
    case = case_of(request)
    job = await request.app[keys.SERVICE].cancel(job_id_of(request), caller_of(request))
    return json_answer(in_case(with_token(request, job_view(job)), job, case))


def retry(
    view: Callable[[Job], dict[str, Any]] = job_view,
    *,
    usual: Case | None = None,
    path: Callable[[str], str] = status_path,
) -> Handler:
    """Return the handler that queues a job once more; ``path`` is where it is polled then."""

    async def handler(request: web.Request) -> web.Response:
        case = case_of(request) or usual
        job_id, caller = job_id_of(request), caller_of(request)
        # It fetches as much as a new job does.
        async with request.app[keys.QUOTAS].admit(caller, caller_name(request)):
            span = traceparent(request[SPAN])
            job = await request.app[keys.SERVICE].retry(job_id, caller, span)
        headers = {"Location": path(job.id)}
        return json_answer(in_case(with_token(request, view(job)), job, case), headers)

    return handler


def result(view: LinkView = canonical_link, *, usual: Case | None = None) -> Handler:
    """Return the handler that tells where a completed job's archive is."""

    async def handler(request: web.Request) -> web.Response:
        case = case_of(request) or usual
        found = await request.app[keys.SERVICE].link(job_id_of(request), caller_of(request))
        return json_answer(in_case(view(request, *found), found[0], case))

    return handler


async def download(request: web.Request) -> web.Response:
    """``GET /v1/download/{jobId}``: a link that can be mailed around."""
    _, _, link = await request.app[keys.SERVICE].link(job_id_of(request), caller_of(request))
    # Not web.HTTPFound, whose text would show the signed URL once more.
    return web.Response(
        status=302,
        headers={"Location": link.url, "Cache-Control": "private, no-store"},
    )
