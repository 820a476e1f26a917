"""Every setting: its type, what is allowed, its default, its meaning.

One frozen dataclass a section. The annotation of each field holds the
marshmallow field that reads it; ``loading`` builds the schemas from here, and a
test holds ``config.toml`` to it, so a setting is added in these two places.
Times are seconds, sizes are bytes. What may hold a credential stays out of
``repr()``, because settings end up in tracebacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from downloadd.config.address_fields import Host, Origin, Peer, Ports, RedisUrl, Url
from downloadd.config.address_fields import Network as NetworkField
from downloadd.config.fields import (
    ByName,
    Choice,
    Folder,
    KeyTemplate,
    Number,
    PemOrSecret,
    Seconds,
    Secret,
    SecretKey,
    SentryDsn,
    Several,
    SigningSecret,
    Size,
    Switch,
    Table,
    Text,
    Whole,
)

MIB, GIB = 1 << 20, 1 << 30
MINUTE, HOUR, DAY = 60, 3600, 86400

_Flag = Annotated[bool, Switch()]
_Text = Annotated[str, Text()]
_Secret = Annotated[str, Secret()]
_Url = Annotated[str, Url()]
_Count = Annotated[int, Whole(1, 1_000_000)]
_TimeOut = Annotated[float, Seconds(0.1, DAY)]
#: Whole, because Redis and S3 take them so.
_Period = Annotated[int, Whole(1, 366 * DAY, "seconds")]
_Size = Annotated[int, Size()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """Where requests come in."""

    host: Annotated[str, Host()] = "127.0.0.1"
    #: 0 takes any free port.
    port: Annotated[int, Whole(0, 65535)] = 3000
    #: How long one request may take before it is answered, streams aside.
    request_timeout: _TimeOut = 30.0
    cors_origins: Annotated[tuple[str, ...], Several(Origin())] = ("*",)
    #: Peers whose ``X-Forwarded-For`` is believed.
    trusted_proxies: Annotated[
        tuple[IPv4Network | IPv6Network, ...],
        Several(NetworkField()),
    ] = ()
    #: How clients reach this server, where that differs from host and port.
    public_url: _Url = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Where jobs are kept."""

    #: Empty: an embedded Valkey in ``data_dir``. May hold a password.
    redis_url: Annotated[str, RedisUrl()] = field(default="", repr=False)
    prefix: Annotated[
        str,
        Text('text with a hash tag in it, such as "{downloadd}:"', r"[!-z|~]*\{[!-z|~]+\}[!-z|~]*"),
    ] = "{downloadd}:"
    wait_for_fsync: _Flag = False
    #: Seals the headers of sources, signs event tokens. Empty: with an embedded
    #: Valkey, one that is made and kept in ``data_dir``.
    secret_key: Annotated[str, SecretKey()] = field(default="", repr=False)
    #: Everything that this machine keeps: embedded state, local archives, spool.
    data_dir: Annotated[Path, Folder()]

    @property
    def webhook_secret_path(self) -> Path:
        """Where the secret is kept that callbacks are signed with where none is set."""
        return self.data_dir / "webhooks.secret"

    @property
    def secret_key_path(self) -> Path:
        """Where the secret key is kept where none is set."""
        return self.data_dir / "state.key"


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Where archives go."""

    #: In force; the file's "auto" has become one of the two.
    kind: Annotated[Literal["local", "s3"], Choice("auto", "local", "s3")] = "local"
    bucket: Annotated[
        str,
        Text(
            "empty or a bucket name: 3 to 63 of a-z, 0-9, dot, hyphen",
            r"|[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        ),
    ] = ""
    create_bucket: _Flag = True
    #: Empty: Amazon's own.
    endpoint: _Url = ""
    #: What signed links carry, where it differs from ``endpoint``.
    public_endpoint: _Url = ""
    region: Annotated[str, Text('a region such as "us-east-1"', r"[A-Za-z0-9-]+")] = "us-east-1"
    access_key_id: _Secret = field(default="", repr=False)
    secret_access_key: _Secret = field(default="", repr=False)
    force_path_style: _Flag = False
    #: The object that is a file's source when only its id is given.
    source_key: Annotated[str, KeyTemplate()] = "{file_id}.zip"
    #: S3 signs for seven days at most.
    presign_ttl: Annotated[int, Whole(1, 7 * DAY, "seconds")] = HOUR
    archive_ttl: _Period = DAY


@dataclass(frozen=True, kw_only=True, slots=True)
class Jobs:
    """How much is taken on, and how long it is kept."""

    concurrency: _Count = 8
    queue_limit: _Count = 10_000
    timeout: _TimeOut = 3600.0
    max_files: _Count = 1000
    max_file_bytes: _Size = 20 * GIB
    max_job_bytes: _Size = 100 * GIB
    #: What all files in flight may take on disk together.
    max_disk_bytes: Annotated[int, Size(low=64 * MIB)] = 10 * GIB
    #: How long a worker that has died keeps its jobs from others.
    lease: Annotated[float, Seconds(1, HOUR)] = 30.0
    dedupe_window: Annotated[int, Whole(0, 366 * DAY, "seconds")] = HOUR
    retry_window: Annotated[int, Whole(0, 366 * DAY, "seconds")] = HOUR
    completed_ttl: _Period = DAY
    failed_ttl: _Period = 7 * DAY


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetch:
    """How sources are read."""

    per_job: _Count = 8
    total: _Count = 32
    per_host: _Count = 6
    #: Tries after the first.
    retries: Annotated[int, Whole(0, 100)] = 3
    #: Before the first retry; doubled each time.
    backoff: Annotated[float, Seconds(0, HOUR)] = 1.0
    connect_timeout: _TimeOut = 10.0
    stall_timeout: _TimeOut = 30.0
    max_redirects: Annotated[int, Whole(0, 20)] = 5
    source_url_template: Annotated[
        str,
        Text("empty or an http(s) URL with {file_id} in it", r"|https?://\S*\{file_id\}\S*"),
    ] = ""
    format_check: Annotated[Literal["warn", "reject", "off"], Choice("warn", "reject", "off")] = (
        "warn"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Which addresses this server may call."""

    #: Opened although closed by default, ports included.
    allow: Annotated[tuple[str, ...], Several(Peer())] = ()
    #: Closed whatever else says; wins over ``allow``.
    deny: Annotated[tuple[str, ...], Several(Peer())] = ()
    #: First and last of each range.
    ports: Annotated[tuple[tuple[int, int], ...], Several(Ports(), at_least=1)] = (
        (80, 80),
        (443, 443),
        (8000, 8999),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Auth:
    """Who may do what."""

    mode: Annotated[
        Literal["none", "api-keys", "jwt"],
        Choice("none", "api-keys", "jwt"),
    ] = "none"
    #: Let ``mode`` "none" listen beyond this machine.
    allow_anonymous: _Flag = False
    #: None: ``api-keys.json`` in ``state.data_dir``.
    api_keys_file: Annotated[Path | None, Folder()] = None
    jwt_key: Annotated[str, PemOrSecret()] = field(default="", repr=False)
    jwt_jwks_file: Annotated[Path | None, Folder()] = None
    jwt_algorithms: Annotated[
        tuple[str, ...],
        Several(Choice("HS256", "RS256", "ES256"), at_least=1),
    ] = ("HS256", "RS256", "ES256")
    jwt_issuer: _Text = ""
    jwt_audience: _Text = ""
    #: The roles that a caller may have.
    roles: Annotated[tuple[str, ...], Several(Text("a word", r"[\w-]+"), at_least=1)] = (
        "user",
        "admin",
    )
    #: For which an event token is good, at the least.
    event_token_ttl: Annotated[int, Whole(60, DAY, "seconds")] = HOUR


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """What one user of a role may have; None: as everybody, or as much as they like."""

    requests_per_minute: int | None = None
    jobs_per_minute: int | None = None
    jobs_per_day: int | None = None
    bytes_per_day: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much one client may ask for."""

    #: By role: the highest priority that its jobs may have.
    priorities: Annotated[Mapping[str, str], ByName(Choice("high", "normal", "low"))] = field(
        default_factory=dict
    )
    #: In a window of ``window`` seconds, which is a minute unless changed.
    requests_per_minute: _Count = 100
    window: Annotated[float, Seconds(1, DAY)] = 60.0
    jobs_per_minute: _Count = 10
    #: By role.
    quotas: Annotated[
        Mapping[str, Quota],
        Table(
            Quota,
            requests_per_minute=Whole(1, 1_000_000),
            jobs_per_minute=Whole(0, 1_000_000),
            jobs_per_day=Whole(0, 1_000_000_000),
            bytes_per_day=Size(low=0),
        ),
    ] = field(default_factory=dict)
    #: Event streams open at once: of one client, and of this process.
    streams_per_client: _Count = 20
    streams: _Count = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhooks:
    """How callbacks are signed and delivered."""

    #: Empty: with an embedded Valkey, one that is made and kept in ``data_dir``;
    #: with any other, which servers may share, nobody is called back.
    secret: Annotated[str, SigningSecret()] = field(default="", repr=False)
    #: For one call.
    timeout: _TimeOut = 15.0
    #: Waits before each try after the first.
    schedule: Annotated[tuple[float, ...], Several(Seconds(0, 7 * DAY))] = (
        5.0,
        5.0 * MINUTE,
        30.0 * MINUTE,
        2.0 * HOUR,
        5.0 * HOUR,
        10.0 * HOUR,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Telemetry:
    """What operators see."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Choice("debug", "info", "warning", "error"),
    ] = "info"
    #: "auto": for people on a terminal, JSON elsewhere.
    log_format: Annotated[Literal["auto", "json", "console"], Choice("auto", "json", "console")] = (
        "auto"
    )
    service_name: Annotated[str, Text("text that is not empty", r"[ -~]+")] = "downloadd"
    sentry_dsn: Annotated[str, SentryDsn()] = field(default="", repr=False)
    otlp_endpoint: _Url = ""
    #: The share of traces that begin here and are kept.
    trace_sample_ratio: Annotated[float, Number(0, 1)] = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """A delay before each file, for trying proxies and pages."""

    enabled: _Flag = False
    min_ms: Annotated[int, Whole(0, DAY * 1000, "milliseconds")] = 10_000
    max_ms: Annotated[int, Whole(0, DAY * 1000, "milliseconds")] = 200_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything that can be set, as it is in force."""

    server: Server
    state: State
    storage: Storage
    jobs: Jobs
    fetch: Fetch
    network: Network
    auth: Auth
    limits: Limits
    webhooks: Webhooks
    telemetry: Telemetry
    simulation: Simulation

    @property
    def api_keys_file(self) -> Path:
        """Where API keys are kept."""
        return self.auth.api_keys_file or self.state.data_dir / "api-keys.json"
