"""docs/operations.md: an entry for everything that can be seen, and for nothing else."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import get_type_hints

import pytest
import redis

from downloadd import errors
from downloadd.config import Settings
from downloadd.state.keys import Keys
from downloadd.web.errors import CODES
from tests.deploy import events, queries, rules
from tests.deploy.rules import ROOT
from tests.valkey import valkey_server

TEXT = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
JOB = "a2bb029d-b991-44eb-8c33-08557f49d8b4"


def chapter(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def entries(title: str, mark: str) -> list[str]:
    return re.findall(rf"^{mark} (.+)$", chapter(title), re.MULTILINE)


def classes(root: type[errors.DownloaddError]) -> Iterator[type[errors.DownloaddError]]:
    yield root
    for kind in root.__subclasses__():
        yield from classes(kind)


def literals() -> Iterator[str]:
    """Codes that have no class: given where the error is made."""
    for path in (ROOT / "downloadd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            values = [it.value for it in node.keywords if it.arg in ("code", "error_code")]
            if isinstance(node.func, ast.Name) and node.func.id == "_refusal":
                values += node.args[-1:]
            for value in values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value


def of_nginx() -> list[str]:
    """What the proxy answers by itself."""
    text = (ROOT / "nginx.conf").read_text(encoding="utf-8")
    table = re.search(r"map \$status \$error_code \{(.*?)\}", text, re.DOTALL)
    assert table is not None
    return re.findall(r"(\w+);", table.group(1))


def test_every_alert_has_its_entry() -> None:
    assert sorted(entries("Alerts", "###")) == rules.names()


def test_every_error_code_has_its_entry() -> None:
    ours = {
        kind.code
        for kind in classes(errors.DownloaddError)
        if kind.__module__ == "downloadd.errors"
    }
    known = {*ours, *CODES.values(), "http_error", *literals(), *of_nginx()}
    found = entries("Error codes", "####")
    assert sorted(found) == sorted(known)
    assert "too_many_jobs" in known
    assert "job_unreadable" in known


def test_links_within_the_page_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", it).strip().lower().replace(" ", "-") for it in headings}
    wanted = set(re.findall(r"\]\(#([^)]+)\)", TEXT))
    assert wanted - anchors == set()
    for path in re.findall(r"\]\((?!#|https:)([^)#]+)", TEXT):
        assert (ROOT / "docs" / path).exists(), path


# --- what is named is there --------------------------------------------------------


def settings() -> set[str]:
    return {
        f"{name}.{field.name}"
        for name, section in get_type_hints(Settings).items()
        for field in dataclasses.fields(section)
    }


def test_what_it_calls_by_name_is_there() -> None:
    """Messages of the log, settings, metrics, panels, keys: a runbook that is wrong is none."""
    ticked = set(re.findall(r"`([^`\n]+)`", TEXT))
    dotted = {it for it in ticked if re.fullmatch(r"[a-z]+\.[a-z_]+", it)}
    files = {
        "nginx.conf",
        "config.toml",
        "app.env",
        "compose.yaml",
        "valkey.log",
        "valkey.sock",
        "alerts.yml",
    }
    files |= {"state.key", "links.key", "webhooks.secret"}
    assert dotted - settings() - events.messages() - events.spans() - files == set()
    metrics = {
        it for it in ticked if re.fullmatch(r"(download|http|s3|process)\w*_(total|bytes)", it)
    }
    assert metrics
    assert metrics - queries.known().keys() == set()
    bare = {it for it in ticked if re.fullmatch(r"valkey_\w+", it)}
    assert bare - events.messages() == set()


def test_the_messages_in_its_commands_are_there() -> None:
    for event in re.findall(r"grep (?:-E )?'\"?([a-z]+\.[a-z_]+)\"?'", TEXT):
        assert event in events.messages()
    for start, ends in re.findall(r"grep -E '([a-z]+\\\.)\(([a-z_|]+)\)'", TEXT):
        for end in ends.split("|"):
            assert start.replace("\\", "") + end in events.messages()


def test_keys_are_called_as_the_server_calls_them() -> None:
    keys = Keys()
    named = [
        *(value for value in vars(keys).values() if value.startswith(keys.prefix)),
        *(make(JOB) for make in (keys.job, keys.files, keys.events)),
        keys.dedupe(""),
        keys.idempotency(""),
        keys.all_jobs,
    ]
    found = set(re.findall(r"\{downloadd\}:[\w:$-]*[…*]?", TEXT)) - {keys.prefix}
    assert len(found) > 10
    for key in found:
        whole = key.replace("$JOB", JOB)
        # With one of these behind it, it is the beginning of several.
        start = whole.rstrip("…*")
        assert any(it == whole or (start != whole and it.startswith(start)) for it in named), key


def commands() -> list[str]:
    """Every "vk …" with a command of the server's, in blocks and in sentences."""
    lines = re.findall(r"^vk ([A-Z].*)$", TEXT, re.MULTILINE)
    return lines + re.findall(r"`vk ([A-Z][^`]*)`", TEXT)


def test_its_commands_for_redis_work() -> None:
    """On a real server, none of them an error; on what a job leaves there, no wrong type."""
    found = commands()
    assert len(found) > 12
    keys = Keys()
    with valkey_server(durable=True) as server, redis.Redis.from_url(server.url) as client:
        client.hset(keys.job(JOB), "status", "processing")
        client.hset(keys.files(JOB), "0", "{}")
        client.xadd(keys.events(JOB), {"t": "status", "d": "{}"})
        for name in (keys.active, keys.queue, keys.webhooks, keys.all_jobs):
            client.zadd(name, {JOB: 1})
        for command in found:
            # What it says is searched by other programs, which are not tried here.
            words = shlex.split(command.replace("$JOB", JOB).split(" | ")[0])
            answer = client.execute_command(*words)
            assert answer not in (None, b""), command


def test_its_shell_can_be_read() -> None:
    """A quotation mark that is missing would be found by whoever is in a hurry."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    spans = [it for it in re.findall(r"`([^`\n]+)`", TEXT) if it.startswith(("docker ", "vk "))]
    assert len(blocks) > 4
    assert len(spans) > 30
    for text in (*blocks, *spans):
        done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, timeout=10)
        assert done.stderr == "", text


@pytest.mark.parametrize("command", ["ZCARD '{downloadd}:job:$JOB'", "FLUSHEVERYTHING"])
def test_a_command_that_does_not_work_is_found(command: str) -> None:
    with valkey_server() as server, redis.Redis.from_url(server.url) as client:
        client.hset(Keys().job(JOB), "status", "processing")
        with pytest.raises(redis.ResponseError):
            client.execute_command(*shlex.split(command.replace("$JOB", JOB)))
