"""The OpenAPI document, put together from the schemas and tables."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import Schema, fields

from downloadd import __version__
from downloadd.web.fields import Items, Strict
from downloadd.web.openapi import answers
from downloadd.web.openapi.operations import NEW_JOB, ONE_FILE, OPERATIONS
from downloadd.web.openapi.parts import Operation
from downloadd.web.openapi.refusals import ANYWHERE, CALLER, RATE_HEADERS, responses

_ABOUT = """\
All these files as one download. A request is answered at once with a job; the files are fetched \
from other servers, verified, packed into one archive and stored. It ends with a signed link.

Every address that takes GET takes HEAD, too, but for events; OPTIONS tells what an address takes. \
What an address does not take is answered 405 with `Allow`, what is no address 404, and what is \
no HTTP 400, each as `Error`. Every answer has `X-Request-ID`, the caller's own where it is sane \
(up to 128 of `A-Z a-z 0-9 . _ -`), and `X-Trace-Id`, that of the caller's `traceparent` where \
there is one (W3C Trace Context).

Servers may ask who calls, by an API key or a token. Each client may make so many requests in a \
minute: every answer under `/v1/` but those of `/v1/files/` tells what is left, in the headers \
`X-RateLimit-*` and `RateLimit-*`."""

_TAGS = {
    "jobs": "Make jobs, poll them, end them.",
    "events": "Watch jobs: Server-Sent Events and WebSockets.",
    "archives": "Get at the archive of a completed job.",
    "webhooks": "How callers were told of a job's end.",
    "operations": "For balancers and operators.",
    "documents": "About this server.",
}

_WHOLE = {"type": "integer", "minimum": 0}
_HEADERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ETag": ("The answer's tag, for `If-None-Match`.", {"type": "string"}),
    "Location": ("Where to go on.", {"type": "string"}),
    "Retry-After": ("Seconds until it makes sense to ask again.", {"type": "integer"}),
    "Idempotent-Replayed": ("The job was made before.", {"const": "true"}),
    "X-RateLimit-Limit": ("Requests that the caller may make within the window.", _WHOLE),
    "X-RateLimit-Remaining": ("How many of them are left.", _WHOLE),
    "X-RateLimit-Reset": ("The second, since 1970, at which there are more.", _WHOLE),
    "RateLimit-Limit": ("As X-RateLimit-Limit.", _WHOLE),
    "RateLimit-Remaining": ("As X-RateLimit-Remaining.", _WHOLE),
    "RateLimit-Reset": ("Seconds until there are more.", _WHOLE),
    "X-Request-ID": ("Finds the request in the server's log.", {"type": "string"}),
    "X-Trace-Id": ("The trace that the request belongs to.", {"type": "string"}),
}
#: Headers that an answer may be without.
_OPTIONAL = frozenset({"Idempotent-Replayed", "X-Trace-Id", *RATE_HEADERS})

#: How callers say who they are, on servers that ask for it (``auth.mode``).
_SCHEMES: Mapping[str, Mapping[str, str]] = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a JSON Web Token with sub, exp and role.",
    },
}
#: Any of them, or none where the server does not ask.
_SECURITY: Sequence[Mapping[str, Sequence[str]]] = [{}, *({name: []} for name in _SCHEMES)]

#: How the files of a new job may be given, and what may not stand beside each.
_FORMS: Mapping[str, Sequence[str]] = {
    "files": ("file_ids", "file_id", "source_urls"),
    "file_ids": ("file_id", "files"),
    "file_id": ("file_ids", "files"),
    "source_urls": ("file_ids", "file_id", "files"),
}


def make_document(new_job: Schema, *, local_files: bool) -> dict[str, Any]:
    """The document as JSON-ready objects.

    ``new_job``: the schema that reads bodies. ``local_files``: whether the
    server sends archives itself.
    """
    spec = APISpec(
        title="downloadd",
        version=__version__,
        openapi_version="3.1.0",
        info={"description": _ABOUT, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        servers=[{"url": "/"}],
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        plugins=[_Plugin()],
    )
    _add_components(spec, new_job)
    for (method, path), operation in OPERATIONS.items():
        if local_files or not path.startswith("/v1/files/"):
            spec.path(path, operations={method.lower(): _operation(spec, method, path, operation)})
    document: dict[str, Any] = spec.to_dict()
    _add_forms(document["components"]["schemas"])
    return document


class _Converter(OpenAPIConverter):
    """Knows our own fields, besides marshmallow's."""

    def init_attribute_functions(self) -> None:
        super().init_attribute_functions()  # type: ignore[no-untyped-call]
        self.attribute_functions.append(self.strict_rules)

    def strict_rules(self, field: fields.Field[Any], **_: Any) -> dict[str, Any]:
        """What a field of ours says of itself."""
        if not isinstance(field, Strict):
            return {}
        rules = field.json_schema()
        if isinstance(field, Items):
            item = field.item
            rules["items"] = (
                self.resolve_nested_schema(item)  # type: ignore[no-untyped-call]
                if isinstance(item, Schema)
                else self.field2property(item)
            )
        if field.allow_none:
            rules["type"] = [rules["type"], "null"]
        return rules


class _Plugin(MarshmallowPlugin):
    Converter = _Converter


def _add_components(spec: APISpec, new_job: Schema) -> None:
    for answer in (answers.Error, answers.Event, answers.in_snake(answers.Event), answers.Message):
        spec.components.schema(answer.__name__, schema=answer)
    spec.components.schema(NEW_JOB, schema=new_job)
    for name, scheme in _SCHEMES.items():
        spec.components.security_scheme(name, dict(scheme))
    for name, (description, rule) in _HEADERS.items():
        header = {"description": description, "schema": rule, "required": name not in _OPTIONAL}
        spec.components.header(name, header)


def _add_forms(schemas: dict[str, Any]) -> None:
    """Rules of whole bodies, which no field has: which fields go together."""
    one_file = schemas[ONE_FILE] = copy.deepcopy(schemas[NEW_JOB])
    schemas[NEW_JOB]["oneOf"] = [
        {"required": [given], "properties": dict.fromkeys(excluded, False)}
        for given, excluded in _FORMS.items()
    ]
    one_file["required"] = ["file_id"]
    for excluded in _FORMS["file_id"]:
        del one_file["properties"][excluded]


def _operation(spec: APISpec, method: str, path: str, operation: Operation) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": _operation_id(method, path),
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": list(operation.parameters),
        "security": _SECURITY if _asks_who_calls(path) else [],
        "responses": _responses(spec, path, operation),
    }
    if operation.description:
        told["description"] = operation.description
    if operation.body is not None:
        shown = {name: {"value": value} for name, value in operation.body_examples.items()}
        schema = {"$ref": f"#/components/schemas/{operation.body}"}
        content = {"application/json": {"schema": schema, "examples": shown}}
        told["requestBody"] = {"required": True, "content": content}
    return told


def _asks_who_calls(path: str) -> bool:
    return path.startswith("/v1/") and not path.startswith("/v1/files/")


def _operation_id(method: str, path: str) -> str:
    words = [word.strip("{}") for word in path.replace(".", "/").split("/") if word]
    return "_".join([method.lower(), *words]).replace("-", "_")


def _responses(spec: APISpec, path: str, operation: Operation) -> dict[str, Any]:
    asked = CALLER if _asks_who_calls(path) else ()
    refused = responses((*operation.refusals, *asked, *ANYWHERE))
    found = {}
    for status in sorted({*operation.answers, *refused}):
        told, refusal = operation.answers.get(status), refused.get(HTTPStatus(status))
        if told is None and refusal is not None:
            found[str(int(status))] = _shared(spec, refusal)
        elif told is not None:
            answer = told if refusal is None else _either(told, refusal)
            found[str(int(status))] = _with_ids(answer)
    return found


def _shared(spec: APISpec, refusal: Mapping[str, Any]) -> dict[str, Any]:
    """A reference to a refusal that many calls have in common."""
    codes = refusal["content"]["application/json"]["examples"]
    name = "-".join(codes)
    if name not in spec.components.responses:
        spec.components.response(name, _with_ids(refusal))
    return {"$ref": f"#/components/responses/{name}"}


def _either(answer: Mapping[str, Any], refusal: Mapping[str, Any]) -> dict[str, Any]:
    """One status that says one thing or the other."""
    told, refused = (it["content"]["application/json"] for it in (answer, refusal))
    return {
        "description": f"{answer['description']} Or: {refusal['description']}",
        "headers": {**answer.get("headers", {}), **refusal.get("headers", {})},
        "content": {
            "application/json": {
                "schema": {"oneOf": [told["schema"], refused["schema"]]},
                "examples": {**told.get("examples", {}), **refused["examples"]},
            },
        },
    }


def _with_ids(answer: Mapping[str, Any]) -> dict[str, Any]:
    ids = ("X-Request-ID", "X-Trace-Id")
    known = {name: {"$ref": f"#/components/headers/{name}"} for name in ids}
    return {**answer, "headers": {**answer.get("headers", {}), **known}}
