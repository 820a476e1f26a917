"""compose.yaml: that Compose takes it, and what it promises of every service."""

from __future__ import annotations

import json
import re
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from downloadd import config
from downloadd.cli.serve import STOP_SECONDS
from downloadd.errors import ConfigError
from tests.deploy import compose, dockerfile
from tests.tools import require_tool

#: What ``deploy/init`` writes; the values do not matter here.
SET = {
    "PUBLIC_URL": "https://files.example.com",
    "VALKEY_PASSWORD": "6f1ed002ab5595859014ebf0951522d9",
    "MINIO_ROOT_USER": "root-5c0f405a",
    "MINIO_ROOT_PASSWORD": "b56b08a168e2ae0172efc38175cab7c1",
    "S3_ACCESS_KEY_ID": "app-97d170e1",
    "S3_SECRET_ACCESS_KEY": "550f0a0aa7cb18bd11c78bf9df5df1f4a5f1d0e7",
    "GRAFANA_ADMIN_PASSWORD": "a9993e364706816aba3e25717850c26c",
    "SECRET_KEY": "p/K0rBrpi3RU+OeN2fpUQYwpvYiHBCRxmVJLFJ8C0nY=",
    "WEBHOOKS_SECRET": "whsec_p/K0rBrpi3RU+OeN2fpUQYwpvYiHBCRxmVJLFJ8C0nY=",
}
SECRETS = SET.keys() - {"PUBLIC_URL"}
FILE = compose.load(SET)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
#: What may be reached from outside of the networks, or reach out of them.
OPEN_NETWORKS = {"edge": {"nginx"}, "egress": {"app"}}


def duration(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


def networks(service: str) -> set[str]:
    return set(SERVICES[service]["networks"])


def app_environment(file: dict[str, Any]) -> dict[str, str]:
    """What the server gets: the image's variables, then those of the service."""
    image = {"DOWNLOADD_SERVER_HOST": "0.0.0.0", "DOWNLOADD_STATE_DATA_DIR": "/data"}
    return {**image, **file["services"]["app"]["environment"]}


# --- the file as a whole ----------------------------------------------------------------------


def test_it_is_what_the_compose_specification_says(tmp_path: Path) -> None:
    """By the official JSON schema, which check-jsonschema brings."""
    path = tmp_path / "compose.yaml"
    path.write_text(yaml.safe_dump(FILE), "utf-8")
    schema = ["--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [require_tool("check-jsonschema"), *schema, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_start_without_secrets_says_what_to_do() -> None:
    for name in SET:
        with pytest.raises(compose.Unset, match=f"{name}: run deploy/init first"):
            compose.load({**SET, name: ""})


def test_no_secret_has_a_default() -> None:
    """Not even one that is asked for elsewhere in the file."""
    found = compose.variables()
    assert SET.keys() <= found.keys()
    assert {name: how for name, how in found.items() if name in SET and how != {":?"}} == {}
    secret = re.compile("SECRET|PASSWORD|_KEY|TOKEN|ROOT_USER")
    assert {name for name in found if secret.search(name)} == SECRETS


def test_what_may_be_set_is_written_down() -> None:
    """In .env.example, with the default that the file has."""
    example = (compose.ROOT / ".env.example").read_text("utf-8")
    said = dict(re.findall(r"^(?:# )?([A-Z0-9_]+)=(.*)$", example, re.MULTILINE))
    tuning = {"NGINX_CPUS", "VALKEY_CPUS", "MINIO_CPUS", "DOCKER_ROOT", "AUTH_ALLOW_ANONYMOUS"}
    assert compose.variables().keys() - tuning <= said.keys()


# --- what the server gets ---------------------------------------------------------------------


def test_the_server_knows_every_variable_and_starts_with_them() -> None:
    environ = app_environment(FILE)
    known = {*config.SETTINGS}
    own = {"DOWNLOADD_" + name.replace(".", "_").upper() for name in known}
    assert environ.keys() <= own | {*config.sources.WELL_KNOWN}
    settings = config.load(compose.ROOT / "config.toml", environ, {})
    assert settings.server.public_url == SET["PUBLIC_URL"]
    assert settings.storage.public_endpoint == SET["PUBLIC_URL"]
    assert settings.storage.kind == "s3"
    assert settings.auth.mode == "api-keys"
    assert str(settings.api_keys_file) == "/data/api-keys.json"


def test_the_server_refuses_what_env_example_says() -> None:
    """Compose takes those values; everybody knows them, so the server does not."""
    file = compose.load(compose.env_file(compose.ROOT / ".env.example"))
    with pytest.raises(ConfigError, match="sample that everybody knows"):
        config.load(None, app_environment(file), {})


def test_nobody_is_let_in_by_accident() -> None:
    """Without a mode, holders of keys; with "none" alone, the server does not start."""
    assert app_environment(FILE)["DOWNLOADD_AUTH_MODE"] == "api-keys"
    file = compose.load({**SET, "AUTH_MODE": "none"})
    with pytest.raises(ConfigError, match="allow_anonymous"):
        config.load(None, app_environment(file), {})
    file = compose.load({**SET, "AUTH_MODE": "none", "AUTH_ALLOW_ANONYMOUS": "true"})
    config.load(None, app_environment(file), {})


def test_only_the_proxy_is_trusted() -> None:
    """It reaches the server through one network, in which there is nobody else."""
    assert networks("nginx") & networks("app") == {"proxy"}
    (subnet,) = (one["subnet"] for one in FILE["networks"]["proxy"]["ipam"]["config"])
    settings = config.load(None, app_environment(FILE), {})
    assert settings.server.trusted_proxies == (ip_network(subnet),)
    assert [name for name in SERVICES if "proxy" in networks(name)] == ["app", "nginx"]
    moved = compose.load({**SET, "PROXY_SUBNET": "10.9.8.0/24"})
    assert moved["networks"]["proxy"]["ipam"]["config"] == [{"subnet": "10.9.8.0/24"}]
    assert moved["services"]["app"]["environment"]["DOWNLOADD_SERVER_TRUSTED_PROXIES"] == (
        "10.9.8.0/24"
    )


# --- every service ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service(name: str) -> None:
    """What each has: bounds, a pinned image, little it may do, logs that do not fill the disk."""
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    assert limits.keys() == {"cpus", "memory", "pids"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert not service.get("privileged")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"]["nofile"]["hard"] >= 65536
    options = service["logging"]["options"]
    assert service["logging"]["driver"] == "json-file"
    assert options.keys() == {"max-size", "max-file", "tag"}
    assert options["tag"] == "downloadd/{{.Name}}"
    if name != "app":
        assert re.search(r":(v?[0-9]+\.[0-9]+\.[0-9]+|RELEASE\.[0-9T-]+Z)", service["image"])
    # One that ends by itself is asked for its end.
    assert ("test" in service["healthcheck"]) == (name != "minio-setup")
    # Replicas can have neither a name nor a port in common.
    assert "container_name" not in service
    assert ("ports" in service) == (name == "nginx")
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", ()))


def test_nothing_else_is_open() -> None:
    """The world reaches nginx, the server reaches the world; every other network is internal."""
    for name, network in FILE["networks"].items():
        members = {service for service in SERVICES if name in networks(service)}
        assert members, name
        if name in OPEN_NETWORKS:
            assert members == OPEN_NETWORKS[name]
        else:
            assert network["internal"] is True
    assert [
        name for name in SERVICES if networks(name) & networks("valkey") and name != "valkey"
    ] == [
        "app",
        "minio",
        "minio-setup",
    ]


def test_what_waits_for_what() -> None:
    def waits(name: str) -> dict[str, str]:
        return {on: how["condition"] for on, how in SERVICES[name].get("depends_on", {}).items()}

    assert waits("nginx") == {"app": "service_healthy", "minio": "service_healthy"}
    assert waits("app") == {
        "valkey": "service_healthy",
        "minio-setup": "service_completed_successfully",
    }
    assert waits("minio-setup") == {"minio": "service_healthy"}


def test_the_server_is_asked_as_its_image_says() -> None:
    """Only more often while it starts, so that nginx need not wait for long."""
    (check,) = dockerfile.of("run", "HEALTHCHECK")
    asked = SERVICES["app"]["healthcheck"]["test"]
    assert asked == ["CMD", *json.loads(check[check.index("CMD") + 3 :])]


def test_the_server_has_time_to_end() -> None:
    assert duration(SERVICES["app"]["stop_grace_period"]) > STOP_SECONDS + 3


def test_the_profile() -> None:
    """Without it, the service alone; with it, all that watches."""
    watching = {name for name, service in SERVICES.items() if "profiles" in service}
    assert watching == {"prometheus", "grafana", "loki", "alloy", "jaeger"}
    assert all(SERVICES[name]["profiles"] == ["observability"] for name in watching)
    assert all(networks(name) == {"monitoring"} for name in watching)


def test_addresses_for_a_tunnel_are_nobody_elses() -> None:
    """They lie in the subnet and out of what Docker gives away."""
    (pool,) = FILE["networks"]["monitoring"]["ipam"]["config"]
    fixed = [
        ip_address(service["networks"]["monitoring"]["ipv4_address"])
        for service in SERVICES.values()
        if isinstance(service["networks"], dict)
    ]
    assert len(set(fixed)) == 3
    for address in fixed:
        assert address in ip_network(pool["subnet"])
        assert address not in ip_network(pool["ip_range"])


def test_volumes() -> None:
    """What is declared is used, what is mounted from here is there."""
    mounted = [
        volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
        for one in SERVICES.values()
        for volume in one.get("volumes", ())
    ]
    assert {name for name in mounted if not name.startswith((".", "/"))} == FILE["volumes"].keys()
    for name in mounted:
        if name.startswith("."):
            assert (compose.ROOT / name).exists(), name
