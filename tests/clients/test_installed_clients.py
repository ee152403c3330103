"""Clients as their users install them, over a real socket, against a scripted graph or a server that runs.

``LMOE_CLIENTS`` is the folder of ``tests/clients/install.py``. With ``LMOE_CLIENTS_URL`` the server there is asked,
its first model, and what is said is not known beforehand.
"""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.clients.catalogue import CLIENTS, Client
from tests.clients.conftest import Target
from tests.clients.obliging_backend import TEXT
from tests.clients.programs import DRIVES, Told

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

RUN = [(client, scenario) for client in CLIENTS if client.name in DRIVES for scenario in client.scenarios]
CITIES = ("Paris", "Rome")
#: What libraries make of a prompt that is too long.
TOO_LONG = {"BadRequestError", "OpenAIContextOverflowError", "ContextWindowExceededError"}


@pytest.fixture(scope="session")
def told_by(target: Target, tmp_path_factory: pytest.TempPathFactory, folder_of: Any) -> Any:
    """What a client tells of all its scenarios, asked once even if it fails."""

    @cache
    def drive(client: Client, folder: Path) -> Told:
        try:
            return DRIVES[client.name](folder, target.url, target.model, tmp_path_factory.mktemp(client.slug))
        except (AssertionError, ValueError, subprocess.TimeoutExpired) as error:
            return {scenario: {"failed": str(error)} for scenario in client.scenarios}

    def told_by(client: Client) -> Told:
        return drive(client, folder_of(client))

    return told_by


@pytest.mark.parametrize(("client", "scenario"), RUN, ids=lambda part: getattr(part, "name", part))
def test_a_client_gets_what_it_asked_for(told_by: Any, target: Target, client: Client, scenario: str) -> None:
    told = told_by(client)
    result = told[scenario]

    assert not (isinstance(result, dict) and "failed" in result), result
    if result is None and target.is_real:
        pytest.skip("the client cannot insist on a call, and the model answered in words")
    if scenario == "tools":
        name, arguments = result
        assert (name, arguments["city"]) in [("weather", city) for city in CITIES[: 1 + target.is_real]]
    elif scenario == "structured":
        assert result["city"] in CITIES[: 1 + target.is_real]
    elif scenario == "embeddings":
        assert_embeddings(result, target)
    elif scenario == "models":
        assert target.model in result
    elif scenario == "full_context":
        assert result in TOO_LONG
    elif target.is_real:
        assert result.strip() != ""
        assert scenario != "stream" or result == told.get("chat", result)
    else:
        assert "".join(TEXT) in result


def assert_embeddings(vectors: list[list[float]], target: Target) -> None:
    if target.is_real:
        assert len(vectors[0]) == len(vectors[1]) > 100
        assert sum(x * x for x in vectors[0]) == pytest.approx(1, abs=1e-3)
        assert vectors[0] != vectors[1]
    else:
        assert vectors == [[2.0, 0.0], [1.0, 0.0]]
