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
from downloadd.config.samples import KNOWN, is_sample
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


#: What the server calls samples, but for those that are of other programs.
MINIO_WORDS = (
    *(word for word in KNOWN if not re.search("256-bit|wjalr", word)),
    *("minio123", "admin2024", "password123", "Password1", "placeholder", "1234567890", "aaaaaaaa"),
)


class Server:
    """A checkout on a server, with stand-ins on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        shutil.copytree(compose.ROOT / "deploy", self.folder / "deploy")
        for name in (".env.example", "config.toml", "nginx.conf"):
            shutil.copy(compose.ROOT / name, self.folder / name)
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

    def say(self, *lines: str) -> None:
        """Add lines to .env."""
        with (self.folder / ".env").open("a", newline="") as file:
            file.writelines(f"{line}\n" for line in lines)

    def calls_of_up(self) -> list[str]:
        """What one more deploy/up calls, which has to do without complaint."""
        self.calls_file.write_text("", "utf-8")
        done = self.up()
        assert done.returncode == 0, done.stderr
        return self.calls

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
    "said",
    [
        *("", "a b", "files.example.com/path", "ftp://a.example", "x$(id)", "a\nb=c"),
        *(".", "-", "-x", "--domain", "a..b", "a.", ".a", "a-.b", "-a.b", "http://", "https:///"),
        *("files.example.com:99999", "a:0", "a:", "a:80:80", "a:080", "files.example.com//"),
        *(f"{'a' * 64}.example", ".".join(["a" * 60] * 5)),
    ],
)
def test_init_refuses_what_is_no_domain(server: Server, said: str) -> None:
    done = server.init(said)
    assert done.returncode == 2
    assert "deploy/init files.example.com" in done.stderr
    assert not (server.folder / ".env").exists()


def test_init_takes_one_domain_and_a_slash_behind_it(server: Server) -> None:
    assert server.init("a.example", "b.example").returncode == 2
    assert not (server.folder / ".env").exists()
    assert server.init("files.example.com/").returncode == 0
    assert compose.env_file(server.folder / ".env")["PUBLIC_URL"] == "https://files.example.com"


@pytest.mark.parametrize(
    "said", ["http://localhost:8080", "localhost:65535", "203.0.113.7", "a-b.c"]
)
def test_init_takes_names_ports_and_addresses(server: Server, said: str) -> None:
    assert server.init(said).returncode == 0


@pytest.mark.parametrize("script", ["init", "up"])
def test_a_script_tells_its_usage(server: Server, script: str) -> None:
    """And does nothing."""
    server.stand_in("docker", "")
    for said in ("-h", "--help"):
        done = server.run(str(server.folder / "deploy" / script), said)
        assert done.returncode == 0
        assert f"deploy/{script} files.example.com" in done.stdout
        assert "set -eu" not in done.stdout
    assert server.calls == []
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


def test_up_makes_no_key_where_it_cannot_see_which_there_are(server: Server) -> None:
    """It would be one more key of an admin, at every try."""
    server.stand_in("docker", 'case "$*" in *"keys list") echo HEAD; exit 1 ;; esac')
    server.init("files.example.com")
    done = server.up()
    assert done.returncode == 2
    assert "the API keys cannot be listed" in done.stderr
    assert not [call for call in server.calls if "keys add" in call or "up -d" in call]


@pytest.mark.parametrize(
    "line",
    ['AUTH_MODE="jwt"', "AUTH_MODE='jwt'", "AUTH_MODE=jwt\r", "export AUTH_MODE = jwt  # ours"],
)
def test_up_reads_env_as_compose_does(server: Server, line: str) -> None:
    server.stand_in("docker", "")
    server.init("other.example.com")
    server.say('PUBLIC_URL="https://files.example.com"\r', "AUTH_MODE=api-keys", line)
    assert server.up("files.example.com").returncode == 0
    assert server.up("https://files.example.com/").returncode == 0
    assert not [call for call in server.calls if "keys" in call]


@pytest.mark.parametrize("said", ["filesXexample.com", ".*", "http://files.example.com", "files"])
def test_up_takes_no_other_domain_for_this_one(server: Server, said: str) -> None:
    """Least of all one that is a pattern of it."""
    server.stand_in("docker", "")
    server.init("files.example.com")
    done = server.up(said)
    assert done.returncode == 2
    assert "another domain" in done.stderr
    assert server.calls == []


def test_up_starts_with_no_value_of_the_example(server: Server) -> None:
    """Some are refused by nobody else, such as Grafana's password."""
    server.stand_in("docker", "")
    example = compose.env_file(compose.ROOT / ".env.example")
    assert "GRAFANA_ADMIN_PASSWORD" in example
    for name in example.keys() - {"PUBLIC_URL"}:
        server.init("files.example.com")
        server.say(f'{name}="{example[name]}"')
        done = server.up()
        assert done.returncode == 2
        assert f"{name} in .env is that of .env.example" in done.stderr
        (server.folder / ".env").unlink()
    assert server.calls == []


#: A Docker with one container of each service, and one key.
ONE_OF_EACH = """case "$*" in
    *"keys list") echo HEAD; echo KEY ;;
    *" ps -q "*) echo "id-of-$5" ;;
esac"""


def mounts() -> Iterator[tuple[str, str]]:
    """Each service and a path here that it mounts, by compose.yaml."""
    for name, service in compose.load(SET)["services"].items():
        for volume in service.get("volumes", ()):
            path = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            if path.startswith(".") and path != "./deploy/tls" and name != "minio-setup":
                yield name, path


def test_up_starts_again_who_reads_a_file_that_has_changed(server: Server) -> None:
    """Compose does not see it: not an edit, and not a file that git put in its place."""
    server.stand_in("docker", ONE_OF_EACH)
    server.init("files.example.com")
    assert not [call for call in server.calls_of_up() if "restart" in call]
    assert not [call for call in server.calls_of_up() if "restart" in call]
    found = list(mounts())
    assert {name for name, _ in found} >= {"app", "nginx", "prometheus", "grafana", "alloy"}
    for name, path in found:
        file = server.folder / path
        if file.is_dir():
            file = next(one for one in sorted(file.rglob("*")) if one.is_file())
        new = file.with_name("new")
        new.write_bytes(file.read_bytes() + b"\n")
        new.replace(file)
        calls = server.calls_of_up()
        restart = f"compose --profile observability restart {name}"
        assert [call for call in calls if "restart" in call] == [restart], path
        assert calls.index(restart) > calls.index("compose up -d --remove-orphans")
        assert not [call for call in server.calls_of_up() if "restart" in call]
    file.unlink()
    assert f"compose --profile observability restart {name}" in server.calls_of_up()


def test_up_starts_again_only_what_has_run_all_the_time(server: Server) -> None:
    """Not what does not run, nor what Compose has just put in its place."""
    state = server.folder / "state"
    server.stand_in(
        "docker",
        f"""case "$*" in
            *"keys list") echo HEAD; echo KEY ;;
            *" ps -q "*) cat {state} ;;
            *" up -d "*) echo new >{state} ;;
        esac""",
    )
    server.init("files.example.com")
    for before, again in (("", False), ("old\nolder", False), ("old\nnew", True)):
        state.write_text("", "utf-8")
        server.calls_of_up()
        state.write_text(before, "utf-8")
        with (server.folder / "config.toml").open("a") as file:
            file.write("# edited\n")
        assert any("restart app" in call for call in server.calls_of_up()) is again


def test_up_goes_on_from_what_failed(server: Server) -> None:
    """A change that was not brought to its service is one still."""
    server.stand_in("docker", ONE_OF_EACH)
    server.init("files.example.com")
    server.calls_of_up()
    (server.folder / "nginx.conf").write_text("# another", "utf-8")
    server.stand_in("docker", '[ "$2" != up ] || exit 1; echo one; echo two')
    assert server.up().returncode == 1
    server.stand_in("docker", ONE_OF_EACH)
    assert "compose --profile observability restart nginx" in server.calls_of_up()


def test_files_of_ones_own(server: Server) -> None:
    """Named in .env, mounted by Compose, looked at by deploy/up, left alone by git."""
    own = {"CONFIG_FILE": "config.local.toml", "NGINX_CONF": "./nginx.local.conf"}
    services = compose.load({**SET, **own})["services"]
    for name, path in (("app", own["CONFIG_FILE"]), ("nginx", own["NGINX_CONF"])):
        (mount,) = (one for one in services[name]["volumes"] if isinstance(one, dict))
        # A bind by its type: without ./ it is no name of a volume; nor is a folder made of it.
        assert (mount["type"], mount["source"]) == ("bind", path)
        assert mount["bind"] == {"create_host_path": False}
        assert mount["read_only"] is True
    ignored = (compose.ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert {"/*.local.*", "/.deployed"} <= {*ignored}

    server.stand_in("docker", ONE_OF_EACH)
    server.init("files.example.com")
    server.say(*(f"{name}={path}" for name, path in own.items()))
    done = server.up()
    assert done.returncode == 2
    assert "config.local.toml is no file" in done.stderr
    for path in own.values():
        shutil.copy(server.folder / "config.toml", server.folder / path)
        (server.folder / path).chmod(0o640)
    done = server.up()
    assert done.returncode == 0
    assert "not everybody may read config.local.toml" in done.stderr
    assert stat.S_IMODE((server.folder / "config.local.toml").stat().st_mode) == 0o640
    (server.folder / "config.toml").write_text("", "utf-8")
    assert not [call for call in server.calls_of_up() if "restart" in call]
    (server.folder / "config.local.toml").write_text("", "utf-8")
    assert "compose --profile observability restart app" in server.calls_of_up()


def test_up_lets_containers_read_what_they_mount(server: Server) -> None:
    """After a clone under umask 077; certificates and secrets keep their modes."""
    for path in server.folder.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    server.stand_in("docker", ONE_OF_EACH)
    server.init("files.example.com")
    key = server.folder / "deploy/tls/tls.key"
    key.write_text("secret", "utf-8")
    key.chmod(0o600)
    server.calls_of_up()
    paths = {path for _, path in mounts()} | {"deploy/minio/setup"}
    for path in paths:
        for one in (server.folder / path, *(server.folder / path).rglob("*")):
            wanted = 0o055 if one.is_dir() else 0o044
            assert one.stat().st_mode & wanted == wanted, one
    for private in (key, key.parent, server.folder / ".env"):
        assert private.stat().st_mode & 0o077 == 0


# --- what CI runs ------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [".env", "app.env"])
def test_the_whole_run_of_ci_touches_no_installation(server: Server, there: str) -> None:
    """It ends by removing volumes and secrets: never those of a service that is in use."""
    shutil.copytree(compose.ROOT / ".ci", server.folder / ".ci")
    server.stand_in("docker", "")
    (server.folder / there).write_text("PUBLIC_URL=https://files.example.com\n", "utf-8")
    done = server.run(str(server.folder / ".ci/stack"))
    assert done.returncode == 2
    assert server.calls == []
    assert (server.folder / there).exists()


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
    fill_in = ("change-me", "Change.Me", "CHANGEME-CHANGEME", "please-change", "<password>")
    for name, values in (
        ("MINIO_ROOT_USER", ("minioadmin", *fill_in)),
        # MinIO itself takes none that is shorter.
        ("MINIO_ROOT_PASSWORD", (*fill_in, *(word for word in MINIO_WORDS if len(word) >= 8))),
    ):
        for value in values:
            done = set_up(server, **{name: value})
            assert done.returncode == 2, value
            assert f"{name} is a sample" in done.stderr
            assert is_sample(value)
    assert server.calls == []


@pytest.mark.parametrize(
    "password",
    ["x<9fK!q>2Zr", "4f0c-example", "admin-4f0c2e71", "12ab34cd56ef", "12345678ab0f", "!!!!!!!-"],
)
def test_the_set_up_takes_what_is_no_sample(server: Server, password: str) -> None:
    server.stand_in("mc", "")
    done = set_up(server, MINIO_ROOT_PASSWORD=password, MINIO_ROOT_USER="admin")
    assert done.returncode == 0, done.stderr
    assert not is_sample(password)


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
