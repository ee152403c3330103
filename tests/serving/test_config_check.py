"""Everything Ray Serve would swallow silently in serve_config.yaml is an error that names the place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmoe_ray.errors import SettingsError
from lmoe_ray.serving.config_check import check_config, deployment_names

pytestmark = pytest.mark.ray

SHIPPED = Path("serve_config.yaml")


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    data = yaml.safe_load(SHIPPED.read_text())
    change(data)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def application(data: dict[str, Any]) -> dict[str, Any]:
    return data["applications"][0]


def test_the_shipped_configuration_is_fine() -> None:
    checked = check_config(SHIPPED)

    assert (checked.host, checked.port) == ("127.0.0.1", 8000)
    assert deployment_names(checked.settings) == ("Ingress", "Router", "Expert-main")


def test_another_port_changes_only_the_port() -> None:
    moved = check_config(SHIPPED).listening_on(None, 9000)

    assert moved.data["http_options"] == {"host": "127.0.0.1", "port": 9000, "keep_alive_timeout_s": 90}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.update(proxy_locations="HeadOnly"), "proxy_locations"),
        (lambda d: d["http_options"].update(prt=1), "http_options.prt"),
        (lambda d: application(d).update(arg={}), "applications[0].arg"),
        (
            lambda d: application(d).update(deployments=[{"name": "Router", "max_ongoing_request": 1}]),
            "max_ongoing_request",
        ),
        (
            lambda d: application(d).update(deployments=[{"name": "Router", "ray_actor_options": {"num_gpu": 1}}]),
            "ray_actor_options.num_gpu",
        ),
        (
            lambda d: application(d).update(deployments=[{"name": "Router", "autoscaling_config": {"min_replica": 1}}]),
            "autoscaling_config.min_replica",
        ),
        (lambda d: application(d).update(deployments=[{"name": "Expert-man"}]), "Expert-man"),
        (lambda d: application(d).update(import_path="somewhere:else"), "import_path"),
        (lambda d: application(d)["args"]["router"].update(treshold=0.5), "args.router.treshold"),
        (lambda d: application(d)["args"]["router"].update(threshold=1.5), "args.router.threshold"),
        (lambda d: application(d)["args"]["models"][0]["pools"][0].update(gpu_fraction=1.5), "gpu_fraction=1.5"),
        (lambda d: application(d)["args"]["models"][0]["pools"][0].update(min_replicas=2), "min_replicas=2"),
        (lambda d: application(d)["args"]["models"][0].update(aliases=["a", "a"]), "repeated: a"),
        (lambda d: d.update(applications=[]), "applications"),
        (lambda d: d.update(target_capacity=200), "target_capacity"),
    ],
)
def test_a_mistake_is_refused_and_named(tmp_path: Path, change: Callable[[dict[str, Any]], object], named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        check_config(changed(tmp_path, change))

    assert named in str(refused.value)


def test_a_missing_file_and_broken_yaml_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")

    for path in (tmp_path / "none.yaml", broken):
        with pytest.raises(SettingsError, match=path.name):
            check_config(path)
