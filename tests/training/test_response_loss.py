"""The loss is that of the answer's tokens and of nothing else. Oracle: transformers' loss with labels of -100."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lmoe_ray.errors import TrainingDataError
from lmoe_ray.training.dataset import Example
from lmoe_ray.training.response_loss import check_head, mean_nll, response_nll
from tests.tiny import make_tiny_model

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::FutureWarning:transformers")]

BATCH = [Example((5, 6, 7, 8, 9), 2), Example((11, 12, 13), 1), Example((20, 21, 22, 23, 24, 25, 26), 6)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoModelForCausalLM.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("m")), dtype=torch.float32)


def oracle(model: Any, example: Example) -> torch.Tensor:
    """Summed loss of one unpadded row as transformers computes it."""
    ids = torch.tensor([example.ids])
    labels = ids.clone()
    labels[0, : example.num_prompt] = -100
    loss: torch.Tensor = model(ids, labels=labels).loss
    return loss * example.num_targets


def test_a_padded_batch_costs_what_its_rows_cost_alone(model: Any) -> None:
    nll, num_targets = response_nll(model, BATCH)

    assert num_targets == 3 + 2 + 1
    assert nll.item() == pytest.approx(sum(oracle(model, example).item() for example in BATCH), rel=1e-5)


def test_gradients_are_the_oracles(model: Any) -> None:
    weight = model.model.layers[0].mlp.up_proj.weight
    nll, _ = response_nll(model, BATCH)

    (ours,) = torch.autograd.grad(nll, weight)
    (expected,) = torch.autograd.grad(sum(oracle(model, example) for example in BATCH), weight)

    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_the_last_tokens_of_the_prompt_are_no_targets(model: Any) -> None:
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7]])).logits.log_softmax(-1)

    nll, num_targets = response_nll(model, [Example((5, 6, 7), 2)])

    assert num_targets == 1
    assert nll.item() == pytest.approx(-logits[0, 1, 7].item(), rel=1e-5)


def test_every_token_weighs_the_same_in_the_mean(model: Any) -> None:
    expected = sum(oracle(model, example).item() for example in BATCH) / 6

    assert mean_nll(model, [BATCH[:1], BATCH[1:]]) == pytest.approx(expected, rel=1e-5)


def test_logits_are_computed_for_answers_only(model: Any) -> None:
    shapes = []
    handle = model.lm_head.register_forward_hook(lambda _m, _args, out: shapes.append(out.shape[0]))
    response_nll(model, BATCH)
    handle.remove()

    assert shapes == [6]


def test_a_plain_head_passes_and_a_scaled_one_is_refused(model: Any, tmp_path: Path) -> None:
    check_head(model, BATCH[0])

    handle = model.register_forward_hook(lambda _m, _args, out: type(out)(logits=out.logits.tanh()))
    with pytest.raises(TrainingDataError, match="LlamaForCausalLM: changes its logits"):
        check_head(model, BATCH[0])
    handle.remove()
