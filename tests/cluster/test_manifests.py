"""The cluster files agree with the project, with each other and with what KubeRay and Docker read.

Each file is read by another program, most of which ignore what they do not know. What Ray's own schemas say
about them is in ``test_manifests_in_ray.py``; nothing here imports Ray.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lmoe_ray.serving.environment import SERVE_ENVIRONMENT
from lmoe_ray.settings import Settings, parse_settings

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

#: Field names of ray.io/v1, KubeRay 1.7: of each level that kuberay.yaml may use, without the deprecated ones.
SERVICE_FIELDS = {
    "excludeHeadPodFromServeSvc",
    "managedBy",
    "rayClusterConfig",
    "rayClusterDeletionDelaySeconds",
    "serveConfigV2",
    "serveService",
    "suspend",
    "upgradeStrategy",
}
CLUSTER_FIELDS = {
    "authOptions",
    "autoscalerOptions",
    "enableInTreeAutoscaling",
    "gcsFaultToleranceOptions",
    "headGroupSpec",
    "headServiceAnnotations",
    "networkPolicy",
    "rayVersion",
    "tlsOptions",
    "workerGroupSpecs",
}
AUTOSCALER_FIELDS = {"env", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources", "upscalingMode", "version"}
HEAD_FIELDS = {"enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType", "template"}
GROUP_FIELDS = {
    "groupName",
    "idleTimeoutSeconds",
    "labels",
    "maxReplicas",
    "minReplicas",
    "numOfHosts",
    "priority",
    "rayStartParams",
    "replicas",
    "resources",
    "template",
}
POD_FIELDS = {
    "affinity",
    "containers",
    "imagePullSecrets",
    "nodeSelector",
    "securityContext",
    "terminationGracePeriodSeconds",
    "tolerations",
    "volumes",
}
CONTAINER_FIELDS = {
    "env",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resources",
    "volumeMounts",
}


# ── reading ───────────────────────────────────────────────────────────────────────────────────────


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """``(keyword, rest)`` of each instruction, comments dropped and continued lines joined."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            keyword, _, rest = line.strip().partition(" ")
            yield keyword.upper(), " ".join(rest.split())


def stages(dockerfile: str) -> list[list[tuple[str, str]]]:
    """The instructions of each stage; each list begins with its FROM."""
    found: list[list[tuple[str, str]]] = []
    for keyword, rest in instructions(dockerfile):
        if keyword == "FROM":
            found.append([])
        found[-1].append((keyword, rest))
    return found


def environment(stage: list[tuple[str, str]]) -> dict[str, str]:
    pairs = [pair for keyword, rest in stage if keyword == "ENV" for pair in shlex.split(rest)]
    return dict(pair.split("=", 1) for pair in pairs)


def read_yaml(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def build_stage() -> list[tuple[str, str]]:
    return stages((CLUSTER / "Dockerfile").read_text(encoding="utf-8"))[0]


@pytest.fixture(scope="module")
def final_stage() -> list[tuple[str, str]]:
    return stages((CLUSTER / "Dockerfile").read_text(encoding="utf-8"))[-1]


@pytest.fixture(scope="module")
def claim() -> Any:
    return kuberay_documents()[0]


@pytest.fixture(scope="module")
def service() -> Any:
    return kuberay_documents()[1]["spec"]


def kuberay_documents() -> list[Any]:
    return list(yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text(encoding="utf-8")))


def pods(service: Any) -> list[Any]:
    cluster = service["rayClusterConfig"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def containers(service: Any) -> list[Any]:
    return [pod["containers"][0] for pod in pods(service)]


def gpu_settings() -> Settings:
    return parse_settings(read_yaml("serve_gpu.yaml")["applications"][0]["args"])


def longest_drain_s() -> float:
    deployments = read_yaml("serve_gpu.yaml")["applications"][0]["deployments"]
    return max(float(deployment["graceful_shutdown_timeout_s"]) for deployment in deployments)


def requirement(name: str) -> Requirement:
    listed = map(Requirement, PROJECT["project"]["dependencies"])
    return next(r for r in listed if r.name == name)


# ── Dockerfile ────────────────────────────────────────────────────────────────────────────────────


def test_a_continued_instruction_with_a_comment_inside_is_one_instruction() -> None:
    assert list(instructions("ENV A=1 \\\n# why\n    B=2\n\nUSER 1\n")) == [("ENV", "A=1 B=2"), ("USER", "1")]


def test_both_stages_run_a_python_the_project_allows(
    build_stage: list[tuple[str, str]], final_stage: list[tuple[str, str]]
) -> None:
    images = [stage[0][1].split()[0] for stage in (build_stage, final_stage)]
    assert len(set(images)) == 1, "the virtual environment points at the interpreter it was built with"
    name, _, tag = images[0].partition(":")
    assert name == "python"
    version = tag.removesuffix("-slim")
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(f"{version}.99")


def test_the_build_copies_all_that_the_project_is_built_from(build_stage: list[tuple[str, str]]) -> None:
    copied = {source for keyword, rest in build_stage if keyword == "COPY" for source in rest.split()[:-1]}
    target = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    wheel = [*target["packages"], *target["force-include"]]
    assert copied - {"uv.loc[k]"} == {"pyproject.toml", PROJECT["project"]["readme"], *wheel}
    assert all((ROOT / source).exists() for source in copied - {"uv.loc[k]"})


def test_dependencies_are_installed_in_uv_project_mode_so_that_the_overrides_count(
    build_stage: list[tuple[str, str]],
) -> None:
    assert PROJECT["tool"]["uv"]["override-dependencies"]
    syncs = [shlex.split(rest) for keyword, rest in build_stage if keyword == "RUN" and " sync " in rest]
    assert ["--no-install-project" in sync for sync in syncs] == [True, False], "dependencies first, ourselves last"
    for sync in syncs:
        assert sync[1:3] == ["uv", "sync"]
        assert {"--no-dev", "--compile-bytecode"} <= set(sync)
    assert "--no-editable" in syncs[-1], "the source folder is not in the final image"


def test_the_environment_is_copied_to_the_path_it_was_built_at(
    build_stage: list[tuple[str, str]], final_stage: list[tuple[str, str]]
) -> None:
    place = environment(build_stage)["UV_PROJECT_ENVIRONMENT"]
    assert ("COPY", f"--from=build {place} {place}") in final_stage
    assert environment(final_stage)["PATH"].split(":")[0] == f"{place}/bin"
    profile = next(rest for keyword, rest in final_stage if "/etc/profile.d/" in rest)
    assert f"export PATH={place}/bin:$PATH" in profile, "login shells reset PATH"


def test_the_image_carries_the_tools_that_kuberay_and_ray_up_call(final_stage: list[tuple[str, str]]) -> None:
    installed = next(rest for keyword, rest in final_stage if keyword == "RUN" and "apt-get install" in rest)
    assert {"wget", "rsync", "openssh-client"} <= set(installed.split())


def test_the_image_runs_as_a_numbered_user_whose_home_ray_up_can_find(final_stage: list[tuple[str, str]]) -> None:
    user, group = next(rest for keyword, rest in final_stage if keyword == "USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    added = next(rest for keyword, rest in final_stage if "useradd" in rest)
    assert f"--uid {user} --gid {group} --create-home" in added
    assert environment(final_stage)["HOME"] == "/home/ray"


def test_nothing_after_the_user_needs_root(final_stage: list[tuple[str, str]]) -> None:
    keywords = [keyword for keyword, _ in final_stage]
    assert set(keywords[keywords.index("USER") :]) == {"USER", "WORKDIR", "EXPOSE"}


# ── one environment everywhere ────────────────────────────────────────────────────────────────────


def test_the_image_sets_the_environment_that_serving_asks_for(final_stage: list[tuple[str, str]]) -> None:
    ours = {key: value for key, value in environment(final_stage).items() if key not in ("HOME", "PATH", "HF_HOME")}
    assert ours == SERVE_ENVIRONMENT


def test_ray_up_sets_the_environment_on_every_node_and_asks_for_a_token() -> None:
    docker = read_yaml("ray_cluster.yaml")["docker"]
    words = shlex.split(" ".join(docker["run_options"]))
    given = dict(words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "--env")
    assert given == {**SERVE_ENVIRONMENT, "RAY_AUTH_MODE": "token", "NVIDIA_VISIBLE_DEVICES": "all"}
    assert not {"head_run_options", "worker_run_options"} & docker.keys()


def test_kuberay_sets_the_same_environment_on_head_and_workers(service: Any) -> None:
    head, *workers = (container["env"] for container in containers(service))
    assert workers
    assert all(worker == head for worker in workers)
    assert {entry["name"]: entry["value"] for entry in head if "value" in entry} == SERVE_ENVIRONMENT


def test_all_files_name_one_image_and_the_version_of_the_project(service: Any) -> None:
    images = {container["image"] for container in containers(service)} | {
        read_yaml("ray_cluster.yaml")["docker"]["image"]
    }
    assert images == {f"lmoe-ray:{PROJECT['project']['version']}"}
    assert f"-t {images.pop()} ." in (CLUSTER / "Dockerfile").read_text(encoding="utf-8")


# ── kuberay.yaml ──────────────────────────────────────────────────────────────────────────────────


def test_every_field_is_one_that_kuberay_knows_and_still_reads(service: Any) -> None:
    cluster = service["rayClusterConfig"]
    assert set(service) <= SERVICE_FIELDS
    assert set(cluster) <= CLUSTER_FIELDS
    assert set(cluster["autoscalerOptions"]) <= AUTOSCALER_FIELDS
    assert set(cluster["headGroupSpec"]) <= HEAD_FIELDS
    assert all(set(group) <= GROUP_FIELDS for group in cluster["workerGroupSpecs"])
    assert all(set(pod) <= POD_FIELDS for pod in pods(service))
    assert all(set(container) <= CONTAINER_FIELDS for container in containers(service))


def test_the_manifest_is_a_ray_service_with_a_name_kubernetes_accepts() -> None:
    manifest = kuberay_documents()[1]
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayService")
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", manifest["metadata"]["name"])


def test_the_serve_config_is_a_string_and_says_what_serve_gpu_says(service: Any) -> None:
    assert isinstance(service["serveConfigV2"], str)
    assert yaml.safe_load(service["serveConfigV2"]) == read_yaml("serve_gpu.yaml")


def test_the_ray_version_is_the_one_the_project_installs(service: Any) -> None:
    version = service["rayClusterConfig"]["rayVersion"]
    assert isinstance(version, str)
    assert requirement("ray").specifier.contains(version)


def test_the_token_is_asked_for_in_so_many_words(service: Any) -> None:
    assert service["rayClusterConfig"]["authOptions"] == {"mode": "token"}


def test_start_parameters_are_strings(service: Any) -> None:
    cluster = service["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_every_pod_opens_the_port_that_serve_listens_on_under_the_name_kuberay_looks_for(service: Any) -> None:
    port = read_yaml("serve_gpu.yaml")["http_options"]["port"]
    for container in containers(service):
        assert {"name": "serve", "containerPort": port} in container["ports"]


def test_a_worker_gets_traffic_when_the_graph_is_ready(service: Any) -> None:
    for container in containers(service)[1:]:
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "serve"}
        assert container["readinessProbe"]["timeoutSeconds"] > 2, "a part of the graph may take two seconds to answer"
        assert "livenessProbe" not in container, "KubeRay's own also checks the raylet"


def test_streams_may_end_before_anything_is_taken_away(service: Any) -> None:
    assert service["rayClusterDeletionDelaySeconds"] > longest_drain_s()
    for pod in pods(service)[1:]:
        _, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert pod["terminationGracePeriodSeconds"] > int(seconds)


def test_every_pod_mounts_the_claimed_volume_where_package_and_cache_are_looked_for(claim: Any, service: Any) -> None:
    assert claim["kind"] == "PersistentVolumeClaim"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(service):
        (volume,) = pod["volumes"]
        (mount,) = pod["containers"][0]["volumeMounts"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert mount["name"] == volume["name"]
        assert_on_volume(mount["mountPath"])


def test_every_pod_may_write_to_the_volume_as_the_user_of_the_image(
    service: Any, final_stage: list[tuple[str, str]]
) -> None:
    group = next(rest for keyword, rest in final_stage if keyword == "USER").split(":")[1]
    for pod in pods(service):
        assert pod["securityContext"] == {"runAsNonRoot": True, "fsGroup": int(group)}


def test_the_worker_group_can_hold_every_replica_at_its_highest_count(service: Any) -> None:
    """Ray Serve says nothing of replicas it cannot place: requests hang."""
    cluster, settings = service["rayClusterConfig"], gpu_settings()
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = [
        (group["maxReplicas"], group["template"]["spec"]["containers"][0]["resources"])
        for group in cluster["workerGroupSpecs"]
    ]
    gpus = sum(count * int(resources["limits"]["nvidia.com/gpu"]) for count, resources in groups)
    cpus = sum(count * int(resources["requests"]["cpu"]) for count, resources in groups)
    pools = [pool for model in settings.models for pool in model.pools]
    assert gpus >= sum(pool.max_replicas * pool.gpu_fraction for pool in pools)
    assert cpus >= sum(pool.max_replicas * pool.num_cpus for pool in pools) + small_cpus(settings)


def test_the_first_worker_alone_can_hold_the_smallest_graph(service: Any) -> None:
    settings = gpu_settings()
    requests = containers(service)[1]["resources"]["requests"]
    pools = [pool for model in settings.models for pool in model.pools]
    assert int(requests["cpu"]) >= sum(p.min_replicas * p.num_cpus for p in pools) + small_cpus(settings)
    assert int(requests["nvidia.com/gpu"]) >= sum(p.min_replicas * p.gpu_fraction for p in pools)


def small_cpus(settings: Settings) -> float:
    """CPUs of the deployments without a GPU."""
    router, api = settings.router, settings.api
    return router.num_replicas * router.num_cpus + api.num_replicas * api.num_cpus


def assert_on_volume(mount: str) -> None:
    settings = gpu_settings()
    for path in (settings.cache_dir, *(model.package for model in settings.models)):
        assert path is not None
        assert Path(path).is_relative_to(mount)


# ── ray_cluster.yaml ──────────────────────────────────────────────────────────────────────────────


def test_ray_up_mounts_the_volume_where_package_and_cache_are_looked_for() -> None:
    words = shlex.split(" ".join(read_yaml("ray_cluster.yaml")["docker"]["run_options"]))
    assert_on_volume(words[words.index("--volume") + 1].split(":")[1])


def test_ray_up_mounts_the_token_where_ray_in_the_image_looks_for_it(final_stage: list[tuple[str, str]]) -> None:
    assert read_yaml("ray_cluster.yaml")["file_mounts"] == {f"{environment(final_stage)['HOME']}/.ray": "~/.ray"}


def test_hub_downloads_land_on_the_volume(final_stage: list[tuple[str, str]]) -> None:
    assert Path(environment(final_stage)["HF_HOME"]).is_relative_to("/models")


# ── serve_gpu.yaml ────────────────────────────────────────────────────────────────────────────────


def test_serve_listens_where_other_nodes_can_reach_it_and_runs_a_proxy_on_each() -> None:
    config = read_yaml("serve_gpu.yaml")
    assert config["http_options"]["host"] == "0.0.0.0"
    assert config["proxy_location"] == "EveryNode"
    assert "request_timeout_s" not in config["http_options"], "it would cut long streams"


def test_a_replica_drains_for_as_long_as_it_may_wait_for_a_token() -> None:
    names = {d["name"] for d in read_yaml("serve_gpu.yaml")["applications"][0]["deployments"]}
    assert names == {"Ingress", *(f"Expert-{pool.name}" for model in gpu_settings().models for pool in model.pools)}
    assert longest_drain_s() >= gpu_settings().api.token_timeout_s


def test_the_gpu_pool_asks_for_whole_gpus_and_for_cuda() -> None:
    pools = [pool for model in gpu_settings().models for pool in model.pools]
    for pool in pools:
        assert (pool.gpu_fraction, pool.engine.device) == (1.0, "cuda")
        assert pool.target_ongoing_requests <= pool.engine.max_num_seqs, "or it scales up after requests queue"
