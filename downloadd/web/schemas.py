"""The body of ``POST /v1/download/initiate`` (SPEC §3 "Initiate"): its forms and rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import marshmallow
from marshmallow import RAISE, Schema

from downloadd.errors import DownloaddError, UnsupportedOption, ValidationError
from downloadd.model import OnError, Options, Priority, Record, Source
from downloadd.naming import archive_file_name, safe_name
from downloadd.web.fields import MAX_ERRORS, Bool, Headers, Int, Items, Metadata, OneOf, Text

MIN_FILE_ID = 10_000
MAX_FILE_ID = 100_000_000
MAX_URL_CHARS = 2048
MAX_NAME_CHARS = 1024
MAX_FILE_NAME_CHARS = 255
MAX_METADATA_BYTES = 4096
#: Of the name of a field that is none, in answers.
MAX_SHOWN_CHARS = 200
#: The largest integer that every JSON reader keeps whole (RFC 8259 §6).
MAX_SAFE_INTEGER = 2**53 - 1

#: Raises a ``DownloaddError`` for a URL that can never be fetched.
UrlCheck = Callable[[str], object]
Locate = Callable[[int], Source]

_HEX = re.compile(r"[0-9a-fA-F]*")
_FETCHABLE = "Sources are http and https URLs of public addresses, on the ports allowed here."
_CALLABLE = (
    "This address may not be called. Callbacks go to http and https URLs of public "
    "addresses, on the ports allowed here."
)
_URL = {"format": "uri", "pattern": "^[hH][tT][tT][pP][sS]?://"}
_NO_OBJECT = "Must be an object."


class _Strict(Schema):
    """A schema that names what it does not know."""

    error_messages = {"unknown": "Unknown field.", "type": _NO_OBJECT}  # noqa: RUF012

    class Meta:
        unknown = RAISE


@dataclass(frozen=True, kw_only=True, slots=True)
class Initiation(Record):
    """A body that keeps all the rules."""

    sources: Sequence[Source]
    options: Options
    dedupe: bool
    callback_url: str | None
    #: The job is asked for by the id of its one file.
    by_file_id: bool


class InitiateReader:
    """Turns bodies of initiate into ``Initiation``s; made once, used for every request."""

    def __init__(
        self,
        *,
        max_files: int,
        check_url: UrlCheck,
        locate: Locate,
        callbacks: bool = True,
        headers: bool = True,
    ) -> None:
        """``locate`` says where a file lies that is asked for by its id alone.

        ``callbacks``: whether jobs may have a ``callback_url``; ``headers``: their files headers.
        """
        self._check_url = check_url
        self._locate = locate
        self._schema = _body_schema(max_files, check_url)
        self._callbacks = callbacks
        self._headers = headers

    @property
    def schema(self) -> Schema:
        """What bodies must look like, but for rules that no field has by itself."""
        return self._schema

    def read(self, body: Mapping[str, Any]) -> Initiation:
        """Check every rule. ``ValidationError`` names all fields that break one."""
        try:
            data = self._schema.load(body)
        except marshmallow.ValidationError as exc:
            raise _invalid(_flatten(exc.messages_dict)) from exc
        sources = _sources(data) or self._located(data)
        _refuse_unsupported(data, callbacks=self._callbacks, headers=self._headers)
        options = data.get("options", {})
        return Initiation(
            sources=sources,
            options=_options(options),
            dedupe=options.get("dedupe", True),
            callback_url=data.get("callback_url"),
            by_file_id="file_id" in data,
        )

    def _located(self, data: Mapping[str, Any]) -> list[Source]:
        field = "file_ids" if "file_ids" in data else "file_id"
        sources = [self._locate(file_id) for file_id in _ids(data)]
        try:
            for source in sources:
                if source.key is None:
                    self._check_url(source.url)
        except DownloaddError as exc:
            # The template is to blame, and with it every id.
            raise _invalid({field: [f"Files cannot be had by id here: {exc.message}"]}) from exc
        return sources


def _body_schema(max_files: int, check_url: UrlCheck) -> Schema:
    url = Text(
        MAX_URL_CHARS,
        check=_url_check(check_url),
        required=True,
        metadata=_about(_FETCHABLE, **_URL),
    )
    file_id = Int(MIN_FILE_ID, MAX_FILE_ID, metadata=_about("The caller's own number for it."))
    file_schema = _Strict.from_dict(
        {
            "url": url,
            "file_id": file_id,
            "name": Text(MAX_NAME_CHARS, check=_name, metadata=_about("Its path in the archive.")),
            "sha256": Text(64, check=_hex_digest(64), metadata=_hexadecimal(64)),
            "md5": Text(32, check=_hex_digest(32), metadata=_hexadecimal(32)),
            "size": Int(0, MAX_SAFE_INTEGER, metadata=_about("Bytes; another number fails it.")),
            "headers": Headers(metadata=_about("Sent with the request for this file.")),
        },
        name="FileSchema",
    )
    body_schema = _Strict.from_dict(
        {
            "file_id": Int(MIN_FILE_ID, MAX_FILE_ID, metadata=_about("The one file to get.")),
            "file_ids": Items(
                file_id,
                max_files,
                metadata=_about("One for each file, none twice.", uniqueItems=True),
            ),
            "source_urls": Items(
                url, max_files, metadata=_about("One for each id, in order; or alone.")
            ),
            "files": Items(file_schema(), max_files, metadata=_about("The full form.")),
            "options": marshmallow.fields.Nested(_options_schema()),
            "callback_url": Text(
                MAX_URL_CHARS,
                check=_callback(check_url),
                allow_none=True,
                metadata=_about("Told of the job's end by a signed POST.", **_URL),
            ),
        },
        name="InitiateSchema",
    )
    return body_schema()


def _options_schema() -> Schema:
    schema = _Strict.from_dict(
        {
            "compress": Bool(metadata=_about("Deflate what shrinks.", default=True)),
            "format": OneOf("zip", metadata=_about("Of the archive.", default="zip")),
            "watermark": Bool(metadata=_about("Not built yet.", default=False, enum=[False])),
            "onError": OneOf(
                *OnError,
                metadata=_about(
                    "A file that cannot be had fails the job, or is left out.", default="fail"
                ),
            ),
            "manifest": Bool(
                metadata=_about("With a manifest.json in the archive.", default=False)
            ),
            "fileName": Text(
                MAX_FILE_NAME_CHARS,
                check=_archive_name,
                metadata=_about("What the archive is called."),
            ),
            "metadata": Metadata(
                MAX_METADATA_BYTES,
                metadata=_about(
                    f"Anything, for the manifest: {MAX_METADATA_BYTES:,} bytes at most."
                ),
            ),
            "priority": OneOf(
                *Priority, metadata=_about("Its place in the queue.", default="normal")
            ),
            "dedupe": Bool(
                metadata=_about("The same body within an hour is the same job.", default=True)
            ),
        },
        name="OptionsSchema",
    )
    return schema()


def _about(description: str, **rules: Any) -> dict[str, Any]:
    """What a field's entry in the OpenAPI document says besides its type."""
    return {"description": description, **rules}


def _hexadecimal(digits: int) -> dict[str, Any]:
    return _about("Of its bytes; another digest fails it.", pattern=f"^[0-9a-fA-F]{{{digits}}}$")


# --- rules of single values: return what is kept, or raise ValueError ----------


def _url_check(check: UrlCheck) -> Callable[[str], str]:
    def checked(url: str) -> str:
        try:
            check(url)
        except DownloaddError as exc:
            raise ValueError(f"{exc.message} {_FETCHABLE}") from exc
        return url

    return checked


def _callback(check: UrlCheck) -> Callable[[str], str]:
    def checked(url: str) -> str:
        try:
            check(url)
        except DownloaddError as exc:
            raise ValueError(_CALLABLE) from exc
        return url

    return checked


def _hex_digest(length: int) -> Callable[[str], str]:
    def checked(text: str) -> str:
        if len(text) != length or not _HEX.fullmatch(text):
            raise ValueError(f"Must be {length} hexadecimal digits.")
        return text.lower()

    return checked


def _name(name: str) -> str:
    # Names are made safe when the archive is planned; here something must be left.
    if safe_name(name) is None:
        raise ValueError("Must hold the name of a file.")
    return name


def _archive_name(name: str) -> str:
    return archive_file_name(_name(name))


# --- rules of the whole ---------------------------------------------------------


def _sources(data: Mapping[str, Any]) -> list[Source]:
    """The files of a body; none where it gives their ids alone."""
    _check_forms(data)
    if "files" in data:
        sources = [Source(**file) for file in data["files"]]
        _check_unique([source.file_id for source in sources], "files.{}.file_id")
        return sources
    ids, urls = _ids(data), data.get("source_urls")
    _check_unique(ids, "file_ids.{}")
    if not ids:
        return [Source(url=url) for url in urls or ()]
    if urls is None:
        return []
    if len(ids) != len(urls):
        raise _invalid(
            {"source_urls": [f"There are {len(urls):,} URLs for {len(ids):,} ids: one for each."]},
        )
    return [Source(url=url, file_id=file_id) for file_id, url in zip(ids, urls, strict=True)]


def _ids(data: Mapping[str, Any]) -> Sequence[int]:
    """The ids that a body gives beside its files, or alone; empty where it gives none."""
    ids: Sequence[int] = [data["file_id"]] if "file_id" in data else data.get("file_ids", ())
    return ids


def _check_forms(data: Mapping[str, Any]) -> None:
    given = [name for name in ("files", "file_ids", "file_id", "source_urls") if name in data]
    if not given:
        raise _invalid({"source_urls": ["Give file_ids, source_urls, or files."]})
    if "files" in given and len(given) > 1:
        raise _invalid({name: ["Not together with files."] for name in given[1:]})
    if "file_ids" in given and "file_id" in given:
        raise _invalid({"file_id": ["Not together with file_ids."]})


def _check_unique(ids: Sequence[int | None], path: str) -> None:
    seen: set[int] = set()
    twice: dict[str, list[str]] = {}
    for index, file_id in enumerate(ids):
        if file_id is None:
            continue
        if file_id in seen:
            twice[path.format(index)] = [f"{file_id} is listed twice."]
        seen.add(file_id)
    if twice:
        raise _invalid(twice)


def _refuse_unsupported(data: Mapping[str, Any], *, callbacks: bool, headers: bool) -> None:
    if data.get("options", {}).get("watermark"):
        raise _unsupported("options.watermark", "Watermarks are not built yet: leave it false.")
    if data.get("callback_url") is not None and not callbacks:
        raise _unsupported(
            "callback_url",
            "This server calls nobody back: it has no secret to sign with (webhooks.secret). "
            "Subscribe to the job's events or ask for its status.",
        )
    for index, file in enumerate(data.get("files", ()) if not headers else ()):
        if file.get("headers"):
            raise _unsupported(
                f"files.{index}.headers",
                "This server keeps no headers: it has no key to encrypt them with "
                "(state.secret_key). Use signed URLs.",
            )


def _options(data: Mapping[str, Any]) -> Options:
    return Options(
        compress=data.get("compress", True),
        on_error=OnError(data.get("onError", OnError.FAIL)),
        manifest=data.get("manifest", False),
        file_name=data.get("fileName"),
        metadata=data.get("metadata", {}),
        priority=Priority(data.get("priority", Priority.NORMAL)),
    )


# --- errors ---------------------------------------------------------------------


def _invalid(details: Mapping[str, Sequence[str]]) -> ValidationError:
    shown = {_shown(name): text for name, text in islice(details.items(), MAX_ERRORS)}
    message = "The request breaks a rule: " + _summary(shown)
    if len(details) > len(shown):
        message += f" Only the first {MAX_ERRORS} are listed."
    return ValidationError(message, shown)


def _shown(name: str) -> str:
    """A field's name, which may be the client's own, and as long as the body."""
    return name if len(name) <= MAX_SHOWN_CHARS else f"{name[:MAX_SHOWN_CHARS]}…"


def _unsupported(field: str, message: str) -> UnsupportedOption:
    return UnsupportedOption(f"{field}: {message}", {field: [message]})


def _summary(details: Mapping[str, Sequence[str]]) -> str:
    field, messages = next(iter(details.items()))
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    # A field may have the empty string for a name.
    return f"{field or 'Field without a name'}: {messages[0]}{more}"


def _flatten(messages: Mapping[str, Any], prefix: str = "") -> dict[str, list[str]]:
    """Turn nested messages into ``{"files.3.url": [...]}``."""
    flat: dict[str, list[str]] = {}
    for key, value in messages.items():
        # Marshmallow files what is wrong with a whole object under "_schema",
        # which a field may be called as well.
        whole = key == "_schema" and value == [_NO_OBJECT]
        path = prefix.removesuffix(".") if whole else f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{path}.")
        else:
            flat[path] = list(value)
    return flat
