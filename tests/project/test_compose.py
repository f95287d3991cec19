"""docker-compose.yml, the Dockerfile and what they mount: pinned, complete, loadable."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream.settings import load as config
from stream.settings.schema import KafkaLogSettings
from tests.support.tools import program

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
DEPLOYED = ROOT / "deploy" / "fraud-kafka.toml"
SCALED = ROOT / "deploy" / "helm" / "millrace" / "fraud-scaled.toml"
TOKEN = {"MILLRACE_HTTP__TOKENS__0__SHA256": hashlib.sha256(b"a token").hexdigest()}
VERSION = r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*"
PINNED = re.compile(VERSION + "@sha256:[0-9a-f]{64}")

each_service = pytest.mark.parametrize("name", SERVICES)


def mounts() -> list[tuple[str, Path, str]]:
    """Service, file or folder of the repository, and its place in the container."""
    found = []
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source, target, *mode = volume.split(":")
            if source.startswith("."):
                assert mode == ["ro"], f"{name}: {volume} is mounted writable"
                found.append((name, ROOT / source, target))
    return found


@each_service
def test_every_image_is_pinned_to_a_version(name: str) -> None:
    """Each image has a tag of three numbers, and but for the one built here a digest."""
    service = SERVICES[name]
    assert re.fullmatch(VERSION if "build" in service else PINNED, service["image"])


def test_the_dockerfile_is_pinned_and_gives_up_root() -> None:
    """Both stages start from the same pinned image, and the last USER is not root."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert PINNED.fullmatch(bases[0])
    user = re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1]
    assert user.split(":")[0] not in ("0", "root")


@each_service
def test_every_service_has_a_health_check_and_few_rights(name: str) -> None:
    """Each says how to see that it works, runs as another user than root, without capabilities."""
    service = SERVICES[name]
    assert len(service["healthcheck"]["test"]) > 1
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["cap_drop"] == ["ALL"]
    if "build" not in service:  # our own image names its user
        assert str(service["user"]).split(":")[0] not in ("0", "root")


@each_service
def test_ports_are_published_on_the_loopback_interface_only(name: str) -> None:
    """Nothing listens to the network without somebody's decision."""
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_everything_mounted_exists_and_named_volumes_are_declared() -> None:
    """No bind mount would make Docker create an empty folder in its place."""
    assert len(mounts()) >= 6
    for name, source, _ in mounts():
        assert source.exists(), f"{name}: {source} is missing"
    named = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }
    assert named == set(COMPOSE["volumes"])


def test_the_image_is_built_from_what_it_needs() -> None:
    """.dockerignore lets through the packages and what pyproject.toml names, and nothing else."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert lines[0] == "*"
    let_through = {line.strip("!/") for line in lines if line.startswith("!")}
    assert let_through == {
        "LICENSE",
        "README.md",
        "constraints.txt",
        "pyproject.toml",
        "millrace",
        "models",
        "monitoring",
        "stream",
    }


@pytest.mark.parametrize("token", [TOKEN["MILLRACE_HTTP__TOKENS__0__SHA256"], None])
def test_docker_compose_accepts_the_file_with_a_token_only(token: str | None) -> None:
    """`docker-compose config` succeeds, and without a token says what is missing."""
    compose = program("docker-compose", "docker-compose")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MILLRACE_")}
    if token is not None:
        environ["MILLRACE_TOKEN_SHA256"] = token
    done = subprocess.run(
        [compose, "--profile", "demo", "--profile", "scaled", "config"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (token is not None), done.stderr
    if token is None:
        assert "make a token" in done.stderr
    else:
        assert set(yaml.safe_load(done.stdout)["services"]) == set(SERVICES)


def test_the_mounted_configuration_is_valid_and_fits_the_compose_file() -> None:
    """With the token's hash from the environment it loads; broker, port and state place agree."""
    loaded = config.load(DEPLOYED, TOKEN)
    assert isinstance(loaded.log, KafkaLogSettings)
    assert (
        f"PLAINTEXT://{loaded.log.bootstrap}"
        in (SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"])
    )
    assert f"127.0.0.1:8080:{loaded.http.port}" in SERVICES["millrace"]["ports"]
    assert loaded.http.tokens[0].sha256 == TOKEN["MILLRACE_HTTP__TOKENS__0__SHA256"]
    assert any(v.endswith(f":{loaded.state_dir.parent}") for v in SERVICES["millrace"]["volumes"])
    assert str(DEPLOYED.relative_to(ROOT)) in str(SERVICES["millrace"]["volumes"])


RECIPE = re.search(
    r"^TOKEN=.*?(?=^docker)", (ROOT / "deploy" / "README.md").read_text(), re.M | re.S
)


@pytest.mark.parametrize(
    ("openssl", "made"),
    [("echo " + "ab" * 32, True), ("exit 127", False), ("exit 0", False), ("echo short", False)],
)
def test_the_recipe_makes_the_hash_of_a_token_or_none(
    tmp_path: Path, openssl: str, made: bool
) -> None:
    """Where no token was made none is configured: Compose then says that it is missing."""
    program = tmp_path / "openssl"
    program.write_text(f"#!/bin/sh\n{openssl}\n")
    program.chmod(0o755)
    assert RECIPE is not None
    script = f'{RECIPE[0]}\nprintf %s "$MILLRACE_TOKEN_SHA256"'
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", script], env=environ, capture_output=True, text=True)
    assert done.stdout == (hashlib.sha256(("ab" * 32).encode()).hexdigest() if made else "")


def test_the_image_holds_the_versions_that_are_tested() -> None:
    """pip installs by constraints.txt."""
    assert "pip install" in (text := (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert all("-c constraints.txt" in line for line in text.splitlines() if "pip install" in line)


@pytest.mark.parametrize("extras", ["", "torch", "refit", "torch,refit"])
def test_the_image_holds_what_the_wheels_go_without(tmp_path: Path, extras: str) -> None:
    """LightGBM's needs a library of the system; who does not train installs nothing."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    [script] = re.findall(r"^RUN (case .*?esac)$", text, re.MULTILINE | re.DOTALL)
    for name in ("apt-get", "rm"):
        (program := tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        program.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "EXTRAS": extras}
    done = subprocess.run(["sh", "-ec", script], env=environ, capture_output=True, text=True)
    assert done.returncode == 0
    assert ("libgomp1" in done.stdout) == ("refit" in extras)


def test_no_secret_is_committed() -> None:
    """The deployed configuration holds no hash, so that without the environment it is refused."""
    assert not re.search(r"[0-9a-f]{64}", DEPLOYED.read_text(encoding="utf-8"))
    with pytest.raises(config.ConfigError, match=r"http\.tokens\[0\]\.sha256"):
        config.load(DEPLOYED, {})


def test_the_profile_scaled_is_one_service_of_all_its_processes() -> None:
    """Each has its own place in it and its own volume, and all run the same mounted file."""
    environs = {
        name: {k: TOKEN.get(k, v) for k, v in service["environment"].items()}
        for name, service in SERVICES.items()
        if name.startswith("scorer-") or name == "learner"
    }
    loaded = {name: config.load(SCALED, environ) for name, environ in environs.items()}
    for name, found in loaded.items():
        assert found.name == f"{found.service}-{name}"
        volumes = SERVICES[name]["volumes"]
        assert f"{name}-state:{found.state_dir.parent}" in volumes
        assert f"./{SCALED.relative_to(ROOT)}:/etc/millrace/{SCALED.name}:ro" in volumes
    assert {found.name for found in loaded.values()} == set(found.processes)
    beside = config.load(DEPLOYED, TOKEN)
    assert not {*beside.inputs, *beside.outputs} & {*found.inputs, *found.outputs}


@pytest.mark.parametrize("name", ["fraud-kafka.toml", "fraud-scaled.toml", "clicks.toml"])
def test_the_examples_are_valid(name: str) -> None:
    """Every example loads as it stands."""
    config.load(ROOT / "examples" / name, {})


@pytest.mark.prometheus
def test_prometheus_accepts_its_configuration_and_rules(tmp_path: Path) -> None:
    """promtool finds the mounted rules through the configuration, and no fault in either."""
    for service, source, target in mounts():
        if service == "prometheus":
            place = tmp_path / Path(target).relative_to("/etc/prometheus")
            if source.is_dir():
                shutil.copytree(source, place)
            else:
                shutil.copy(source, place)
    command = [program("promtool", "prometheus"), "check", "config", "prometheus.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"SUCCESS: [1-9]\d* rules found", done.stdout)


def test_prometheus_scrapes_the_service() -> None:
    """The job `millrace`, which rules and dashboards name, scrapes the service's port."""
    scraping = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    configs = {c["job_name"]: c for c in scraping["scrape_configs"]}
    [names] = configs.pop("millrace-scaled")["dns_sd_configs"]
    assert set(names["names"]) == {n for n, s in SERVICES.items() if "-state:/state" in str(s)} - {
        "millrace"
    }
    jobs = {name: c["static_configs"][0]["targets"] for name, c in configs.items()}
    assert jobs["millrace"] == ["millrace:8080"]


def test_grafana_finds_its_dashboards_and_data_source() -> None:
    """The provisioned folder is where the dashboards are mounted; the source is the service's."""
    targets = {target for name, _, target in mounts() if name == "grafana"}
    folder = ROOT / "deploy" / "grafana"
    boards = yaml.safe_load((folder / "dashboards.yml").read_text(encoding="utf-8"))
    assert boards["providers"][0]["options"]["path"] in targets
    source = yaml.safe_load((folder / "datasource.yml").read_text(encoding="utf-8"))
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
