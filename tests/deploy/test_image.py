"""The image: its Dockerfile, its lock files, and what comes of its install steps.

There is no container engine where these run. What is run instead is the build
stage's own steps, in a folder, and the server from what they installed: as a
user that may write nothing but its data folder, and as process 1 of a process
namespace.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from downloadd import __version__
from downloadd.config.sections import Server
from downloadd.healthcheck import DEFAULT_PORT, port
from tests.deploy import dockerfile
from tests.ports import free_port
from tests.tools import missing, require_tool

ROOT = dockerfile.ROOT
PATIENCE = 60.0
LOCKS = ("requirements.lock", "requirements-build.lock")


# --- the Dockerfile ---------------------------------------------------------------------------


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [require_tool("hadolint"), "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_last_stage() -> None:
    """Who it runs as, what it writes, how it is ended and asked for its health."""
    assert dockerfile.of("run", "USER") == ["10001:10001"]
    assert dockerfile.of("run", "VOLUME") == ['["/data"]']
    assert dockerfile.of("run", "STOPSIGNAL") == ["SIGTERM"]
    assert dockerfile.of("run", "EXPOSE") == [str(DEFAULT_PORT)]
    assert dockerfile.of("run", "COPY") == ["--from=build /opt/downloadd /opt/downloadd"]
    assert json.loads(dockerfile.of("run", "ENTRYPOINT")[0]) == ["downloadd"]
    assert json.loads(dockerfile.of("run", "CMD")[0]) == ["serve"]
    (step,) = dockerfile.of("run", "RUN")
    assert "pip uninstall" in step
    assert dockerfile.of("run", "ARG")[0] == f"VERSION={__version__}"


def test_the_base_is_pinned_to_a_patch() -> None:
    """One image for both stages: what the first compiles, the second can run."""
    (base,) = dockerfile.of("base", "FROM")
    assert re.match(r"python:3\.[0-9]+\.[0-9]+-slim-[a-z]+(@sha256:[0-9a-f]{64})? AS base", base)
    assert dockerfile.of("build", "FROM") == ["base AS build"]
    assert dockerfile.of("run", "FROM") == ["base AS run"]


# --- the lock files ---------------------------------------------------------------------------


def locked(name: str) -> dict[str, list[tuple[Version, Requirement]]]:
    """What a lock file pins, by name: several where platforms or Pythons differ."""
    text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
    found: dict[str, list[tuple[Version, Requirement]]] = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            pinned, *hashes = re.split(r"\s+--hash=", line.strip())
            assert hashes, f"{pinned} has no hash"
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one.strip()) for one in hashes)
            requirement = Requirement(pinned)
            (one,) = requirement.specifier
            assert one.operator == "=="
            key = canonicalize_name(requirement.name)
            found.setdefault(key, []).append((Version(one.version), requirement))
    return found


def asked(project: dict[str, object]) -> Iterator[tuple[str, Requirement]]:
    """What pyproject.toml asks for, each with the lock file that has to have it."""
    for name, wanted in (
        ("requirements.lock", project["project"]["dependencies"]),  # type: ignore[index]
        # The image can send traces and errors.
        ("requirements.lock", project["project"]["optional-dependencies"]["telemetry"]),  # type: ignore[index]
        ("requirements-build.lock", project["build-system"]["requires"]),  # type: ignore[index]
    ):
        yield from ((name, Requirement(text)) for text in wanted)


def test_the_locks_hold_what_the_project_asks_for() -> None:
    """`make lock` renews them when this fails."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    pins = {name: locked(name) for name in LOCKS}
    for name, wanted in asked(project):
        found = pins[name].get(canonicalize_name(wanted.name), [])
        assert found, f"{name} has no {wanted.name}: make lock"
        for version, _ in found:
            assert wanted.specifier.contains(version), f"{name}: {wanted} is {version}: make lock"


def test_the_locks_name_no_place_to_fetch_from() -> None:
    for name in LOCKS:
        text = (ROOT / name).read_text("utf-8")
        assert "://" not in text
        assert "index-url" not in text


# --- what its steps make ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file system that the build stage leaves; others than its owner may only read it."""
    folder = tmp_path_factory.mktemp("image")
    build = dockerfile.Build(folder)
    build.run()
    let_in(folder)
    yield build.root
    shutil.rmtree(folder)


def let_in(folder: Path) -> None:
    """Let others than its owner into a folder below that for temporary files."""
    everybodys = Path(tempfile.gettempdir())
    for path in (folder, *folder.parents):
        if path != everybodys and path.is_relative_to(everybodys):
            path.chmod(path.stat().st_mode | 0o055)


def python(root: Path) -> str:
    return str(root / "opt/downloadd/bin/python")


def run(root: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A command of the image."""
    return subprocess.run(
        [python(root), "-I", "-m", *command],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(root), **environ},
        cwd=root,
        check=False,
        timeout=PATIENCE,
    )


@pytest.mark.timeout(300)
def test_it_holds_the_program_and_no_installer(root: Path) -> None:
    done = run(root, "downloadd", "--version")
    assert done.stdout == f"downloadd {__version__}\n"
    names = {path.name.split("-")[0] for path in root.glob("opt/downloadd/lib/*/site-packages/*")}
    assert "aiohttp" in names
    assert not names & {"pip", "setuptools", "wheel", "pytest"}
    checked = run(root, "downloadd", "check-config", DOWNLOADD_STATE_DATA_DIR="/data")
    assert 'data_dir = "/data"' in checked.stdout
    # Compiled already: a read-only file system could keep nothing.
    assert list(root.glob("opt/downloadd/lib/*/site-packages/downloadd/__pycache__/*.pyc"))


def test_it_refuses_to_be_open_to_everybody(root: Path) -> None:
    """As `docker run` without anything said starts it."""
    done = run(root, "downloadd", "serve", DOWNLOADD_SERVER_HOST="0.0.0.0")
    assert done.returncode == 2
    assert "auth.allow_anonymous" in done.stderr


#: As root: everything read-only but the data, and the interpreter where all may run it, even
#: if it lies in root's own home; then nobody in particular, who can become nobody else.
_IN_A_CONTAINER = """
set -eu
mount --make-rprivate /
mkdir {work}/interpreter
mount --bind {prefix} {work}/interpreter
case {prefix} in
    /root/*) mount -t tmpfs -o mode=755 tmpfs /root && mkdir -p {prefix} ;;
esac
mount --bind {work}/interpreter {prefix}
mount --bind {data} {data}
for point in $(awk '{{ print $5 }}' /proc/self/mountinfo | sort -r); do
    case $point in {data} | /proc | /proc/* | /dev | /dev/* | /sys | /sys/*) continue ;; esac
    mount -o remount,bind,ro "$point"
done
if touch {work}/written 2>/dev/null; then echo "it can be written" >&2; exit 9; fi
exec setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --inh-caps=-all \\
    --bounding-set=-all {python} -I -m downloadd serve
"""


@contextlib.contextmanager
def served(root: Path, data: Path, number: int) -> Iterator[subprocess.Popen[bytes]]:
    """The server as process 1, as somebody who may write nothing but ``data``.

    What is yielded is ``unshare``, whose child it is. Who is not root already
    could not write what was installed, and does without the mounts.
    """
    work = data.parent
    data.mkdir(mode=0o700)
    (work / "cwd").mkdir()
    (work / "cwd/config.toml").write_text(f"[server]\nport = {number}\n", "utf-8")
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() == 0:
        os.chown(data, 10001, 10001)
        command += ["--mount", "sh", "-c"]
        command += [
            _IN_A_CONTAINER.format(
                work=work, data=data, prefix=sys.base_prefix, python=python(root)
            )
        ]
    else:
        command += ["--user", "--map-current-user", python(root), "-I", "-m", "downloadd", "serve"]
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=work / "cwd",
            env={
                "PATH": os.environ["PATH"],
                "PYTHONDONTWRITEBYTECODE": "1",
                "DOWNLOADD_STATE_DATA_DIR": str(data),
                "DOWNLOADD_SERVER_HOST": "0.0.0.0",
                "DOWNLOADD_AUTH_ALLOW_ANONYMOUS": "true",
            },
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            # Process 1 takes all of its namespace with it. unshare's own --kill-child does not
            # outlast a change of the user.
            with contextlib.suppress(IndexError, ProcessLookupError):
                os.kill(child(process), signal.SIGKILL)
            process.kill()
            process.wait(PATIENCE)


def healthy(number: int) -> bool:
    url = f"http://127.0.0.1:{number}/health"
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)["checks"] == {"storage": "ok", "redis": "ok"}
    return False


def child(process: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("utf-8")
    return int(children.split()[0])


@pytest.mark.timeout(300)
def test_it_serves_from_a_file_system_that_it_cannot_write(root: Path, tmp_path: Path) -> None:
    """With its own Valkey, found well by the image's HEALTHCHECK, ended in order by SIGTERM."""
    require_tool("unshare")
    require_tool("setpriv")
    (check,) = dockerfile.of("run", "HEALTHCHECK")
    command = json.loads(check[check.index("CMD") + 3 :])
    assert command[0] == "python"
    let_in(tmp_path)

    def status(folder: Path) -> int:
        done = subprocess.run(
            [python(root), *command[1:]], cwd=folder, env={}, capture_output=True, check=False
        )
        return done.returncode

    data, number = tmp_path / "data", free_port()
    with served(root, data, number) as process:
        deadline = time.monotonic() + PATIENCE
        while not healthy(number):
            log = (tmp_path / "log").read_text("utf-8")
            if process.poll() is not None and "unshare" in log:
                missing("a process namespace of one's own")
            assert process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.05)
        # In the folder with its config.toml it asks the right port, elsewhere the default one.
        assert status(tmp_path / "cwd") == 0
        server = child(process)
        with (Path("/proc") / str(server) / "status").open(encoding="utf-8") as lines:
            said = dict(line.rstrip("\n").split(":\t", 1) for line in lines)
        assert said["NSpid"].split()[-1] == "1"
        assert int(said["Uid"].split()[0]) != 0
        assert (data / "valkey.sock").is_socket()
        os.kill(server, signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert status(tmp_path / "cwd") == 1
    log = (tmp_path / "log").read_text("utf-8")
    assert [json.loads(line)["message"] for line in log.splitlines()][-1] == "server.stopped"


# --- the health check -------------------------------------------------------------------------


def test_the_port_that_is_asked(tmp_path: Path) -> None:
    """As the server itself finds it: its own variable, the well-known one, the file, 3000."""
    file = tmp_path / "config.toml"
    assert port({}, file) == DEFAULT_PORT == Server().port
    file.write_text("[server]\nport = 4000\n", "utf-8")
    assert port({}, file) == 4000
    assert port({"PORT": "5000"}, file) == 5000
    assert port({"PORT": "5000", "DOWNLOADD_SERVER_PORT": "6000"}, file) == 6000
    assert port({"PORT": ""}, file) == 4000


def test_it_imports_nothing_of_weight() -> None:
    """It runs every few seconds, beside the server and on its account."""
    text = "import sys, downloadd.healthcheck; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"aiohttp", "marshmallow", "redis", "asyncio", "ssl", "structlog"}
