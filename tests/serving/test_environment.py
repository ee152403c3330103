"""Ray's environment is completed, never overridden, and differs per port."""

from __future__ import annotations

from lmoe_ray.serving.environment import SERVE_ENVIRONMENT, prepare_environment


def test_every_flag_is_set() -> None:
    environ: dict[str, str] = {}
    prepare_environment(8000, environ)

    assert SERVE_ENVIRONMENT.items() <= environ.items()


def test_the_users_own_values_stay() -> None:
    environ = {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    prepare_environment(8000, environ)

    assert environ["RAY_SERVE_ENABLE_HA_PROXY"] == "0"


def test_two_graphs_on_one_machine_do_not_share_haproxy_files() -> None:
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    prepare_environment(8000, first)
    prepare_environment(8001, second)

    assert first["RAY_SERVE_HAPROXY_SOCKET_PATH"] != second["RAY_SERVE_HAPROXY_SOCKET_PATH"]
