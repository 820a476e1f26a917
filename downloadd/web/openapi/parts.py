"""What the descriptions of calls are put together from: parameters, answers, the call itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from marshmallow import Schema

from downloadd.model import JobStatus
from downloadd.web.openapi.answers import in_snake
from downloadd.web.openapi.refusals import Refusal
from downloadd.web.views import Case


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One method at one address."""

    summary: str
    tag: str
    answers: Mapping[int, Mapping[str, Any]]
    description: str = ""
    parameters: Sequence[Mapping[str, Any]] = ()
    #: The name of the body's schema.
    body: str | None = None
    body_examples: Mapping[str, Any] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()


# --- parameters -------------------------------------------------------------------


def parameter(
    name: str, where: str, description: str, schema: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """Something that a request may bring, but for its body."""
    return {"name": name, "in": where, "description": description, "schema": schema, **more}


_TEXT = {"type": "string"}
JOB_ID = parameter(
    "job_id", "path", "The job.", {"type": "string", "format": "uuid"}, required=True
)
CASE = parameter(
    "case",
    "query",
    "How names in the answer are written; without it as the job was asked for.",
    {"type": "string", "enum": [str(case) for case in Case]},
)
FILES = parameter(
    "files",
    "query",
    "With the list of files, though the job has not ended.",
    {"type": "string", "enum": ["true", "false", "1", "0"]},
)
IF_NONE_MATCH = parameter(
    "If-None-Match", "header", "The `ETag` of the answer that is known.", {"type": "string"}
)
IDEMPOTENCY_KEY = parameter(
    "Idempotency-Key",
    "header",
    "The same key and body within a day give the same job again.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
)
LAST_EVENT_ID = parameter(
    "Last-Event-ID",
    "header",
    "The id of the last event seen: the stream goes on behind it.",
    {"type": "string"},
)
LAST_EVENT_ID_QUERY = parameter(
    "lastEventId", "query", "The same, for who cannot send headers.", {"type": "string"}
)
TOKEN = parameter(
    "token", "query", "What the job's `subscribeUrl` has: good for its events alone.", _TEXT
)
_STATUS = f"({'|'.join(JobStatus)})"
LIST = (
    parameter(
        "status",
        "query",
        "Only jobs in one of these statuses, with commas between; all where it is empty.",
        {"type": "string", "pattern": f"^({_STATUS}(,{_STATUS})*)?$"},
    ),
    parameter(
        "limit", "query", "Jobs on a page; 20.", {"type": "integer", "minimum": 1, "maximum": 100}
    ),
    parameter(
        "user",
        "query",
        "Whose jobs; all where an admin names nobody. Others may name themselves alone.",
        _TEXT,
    ),
    parameter("page", "query", "From 1.", {"type": "integer", "minimum": 1, "maximum": 1_000_000}),
    CASE,
)


# --- answers ----------------------------------------------------------------------


def in_json(
    description: str,
    schema: type[Schema],
    shown: Mapping[str, Any] | None = None,
    *,
    snake: bool = False,
    headers: Sequence[str] = (),
) -> dict[str, Any]:
    """An answer in JSON; ``snake``: in either case. ``headers`` are those of the components."""
    told: Any = {"oneOf": [schema, in_snake(schema)]} if snake else schema
    content: dict[str, Any] = {"schema": told}
    if shown:
        content["examples"] = {name: {"value": value} for name, value in shown.items()}
    return answer(description, {"application/json": content}, headers)


def answer(
    description: str,
    content: Mapping[str, Any] | None = None,
    headers: Sequence[str] = (),
) -> dict[str, Any]:
    """An answer of any kind; ``headers`` are those of the components."""
    told: dict[str, Any] = {"description": description}
    if headers:
        told["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return told if content is None else {**told, "content": content}


def text(kind: str, **more: Any) -> dict[str, Any]:
    """Content of any media type that is not JSON."""
    return {kind: {"schema": {"type": "string"}, **more}}


KNOWN = answer("It is as it was when the client asked last.", headers=("ETag",))
UPGRADED = answer("The connection is a WebSocket from here on.")
