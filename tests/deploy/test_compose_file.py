"""docker-compose.yml and the image: rights, tokens, versions and ports, without Docker."""

from __future__ import annotations

import re
import runpy
import stat
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from tests.deploy.test_manifests import FULL_TAG

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
TOKENS = {
    "setup": {"ray-token", "read-token", "write-token", "pool-tokens"},
    "redis": set(),
    "pool": {"pool-tokens", "read-token"},
    "ray-head": {"ray-token"},
    "ray-worker": {"ray-token", "write-token"},
    "train": {"ray-token", "write-token"},
    "prometheus": {"read-token"},
    "grafana": set(),
    "derain": {"derain-token"},
}
"""Tokens that each service sees: those that it takes, and those that it sends."""


def mounts(service: str) -> dict[str, tuple[str, bool]]:
    """By volume its place in the container, and whether it can be written."""
    given = [str(one).split(":") for one in SERVICES[service].get("volumes", []) if "${" not in str(one)]
    return {parts[0]: (parts[1], parts[2:] != ["ro"]) for parts in given}


def test_every_service_is_looked_at() -> None:
    assert SERVICES.keys() == TOKENS.keys()


@pytest.mark.parametrize("service", TOKENS)
def test_a_service_has_no_rights_beyond_its_user(service: str) -> None:
    said = SERVICES[service]
    assert said["cap_drop"] == ["ALL"]
    assert said["security_opt"] == ["no-new-privileges:true"]
    assert not {"cap_add", "privileged", "pid", "ipc"} & said.keys()
    assert said.get("network_mode") in (None, "none")
    assert "memory" in said["deploy"]["resources"]["limits"]


@pytest.mark.parametrize("service", TOKENS)
def test_an_image_has_its_whole_version_and_a_variable_in_its_place(service: str) -> None:
    found = re.fullmatch(r"\$\{(RGSUD_(?:\w+_)?IMAGE):-(.+)\}", SERVICES[service]["image"])
    assert found is not None
    assert re.fullmatch(FULL_TAG, found[2])
    assert found[1] in (ROOT / "docker-compose.yml").read_text().partition("name:")[0]
    if found[2].startswith("rgsud:"):
        assert found[2] == f"rgsud:{version('rgsud')}"


def test_the_image_is_built_on_a_whole_version() -> None:
    (base,) = re.findall(r"^ARG BASE=(.*)$", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    assert re.fullmatch(FULL_TAG, base)


@pytest.mark.parametrize("service", TOKENS)
def test_a_service_sees_its_own_tokens_alone(service: str) -> None:
    held = {name: mount for name, mount in mounts(service).items() if "token" in name}
    assert held.keys() == TOKENS[service]
    if service == "derain":
        assert held["derain-token"] == ("/data", True)  # it makes its own
        return
    for place, writable in held.values():
        assert place.startswith("/tokens/")
        assert writable is (service == "setup")
    told = re.findall(r"/tokens/\w+", str(SERVICES[service]))
    if service in ("ray-worker", "train"):
        told += re.findall(r"/tokens/\w+", (ROOT / "deploy/compose/with-token.sh").read_text())
    if service == "prometheus":
        told += re.findall(r"/tokens/\w+", (ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert set(told) == {place for place, _ in held.values()}


def test_ray_asks_for_its_token_wherever_it_runs() -> None:
    for service in ("ray-head", "ray-worker", "train"):
        environment = SERVICES[service]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/tokens/ray/token"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (ray,) = (one for one in map(Requirement, project["optional-dependencies"]["serve"]) if one.name == "ray")
    assert not ray.specifier.contains("2.59.0")
    assert ray.specifier.contains("2.60.0")


@pytest.mark.parametrize("service", TOKENS)
def test_ports_are_for_this_machine(service: str) -> None:
    assert all(port.startswith("127.0.0.1:${RGSUD_") for port in SERVICES[service].get("ports", []))
    if service not in ("prometheus", "grafana"):
        return
    assert SERVICES[service]["profiles"] == ["metrics"]  # figures are gathered where that is asked for


def test_tokens_are_made_once_and_others_cannot_read_them(tmp_path: Path) -> None:
    setup = runpy.run_path(str(ROOT / "deploy/compose/setup.py"))
    for place in {place for place, _ in (mounts("setup")[name] for name in TOKENS["setup"])}:
        (tmp_path / Path(place).name).mkdir()
    setup["make_tokens"](tmp_path)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert {str(path) for path in made} == {"ray/token", "read/token", "write/token", "pool/tokens"}
    for path in made:
        # Prometheus, another user of the group, reads the figures of the pool.
        wanted = 0o640 if path == Path("read/token") else 0o600
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == wanted, path
    setup["make_tokens"](tmp_path)
    assert all((tmp_path / path).read_text() == text for path, text in made.items())
