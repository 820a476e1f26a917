"""Secrets that everybody knows are for one's own machine."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

import pytest

from downloadd import config
from downloadd.config.samples import is_sample
from downloadd.errors import ConfigError

ROOT = Path(__file__).parents[2]
SAMPLE_KEY = base64.b64encode(b"change-me-change-me-change-me-change-me").decode()
GOOD_KEY = base64.b64encode(b"\x8f" + bytes(range(40))).decode()
#: Each with what the refusal calls it.
SAMPLES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "minio": (
        "storage.access_key_id",
        {"S3_ACCESS_KEY_ID": "minioadmin", "S3_SECRET_ACCESS_KEY": secrets.token_hex(20)},
    ),
    "s3": (
        "storage.secret_access_key",
        {"S3_ACCESS_KEY_ID": "app", "S3_SECRET_ACCESS_KEY": "minioadmin"},
    ),
    "amazon's manual": (
        "storage.secret_access_key",
        {
            "S3_ACCESS_KEY_ID": "app",
            "S3_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        },
    ),
    "redis": ("state.redis_url", {"REDIS_URL": "redis://:change%2Dme@valkey:6379/0"}),
    "redis user": ("state.redis_url", {"REDIS_URL": "redis://app:Password@valkey:6379/0"}),
    "redis query": (
        "state.redis_url",
        {"REDIS_URL": f"redis://:{secrets.token_hex(9)}@valkey:6379/0?password=change-me"},
    ),
    "redis socket": ("state.redis_url", {"REDIS_URL": "unix:///run/valkey?password=redis123"}),
    "secret key": ("state.secret_key", {"DOWNLOADD_STATE_SECRET_KEY": SAMPLE_KEY}),
    "zeros": (
        "state.secret_key",
        {"DOWNLOADD_STATE_SECRET_KEY": base64.b64encode(bytes(32)).decode()},
    ),
    "webhooks": ("webhooks.secret", {"DOWNLOADD_WEBHOOKS_SECRET": f"whsec_{SAMPLE_KEY}"}),
    "jwt": (
        "auth.jwt_key",
        {
            "DOWNLOADD_AUTH_MODE": "jwt",
            "DOWNLOADD_AUTH_JWT_KEY": "a-string-secret-at-least-256-bits-long",
        },
    ),
}
PUBLIC: Mapping[str, Mapping[str, str]] = {
    "host": {"DOWNLOADD_SERVER_HOST": "0.0.0.0", "DOWNLOADD_AUTH_ALLOW_ANONYMOUS": "true"},
    "url": {"DOWNLOADD_SERVER_PUBLIC_URL": "https://files.example.com"},
    # What listens everywhere is reached, whatever it is called.
    "both": {
        "DOWNLOADD_SERVER_HOST": "::",
        "DOWNLOADD_AUTH_ALLOW_ANONYMOUS": "true",
        "DOWNLOADD_SERVER_PUBLIC_URL": "http://localhost:8080",
    },
}
OWN: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "address": {"DOWNLOADD_SERVER_HOST": "127.0.0.2"},
    "url": {"DOWNLOADD_SERVER_PUBLIC_URL": "http://localhost:8080"},
    "ipv6": {"DOWNLOADD_SERVER_PUBLIC_URL": "http://[::1]:8080"},
    "name": {"DOWNLOADD_SERVER_PUBLIC_URL": "https://files.localhost"},
}


def load(environ: Mapping[str, str]) -> config.Settings:
    return config.load(None, {"HOME": "/home/ada", **environ}, {})


@pytest.mark.parametrize("where", sorted(PUBLIC))
@pytest.mark.parametrize("sample", sorted(SAMPLES))
def test_a_sample_is_refused_where_others_come_in(sample: str, where: str) -> None:
    """In one sentence that names the setting and not the value."""
    called, environ = SAMPLES[sample]
    with pytest.raises(ConfigError) as caught:
        load({**environ, **PUBLIC[where]})
    said = caught.value.message
    assert called in said
    assert "sample that everybody knows" in said
    assert "deploy/init" in said
    for value in environ.values():
        assert value not in said or value == "jwt"


@pytest.mark.parametrize("where", sorted(OWN))
@pytest.mark.parametrize("sample", sorted(SAMPLES))
def test_a_sample_is_taken_on_ones_own_machine(sample: str, where: str) -> None:
    load({**SAMPLES[sample][1], **OWN[where]})


@pytest.mark.parametrize("where", sorted(PUBLIC))
def test_secrets_of_ones_own_are_taken(where: str) -> None:
    load(
        {
            **PUBLIC[where],
            "REDIS_URL": f"redis://:{secrets.token_hex(24)}@valkey:6379/0",
            "S3_BUCKET_NAME": "downloads",
            "S3_ACCESS_KEY_ID": "downloadd-app",
            "S3_SECRET_ACCESS_KEY": secrets.token_urlsafe(30),
            "DOWNLOADD_STATE_SECRET_KEY": GOOD_KEY,
            "DOWNLOADD_WEBHOOKS_SECRET": f"whsec_{GOOD_KEY}",
        }
    )


@pytest.mark.parametrize(
    "word",
    [
        *("change-me", "change.me", "CHANGEME", "please-change", "please_change_it", "change it"),
        *("todo", "TODO", "placeholder", "my-placeholder-key", "example", "qwerty", "qwerty123"),
        *("redis123", "supersecret", "1234567890", "123456", "12345678901234567890", "admin2024"),
        *("<password>", "<your key here>", "aaaaaaaa", "minio123", "password123"),
    ],
)
def test_a_word_that_everybody_knows(word: str) -> None:
    assert is_sample(word)


@pytest.mark.parametrize(
    "secret",
    ["x<9fK!q>2Zr", "<a1>7Tq", "4<2pK9vR", "tr0ub4dor-and-three", "71234567890x", "example-4f0c"],
)
def test_a_word_of_ones_own(secret: str) -> None:
    """Also one that holds signs or words that samples have."""
    assert not is_sample(secret)


def test_no_secret_at_all_is_no_sample() -> None:
    """A Redis without a password, or Amazon's own credentials, are other questions."""
    load({**PUBLIC["url"], "REDIS_URL": "redis://valkey:6379/0"})


def test_everything_that_env_example_says_is_a_sample() -> None:
    """What is copied and not filled in starts nowhere but at home."""
    text = (ROOT / ".env.example").read_text("utf-8")
    values = dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", text, re.MULTILINE))
    public_url = values.pop("PUBLIC_URL")
    assert "example" in public_url
    assert len(values) > 5
    assert [name for name, value in values.items() if not is_sample(value)] == []
