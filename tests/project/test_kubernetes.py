"""The Kubernetes manifests: strictly what its API knows, and processes that can run."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from stream.settings import load as config

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART, TEXT = DEPLOY / "helm" / "millrace", (DEPLOY / "kubernetes" / "millrace.yaml").read_text()
OBJECTS: list[dict[str, Any]] = [found for found in yaml.safe_load_all(TEXT) if found]
SETS = {o["metadata"]["name"]: o for o in OBJECTS if o["kind"] == "StatefulSet"}
KUBERNETES = "1.37"
TOKEN = {"MILLRACE_HTTP__TOKENS__0__SHA256": hashlib.sha256(b"a token").hexdigest()}


def named(found: dict[str, Any]) -> str:
    """For the tests' ids."""
    return f"{found['kind']} {found['metadata']['name']}"


def test_the_manifests_are_of_this_chart() -> None:
    """deploy/manifests.sh wrote them after the chart's last change; else run it."""
    files = sorted(CHART.rglob("*"), key=lambda path: f"./{path.relative_to(CHART)}".encode())
    whole = hashlib.sha256(b"".join(path.read_bytes() for path in files if path.is_file()))
    assert f"sha256 {whole.hexdigest()}" in TEXT.splitlines()[0]


@pytest.mark.parametrize("found", OBJECTS, ids=named)
def test_each_object_is_what_the_api_knows(found: dict[str, Any]) -> None:
    """By the API's own schema, with every field known."""
    kubernetes_validate.validate(found, KUBERNETES, strict=True)


def test_a_misspelt_field_is_found() -> None:
    """The check above can fail."""
    wrong = json.loads(json.dumps(SETS["fraud-scorer"]))
    wrong["spec"]["serviceNam"] = wrong["spec"].pop("serviceName")
    with pytest.raises(kubernetes_validate.ValidationError, match="serviceNam"):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", SETS)
def test_a_pod_is_a_process_of_the_service(name: str) -> None:
    """Its environment, with the index of each pod, loads the mounted file as the process it is."""
    [mounted] = [o["data"]["service.toml"] for o in OBJECTS if o["kind"] == "ConfigMap"]
    spec = SETS[name]["spec"]
    [container] = spec["template"]["spec"]["containers"]
    [before] = spec["template"]["spec"]["initContainers"]
    assert before["env"] == container["env"]
    role = name.removeprefix("fraud-")
    processes = []
    for index in range(spec["replicas"]):
        environ = dict(TOKEN)
        for variable in container["env"]:
            source = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            assert source in (None, "metadata.labels['apps.kubernetes.io/pod-index']")
            environ[variable["name"]] = str(index) if source else variable["value"]
        found = config.parse(config.overlay(tomllib.loads(mounted), environ), name)
        assert found.shard.role == role
        processes.append(found.name)
    whole = found.processes
    assert processes == [p for p in whole if p.startswith(f"{found.service}-{role}")]


@pytest.mark.parametrize("name", SETS)
def test_a_pod_has_few_rights_and_a_volume_of_its_own(name: str) -> None:
    """No root, no capability, no writable file but its own, and time to end in order."""
    spec = SETS[name]["spec"]
    pod = spec["template"]["spec"]
    [volume] = spec["volumeClaimTemplates"]
    assert volume["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert pod["terminationGracePeriodSeconds"] >= 30
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    for container in (*pod["containers"], *pod["initContainers"]):
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"]
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+", container["image"])
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= pod["containers"][0].keys()
    [budget] = [o for o in OBJECTS if named(o) == f"PodDisruptionBudget {name}"]
    assert budget["spec"]["selector"] == spec["selector"]


def test_secrets_come_from_the_environment_alone() -> None:
    """No object is a Secret, and no text is as long as a token's hash but the chart's digests."""
    assert "Secret" not in {o["kind"] for o in OBJECTS}
    without = re.sub(r"(millrace/config:|sha256) [0-9a-f]{64}", "", TEXT)
    assert not re.search(r"[0-9a-f]{64}", without)
