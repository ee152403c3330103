"""What README says can be typed, loaded and found."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from typer.main import get_command

from lmoe_ray.api.http_app import build_app
from lmoe_ray.cli.main import app
from lmoe_ray.settings import ApiSettings, parse_settings
from tests.fakes import FakeBackend

README = Path("README.md").read_text(encoding="utf-8")


def verbs() -> set[str]:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    nested = {f"bench {name}" for name in commands["bench"].commands}
    return set(commands) - {"bench"} | nested


def test_every_command_named_exists_and_every_command_is_named() -> None:
    named = {f"{group}{verb}" for group, verb in re.findall(r"(?:`|uv run )lmoe (bench )?([a-z]+)", README)}

    assert verbs() - {"version"} <= named
    assert named <= verbs()


def test_every_option_shown_exists() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for verb, rest in re.findall(r"uv run lmoe (\w+)((?: --?[\w-]+(?: [^-\s#]\S*)?)+)", README):
        known = {option for parameter in commands[verb].params for option in parameter.opts}
        for option in re.findall(r"--[\w-]+", rest):
            assert option in known, f"lmoe {verb} has no {option}"


def test_yaml_that_is_shown_is_valid() -> None:
    snippets = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)

    assert snippets
    for snippet in snippets:
        parse_settings(yaml.safe_load(snippet))


def test_every_path_of_the_api_table_is_served() -> None:
    served = {getattr(route, "path", "") for route in build_app(FakeBackend(), ApiSettings()).routes}
    table = README.split("## The API")[1].split("\n\n")[1]
    paths = set(re.findall(r"`(?:GET |POST )?(/[^`]*)`", table))

    assert paths
    for path in paths:
        assert re.sub(r"{(\w+)}", r"{\1:path}", path) in served, path


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert Path(target).exists(), target
