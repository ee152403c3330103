from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lmoe_ray.bench.encoder_speed import OURS, REFERENCE, STATIC, print_table, run, single_token_words, text_of
from lmoe_ray.routing.text_tokens import TextTokens
from tests.routing.encoder_folders import make_encoder

pytestmark = pytest.mark.torch


def test_every_encoder_is_measured_on_every_length(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "encoder")
    warnings: list[str] = []

    costs = run(folder, tmp_path / "cache", rounds=2, warn=warnings.append)

    assert {(cost.encoder, cost.tokens) for cost in costs} == {
        (encoder, tokens) for encoder in (REFERENCE, OURS, STATIC) for tokens in ("24", "100", "256", "list")
    }
    assert all(0 < cost.p50_ms <= cost.p95_ms for cost in costs)
    assert all((cost.least_cosine is None) == (cost.encoder == STATIC) for cost in costs)
    assert min(cost.least_cosine for cost in costs if cost.least_cosine is not None) > 0.9999
    assert warnings == []
    row = json.loads(json.dumps(costs[0].as_dict()))
    assert (row["name"], row["encoder"], row["tokens"]) == ("encoder", REFERENCE, "24")
    shown = io.StringIO()
    print_table(costs, Console(file=shown, width=200))
    assert shown.getvalue().count(OURS) == 4


@pytest.mark.parametrize("num_tokens", [24, 100, 256])
def test_a_text_has_exactly_so_many_tokens(num_tokens: int, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "encoder")

    text = text_of(single_token_words(folder), num_tokens, np.random.default_rng(0))

    assert len(TextTokens(folder, 1000, num_ids=100)([text])[0]) == num_tokens
