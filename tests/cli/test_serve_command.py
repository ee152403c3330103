"""What ``lmoe serve`` does before Ray starts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from lmoe_ray.cli.serve_command import _port_in, _require_free, default_config
from lmoe_ray.errors import SettingsError


def test_a_port_in_use_is_refused_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}.*use --port"):
            _require_free("127.0.0.1", port)


def test_a_free_port_is_fine() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    _require_free("127.0.0.1", port)


def test_the_configuration_of_the_folder_wins_over_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = default_config()
    (tmp_path / "serve_config.yaml").write_text("")

    assert shipped.is_absolute()
    assert default_config() == Path("serve_config.yaml")


@pytest.mark.parametrize(
    ("text", "port"),
    [("http_options: {port: 9000}", 9000), ("http_options:", 8000), ("a: [", 8000), ("- x", 8000), ("{}", 8000)],
)
def test_the_port_is_read_without_complaint(tmp_path: Path, text: str, port: int) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)

    assert _port_in(file) == port
