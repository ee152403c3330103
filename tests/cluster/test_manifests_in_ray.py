"""The cluster files under the schemas of the Ray they are written for."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli
from ray.serve.schema import ServeDeploySchema

from lmoe_ray.errors import SettingsError
from lmoe_ray.serving.config_check import check_config

pytestmark = pytest.mark.ray

CLUSTER = Path(__file__).parents[2] / "cluster"


def ray_cluster() -> Any:
    return yaml.safe_load((CLUSTER / "ray_cluster.yaml").read_text(encoding="utf-8"))


def ray_service() -> Any:
    _, service = yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text(encoding="utf-8"))
    return service["spec"]


def serve_configs() -> dict[str, str]:
    return {
        "serve_gpu.yaml": (CLUSTER / "serve_gpu.yaml").read_text(encoding="utf-8"),
        "kuberay.yaml": ray_service()["serveConfigV2"],
    }


def start_options(command: str) -> set[str]:
    """Long options of a ``ray start`` command line."""
    program, *words = shlex.split(command)
    assert [program, words[0]] == ["ray", "start"]
    return {word.split("=")[0] for word in words[1:]}


def known_start_options() -> set[str]:
    return {option for parameter in cli.commands["start"].params for option in parameter.opts}


@pytest.mark.parametrize("name", ["serve_gpu.yaml", "kuberay.yaml"])
def test_serve_accepts_the_configuration_and_we_find_no_unknown_key(name: str, tmp_path: Path) -> None:
    text = serve_configs()[name]
    ServeDeploySchema.model_validate(yaml.safe_load(text))
    config = tmp_path / "config.yaml"
    config.write_text(text, encoding="utf-8")
    assert [model.name for model in check_config(config).settings.models] == ["llama-2-7b"]


@pytest.mark.parametrize("name", ["serve_gpu.yaml", "kuberay.yaml"])
def test_a_misspelt_key_in_the_configuration_would_be_found(name: str, tmp_path: Path) -> None:
    text = serve_configs()[name]
    misspelt = text.replace("graceful_shutdown_timeout_s", "gracefull_shutdown_timeout_s", 1)
    assert misspelt != text
    config = tmp_path / "config.yaml"
    config.write_text(misspelt, encoding="utf-8")
    with pytest.raises(SettingsError, match="gracefull_shutdown_timeout_s"):
        check_config(config)


def test_the_cluster_file_fits_the_launchers_schema() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(ray_cluster(), schema)


def test_the_launcher_accepts_the_cluster_file_with_all_machines_and_its_defaults() -> None:
    """The same steps as ``ray up``: the on-premise provider refuses what the schema alone lets pass."""
    config = ray_cluster()
    prepared = prepare_config(config)
    validate_config(prepared)
    (node_type,) = prepared["available_node_types"].values()
    assert node_type["min_workers"] == node_type["max_workers"] == len(config["provider"]["worker_ips"])


@pytest.mark.parametrize("role", ["head", "worker"])
def test_each_start_command_stops_ray_first_and_uses_options_that_exist(role: str) -> None:
    stop, start = ray_cluster()[f"{role}_start_ray_commands"]
    assert stop == "ray stop"
    assert start_options(start) <= known_start_options()
    assert ("--head" in start_options(start)) == (role == "head")


def test_kuberays_start_parameters_are_options_of_ray_start() -> None:
    cluster = ray_service()["rayClusterConfig"]
    given = {key for g in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]) for key in g["rayStartParams"]}
    assert given
    assert {f"--{key}" for key in given} <= known_start_options()


def test_the_commands_in_the_cluster_files_comment_exist() -> None:
    lines = (CLUSTER / "ray_cluster.yaml").read_text(encoding="utf-8").splitlines()
    commands = [line.removeprefix("#").split()[1] for line in lines if line.startswith("#   ray ")]
    assert len(commands) == 4
    assert set(commands) <= set(cli.commands)
