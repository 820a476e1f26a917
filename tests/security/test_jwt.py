"""The matrix of tokens: algorithm, key, times, audience, issuer, role (RFC 7519, RFC 8725)."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.hashes import SHA256

from downloadd.access.caller import Caller
from downloadd.access.tokens import LEEWAY, Tokens
from downloadd.errors import ConfigError, Forbidden, Unauthorized
from tests.integration.web.conftest import Start
from tests.security.minting import (
    AUDIENCE,
    ISSUER,
    SECRET,
    b64,
    certificate,
    claims,
    ec_key,
    forge,
    hmac_signed,
    jwk,
    mint,
    private_pem,
    public_der,
    public_pem,
    public_ssh,
    rsa_key,
)

ALGORITHMS = ("HS256", "RS256", "ES256")
RULES: Mapping[str, Any] = {
    "algorithms": ALGORITHMS,
    "issuer": ISSUER,
    "audience": AUDIENCE,
    "roles": ("user", "admin"),
}
#: What each algorithm signs with, and what a server of its verifies with.
SIGNING: Mapping[str, Callable[[], Any]] = {
    "HS256": lambda: SECRET,
    "RS256": rsa_key,
    "ES256": ec_key,
}


def verifying(algorithm: str) -> str:
    key = SIGNING[algorithm]()
    return key if isinstance(key, str) else public_pem(key)


def tokens(algorithm: str = "HS256", **changes: Any) -> Tokens:
    return Tokens(**{"key": verifying(algorithm), **RULES, **changes})


def good(algorithm: str = "HS256", **changes: Any) -> str:
    return mint(SIGNING[algorithm](), algorithm, **changes)


async def refused(known: Tokens, token: str) -> str:
    """The sentence with which it is; it repeats nothing of the token."""
    with pytest.raises(Unauthorized) as caught:
        await known.identify(token)
    assert not any(part and part in caught.value.message for part in token.split("."))
    assert caught.value.__cause__ is None
    return caught.value.message


# --- what is taken ----------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_good_token(algorithm: str) -> None:
    """It says who calls, in which role."""
    known = tokens(algorithm)
    assert await known.identify(good(algorithm)) == Caller(user="ann", role="user")
    assert (await known.identify(good(algorithm, role="admin"))).admin


def now(seconds: float) -> int:
    return int(time.time() + seconds)


@pytest.mark.parametrize(
    ("changes", "ours"),
    [
        # Clocks differ (SPEC §7: exp; a leeway of 30 seconds).
        ({"exp": -LEEWAY + 10}, True),
        ({"nbf": LEEWAY - 10}, True),
        ({"iat": LEEWAY - 10}, True),
        ({"exp": -LEEWAY - 5}, False),
        ({"nbf": LEEWAY + 5}, False),
        ({"iat": LEEWAY + 5}, False),
    ],
)
async def test_times(changes: dict[str, float], ours: bool) -> None:
    """Each may be off by as much as clocks differ, and by no more."""
    token = good(**{name: now(seconds) for name, seconds in changes.items()})
    if ours:
        assert (await tokens().identify(token)).user == "ann"
    else:
        await refused(tokens(), token)


@pytest.mark.parametrize(
    ("changes", "ours"),
    [
        ({"aud": [AUDIENCE, "another"]}, True),
        ({"aud": "another"}, False),
        ({"aud": ["another"]}, False),
        ({"aud": []}, False),
        ({"aud": 7}, False),
        ({"aud": f"{AUDIENCE}x"}, False),
        ({"aud": None}, False),
        ({"iss": "https://evil.example"}, False),
        ({"iss": f"{ISSUER}/"}, False),
        ({"iss": [ISSUER]}, False),
        ({"iss": None}, False),
        ({"exp": None}, False),
        ({"exp": "soon"}, False),
        ({"exp": []}, False),
        ({"exp": 0}, False),
        ({"nbf": "now"}, False),
        ({"sub": None}, False),
        ({"sub": ""}, False),
        ({"sub": 7}, False),
        ({"sub": ["ann"]}, False),
        ({"sub": "a\nb"}, False),
        ({"sub": "x" * 256}, False),
        ({"sub": "x" * 255}, True),
        ({"sub": "Ann Müller <ann@example>"}, True),
    ],
    ids=str,
)
async def test_claims(changes: dict[str, Any], ours: bool) -> None:
    """Audience and issuer have to be there and to be ours; a user has a name."""
    # By hand: PyJWT signs no claims that it would not take.
    token = hmac_signed({"alg": "HS256"}, claims(**changes), SECRET.encode())
    if ours:
        assert (await tokens().identify(token)).user == changes.get("sub", "ann")
    else:
        await refused(tokens(), token)


async def test_an_audience_that_nobody_asked_for() -> None:
    """A token for somebody is for nobody else (RFC 7519 §4.1.3), ours or not."""
    await refused(tokens(audience=""), good())
    assert (await tokens(audience="", issuer="").identify(good(aud=None, iss=None))).user == "ann"


@pytest.mark.parametrize("role", ["root", "Admin", "admin ", "", 1, ["admin"], {"admin": 1}, True])
async def test_a_role_that_is_none(role: Any) -> None:
    """Who it is is known, but not what they may: 403, not 401."""
    token = hmac_signed({"alg": "HS256"}, claims(role=role), SECRET.encode())
    with pytest.raises(Forbidden):
        await tokens().identify(token)


async def test_no_role_is_the_first() -> None:
    assert (await tokens().identify(good(role=None))).role == "user"


# --- algorithms and keys ------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("named", ["none", "None", "NONE", "nOnE", "", None, 0])
async def test_no_algorithm(algorithm: str, named: Any) -> None:
    """A token that is not signed is nobody's (CVE-2015-9235 and its many siblings)."""
    for signature in (b"", b"x", b"\0" * 32):
        await refused(tokens(algorithm), forge({"alg": named}, claims(), signature))
    await refused(tokens(algorithm), forge({}, claims()))


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
@pytest.mark.parametrize("named", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("ending", ["", "\n"])
async def test_a_public_key_is_no_secret(algorithm: str, named: str, ending: str) -> None:
    """Key confusion (CVE-2016-10555, CVE-2022-29217): what everybody knows signs nothing."""
    secret = (verifying(algorithm).strip() + ending).encode()
    for body in (claims(), claims(role="admin")):
        await refused(tokens(algorithm), hmac_signed({"alg": named}, body, secret))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_algorithms_are_pinned(algorithm: str) -> None:
    """The key settles the algorithm, whatever else it could be used with."""
    rs256, es256 = (rsa_key("o"), "RS256"), (ec_key("o"), "ES256")
    others: Mapping[str, list[tuple[Any, str]]] = {
        "HS256": [(SECRET, "HS384"), (SECRET, "HS512"), rs256, es256],
        "RS256": [(rsa_key(), "RS384"), (rsa_key(), "RS512"), (rsa_key(), "PS256"), es256],
        "ES256": [
            (ec_key("384", ec.SECP384R1), "ES384"),
            (ec_key("k", ec.SECP256K1), "ES256K"),
            rs256,
        ],
    }
    for key, name in others[algorithm]:
        await refused(tokens(algorithm), mint(key, name))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_another_key(algorithm: str) -> None:
    """Signed with a key of the same kind that is not ours."""
    stranger = {"HS256": SECRET + "x", "RS256": rsa_key("other"), "ES256": ec_key("other")}
    await refused(tokens(algorithm), mint(stranger[algorithm], algorithm))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_what_was_changed(algorithm: str) -> None:
    """Head, claims and signature belong together, each to its last bit."""
    token = good(algorithm)
    head, body, signature = token.split(".")
    other = good(algorithm, sub="eve").split(".")
    known = tokens(algorithm)
    for changed in (
        f"{head}.{other[1]}.{signature}",
        f"{head}.{body}.{other[2]}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{body}.{signature[:-4]}",
        f"{head}.{body}.{signature}.{signature}",
        f"{head}.{body}.{signature}.x.y",
        f"{head}..{signature}",
        f".{body}.{signature}",
        "..",
        "",
        "x",
        "\ud800",
        "🙂.🙂.🙂",
        f"{token[:-8]}AAAAAAAA",
        token + "." * 100,
        "e30." * 2000,
    ):
        with pytest.raises(Unauthorized):
            await known.identify(changed)


async def test_a_long_token() -> None:
    """Nobody has to read megabytes to say no."""
    assert await refused(tokens(), good(more="x" * 9000)) == "The token is too long."


@pytest.mark.parametrize(
    "header",
    [
        # A key that comes with the token (CVE-2018-0114).
        {"jwk": jwk(rsa_key("evil"))},
        # Keys of somebody's choosing (RFC 8725 §2.9, §3.10); nothing is fetched.
        {"jku": "http://127.0.0.1:1/keys"},
        {"x5u": "http://127.0.0.1:1/cert"},
        {"x5c": ["MIIB"]},
        # Key ids that want to be paths or queries (RFC 8725 §3.10).
        {"kid": "../../../../dev/null"},
        {"kid": "' OR 1=1 --"},
        {"kid": "x" * 5000},
        {"kid": 7},
        {"kid": None},
    ],
    ids=lambda header: next(iter(header)),
)
async def test_headers_that_point_at_keys(header: dict[str, Any], tmp_path: Path) -> None:
    """None of them brings a key that counts."""
    unsigned = forge({"alg": "RS256", **header}, claims()).removesuffix(".")
    signature = rsa_key("evil").sign(unsigned.encode(), padding.PKCS1v15(), SHA256())
    token = f"{unsigned}.{b64(signature)}"
    await refused(tokens("RS256"), token)
    path = key_set(tmp_path, jwk(rsa_key(), kid="a"))
    await refused(tokens(jwks_file=path), token)


async def test_an_extension_that_must_be_understood() -> None:
    """``crit`` names what we do not know (RFC 7515 §4.1.11)."""
    token = hmac_signed({"alg": "HS256", "crit": ["x"], "x": 1}, claims(), SECRET.encode())
    await refused(tokens(), token)


# --- key sets -----------------------------------------------------------------------


def key_set(folder: Path, *entries: Any) -> Path:
    path = folder / "keys.json"
    path.write_text(json.dumps({"keys": list(entries)}))
    return path


async def test_a_set_of_all_kinds(tmp_path: Path) -> None:
    """The key is found by its name and kind; one for encryption, or of another kind, is none."""
    path = key_set(
        tmp_path,
        jwk(rsa_key(), kid="r"),
        jwk(ec_key(), kid="e"),
        jwk(SECRET, kid="h", alg="HS256"),
        jwk(rsa_key("enc"), kid="enc", use="enc"),
        jwk(rsa_key("512"), kid="512", alg="RS512"),
        {"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "ed"},
        {"kty": "new"},
        jwk(ec_key("384", ec.SECP384R1), kid="p384"),
        jwk(rsa_key("ops"), kid="ops", key_ops=None),
        "nonsense",
    )
    known = tokens(jwks_file=path)
    for kid, algorithm in (("r", "RS256"), ("e", "ES256"), ("h", "HS256")):
        assert (await known.identify(good(algorithm, header={"kid": kid}))).user == "ann"
        # Without a name there is one of each kind.
        assert (await known.identify(good(algorithm))).user == "ann"
    await refused(known, good("RS256", header={"kid": "e"}))
    await refused(known, good("RS256", header={"kid": "x"}))
    await refused(known, mint(rsa_key("enc"), "RS256", header={"kid": "enc"}))
    await refused(known, mint(rsa_key("512"), "RS256", header={"kid": "512"}))
    for kid in ("r", "e"):
        secret = public_pem(rsa_key() if kid == "r" else ec_key()).encode()
        await refused(known, hmac_signed({"alg": "HS256", "kid": kid}, claims(), secret))


async def test_two_keys_and_no_name(tmp_path: Path) -> None:
    """Which one it would be is not for us to try."""
    path = key_set(tmp_path, jwk(rsa_key(), kid="a"), jwk(rsa_key("other"), kid="b"))
    await refused(tokens(jwks_file=path), good("RS256"))


async def test_keys_are_rotated(tmp_path: Path) -> None:
    """A changed file counts without a restart: the new key is taken, the old one no more."""
    path = key_set(tmp_path, jwk(rsa_key(), kid="a"))
    known = tokens(jwks_file=path)
    known._keys._file._check = 0.0  # type: ignore[union-attr]
    old, new = good("RS256", header={"kid": "a"}), mint(rsa_key("b"), "RS256", header={"kid": "b"})
    assert (await known.identify(old)).user == "ann"
    await refused(known, new)
    key_set(tmp_path, jwk(rsa_key(), kid="a"), jwk(rsa_key("b"), kid="b"))
    assert (await known.identify(old)).user == (await known.identify(new)).user == "ann"
    key_set(tmp_path, jwk(rsa_key("b"), kid="b"))
    await refused(known, old)
    # Spoilt, it counts as it was.
    path.write_text("{")
    assert (await known.identify(new)).user == "ann"
    path.unlink()
    assert (await known.identify(new)).user == "ann"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"keys": {}}',
        '{"keys": []}',
        json.dumps({"keys": [jwk(rsa_key(), alg="RS512")]}),
        json.dumps({"keys": [jwk("short")]}),
        json.dumps({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}),
        json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}),
        json.dumps({"keys": [jwk(ec_key("384", ec.SECP384R1))]}),
        json.dumps({"keys": [{"kty": "oct"}]}),
        "[" * 100_000,
    ],
)
def test_a_set_that_is_none_stops_the_start(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        tokens(jwks_file=path)


def test_a_private_key_stops_the_start(tmp_path: Path) -> None:
    """A server that verifies is not to have what signs."""
    entry = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key()))
    with pytest.raises(ConfigError, match="private"):
        tokens(jwks_file=key_set(tmp_path, {**entry, "key_ops": ["verify"]}))
    with pytest.raises(ConfigError, match="no public key"):
        tokens(key=private_pem(rsa_key()))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("hunter2", "too short"),
        ("x" * 31, "too short"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "no public key"),
        (public_pem(rsa_key("weak", 1024)), "2048"),
        (public_pem(ec_key("384", ec.SECP384R1)), "P-256"),
    ],
)
def test_a_weak_key_stops_the_start(key: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        tokens(key=key)
    assert key not in caught.value.message


@pytest.mark.parametrize(
    "key",
    [
        # As key servers show it, and in lines.
        base64.b64encode(public_der(rsa_key())).decode(),
        base64.encodebytes(public_der(ec_key())).decode(),
        base64.b64encode(certificate(rsa_key())).decode(),
        public_ssh(rsa_key()),
        json.dumps(jwk(rsa_key())),
        json.dumps(dict(sorted(jwk(ec_key()).items(), reverse=True))),
        "\n" + json.dumps({"keys": [jwk(rsa_key())]}),
    ],
    ids=("rsa", "ec", "certificate", "ssh", "jwk", "jwk reversed", "jwks"),
)
def test_a_public_key_in_another_form_stops_the_start(key: str) -> None:
    """Taken for a secret it would be one that everybody has."""
    with pytest.raises(ConfigError, match="as a secret everybody would have it") as caught:
        tokens(key=key)
    assert key not in caught.value.message


@pytest.mark.parametrize(
    "secret",
    ["sk-live-" + "a" * 40, "{" + "x" * 40, "ssh-" + "a" * 40, b64(bytes(48)), "1" * 40],
    ids=lambda secret: secret[:8],
)
async def test_secrets_of_any_form(secret: str) -> None:
    """What only looks a little like a public key is as good a secret as others."""
    known = tokens(key=secret)
    assert (await known.identify(mint(secret, "HS256"))).user == "ann"


@pytest.mark.parametrize("before", ["# mine\n", "\ufeff", "Bag Attributes\n  name: x\nKey: y\n"])
async def test_what_stands_before_a_public_key(before: str) -> None:
    """It is one all the same, and no secret."""
    pem = public_pem(rsa_key())
    known = tokens(key=before + pem)
    assert (await known.identify(good("RS256"))).user == "ann"
    for secret in (pem, before + pem):
        await refused(known, hmac_signed({"alg": "HS256"}, claims(), secret.encode()))


def test_a_key_of_an_algorithm_that_is_not_allowed() -> None:
    with pytest.raises(ConfigError, match="jwt_algorithms"):
        tokens("RS256", algorithms=("HS256",))


# --- the whole way -------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_over_http(start: Start, algorithm: str) -> None:
    """401 with a challenge, 403 for a role that is none, and jobs of those who may."""
    settings = {
        "auth__mode": "jwt",
        "auth__jwt_key": verifying(algorithm),
        "auth__jwt_issuer": ISSUER,
        "auth__jwt_audience": AUDIENCE,
    }
    async with start(**settings) as server:

        async def ask(*values: str) -> tuple[int, dict[str, Any], Mapping[str, str]]:
            headers = [("Authorization", value) for value in values]
            async with server.client.get("/v1/download/jobs", headers=headers) as response:
                return response.status, await response.json(), response.headers

        assert (await ask(f"Bearer {good(algorithm)}"))[0] == 200
        assert (await ask(f"bearer  {good(algorithm)} "))[0] == 200
        for values in (
            (),
            ("Bearer",),
            ("Bearer ",),
            ("Basic YTpi",),
            (good(algorithm),),
            (f"Bearer {good(algorithm)}", f"Bearer {good(algorithm)}"),
            (f"Bearer {good(algorithm, exp=now(-60))}",),
            (f"Bearer {forge({'alg': 'none'}, claims())}",),
        ):
            status, answer, headers = await ask(*values)
            assert (status, answer["code"]) == (401, "unauthorized"), values
            assert headers["WWW-Authenticate"] == 'Bearer realm="downloadd"'
        status, answer, _ = await ask(f"Bearer {good(algorithm, role='root')}")
        assert (status, answer["code"]) == (403, "forbidden")


async def test_a_key_set_over_http(start: Start, tmp_path: Path) -> None:
    """Rotation in a running server, which is given a second to notice."""
    path = key_set(tmp_path, jwk(rsa_key(), kid="a"))
    async with start(auth__mode="jwt", auth__jwt_jwks_file=str(path)) as server:

        async def status(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            async with server.client.get("/v1/download/jobs", headers=headers) as response:
                return response.status

        plain = {"iss": None, "aud": None}
        old = good("RS256", header={"kid": "a"}, **plain)
        new = mint(ec_key(), "ES256", header={"kid": "b"}, **plain)
        assert (await status(old), await status(new)) == (200, 401)
        replaced = tmp_path / "new.json"
        replaced.write_text(json.dumps({"keys": [jwk(ec_key(), kid="b")]}))
        os.replace(replaced, path)
        await asyncio.sleep(1.1)
        assert (await status(old), await status(new)) == (401, 200)
