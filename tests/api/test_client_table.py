"""README's table of clients says what the tests do: no client more, none less, and nothing that no test runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.client_replays import REPLAYS
from tests.clients.catalogue import CLIENTS, Client, table

README = Path("README.md").read_text(encoding="utf-8")


def test_readme_shows_the_table_word_for_word() -> None:
    section = README.partition("\n### Clients\n")[2].partition("\n## ")[0]

    assert table() in section, "README's section 'Clients' must hold what `python -m tests.clients.catalogue` prints"


def test_every_client_is_replayed_and_every_replay_is_of_a_client() -> None:
    assert {replay.client for replay in REPLAYS} == {client.name for client in CLIENTS}


def test_no_two_clients_share_a_name_or_a_folder() -> None:
    assert len({client.slug for client in CLIENTS}) == len(CLIENTS)


@pytest.mark.parametrize("client", [client for client in CLIENTS if client.scenarios], ids=lambda client: client.name)
def test_a_client_that_is_said_to_run_is_named_by_what_runs_it(client: Client) -> None:
    sources = [path.read_text(encoding="utf-8") for path in Path("tests/clients").glob("*.py")]

    # Once in the catalogue, once where it is driven.
    assert sum(f'"{client.name}"' in source for source in sources) == 2
