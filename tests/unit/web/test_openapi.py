"""The OpenAPI document: valid, whole, and no looser than what reads requests."""

from __future__ import annotations

import re
from typing import Any

import marshmallow
import pytest
from aiohttp import web
from openapi_spec_validator import validate
from yarl import URL

from downloadd import errors
from downloadd.model import Source
from downloadd.web.errors import CODES, STATUSES
from downloadd.web.fields import Bool, Headers, Int, Items, Metadata, OneOf, Strict, Text
from downloadd.web.openapi.document import make_document
from downloadd.web.openapi.refusals import responses
from downloadd.web.routes import LOCAL_ROUTES, ROUTES
from downloadd.web.schemas import InitiateReader
from tests import contract

_HEADERS = {"X-Request-ID": "1", "Content-Type": "application/json; charset=utf-8"}


def reader(**settings: Any) -> InitiateReader:
    given = {"max_files": 1000, "check_url": lambda _: None, "locate": lambda _: None, **settings}
    return InitiateReader(**given)


def test_it_is_openapi_3_1() -> None:
    assert contract.document()["openapi"] == "3.1.0"
    validate(contract.document())


def test_it_has_every_route_and_no_other() -> None:
    app = web.Application()
    app.add_routes([*ROUTES, *LOCAL_ROUTES])
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    told = {
        (method.upper(), path)
        for path, operations in contract.document()["paths"].items()
        for method in operations
    }
    assert told == served


def test_archives_of_a_bucket_are_not_this_servers() -> None:
    document = make_document(reader().schema, local_files=False)
    assert set(contract.document()["paths"]) - set(document["paths"]) == {"/v1/files/{key}"}


def test_limits_are_the_settings() -> None:
    document = make_document(reader(max_files=7).schema, local_files=True)
    for name in ("NewJob", "OneFile"):
        properties = document["components"]["schemas"][name]["properties"]
        assert "files" not in properties or properties["files"]["maxItems"] == 7
    assert document["components"]["schemas"]["NewJob"]["properties"]["file_ids"]["maxItems"] == 7


def test_every_error_is_in_it() -> None:
    """Every code that ``web/errors.py`` has a status for is some call's, but for 405."""
    text = str(contract.document())
    told = set(re.findall(r"'code': '(\w+)'", text))
    ours = {kind.code for kind in STATUSES} | {errors.DownloaddError.code}
    foreign = {code for status, code in CODES.items() if status not in (400, 405, 503)}
    assert ours | foreign <= told


def test_calls_have_what_people_read() -> None:
    ids = []
    for path, operations in contract.document()["paths"].items():
        for method, told in operations.items():
            ids.append(told["operationId"])
            assert told["summary"], (method, path)
            assert len(told["tags"]) == 1
            for response in told["responses"].values():
                assert contract.resolved(response)["description"]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("schema", "value"),
    [pytest.param(schema, value, id=where) for where, schema, value in contract.examples()],
)
def test_examples_are_what_they_are_of(schema: dict[str, Any], value: Any) -> None:
    errors_found = [error.message for error in contract.validator(schema).iter_errors(value)]
    assert errors_found == []


def test_examples_of_requests_are_taken() -> None:
    """What the document shows to be sent passes every rule, also those it cannot tell."""
    sent = [value for where, _, value in contract.examples() if " request " in where]
    assert len(sent) >= 10
    for body in sent:
        reader(locate=lambda _: Source(url="storage:///a", key="a")).read(body)


# --- fields tell what they read ---------------------------------------------------

_FILE = marshmallow.Schema.from_dict({"n": Int(1, 3, required=True)}, name="Part")
_FIELDS: dict[str, Strict[Any]] = {
    "flag": Bool(),
    "int": Int(1, 5),
    "text": Text(3),
    "kind": OneOf("a", "b"),
    "ints": Items(Int(1, 5), 2),
    "parts": Items(_FILE(unknown=marshmallow.RAISE), 2),
    "headers": Headers(),
    "metadata": Metadata(300),
}
_VALUES = [
    *(None, True, False, 0, 1, 5, 6, 1.5, "1", "", "a", "abc", "abcd", "c"),
    *([], [1], [1, 5], [1, 6], [1, 2, 3], ["1"], [{"n": 1}], [{"n": 9}], [{}], {}),
    *({"n": 1}, {"X": "y"}, {"X": 1}, {"X Y": "z"}, {"host": "h"}, {"X": "a\nb"}, {"a": {"b": []}}),
    {f"X-{number}": "" for number in range(21)},
]


def told_schema(field: Strict[Any]) -> contract.Draft202012Validator:
    others = {name: Bool() for name in ("file_id", "file_ids", "source_urls", "files")}
    schema = marshmallow.Schema.from_dict({"field": field, **others}, name="Holder")
    told = make_document(schema(), local_files=False)["components"]["schemas"]
    rule = told["NewJob"]["properties"]["field"]
    return contract.Draft202012Validator({**rule, "components": {"schemas": told}})


@pytest.mark.parametrize("name", _FIELDS)
def test_fields_tell_what_they_read(name: str) -> None:
    field, taken = _FIELDS[name], []
    judge = told_schema(field)
    for value in _VALUES:
        try:
            field.read(value)
        except marshmallow.ValidationError:
            assert not judge.is_valid(value), value
        else:
            assert judge.is_valid(value), value
            taken.append(value)
    assert 0 < len(taken) < len(_VALUES)


# --- the judge itself ---------------------------------------------------------------


def job() -> dict[str, Any]:
    return dict(contract.document_example("/v1/download/status/{job_id}", "completed"))


def test_the_judge_knows_what_is_right() -> None:
    contract.check_value("Job", job())


@pytest.mark.parametrize(
    "change",
    [{"status": "done"}, {"progress": 101}, {"createdAt": "today"}, {"new": 1}, {"jobId": None}],
    ids=str,
)
def test_the_judge_sees_what_is_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        contract.check_value("Job", {**job(), **change})


def test_the_judge_misses_what_is_missing() -> None:
    wrong = job()
    del wrong["totalFiles"]
    with pytest.raises(AssertionError):
        contract.check_value("Job", wrong)


@pytest.mark.parametrize(
    ("path", "status", "headers"),
    [
        ("/health", 404, _HEADERS),
        ("/health", 200, {**_HEADERS, "Content-Type": "text/html"}),
        ("/health", 200, {"Content-Type": "application/json"}),
        ("/health/ready", 503, _HEADERS),
        ("/nothing", 200, _HEADERS),
    ],
    ids=["status", "type", "no id", "no Retry-After", "no address"],
)
def test_the_judge_looks_at_heads(path: str, status: int, headers: dict[str, str]) -> None:
    contract.check_head("GET", URL("http://x/health"), 200, _HEADERS)
    with pytest.raises(AssertionError):
        contract.check_head("GET", URL(f"http://x{path}"), status, headers)


def test_one_status_has_all_its_codes() -> None:
    found = responses((errors.QueueFull, errors.AnswerTimeout, errors.QueueFull))
    (response,) = found.values()
    content = response["content"]["application/json"]
    assert list(content["examples"]) == ["queue_full", "answer_timeout"]
