"""deploy/kubernetes as an API server would take it, and against what the project's own commands and configs accept."""

import json
import shlex
import stat
import subprocess
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from shutil import copytree
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.serve.schema import ServeDeploySchema
from referencing import Registry, Resource

from bae_ray.serving.config import JudgeServiceConfig, ServiceConfig
from tests.deploy.command_lines import ROOT, read

KUBERNETES = ROOT / "deploy" / "kubernetes"
VERSION = "1.35"
"""Of Kubernetes, whose schemas its own kinds have to fit."""
PINS = dict(
    line.split("==") for line in (ROOT / "requirements" / "constraints.txt").read_text().splitlines() if "==" in line
)
OVERLAYS = ("cpu", "gpu")
Objects = list[dict[str, Any]]
Render = Callable[[str], Objects]


def closed(schema: Any) -> Any:
    """The schema with unknown fields as errors."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {name: closed(part) for name, part in schema.items()}
    return {"additionalProperties": False, **changed} if isinstance(schema.get("properties"), dict) else changed


@pytest.fixture(scope="module")
def kuberay() -> Callable[[dict[str, Any]], list[str]]:
    """What is wrong with a resource of KubeRay's."""
    schema = closed(yaml.safe_load((Path(__file__).parent / "kuberay-1.7.0.yaml").read_text(encoding="utf-8")))
    core = files("kubernetes_validate") / f"kubernetes-json-schema/v{VERSION}.0-local-strict/_definitions.json"
    parts = [Resource.from_contents(schema), Resource.from_contents(json.loads(core.read_text(encoding="utf-8")))]
    registry = parts @ Registry()

    def check(resource: dict[str, Any]) -> list[str]:
        kind = {"$ref": f"{schema['$id']}#/$defs/{resource['kind']}"}
        found = Draft202012Validator(kind, registry=registry).iter_errors(resource)
        return [f"{error.json_path}: {error.message}" for error in found]

    return check


def named(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    return next(one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name))


def cluster_of(resource: dict[str, Any]) -> dict[str, Any]:
    return resource["spec"]["rayClusterSpec" if resource["kind"] == "RayJob" else "rayClusterConfig"]


def of_ray(objects: Objects) -> Objects:
    return [one for one in objects if one["apiVersion"].startswith("ray.io/")]


def groups(cluster: dict[str, Any]) -> Objects:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def templates(objects: Objects) -> Iterator[dict[str, Any]]:
    """Of all pods."""
    for one in objects:
        if one["kind"] in ("RayJob", "RayService"):
            yield from (group["template"] for group in groups(cluster_of(one)))
            if "submitterPodTemplate" in one["spec"]:
                yield one["spec"]["submitterPodTemplate"]
        elif one["kind"] == "StatefulSet":
            yield one["spec"]["template"]


def container(template: dict[str, Any]) -> dict[str, Any]:
    (one,) = template["spec"]["containers"]
    return one


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_fits_its_schema(rendered: Render, kuberay: Callable, overlay: str):
    objects = rendered(overlay)
    assert {one["kind"] for one in objects} >= {"RayJob", "RayService", "NetworkPolicy", "Secret", "Namespace"}
    for one in objects:
        if one in of_ray(objects):
            assert kuberay(one) == []
        else:
            kubernetes_validate.validate(one, VERSION, strict=True)
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "bae-ray"


def test_every_file_is_part_of_what_is_rendered():
    taken: set[Path] = set()
    for file in KUBERNETES.rglob("kustomization.yaml"):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        parts = [*content["resources"], *(patch["path"] for patch in content.get("patches", []))]
        taken |= {file} | {(file.parent / part).resolve() for part in parts}
    yamls = {file for file in KUBERNETES.rglob("*.yaml") if "mine" not in file.parts}
    assert yamls
    assert yamls - taken == set()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec/submissionMode", "Job", "is not one of"),
        ("spec/ttlSecondsAfterFinshed", 600, "'ttlSecondsAfterFinshed' was unexpected"),
        ("spec/rayClusterSpec/autoscalerOptions/upscalingMode", "Fast", "is not one of"),
        ("spec/rayClusterSpec/headGroupSpec/rayStartParams/num-cpus", 0, "0 is not of type 'string'"),
        ("spec/rayClusterSpec/headGroupSpec/template/spec/serviceAcountName", "x", "was unexpected"),
        ("spec/rayClusterSpec/workerGroupSpecs/0/minReplicas", "0", "is not of type 'integer'"),
        ("spec/rayClusterSpec/workerGroupSpecs/0/template/spec/containers/0/image", 5, "image: 5 is not of"),
        ("spec/rayClusterSpec/headGroupSpec", {}, "'template' is a required property"),
    ],
)
def test_what_does_not_fit_is_found(rendered: Render, kuberay: Callable, path: str, value: object, said: str):
    job = named(rendered("gpu"), "RayJob", "sweep")
    *way, last = path.split("/")
    at: Any = job
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    at[last] = value
    assert any(said in error for error in kuberay(job)), kuberay(job)


def references_to_secrets(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield from (part[name] for name in ("secretKeyRef", "secretRef") if name in part)
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from references_to_secrets(inner)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_objects_refer_to_is_there(rendered: Render, overlay: str):
    objects = rendered(overlay)
    keys = {one["metadata"]["name"]: set(one["data"]) for one in objects if one["kind"] == "Secret"}
    references = [*references_to_secrets(objects)]
    assert references
    for reference in references:
        if not reference.get("optional"):
            assert reference["key"] in keys[reference["name"]]
    for resource in of_ray(objects):
        cluster = cluster_of(resource)
        assert cluster["authOptions"]["mode"] == "token"
        assert "auth_token" in keys[cluster["authOptions"]["secretName"]]
    accounts = {one["metadata"]["name"] for one in objects if one["kind"] == "ServiceAccount"}
    claims = {one["metadata"]["name"] for one in objects if one["kind"] == "PersistentVolumeClaim"}
    for template in templates(objects):
        pod = template["spec"]
        assert pod.get("serviceAccountName", "bae-ray") in accounts
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {"claimName": "bae-ray-shared"})["claimName"] in claims
            assert volume.get("secret", {"secretName": "bae-ray-keys"})["secretName"] in keys
        mounted = {mount["name"] for mount in container(template).get("volumeMounts", [])}
        assert mounted - volumes.keys() <= {"data"}, "data: of a volumeClaimTemplate"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_commands_are_those_of_the_project(rendered: Render, overlay: str):
    job = named(rendered(overlay), "RayJob", "sweep")
    assert read(shlex.split(job["spec"]["entrypoint"]))
    assert job["spec"]["submissionMode"] == "K8sJobMode"
    assert job["spec"]["backoffLimit"] > 0
    assert job["spec"]["shutdownAfterJobFinishes"], "without it KubeRay refuses ttlSecondsAfterFinished"
    with pytest.raises(SystemExit):
        read([*shlex.split(job["spec"]["entrypoint"]), "--no-such-option", "1"])


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(
    ("name", "file", "config", "different"),
    [
        ("encoders", "config.yaml", ServiceConfig, {"http_options.host", "args.registry", "args.keys_file"}),
        ("judge", "judge.yaml", JudgeServiceConfig, {"http_options.host"}),
    ],
)
def test_services_are_those_of_serve(
    rendered: Render, overlay: str, name: str, file: str, config: Any, different: set[str]
):
    objects = rendered(overlay)
    served = yaml.safe_load(named(objects, "RayService", name)["spec"]["serveConfigV2"])
    ours = yaml.safe_load((ROOT / "serve" / file).read_text(encoding="utf-8"))
    ServeDeploySchema.model_validate(served)
    (application,) = served["applications"]
    config.model_validate(application["args"])
    changed = {
        path for path in flat(served).keys() | flat(ours).keys() if flat(served).get(path) != flat(ours).get(path)
    }
    sizes = {"args.encoders.", "args.texts.", "args.num_gpus", "args.model"} if overlay == "cpu" else set()
    unexplained = {path.removeprefix("applications.0.") for path in changed} - different
    assert {path for path in unexplained if not any(path.startswith(size) for size in sizes)} == set()
    assert served["http_options"]["host"] == "0.0.0.0"
    if overlay == "cpu":
        assert not any(value for path, value in flat(served).items() if path.endswith("num_gpus"))


def flat(part: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(part, (dict, list)):
        return {path[:-1]: part}
    pairs = part.items() if isinstance(part, dict) else enumerate(part)
    return {name: value for key, inner in pairs for name, value in flat(inner, f"{path}{key}.").items()}


def test_encoders_are_those_of_the_sweep_and_ask_for_keys(rendered: Render):
    objects = rendered("gpu")
    entrypoint = shlex.split(named(objects, "RayJob", "sweep")["spec"]["entrypoint"])
    service = named(objects, "RayService", "encoders")
    args = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]
    assert args["registry"] == f"{entrypoint[entrypoint.index('--out') + 1]}/sweep"
    for group in groups(cluster_of(service)):
        pod = group["template"]["spec"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container(group["template"])["volumeMounts"]}
        (keys,) = (volume for volume in pod["volumes"] if volume.get("secret", {}).get("secretName") == "bae-ray-keys")
        assert f"{mounts[keys['name']]}/keys" == args["keys_file"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_clusters_are_placed_as_they_should(rendered: Render, overlay: str):
    objects = rendered(overlay)
    for resource in of_ray(objects):
        cluster = cluster_of(resource)
        assert cluster["rayVersion"] == PINS["ray"]
        assert cluster["enableInTreeAutoscaling"]
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        head, worker = (container(group["template"])["resources"] for group in groups(cluster))
        assert "nvidia.com/gpu" not in head["limits"], "the head needs no GPU"
        assert ("nvidia.com/gpu" in worker["limits"]) == (overlay == "gpu")
        spot = "spot" in json.dumps(cluster["workerGroupSpecs"][0]["template"]["spec"].get("affinity", {}))
        assert spot == (overlay == "gpu" and resource["kind"] == "RayJob"), "services stay"
        if resource["kind"] == "RayService":
            assert resource["spec"]["upgradeStrategy"]["type"] == "NewCluster"
            recovery = cluster["gcsFaultToleranceOptions"]
            host, port = recovery["redisAddress"].split(":")
            assert named(objects, "Service", host)["spec"]["ports"][0]["port"] == int(port)
            assert "externalStorageNamespace" not in recovery, "both clusters of an upgrade would have it"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_have_no_more_rights_than_they_need(rendered: Render, overlay: str):
    for template in templates(rendered(overlay)):
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        assert container(template)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not container(template)["image"].endswith((":latest", "/bae-ray"))


def test_secrets_are_made_once_and_for_their_owner_alone(kubernetes_tools: Path, tmp_path: Path):
    copytree(KUBERNETES, tmp_path / "kubernetes", ignore=lambda _, names: {"secrets", "mine"} & {*names})
    overlay = tmp_path / "kubernetes" / "overlays" / "cpu"
    kustomize = [kubernetes_tools / "kubectl", "kustomize", overlay]
    refused = subprocess.run(kustomize, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "secrets/auth_token" in refused.stderr
    contents = []
    for _ in range(2):
        subprocess.run([tmp_path / "kubernetes" / "secrets.sh"], check=True, capture_output=True)
        written = sorted((tmp_path / "kubernetes" / "base" / "secrets").iterdir())
        assert [file.name for file in written] == ["auth_token", "keys", "redis_password"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in written} == {0o600}
        contents.append([file.read_text() for file in written])
    assert contents[0] == contents[1]
    assert len({*contents[0]}) == 3
    assert min(map(len, contents[0])) == 48
    subprocess.run(kustomize, capture_output=True, check=True)
    ignored = ["git", "check-ignore", "-q", "deploy/kubernetes/base/secrets/keys"]
    assert subprocess.run(ignored, cwd=ROOT, check=False).returncode == 0
