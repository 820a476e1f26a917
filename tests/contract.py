"""The OpenAPI document as a judge: what it does not say, no answer may be."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import aiohttp
from jsonschema import Draft202012Validator
from yarl import URL

from downloadd.web.openapi.document import make_document
from downloadd.web.schemas import InitiateReader

#: What any address may answer to a method that it does not take, and to none at all.
_NO_METHOD = {204, 404, 405}


@cache
def document() -> dict[str, Any]:
    """The document of a server that keeps archives in a folder."""
    reader = InitiateReader(max_files=1000, check_url=lambda _: None, locate=lambda _: 1 / 0)
    return make_document(reader.schema, local_files=True)


@cache
def _strict_components() -> dict[str, Any]:
    """The components with objects that hold what they name and nothing else.

    Clients must take what they do not know; here it would be something that
    somebody forgot to describe.
    """
    components = copy.deepcopy(document()["components"])
    for schema in components["schemas"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return components


def validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    """Judges values by a schema of the document."""
    return Draft202012Validator(
        {**schema, "components": _strict_components()},
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )


@cache
def _named(name: str) -> Draft202012Validator:
    return validator({"$ref": f"#/components/schemas/{name}"})


def check_value(name: str, value: Any) -> None:
    """Hold a value against one of the document's schemas."""
    _hold(_named(name), value, name)


def check_event(data: Mapping[str, Any]) -> None:
    """Hold what an event says against the document: a whole job, or less."""
    snake = "Snake" if "job_id" in data else ""
    whole = data.keys() & {"totalFileIds", "total_file_ids"}
    check_value(("Job" if whole else "Event") + snake, data)


def _hold(judge: Draft202012Validator, value: Any, where: object) -> None:
    errors = [f"{error.json_path}: {error.message[:300]}" for error in judge.iter_errors(value)]
    assert not errors, (where, errors[:5], str(value)[:1000])


def operation(method: str, url: URL) -> tuple[str, Mapping[str, Any]] | None:
    """The template and the description of a call, where there is one."""
    # Not as it was sent: letters may have been percent-encoded.
    path = URL(str(url)).raw_path
    for template, pattern in _patterns():
        if pattern.fullmatch(path):
            found = document()["paths"][template].get("get" if method == "HEAD" else method.lower())
            return None if found is None else (template, found)
    return None


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    templates = sorted(document()["paths"], key=lambda path: (path.count("{"), path))
    return [
        (template, re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))))
        for template in templates
    ]


def check_head(method: str, url: URL, status: int, headers: Mapping[str, str]) -> None:
    """Hold an answer's status, type and headers against the document."""
    found = operation(method, url)
    if found is None or (method == "HEAD" and status == 405):
        assert status in _NO_METHOD, (method, url, status)
        return
    template, told = found
    where = (method, template, status)
    assert str(status) in told["responses"], where
    response = resolved(told["responses"][str(status)])
    content = response.get("content", {})
    if content:
        assert headers["Content-Type"].partition(";")[0] in content, where
    for name, header in response.get("headers", {}).items():
        assert name in headers or not resolved(header)["required"], (*where, name)


def check_body(method: str, url: URL, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Hold an answer's JSON against the document."""
    found = operation(method, url)
    kind = headers.get("Content-Type", "").partition(";")[0]
    if found is None or method == "HEAD" or kind != "application/json":
        return
    template, _ = found
    _hold(_body_validator(method, template, status), json.loads(body), (method, template, status))


@cache
def _body_validator(method: str, template: str, status: int) -> Draft202012Validator:
    response = document()["paths"][template][method.lower()]["responses"][str(status)]
    return validator(resolved(response)["content"]["application/json"]["schema"])


def resolved(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a part of the document is, or refers to."""
    if "$ref" not in part:
        return part
    found: Any = document()
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def judging(base: URL) -> aiohttp.TraceConfig:
    """A client's trace that lets nothing pass which the document does not say."""
    trace = aiohttp.TraceConfig()

    async def on_end(
        _: aiohttp.ClientSession, asked: SimpleNamespace, end: aiohttp.TraceRequestEndParams
    ) -> None:
        answer = asked.answer = end.response
        if answer.url.origin() == base:
            check_head(answer.method, answer.url, answer.status, answer.headers)

    async def on_body(
        _: aiohttp.ClientSession,
        asked: SimpleNamespace,
        chunk: aiohttp.TraceResponseChunkReceivedParams,
    ) -> None:
        answer = asked.answer
        if answer.url.origin() == base:
            check_body(answer.method, answer.url, answer.status, answer.headers, chunk.chunk)

    trace.on_request_end.append(on_end)
    trace.on_response_chunk_received.append(on_body)
    return trace


def document_example(path: str, title: str) -> Any:
    """The value of an example of what GET answers."""
    content = document()["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
    return content["examples"][title]["value"]


def examples() -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Every example of JSON in the document: where it is, its schema, and the value."""
    for path, operations in document()["paths"].items():
        for method, told in operations.items():
            parts = {"request": told.get("requestBody", {}), **told["responses"]}
            for name, part in parts.items():
                content = resolved(part).get("content", {}).get("application/json", {})
                for title, example in content.get("examples", {}).items():
                    yield f"{method} {path} {name} {title}", content["schema"], example["value"]
