"""Files for clusters: they keep to the published schemas, hold settings that load, and agree with each other.

The schemas are those that come with Ray; the fields of KubeRay are those of its API reference, version 1.6
(https://docs.ray.io/en/latest/cluster/kubernetes/references/api.html).
"""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import typer
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from iqa_service.serving.settings import TOKEN_VARIABLE, ServiceSettings
from rgsud.commands.serving import serve
from rgsud.serving.app import TOKEN_VARIABLES
from rgsud_core.addresses import parse_address
from trainer.config import Config, load_config

DEPLOY = Path(__file__).parents[2] / "deploy"
PIPELINE, HTTP_SCORER = DEPLOY / "kuberay" / "pipeline", DEPLOY / "kuberay" / "http-scorer"
MANIFESTS = sorted(path for path in (DEPLOY / "kuberay").rglob("*.yaml") if path.name != "kustomization.yaml")

FULL_TAG = r"[\w/]+:v?\d+\.\d+\.\d+(-\w+)*"
"""An image with its whole version: another never comes in its place."""

FIELDS = {
    "RayJob": {
        *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata"),
        *("clusterSelector", "submitterConfig", "managedBy", "deletionStrategy", "entrypoint"),
        *("runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources", "entrypointNumCpus"),
        *("entrypointNumGpus", "ttlSecondsAfterFinished", "shutdownAfterJobFinishes", "suspend"),
    },
    "RayService": {
        *("serveService", "upgradeStrategy", "serveConfigV2", "rayClusterConfig"),
        *("excludeHeadPodFromServeSvc", "rayClusterDeletionDelaySeconds"),
    },
    "cluster": {
        *("authOptions", "suspend", "managedBy", "autoscalerOptions", "headServiceAnnotations"),
        *("enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec", "rayVersion"),
        "workerGroupSpecs",
    },
    "head": {"template", "headService", "enableIngress", "rayStartParams", "serviceType"},
    "workers": {
        *("groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "rayStartParams"),
        *("template", "scaleStrategy", "numOfHosts", "suspend"),
    },
}


def objects(*folders: Path) -> list[dict[str, Any]]:
    found = []
    for path in MANIFESTS:
        if path.parent in folders:
            found += list(yaml.safe_load_all(path.read_text()))
    return found


def of_kind(kind: str, *folders: Path) -> list[dict[str, Any]]:
    return [each for each in objects(*folders) if each["kind"] == kind]


def cluster_of(ray: dict[str, Any]) -> dict[str, Any]:
    spec = ray["spec"]
    found: dict[str, Any] = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    return found


def pods(each: dict[str, Any]) -> list[dict[str, Any]]:
    """The specs of the pods that an object stands for."""
    if each["kind"] in ("RayJob", "RayService"):
        cluster = cluster_of(each)
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        return [group["template"]["spec"] for group in groups]
    return [each["spec"]["template"]["spec"]] if "template" in each["spec"] else []


def every_pod() -> list[dict[str, Any]]:
    return [pod for each in objects(PIPELINE, HTTP_SCORER) for pod in pods(each)]


def trains_by(entrypoint: str) -> Config:
    """What `rgsud train` would make of a command line."""
    program, verb, recipe, *rest = shlex.split(entrypoint)
    assert (program, verb, rest[-1]) == ("rgsud", "train", "--resume")
    return load_config(recipe, rest[:-1])


def entrypoints() -> dict[str, str]:
    """The training commands, by which pipeline they are of."""
    (job,) = of_kind("RayJob", PIPELINE)
    kustomization = yaml.safe_load((HTTP_SCORER / "kustomization.yaml").read_text())
    (patch,) = yaml.safe_load(kustomization["patches"][0]["patch"])
    assert patch["path"] == "/spec/entrypoint"
    return {"pipeline": job["spec"]["entrypoint"], "http-scorer": patch["value"]}


def serve_configs() -> list[dict[str, Any]]:
    (service,) = of_kind("RayService", HTTP_SCORER)
    return [
        yaml.safe_load(text)
        for text in ((DEPLOY / "serve.yaml").read_text(), service["spec"]["serveConfigV2"])
    ]


@pytest.mark.parametrize("number", [0, 1])
def test_serve_takes_its_configuration(number: int) -> None:
    config = serve_configs()[number]
    ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    settings = ServiceSettings.model_validate(application["args"])
    parse_address(settings.scorer)
    assert application["import_path"] == "iqa_service.serving.ray_app:build_app"


def test_the_cluster_launcher_takes_its_configuration() -> None:
    config = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    schema = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    jsonschema.validate(config, json.loads(schema.read_text()))
    validate_config(prepare_config(config))
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


def test_the_example_in_the_launchers_file_loads() -> None:
    head = (DEPLOY / "ray-cluster.yaml").read_text()
    (said,) = re.findall(r"^#\s+rgsud submit ((?:.*\n)+?)#\n", head, re.MULTILINE)
    words = shlex.split(said.replace("\\\n#", ""))
    config = load_config(words[0], words[1:])
    address = yaml.safe_load(head)["provider"]["head_ip"]
    assert config.recycling.pool.startswith(f"http://{address}:8080/")
    assert config.runs.is_absolute()


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_listed_and_names_what_it_is(path: Path) -> None:
    kustomization = yaml.safe_load((path.parent / "kustomization.yaml").read_text())
    assert path.name in kustomization["resources"]
    for each in yaml.safe_load_all(path.read_text()):
        assert {"apiVersion", "kind", "metadata", "spec"} == set(each)
        if each["kind"].startswith("Ray"):
            assert each["apiVersion"] == "ray.io/v1"
            assert set(each["spec"]) <= FIELDS[each["kind"]]


@pytest.mark.parametrize("kind", ["RayJob", "RayService"])
def test_a_ray_cluster_has_kuberays_fields(kind: str) -> None:
    (each,) = of_kind(kind, PIPELINE, HTTP_SCORER)
    cluster = cluster_of(each)
    assert set(cluster) <= FIELDS["cluster"]
    assert set(cluster["headGroupSpec"]) <= FIELDS["head"]
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= FIELDS["workers"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        # A pod whose processors or memory are numbers here would be refused: these are strings.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert cluster["rayVersion"] == version("ray")


@pytest.mark.parametrize("pipeline", ["pipeline", "http-scorer"])
def test_the_training_command_fits_the_cluster(pipeline: str) -> None:
    config = trains_by(entrypoints()[pipeline])
    (job,) = of_kind("RayJob", PIPELINE)
    (group,) = cluster_of(job)["workerGroupSpecs"]
    cores = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert config.ray.workers == group["replicas"]
    assert config.ray.cpus is not None
    own_scorer = not config.recycling.scorer.startswith("http")
    assert config.ray.cpus + own_scorer == cores
    assert 2 * config.ray.cpus > cores  # one worker a pod

    mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
    held = [Path(mount["mountPath"]) for mount in mounts]
    places = [config.runs, *(place for place in config.data.model_dump().values() if isinstance(place, Path))]
    assert all(any(place.is_relative_to(mount) for mount in held) for place in places)


def test_services_are_called_by_their_names() -> None:
    configs = {name: trains_by(entrypoint) for name, entrypoint in entrypoints().items()}
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind("Service", PIPELINE)}
    for config in configs.values():
        host, port = re.fullmatch(r"http://([\w-]+):(\d+)/[\w-]+", config.recycling.pool).groups()  # type: ignore[union-attr]
        assert [port] == [str(each["port"]) for each in services[host]["ports"]]
    (service,) = of_kind("RayService", HTTP_SCORER)
    served = yaml.safe_load(service["spec"]["serveConfigV2"])
    port = served["http_options"]["port"]
    named = f"http://{service['metadata']['name']}-serve-svc:{port}"
    assert configs["http-scorer"].recycling.scorer == named
    assert served["applications"][0]["args"]["scorer"] == f"local:{configs['pipeline'].recycling.scorer}"
    assert served["http_options"]["host"] == "0.0.0.0"

    (pool,) = of_kind("Deployment", PIPELINE)
    spec = next(word for word in pods(pool)[0]["containers"][0]["command"] if word.startswith("redis://"))
    host, port = re.match(r"redis://(\w+):(\d+)/", spec).groups()  # type: ignore[union-attr]
    assert [port] == [str(each["port"]) for each in services[host]["ports"]]


def test_selectors_find_their_pods() -> None:
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in objects(PIPELINE)
        if each["kind"] in ("Deployment", "StatefulSet")
    ]
    for service in of_kind("Service", PIPELINE):
        assert service["spec"]["selector"] in labels
    (policy,) = of_kind("NetworkPolicy", PIPELINE)
    allowed = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert policy["spec"]["podSelector"]["matchLabels"] in labels
    assert allowed in labels


def test_claims_images_and_secrets_are_those_that_there_are() -> None:
    claims = {each["metadata"]["name"] for each in of_kind("PersistentVolumeClaim", PIPELINE)}
    keys = {"auth_token", *re.findall(r"\b\w+_token\b", (PIPELINE / "kustomization.yaml").read_text())}
    for pod in every_pod():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in {None, *claims}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert re.fullmatch(rf"rgsud|{FULL_TAG}", container["image"])
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts <= {*volumes, "data"}  # the claim of the StatefulSet
            assert "memory" in container["resources"]["limits"]
            for variable in container.get("env", []):
                secret = variable["valueFrom"]["secretKeyRef"]
                assert secret["name"] == "rgsud"
                assert secret["key"] in keys
    for folder in (PIPELINE, HTTP_SCORER):
        (image,) = yaml.safe_load((folder / "kustomization.yaml").read_text())["images"]
        assert (image["name"], image["newTag"]) == ("rgsud", version("rgsud"))


def test_tokens_come_by_the_names_that_the_programs_read() -> None:
    def names(*folders: Path, kind: str) -> set[str]:
        containers = [c for each in of_kind(kind, *folders) for pod in pods(each) for c in pod["containers"]]
        return {variable["name"] for container in containers for variable in container.get("env", [])}

    # Each has those of what it serves and calls, and no others.
    assert names(PIPELINE, kind="StatefulSet") == set()
    assert names(PIPELINE, kind="Deployment") == {"RGSUD_POOL_TOKEN", "RGSUD_POOL_READ_TOKEN"}
    assert names(PIPELINE, kind="RayJob") == {"RGSUD_POOL_TOKEN"}
    assert names(HTTP_SCORER, kind="RayService") == {TOKEN_VARIABLE}
    patches = yaml.safe_load((HTTP_SCORER / "kustomization.yaml").read_text())["patches"]
    added = yaml.safe_load(patches[1]["patch"])
    (job,) = of_kind("RayJob", PIPELINE)
    for each in added:
        assert each["value"]["name"] == TOKEN_VARIABLE
        *steps, last = each["path"].strip("/").split("/")
        place: Any = job
        for step in steps:
            place = place[int(step) if isinstance(place, list) else step]
        assert (isinstance(place, list), last) == (True, "-")
    for each in (*of_kind("RayJob", PIPELINE), *of_kind("RayService", HTTP_SCORER)):
        assert cluster_of(each)["authOptions"] == {"mode": "token", "secretName": "rgsud"}


def test_the_derain_service_of_compose_stands_alone_and_is_confined() -> None:
    composition = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text())
    service = composition["services"]["derain"]
    assert "depends_on" not in service
    assert (service["cap_drop"], service["read_only"]) == (["ALL"], True)
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    (published,) = service["ports"]
    assert re.fullmatch(r"127\.0\.0\.1:\$\{RGSUD_DERAIN_PORT:-8100\}:8100", published)
    assert {volume.split(":")[0] for volume in service["volumes"]} <= set(composition["volumes"])
    app = typer.Typer()
    app.command()(serve)
    script, *words = service["command"]
    text = (DEPLOY / "compose" / Path(script).name).read_text()
    assert TOKEN_VARIABLES["read"] in text
    options = {option for parameter in typer.main.get_command(app).params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    kept = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    packages = {path.parent.name for path in DEPLOY.parent.glob("*/py.typed")}
    assert {f"!{package}" for package in packages} <= set(kept)
