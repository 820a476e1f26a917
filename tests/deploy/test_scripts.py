"""What prepares a server: deploy/init, deploy/up, MinIO's set-up, Valkey's command.

Docker and MinIO's client are stand-ins that write down how they were called;
the server reads what ``deploy/init`` wrote, and the real Valkey what
``compose.yaml`` gives it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from downloadd import config
from downloadd.config.samples import is_sample
from downloadd.state.embedded import find_server
from tests.deploy import compose
from tests.deploy.test_compose import SET, app_environment
from tests.ports import free_port
from tests.tools import require_tool

#: What S3 asks of who calls an operation of botocore's, as Amazon's documentation has it.
RIGHTS = {
    "abort_multipart_upload": {"s3:AbortMultipartUpload"},
    "complete_multipart_upload": {"s3:PutObject"},
    "create_multipart_upload": {"s3:PutObject"},
    "delete_object": {"s3:DeleteObject"},
    "get_object": {"s3:GetObject"},
    "head_bucket": {"s3:ListBucket"},
    "head_object": {"s3:GetObject"},
    "list_multipart_uploads": {"s3:ListBucketMultipartUploads"},
    "list_objects_v2": {"s3:ListBucket"},
    "list_parts": {"s3:ListMultipartUploadParts"},
    "put_object": {"s3:PutObject"},
    "upload_part": {"s3:PutObject"},
    "upload_part_copy": {"s3:PutObject", "s3:GetObject"},
    # Not with storage.create_bucket = false.
    "create_bucket": set(),
}


class Server:
    """A checkout on a server, with stand-ins on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        shutil.copytree(compose.ROOT / "deploy", self.folder / "deploy")
        self._bin = folder / "bin"
        self._bin.mkdir()
        self.calls_file = folder / "calls"
        self.calls_file.touch()

    def stand_in(self, name: str, script: str) -> None:
        path = self._bin / name
        path.write_text(f'#!/bin/sh\necho "$*" >>{self.calls_file}\n{script}\n', "utf-8")
        path.chmod(0o755)

    def run(self, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        search = f"{self._bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            command,
            cwd=self.folder.parent,
            env={"PATH": search, **environ},
            capture_output=True,
            text=True,
            check=False,
        )

    def init(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.folder / "deploy/init"), *arguments)

    def up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.folder / "deploy/up"), *arguments)

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text("utf-8").splitlines()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    require_tool("openssl")
    return Server(tmp_path)


# --- deploy/init ------------------------------------------------------------------------------


def test_init_writes_what_compose_and_the_server_take(server: Server, tmp_path: Path) -> None:
    """For a public address, from no more than its name; every time with other secrets."""
    done = server.init("files.example.com")
    assert done.returncode == 0, done.stderr
    path = server.folder / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = compose.env_file(path)
    assert made["PUBLIC_URL"] == "https://files.example.com"
    assert made.keys() == SET.keys()
    assert not [name for name, value in made.items() if is_sample(value)]
    assert not [
        value for name, value in made.items() if name != "PUBLIC_URL" and value in done.stdout
    ]
    config.load(None, app_environment(compose.load(made)), {})

    (tmp_path / "other").mkdir()
    other = Server(tmp_path / "other")
    other.init("files.example.com")
    again = compose.env_file(other.folder / ".env")
    assert {name for name in made if made[name] == again[name]} == {"PUBLIC_URL"}


def test_init_leaves_what_is_there(server: Server) -> None:
    """Those secrets are in use."""
    server.init("files.example.com")
    before = (server.folder / ".env").read_text("utf-8")
    done = server.init("other.example.com")
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert (server.folder / ".env").read_text("utf-8") == before


@pytest.mark.parametrize(
    "said", ["", "a b", "files.example.com/path", "ftp://a.example", "x$(id)", "a\nb=c"]
)
def test_init_refuses_what_is_no_domain(server: Server, said: str) -> None:
    done = server.init(said)
    assert done.returncode == 2
    assert "deploy/init files.example.com" in done.stderr
    assert not (server.folder / ".env").exists()


# --- deploy/up --------------------------------------------------------------------------------


def test_up_is_all_there_is_to_it(server: Server) -> None:
    """Secrets, the image, a first key, the start; again, and nothing is made anew."""
    server.stand_in(
        "docker",
        """case "$*" in
            *"keys list") echo HEAD; [ ! -e keys ] || echo KEY ;;
            *"keys add"*) touch keys; echo dk_the_key ;;
        esac""",
    )
    done = server.up("files.example.com")
    assert done.returncode == 0, done.stderr
    assert "dk_the_key" in done.stdout
    run = "compose run --rm --no-deps -T app keys"
    first = ["compose build app", f"{run} list", f"{run} add --user admin --role admin"]
    start = ["compose up -d --remove-orphans", "compose ps"]
    assert server.calls == [*first, *start]
    server.calls_file.write_text("", "utf-8")
    assert server.up().returncode == 0
    assert server.calls == [*first[:2], *start]


def test_up_pulls_a_release_and_asks_for_no_key_where_there_are_tokens(server: Server) -> None:
    server.stand_in("docker", "")
    server.init("files.example.com")
    with (server.folder / ".env").open("a") as file:
        file.write("APP_IMAGE=registry.example/downloadd:0.2.0\nAUTH_MODE=jwt\n")
    assert server.up("files.example.com").returncode == 0
    assert server.calls == ["compose pull app", "compose up -d --remove-orphans", "compose ps"]


def test_up_stops_where_something_is_wrong(server: Server) -> None:
    server.stand_in("docker", '[ "$2" != run ] || exit 2')
    assert server.up("not a domain").returncode == 2
    assert server.calls == []
    server.init("files.example.com")
    done = server.up("other.example.com")
    assert done.returncode == 2
    assert "another domain" in done.stderr
    assert server.up().returncode == 2
    assert not [call for call in server.calls if call.startswith("compose up")]


# --- MinIO's set-up ---------------------------------------------------------------------------


def set_up(server: Server, **environ: str) -> subprocess.CompletedProcess[str]:
    made = {"BUCKET": "downloads", **{name: SET[name] for name in SET if name[:2] in ("MI", "S3")}}
    made["TMPDIR"] = str(server.folder)
    return server.run("sh", str(server.folder / "deploy/minio/setup"), **{**made, **environ})


def test_the_bucket_and_its_user(server: Server, tmp_path: Path) -> None:
    """The user may do what the server asks for, in that bucket, and nothing else."""
    server.stand_in(
        "mc",
        f"""case "$*" in
            "admin policy create"*) cp "$6" {tmp_path}/policy.json ;;
            "admin user info"*) cat {tmp_path}/user 2>/dev/null ;;
            "ilm rule import"*) cat >{tmp_path}/rules.json ;;
        esac; true""",
    )
    done = set_up(server)
    assert done.returncode == 0, done.stderr
    user = SET["S3_ACCESS_KEY_ID"]
    attach = f"admin policy attach store downloadd --user {user}"
    assert server.calls[0] == "mb --ignore-existing store/downloads"
    assert attach in server.calls
    policy = json.loads((tmp_path / "policy.json").read_text("utf-8"))
    allowed = {action for one in policy["Statement"] for action in one["Action"]}
    resources = {name for one in policy["Statement"] for name in one["Resource"]}
    assert resources == {"arn:aws:s3:::downloads", "arn:aws:s3:::downloads/*"}
    assert not any("*" in action for action in allowed)
    assert set().union(*(RIGHTS[name] for name in operations())) <= allowed
    rules = json.loads((tmp_path / "rules.json").read_text("utf-8"))
    days = rules["Rules"][0]["Expiration"]["Days"]
    assert days * 86400 > config.load(None, {"HOME": "/"}, {}).storage.archive_ttl

    # At every start again: what is attached is not attached twice, which would be an error.
    (tmp_path / "user").write_text('{"accessKey": "app", "policyName": "downloadd"}', "utf-8")
    server.calls_file.write_text("", "utf-8")
    assert set_up(server).returncode == 0
    assert attach not in server.calls


def operations() -> Iterator[str]:
    """The S3 operations that the server's code names."""
    text = "".join(
        path.read_text("utf-8") for path in (compose.ROOT / "downloadd/objects").glob("*.py")
    )
    known = {
        name
        for name in re.findall(r"\b([a-z]+(?:_[a-z0-9]+)+)\b", text)
        if re.match(r"(abort|complete|create|delete|get|head|list|put|upload|copy)_", name)
    }
    s3 = __import__("botocore.session").session.get_session().create_client("s3", "us-east-1")
    yield from (
        name for name in known if hasattr(s3, name) and name in s3.meta.method_to_api_mapping
    )


def test_the_set_up_refuses_samples(server: Server) -> None:
    """The server itself never sees these two."""
    server.stand_in("mc", "")
    for name in ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"):
        for value in ("change-me", "minioadmin"):
            done = set_up(server, **{name: value})
            assert done.returncode == 2
            assert "is a sample" in done.stderr
    assert server.calls == []


# --- Valkey's command -------------------------------------------------------------------------


def test_valkey_takes_its_command(tmp_path: Path) -> None:
    """As compose.yaml has it: with the password, on disk before it answers, evicting nothing."""
    command = compose.load(SET)["services"]["valkey"]["command"]
    port = free_port()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/valkey-server").symlink_to(find_server())
    script = command[-1].replace("dir /data", f"dir {tmp_path}\nport {port}\nbind 127.0.0.1")
    password = SET["VALKEY_PASSWORD"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command[:-1], script],
            env={
                "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "VALKEY_PASSWORD": password,
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        once = Retry(NoBackoff(), 0)
        with redis.Redis(port=port, password=password, decode_responses=True, retry=once) as client:
            deadline = time.monotonic() + 20
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            said = client.config_get("append*", "maxmemory*", "save")
            assert said["appendonly"] == "yes"
            assert said["appendfsync"] == "always"
            assert said["maxmemory-policy"] == "noeviction"
            assert int(said["maxmemory"]) == 512 << 20
            assert said["save"] == ""
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        # The shell has become the server: SIGTERM reaches it, and lists of processes tell nothing.
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert arguments.startswith(b"valkey-server")
        assert password.encode() not in arguments
        process.terminate()
        assert process.wait(20) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also one that the shell did not become
        process.wait(20)
