"""Settings: what is read, what wins, what is refused and in which words."""

from __future__ import annotations

import ast
import base64
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downloadd import config
from downloadd.cli import main
from downloadd.cli.check_config import lines, toml
from downloadd.config.fields import MASK
from downloadd.errors import ConfigError
from downloadd.network.guard import AddressGuard

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
#: What ``network.allow`` and ``network.deny`` do not take.
WRONG_PEERS = (
    *("300.1.1.1", "1.2", "0x7f.1", "a..b", ".a", "a" * 64, "a b", "a:", "a:0", "a:+80", "h:٨٠"),
    *("[1.2]:80", "[::1", "[a]", "::1%lo", "fe80::1%1/128", "10.0.0.1/8", "10.0.0.0/33"),
    *("ü..b", "a?b", "@a"),
)


def load(
    text: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
) -> config.Settings:
    """Load settings from the text of a file, variables, and flags."""
    return trace(text, environ, overrides, folder=folder).settings


def trace(
    text: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
) -> config.Loaded:
    path = None
    if text is not None:
        assert folder is not None
        path = folder / "config.toml"
        path.write_text(text, encoding="utf-8")
    return config.trace(path, {"HOME": "/home/ada", **(environ or {})}, overrides or {})


def refused(*args: Any, **kwargs: Any) -> str:
    """The one line with which settings are refused."""
    with pytest.raises(ConfigError) as caught:
        load(*args, **kwargs)
    assert "\n" not in caught.value.message
    return caught.value.message


class TestDefaults:
    def test_config_toml_holds_every_setting_once(self) -> None:
        """The file shows each setting with its section, and nothing that is no setting."""
        text = (ROOT / "config.toml").read_text(encoding="utf-8")
        shown = [
            f"{section}.{key}" for section, table in tomllib.loads(text).items() for key in table
        ]
        assert shown == list(config.SETTINGS)

    def test_config_toml_is_the_defaults(self) -> None:
        """Starting with the shipped file is starting with none."""
        environ = {"HOME": "/home/ada"}
        assert config.load(ROOT / "config.toml", environ, {}) == config.load(None, environ, {})

    def test_settings_of_the_contract(self) -> None:
        """Whatever SPEC §8 lists can be set."""
        listed = {
            "server": "host port request_timeout cors_origins trusted_proxies public_url",
            "state": "redis_url prefix wait_for_fsync data_dir",
            "storage": "kind bucket endpoint public_endpoint region access_key_id "
            "secret_access_key force_path_style source_key presign_ttl archive_ttl",
            "jobs": "concurrency queue_limit timeout max_files max_file_bytes max_job_bytes "
            "max_disk_bytes lease dedupe_window retry_window completed_ttl failed_ttl",
            "fetch": "per_job total per_host retries backoff connect_timeout stall_timeout "
            "max_redirects source_url_template format_check",
            "network": "allow deny ports",
            "auth": "mode api_keys_file jwt_key jwt_jwks_file jwt_algorithms jwt_issuer "
            "jwt_audience roles",
            "limits": "requests_per_minute jobs_per_minute quotas",
            "webhooks": "secret timeout schedule",
            "telemetry": "log_level log_format service_name sentry_dsn otlp_endpoint",
            "simulation": "enabled min_ms max_ms",
        }
        names = {f"{section}.{key}" for section, keys in listed.items() for key in keys.split()}
        assert names <= config.SETTINGS.keys()

    def test_numbers_of_the_contract(self) -> None:
        """The bold numbers of SPEC §4 to §9 are the defaults."""
        settings = load()
        assert settings.fetch == config.Fetch(
            per_job=8,
            total=32,
            per_host=6,
            retries=3,
            backoff=1,
            connect_timeout=10,
            stall_timeout=30,
            max_redirects=5,
            source_url_template="",
            format_check="warn",
        )
        assert settings.jobs == config.Jobs(
            concurrency=8,
            queue_limit=10_000,
            timeout=3600,
            max_files=1000,
            max_file_bytes=20 * GIB,
            max_job_bytes=100 * GIB,
            max_disk_bytes=10 * GIB,
            lease=30,
            dedupe_window=3600,
            retry_window=3600,
            completed_ttl=86_400,
            failed_ttl=604_800,
        )
        assert (settings.server.host, settings.server.port) == ("127.0.0.1", 3000)
        assert settings.server.request_timeout == 30
        assert settings.network.ports == ((80, 80), (443, 443), (8000, 8999))
        assert (settings.storage.presign_ttl, settings.storage.archive_ttl) == (3600, 86_400)
        assert settings.storage.create_bucket
        assert settings.state.prefix == "{downloadd}:"

    @pytest.mark.parametrize(
        ("environ", "folder"),
        [
            ({"XDG_DATA_HOME": "/data"}, "/data/downloadd"),
            ({"XDG_DATA_HOME": "relative"}, "/home/ada/.local/share/downloadd"),
            ({}, "/home/ada/.local/share/downloadd"),
        ],
    )
    def test_data_dir_follows_xdg(self, environ: Mapping[str, str], folder: str) -> None:
        """The data folder is where the XDG specification has it; relative paths are ignored."""
        assert load(environ=environ).state.data_dir == Path(folder)

    @pytest.mark.parametrize(
        "key", ["{file_id}", "{file_id}.zip", "in/{file_id}/ä {x}.pdf", "{file_id}/{file_id}..zip"]
    )
    def test_source_keys(self, key: str) -> None:
        """Any key within the storage may be what an id stands for."""
        assert load(overrides={"storage.source_key": key}).storage.source_key == key

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "a.zip",
            "/{file_id}",
            "{file_id}/",
            "a//{file_id}",
            "../{file_id}",
            "a/../{file_id}",
            "{file_id}/..",
            ".uploads/{file_id}",
            "a\\{file_id}",
            "a\n{file_id}",
            "x" * 1000 + "{file_id}",
            # What the sweeper would take for an archive whose job is forgotten.
            "{file_id}000-0000-4000-8000-000000000000.zip",
            "00000000-0000-4000-8000-{file_id}0000000-1.zip",
        ],
    )
    def test_source_keys_stay_where_they_belong(self, key: str) -> None:
        """A key that leads out of the storage's folder, or is an archive's own, is refused."""
        assert "--source-key is" in refused(overrides={"storage.source_key": key})

    @pytest.mark.parametrize(
        ("environ", "kind"),
        [
            ({}, "local"),
            ({"S3_BUCKET_NAME": "downloads"}, "s3"),
            ({"S3_BUCKET_NAME": "downloads", "DOWNLOADD_STORAGE_KIND": "local"}, "local"),
        ],
    )
    def test_a_bucket_means_s3(self, environ: Mapping[str, str], kind: str) -> None:
        """Storage is S3 once a bucket is named, unless the kind is said outright."""
        assert load(environ=environ).storage.kind == kind


class TestSources:
    def test_flags_win_over_environment_over_file(self, tmp_path: Path) -> None:
        """The nearer to the command a value is given, the more it counts."""
        text = '[server]\nport = 1001\n[fetch]\ntotal = 7\n[telemetry]\nlog_level = "error"\n'
        settings = load(
            text,
            {"DOWNLOADD_SERVER_PORT": "1002", "DOWNLOADD_TELEMETRY_LOG_LEVEL": "debug"},
            {"server.port": "1003", "server.host": None},
            folder=tmp_path,
        )
        assert settings.server.port == 1003
        assert settings.telemetry.log_level == "debug"
        assert settings.fetch.total == 7
        assert settings.server.host == "127.0.0.1"

    def test_environment_takes_every_kind(self) -> None:
        """Variables are text: lists have commas, switches have words, sizes have units."""
        settings = load(
            environ={
                "DOWNLOADD_NETWORK_ALLOW": "files.example:8443, 10.1.0.0/16,::1",
                "DOWNLOADD_NETWORK_PORTS": "443,9000-9100",
                "DOWNLOADD_SERVER_TRUSTED_PROXIES": "10.0.0.0/8,192.0.2.1",
                "DOWNLOADD_STATE_WAIT_FOR_FSYNC": "Yes",
                "DOWNLOADD_JOBS_MAX_FILE_BYTES": "1.5 GiB",
                "DOWNLOADD_JOBS_MAX_JOB_BYTES": "500MB",
                "DOWNLOADD_FETCH_BACKOFF": "0.25",
                "DOWNLOADD_STATE_DATA_DIR": "~/x",
            },
        )
        assert settings.network.allow == ("files.example:8443", "10.1.0.0/16", "::1/128")
        assert settings.network.ports == ((443, 443), (9000, 9100))
        assert settings.server.trusted_proxies == (
            ip_network("10.0.0.0/8"),
            ip_network("192.0.2.1/32"),
        )
        assert settings.state.wait_for_fsync is True
        assert settings.jobs.max_file_bytes == 3 * GIB // 2
        assert settings.jobs.max_job_bytes == 500_000_000
        assert settings.fetch.backoff == 0.25
        assert settings.state.data_dir == Path.home() / "x"

    def test_well_known_names(self) -> None:
        """Names that other programs use work; milliseconds become seconds."""
        settings = load(
            environ={
                "PORT": "8080",
                "REDIS_URL": "redis://:pw@redis:6379/1",
                "S3_ENDPOINT": "http://minio:9000/",
                "S3_PUBLIC_ENDPOINT": "https://files.example",
                "S3_REGION": "eu-central-1",
                "S3_BUCKET_NAME": "downloads",
                "S3_ACCESS_KEY_ID": "minioadmin",
                "S3_SECRET_ACCESS_KEY": "minioadmin",
                "S3_FORCE_PATH_STYLE": "true",
                "REQUEST_TIMEOUT_MS": "2500",
                "CORS_ORIGINS": "http://localhost:5173,https://example.com",
                "SENTRY_DSN": "https://key@sentry.example/1",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
                "RATE_LIMIT_WINDOW_MS": "30000",
                "RATE_LIMIT_MAX_REQUESTS": "50",
                "DOWNLOAD_DELAY_ENABLED": "true",
                "DOWNLOAD_DELAY_MIN_MS": "5000",
                "DOWNLOAD_DELAY_MAX_MS": "15000",
            },
        )
        assert settings.server.port == 8080
        assert settings.server.request_timeout == 2.5
        assert settings.server.cors_origins == ("http://localhost:5173", "https://example.com")
        assert settings.state.redis_url == "redis://:pw@redis:6379/1"
        assert settings.storage == config.Storage(
            kind="s3",
            bucket="downloads",
            endpoint="http://minio:9000",
            public_endpoint="https://files.example",
            region="eu-central-1",
            access_key_id="minioadmin",
            secret_access_key="minioadmin",
            force_path_style=True,
        )
        assert settings.telemetry.sentry_dsn == "https://key@sentry.example/1"
        assert settings.telemetry.otlp_endpoint == "http://collector:4318"
        assert (settings.limits.requests_per_minute, settings.limits.window) == (50, 30)
        assert settings.simulation == config.Simulation(enabled=True, min_ms=5000, max_ms=15_000)

    @pytest.mark.parametrize(
        "peer",
        [
            *("files.example", "Files.Example.:8443", "bücher.example", "_dmarc.a-b", "1a.example"),
            *("10.0.0.1", "10.0.0.1:80", "[10.0.0.1]:80", "::1", "[::1]", "[::1]:80"),
            *("10.0.0.0/8", "fd00::/8", "1.2.3.example", "xn--bcher-kva.example:1"),
        ],
    )
    def test_peers(self, peer: str) -> None:
        """Every form that the address guard takes is taken, and the guard takes the outcome."""
        network = load(overrides={"network.allow": [peer], "network.deny": [peer]}).network
        AddressGuard(allow=network.allow, deny=network.deny)

    @pytest.mark.parametrize(
        "url",
        [
            "redis://h",
            "redis://h:6379/",
            "redis://h/0/",
            "unix:///run/redis@6380/redis.sock",
            "rediss://ada:p%40s%2Fs@[::1]:6380/15?ssl_cert_reqs=none",
            "redis://h?db=3&socket_keepalive=yes",
            "unix:///run/valkey.sock?db=1",
            "unix://ada:pw@/run/valkey.sock",
            "",
        ],
    )
    def test_redis_urls(self, url: str) -> None:
        """Every form that redis-py takes is taken."""
        assert load(environ={"REDIS_URL": url}).state.redis_url == url

    def test_quotas_are_tables_of_the_file(self, tmp_path: Path) -> None:
        """Each role has its own quota, sizes with units."""
        text = "[limits.quotas]\nuser = { jobs_per_day = 9, bytes_per_day = '1 GiB' }\n"
        quotas = load(text, folder=tmp_path).limits.quotas
        assert quotas == {"user": config.Quota(jobs_per_day=9, bytes_per_day=GIB)}

    def test_own_names_win_and_empty_ones_do_not_count(self) -> None:
        """DOWNLOADD_… is meant for us alone; an empty variable is an unset one."""
        environ = {"PORT": "1", "DOWNLOADD_SERVER_PORT": "2", "S3_BUCKET_NAME": ""}
        settings = load(environ=environ)
        assert (settings.server.port, settings.storage.kind) == (2, "local")

    @pytest.mark.parametrize("name", ["REDIS_URL_FILE", "DOWNLOADD_STATE_REDIS_URL_FILE"])
    def test_secrets_come_from_files(self, name: str, tmp_path: Path) -> None:
        """A secret's variable may name a file; the newline at its end is no part of it."""
        path = tmp_path / "secret"
        path.write_text("redis://:pw@h:6379/0\n")
        assert load(environ={name: str(path)}).state.redis_url == "redis://:pw@h:6379/0"

    def test_secret_files_that_do_not_help(self, tmp_path: Path) -> None:
        """A missing or empty secret file, or a secret given twice, stops the start."""
        empty = tmp_path / "empty"
        empty.touch()
        missing = {"REDIS_URL_FILE": str(tmp_path / "none")}
        assert "cannot be read" in refused(environ=missing)
        assert "is empty" in refused(environ={"REDIS_URL_FILE": str(empty)})
        both = refused(environ={"REDIS_URL": "redis://h", "REDIS_URL_FILE": str(empty)})
        assert both == "REDIS_URL and REDIS_URL_FILE are both set: keep one of them"

    def test_kubernetes_service_links_are_no_settings(self) -> None:
        """What Kubernetes adds for services named downloadd… stops nothing."""
        environ = {
            "DOWNLOADD_SERVICE_HOST": "10.0.0.1",
            "DOWNLOADD_SERVICE_PORT": "3000",
            "DOWNLOADD_PORT": "tcp://10.0.0.1:3000",
            "DOWNLOADD_PORT_3000_TCP_PROTO": "tcp",
            "DOWNLOADD_REDIS_PORT_6379_TCP_ADDR": "10.0.0.2",
        }
        assert load(environ=environ) == load()

    @pytest.mark.parametrize("name", ["DOWNLOADD_PORT", "DOWNLOADD_SERVR_PORT"])
    def test_a_port_that_kubernetes_did_not_give_is_no_link(self, name: str) -> None:
        """A plain number under such a name is somebody's mistake, and is not passed over."""
        message = refused(environ={name: "8080"})
        assert message == f"{name} is no setting: did you mean DOWNLOADD_SERVER_PORT?"


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[sever]\n", "[sever] in {path} is no section: did you mean server?"),
            (
                "[server]\nprot = 1\n",
                "server.prot in {path} is no setting: did you mean server.port?",
            ),
            (
                "[jobs]\nper_host = 1\n",
                "jobs.per_host in {path} is no setting: did you mean fetch.per_host?",
            ),
            ("server = 1\n", "server in {path} is a section: write [server]"),
            (
                "[server]\nport = 70000\n",
                "server.port in {path} is 70000: it must be a whole number from 0 to 65535",
            ),
            (
                "[fetch]\nretries = true\n",
                "fetch.retries in {path} is true: it must be a whole number from 0 to 100",
            ),
            (
                '[state]\ndata_dir = "/tmp/\\u0000"\n',
                'state.data_dir in {path} is "/tmp/\\u0000": it must be empty or a path in UTF-8',
            ),
            (
                '[fetch]\nformat_check = "on"\n',
                'fetch.format_check in {path} is "on": it must be "warn" or "reject" or "off"',
            ),
        ],
    )
    def test_the_file_is_named_with_setting_and_value(
        self, text: str, message: str, tmp_path: Path
    ) -> None:
        """A wrong line of the file is told in one line: where, what, what else."""
        path = tmp_path / "config.toml"
        assert refused(text, folder=tmp_path) == message.replace("{path}", str(path))

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        """A missing file and broken TOML stop the start."""
        with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file"):
            config.load(tmp_path / "none.toml", {}, {})
        assert "is not proper TOML" in refused("[server\n", folder=tmp_path)
        endless = f"[server]\nport = {'9' * 5000}\n"
        assert "is not proper TOML" in refused(endless, folder=tmp_path)

    @pytest.mark.parametrize(
        ("environ", "message"),
        [
            (
                {"PORT": "abc"},
                'PORT is "abc": it must be a whole number from 0 to 65535',
            ),
            (
                {"DOWNLOADD_NETWORK_DENNY": "x"},
                "DOWNLOADD_NETWORK_DENNY is no setting: did you mean DOWNLOADD_NETWORK_DENY?",
            ),
            (
                {"REQUEST_TIMEOUT_MS": "soon"},
                'REQUEST_TIMEOUT_MS is "soon": it must be a whole number of milliseconds',
            ),
            (
                {"REQUEST_TIMEOUT_MS": "0"},
                'REQUEST_TIMEOUT_MS is "0": it must be a number of seconds from 0.1 to 86400',
            ),
            (
                {"REQUEST_TIMEOUT_MS": "2_000"},
                'REQUEST_TIMEOUT_MS is "2_000": it must be a whole number of milliseconds',
            ),
            (
                {"DOWNLOADD_STORAGE_KIND": "s3"},
                'DOWNLOADD_STORAGE_KIND is "s3": storage.bucket must name the bucket',
            ),
        ],
    )
    def test_the_variable_is_named_as_it_was_written(
        self, environ: Mapping[str, str], message: str
    ) -> None:
        """A wrong variable is told by its own name and text."""
        assert refused(environ=environ) == message

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("SERVER_HOST", "two words"),
            ("WEBHOOKS_SECRET", "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0"),
            ("WEBHOOKS_SECRET", "whsec_c2VjcmV0"),
            ("WEBHOOKS_SECRET", f"whsec_{'A' * 33}"),
            ("WEBHOOKS_SECRET", f"whsec_{'A' * 88}"),
            ("WEBHOOKS_SECRET", f"whsec_{'A' * 31}!"),
            ("SERVER_HOST", "a..b"),
            ("SERVER_HOST", "a" * 64),
            ("SERVER_HOST", "300.1.1.1"),
            ("SERVER_HOST", "1.2"),
            ("SERVER_PUBLIC_URL", "downloads.example"),
            ("SERVER_CORS_ORIGINS", "https://a.example/path"),
            ("SERVER_TRUSTED_PROXIES", "10.0.0.1/8"),
            ("STATE_PREFIX", "downloadd:"),
            ("STATE_REDIS_URL", "http://h"),
            ("STATE_REDIS_URL", "redis://h:99999"),
            ("STATE_REDIS_URL", "redis://a..b"),
            ("STATE_REDIS_URL", "redis://h/x"),
            ("STATE_REDIS_URL", "redis://h/0?db=abc"),
            ("STATE_REDIS_URL", "redis://h?nonsense=1"),
            ("STATE_REDIS_URL", "rediss://h?ssl_cert_reqs=nonsense"),
            ("STATE_REDIS_URL", "redis://h#0"),
            ("STORAGE_BUCKET", "Not_A_Bucket"),
            ("STORAGE_ENDPOINT", "ftp://h"),
            ("STORAGE_ENDPOINT", "https://a..b"),
            ("STORAGE_PRESIGN_TTL", "604801"),
            ("STATE_WAIT_FOR_FSYNC", "maybe"),
            ("JOBS_MAX_FILE_BYTES", "10 potatoes"),
            ("JOBS_MAX_DISK_BYTES", "1 MiB"),
            ("SERVER_PORT", "8_0"),
            ("SERVER_PORT", " 80 "),
            ("SERVER_PORT", "+80"),
            ("SERVER_PORT", "٨٠"),
            ("JOBS_MAX_FILE_BYTES", " 80 "),
            ("JOBS_MAX_FILE_BYTES", "٨٠ GiB"),
            ("JOBS_LEASE", "1_0"),
            ("JOBS_LEASE", " 10 "),
            ("JOBS_LEASE", "١٠"),
            ("NETWORK_PORTS", "8_0"),
            ("NETWORK_PORTS", "80 - 90"),
            ("STATE_DATA_DIR", "/tmp/caf\udce9"),
            ("JOBS_LEASE", "nan"),
            ("JOBS_LEASE", "9" * 400),
            ("JOBS_MAX_FILE_BYTES", "9" * 400 + " GiB"),
            ("FETCH_CONNECT_TIMEOUT", "0"),
            ("NETWORK_ALLOW", "http://h"),
            ("NETWORK_ALLOW", "h:99999"),
            *((name, peer) for name in ("NETWORK_ALLOW", "NETWORK_DENY") for peer in WRONG_PEERS),
            ("NETWORK_PORTS", "0"),
            ("NETWORK_PORTS", "9-8"),
            ("NETWORK_PORTS", "80-"),
            ("TELEMETRY_LOG_LEVEL", "loud"),
            ("LIMITS_QUOTAS", "user"),
        ],
    )
    def test_wrong_values(self, name: str, value: str) -> None:
        """Each kind of value has its limits, and the refusal names the variable."""
        assert refused(environ={f"DOWNLOADD_{name}": value}).startswith(f"DOWNLOADD_{name} is ")

    @pytest.mark.parametrize("name", ["REQUEST_TIMEOUT_MS", "RATE_LIMIT_WINDOW_MS"])
    @pytest.mark.parametrize("count", [400, 5000])
    def test_milliseconds_without_end(self, name: str, count: int) -> None:
        """A number that is longer than Python's own is outside the limits, and no traceback."""
        message = refused(environ={name: "9" * count})
        assert message.startswith(f"{name} is ")
        assert "it must be a number of seconds from" in message

    @given(st.text("a1.:/[]-x%\u0130ü_ ", max_size=12))
    def test_no_peer_passes_that_the_guard_refuses(self, text: str) -> None:
        """Whatever the settings take, the address guard takes: the start cannot fail there."""
        try:
            taken = load(overrides={"network.allow": [text]}).network.allow
        except ConfigError:
            return
        AddressGuard(allow=taken)

    @pytest.mark.parametrize(
        "environ",
        [
            {"REDIS_URL": "reddis://:hunter2@h"},
            {"REDIS_URL": "redis://me:123/hunter2@h"},
            {"REDIS_URL": "redis://me:123?hunter2@h"},
            {"REDIS_URL": "redis://me:123#hunter2@h"},
            {"REDIS_URL": "redis://h/0?password=hunter2@"},
            {"S3_ENDPOINT": "https://me:hunter2@h"},
            {"S3_ENDPOINT": "https://me:123/hunter2@h"},
            {"SENTRY_DSN": "https://hunter2@sentry.example/"},
            {"DOWNLOADD_WEBHOOKS_SECRET": "whsec_hunter2"},
        ],
    )
    def test_refusals_hold_no_secret(self, environ: Mapping[str, str]) -> None:
        """What may hold a credential is masked in the refusal."""
        message = refused(environ=environ)
        assert "hunter2" not in message
        assert MASK in message

    def test_a_home_that_is_not_utf8(self) -> None:
        """A data folder that cannot be is refused also where nobody has named it."""
        environ = {"XDG_DATA_HOME": "/data/caf\udce9"}
        message = refused(environ=environ)
        assert message.startswith('state.data_dir is "/data/caf\\udce9/downloadd", by XDG_')
        environ["DOWNLOADD_STATE_DATA_DIR"] = "/data/x"
        assert load(environ=environ).state.data_dir == Path("/data/x")

    def test_a_wrong_flag_is_told_by_its_name(self) -> None:
        """A flag is named as it is typed."""
        assert refused(overrides={"server.port": "x"}).startswith('--port is "x": ')

    def test_a_delay_has_its_ends_in_order(self) -> None:
        """A range that ends before it begins is refused."""
        assert "must not be above" in refused(environ={"DOWNLOAD_DELAY_MIN_MS": "300000"})

    def test_half_a_key_is_refused(self) -> None:
        """An access key without its secret is a mistake, not a choice."""
        assert "go together" in refused(environ={"S3_ACCESS_KEY_ID": "a"})


class TestAnonymous:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "downloads.example"])
    def test_everybody_is_not_let_in_by_mistake(self, host: str) -> None:
        """Without authentication, listening beyond this machine has to be asked for."""
        message = refused(environ={"DOWNLOADD_SERVER_HOST": host})
        assert "DOWNLOADD_AUTH_ALLOW_ANONYMOUS=true" in message
        environ = {"DOWNLOADD_SERVER_HOST": host, "DOWNLOADD_AUTH_ALLOW_ANONYMOUS": "true"}
        assert load(environ=environ).server.host == host

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
    def test_this_machine_may(self, host: str) -> None:
        """Loopback addresses need no leave."""
        assert load(environ={"DOWNLOADD_SERVER_HOST": host}).server.host == host


class TestAuth:
    KEY = base64.b64encode(bytes(32)).decode()

    def test_with_it_everybody_may_reach_the_server(self) -> None:
        """Who has to say who he is need not be kept away."""
        settings = load(
            environ={"DOWNLOADD_AUTH_MODE": "api-keys", "DOWNLOADD_SERVER_HOST": "0.0.0.0"}
        )
        assert (settings.server.host, settings.auth.mode) == ("0.0.0.0", "api-keys")

    @pytest.mark.parametrize("environ", [{}, {"KEY": "x" * 32, "JWKS_FILE": "/keys.json"}])
    def test_tokens_need_one_key(self, environ: dict[str, str]) -> None:
        """A secret, a public key or a file of keys; not none, and not two."""
        given = {f"DOWNLOADD_AUTH_JWT_{name}": value for name, value in environ.items()}
        message = refused(environ={"DOWNLOADD_AUTH_MODE": "jwt", **given})
        assert "auth.jwt_key or auth.jwt_jwks_file" in message

    def test_a_shared_redis_needs_a_shared_key(self) -> None:
        """All servers have to know each other's event tokens."""
        environ = {"DOWNLOADD_AUTH_MODE": "api-keys", "REDIS_URL": "redis://h:6379"}
        assert "state.secret_key must be set" in refused(environ=environ)
        settings = load(environ={**environ, "DOWNLOADD_STATE_SECRET_KEY": self.KEY})
        assert settings.state.secret_key == self.KEY
        assert self.KEY not in repr(settings)

    @pytest.mark.parametrize("key", ["x", "A" * 40, base64.b64encode(bytes(31)).decode(), "é" * 44])
    def test_a_key_is_256_bits(self, key: str) -> None:
        """What was thought up, or is too short, is refused; it is not repeated."""
        message = refused(environ={"DOWNLOADD_STATE_SECRET_KEY": key})
        assert "openssl rand -base64 32" in message
        assert key not in message or key == "x"

    def test_a_pem_of_several_lines(self) -> None:
        """Keys have line ends, in the file and in the environment."""
        pem = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
        environ = {"DOWNLOADD_AUTH_MODE": "jwt", "DOWNLOADD_AUTH_JWT_KEY": pem}
        assert load(environ=environ).auth.jwt_key == pem

    @pytest.mark.parametrize("table", ["quotas", "priorities"])
    def test_limits_are_of_roles_that_there_are(self, table: str, tmp_path: Path) -> None:
        """A limit of a role that nobody has would protect from nobody."""
        value = '"low"' if table == "priorities" else "{ jobs_per_day = 1 }"
        message = refused(f"[limits.{table}]\nusr = {value}", folder=tmp_path)
        assert message == f'limits.{table} has "usr": the roles are admin, anonymous, user'
        assert load(f"[limits.{table}]\nanonymous = {value}", folder=tmp_path)

    def test_nobody_with_a_name_is_anonymous(self, tmp_path: Path) -> None:
        """Users of that role would be counted by their addresses."""
        message = refused('[auth]\nroles = ["user", "anonymous"]', folder=tmp_path)
        assert message.startswith('auth.roles has "anonymous"')

    def test_quotas_have_what_is_given(self, tmp_path: Path) -> None:
        """Each number may be left out; nothing at all is a mistake."""
        text = '[limits.quotas]\nuser = { jobs_per_day = 5, bytes_per_day = "1 GiB" }'
        quota = load(text, folder=tmp_path).limits.quotas["user"]
        assert quota == config.Quota(jobs_per_day=5, bytes_per_day=GIB)
        for wrong in ("{}", "{ jobs_a_day = 5 }", "5"):
            assert "limits.quotas" in refused(f"[limits.quotas]\nuser = {wrong}", folder=tmp_path)


class TestServed:
    def test_every_setting_is_served(self) -> None:
        """No setting is taken and then ignored: something reads it."""
        read = {
            node.attr
            for path in (ROOT / "downloadd").rglob("*.py")
            if path.name not in ("sections.py", "fields.py", "address_fields.py")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute)
        }
        assert [name for name in config.SETTINGS if name.partition(".")[2] not in read] == []

    def test_saying_the_default_is_allowed(self) -> None:
        """A file or environment that only repeats defaults starts."""
        environ = {"RATE_LIMIT_MAX_REQUESTS": "100", "RATE_LIMIT_WINDOW_MS": "60000"}
        assert load(environ=environ) == load()


class TestCheckConfig:
    def test_says_who_gave_what(self, tmp_path: Path) -> None:
        """Each value that is not the default carries its origin."""
        loaded = trace(
            "[jobs]\nconcurrency = 3\nlease = 30\n",
            {"S3_BUCKET_NAME": "downloads"},
            {"server.port": 8080},
            folder=tmp_path,
        )
        shown = list(lines(loaded))
        path = tmp_path / "config.toml"
        assert "port = 8080  # flag: --port" in shown
        assert 'bucket = "downloads"  # environment: S3_BUCKET_NAME' in shown
        assert 'kind = "s3"  # because storage.bucket is set' in shown
        assert f"concurrency = 3  # jobs.concurrency in {path}" in shown
        assert "lease = 30" in shown

    def test_what_it_prints_is_a_configuration(self, tmp_path: Path) -> None:
        """The output, loaded as a file, gives the settings that it was made from."""
        loaded = trace(
            environ={"DOWNLOADD_NETWORK_PORTS": "443,9000-9100", "DOWNLOADD_FETCH_BACKOFF": ".5"},
        )
        assert load("\n".join(lines(loaded)), folder=tmp_path) == loaded.settings

    def test_secrets_are_masked(self) -> None:
        """No credential is printed; what else a Redis URL says is."""
        environ = {
            "REDIS_URL": "redis://ada:hunter2@redis:6379/0?password=hunter2&socket_timeout=3",
            "S3_ACCESS_KEY_ID": "hunter2",
            "S3_SECRET_ACCESS_KEY": "hunter2",
        }
        loaded = trace(environ=environ)
        shown = "\n".join(lines(loaded))
        assert "hunter2" not in shown
        assert f"redis://{MASK}@redis:6379/0?password={MASK}&socket_timeout=3" in shown
        assert "hunter2" not in repr(loaded.settings)

    def test_says_what_callbacks_are_signed_with(self, tmp_path: Path) -> None:
        """Where no secret is set it says what comes of that; one that is set is masked."""

        def shown(**environ: str) -> str:
            environ["DOWNLOADD_STATE_DATA_DIR"] = str(tmp_path)
            (line,) = [it for it in lines(trace(environ=environ)) if it.startswith("secret = ")]
            return line

        kept = tmp_path / "webhooks.secret"
        assert shown() == f'secret = ""  # one is made at the start and kept in "{kept}"'
        refused = 'secret = ""  # callback_url is refused until it is set'
        assert shown(REDIS_URL="redis://h") == refused
        for secret in (f"whsec_{'A' * 32}", f"whsec_{'A' * 43}", f"whsec_{'A' * 43}="):
            assert shown(DOWNLOADD_WEBHOOKS_SECRET=secret).startswith(f'secret = "{MASK}"')

    def test_exit_status(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The command ends with 0, or with 2 and one line on standard error."""
        path = tmp_path / "c.toml"
        path.write_text("[server]\nport = 8080\n")
        assert main(["check-config", "--config", str(path), "--host", "::1"]) == 0
        out = capsys.readouterr().out
        assert f"port = 8080  # server.port in {path}\n" in out
        assert 'host = "::1"  # flag: --host\n' in out
        path.write_text("[server]\nport = -1\n")
        assert main(["check-config", "--config", str(path)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"downloadd: server.port in {path} is -1: ")
        assert captured.err.count("\n") == 1

    def test_toml_values(self) -> None:
        """Every type that a setting can have is written as TOML reads it."""
        value = {
            "text": 'quote " backslash \\ tab \t del \x7f é 😀',
            "list": [1, 2.5, True, "80-90"],
            "empty": {},
            "two words": {"a": 1},
        }
        assert tomllib.loads(f"value = {toml(value)}") == {"value": value}


def test_a_user_id_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """As containers are started with: no home, and no need of one where a folder is given."""

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    settings = config.load(None, {}, {"state.data_dir": "/data"})
    assert settings.state.data_dir == Path("/data")
    assert config.load(None, {}, {}).state.data_dir == Path("/nonexistent/.local/share/downloadd")
