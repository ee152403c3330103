"""Sampling a batch: filters against transformers', randomness by seed and position alone, one copy to the host."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers.generation import logits_process as hf

from lmoe_ray.domain.sampling import SamplingParams
from lmoe_ray.engine import logits as logits_module
from lmoe_ray.engine import sampler as sampler_module
from lmoe_ray.engine import sequence as sequence_module
from lmoe_ray.engine.stopping import Answer
from tests.engine.test_stopping import Letters

pytestmark = pytest.mark.torch

VOCAB = 40


def make(seed: int = 0, position: int = 0, **wishes: Any) -> Any:
    answer = Answer(Letters(), num_prompt_tokens=1, max_new_tokens=50)
    sampling = SamplingParams(**{"top_k": 0, "temperature": 1.0, **wishes})
    return sequence_module.Sequence("r", (1,), sampling, answer, seed, 50, output_ids=[0] * position)


def sampler() -> Any:
    return sampler_module.Sampler(logits_module.LogitsProcessors(VOCAB, torch.device("cpu")))


def sample(logits: Any, *sequences: Any) -> Any:
    rows = [logits_module.SampleRow(sequence, len(sequence.output_ids)) for sequence in sequences]
    return sampler().sample(logits.clone(), rows)


def pick(logits: Any, *sequences: Any) -> list[int]:
    return [picked.token_id for picked in sample(logits, *sequences).read()]


def row(seed: int = 0) -> Any:
    return 2 * torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("wishes", [{"temperature": 0}, {"top_p": 0}, {"top_k": 1}])
def test_greedy_is_exactly_the_likeliest_token(wishes: dict[str, Any]) -> None:
    for seed in range(20):
        assert pick(row(seed), make(seed, **wishes)) == [row(seed).argmax().item()]


def test_greedy_takes_the_first_of_equals() -> None:
    assert pick(torch.zeros(1, VOCAB), make(temperature=0)) == [0]


FILTERS = [
    {"top_k": 5},
    {"top_k": 1000},
    {"top_p": 0.7},
    {"top_p": 0.01},
    {"min_p": 0.2},
    {"temperature": 0.3},
    {"temperature": 2.0, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
]


def reference_weights(logits: Any, wishes: dict[str, Any]) -> Any:
    scores = hf.TemperatureLogitsWarper(wishes.get("temperature", 1.0))(None, logits.clone())
    if wishes.get("top_k"):
        scores = hf.TopKLogitsWarper(min(wishes["top_k"], VOCAB))(None, scores)
    if wishes.get("top_p", 1.0) < 1:
        scores = hf.TopPLogitsWarper(wishes["top_p"])(None, scores)
    if wishes.get("min_p"):
        scores = hf.MinPLogitsWarper(wishes["min_p"])(None, scores)
    return torch.softmax(scores, -1)[0]


@pytest.mark.parametrize("wishes", FILTERS, ids=str)
def test_tokens_come_as_often_as_transformers_would_draw_them(wishes: dict[str, Any]) -> None:
    logits, num_draws = row(3), 4000
    expected = reference_weights(logits, wishes)
    sequences = [make(seed, **wishes) for seed in range(num_draws)]
    counts = Counter(pick(logits.expand(num_draws, -1), *sequences))
    assert set(counts) <= set(expected.nonzero()[:, 0].tolist())
    for token, weight in enumerate(expected.tolist()):
        deviation = (weight * (1 - weight) / num_draws) ** 0.5
        assert abs(counts[token] / num_draws - weight) <= 5 * deviation + 1e-9


def test_a_row_is_drawn_alike_alone_and_in_a_crowd() -> None:
    logits = torch.cat([row(seed) for seed in range(len(FILTERS))])
    sequences = [make(seed, **wishes) for seed, wishes in enumerate(FILTERS)]
    crowd = [*sequences, make(temperature=0)]
    together = pick(torch.cat([logits, row(99)]), *crowd)
    alone = [pick(logits[i : i + 1], sequence)[0] for i, sequence in enumerate(sequences)]
    assert together == [*alone, row(99).argmax().item()]


def test_seed_and_position_decide_and_nothing_else() -> None:
    first = sampler_module.uniform(5, 3)
    assert first == sampler_module.uniform(5, 3)
    assert len({first, sampler_module.uniform(5, 4), sampler_module.uniform(6, 3), sampler_module.uniform(-5, 3)}) == 4


def test_random_numbers_fill_the_unit_interval_evenly() -> None:
    numbers = [sampler_module.uniform(1, position) for position in range(2000)]
    assert 0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1
    assert sum(numbers) / 2000 == pytest.approx(0.5, abs=0.03)


def test_ties_at_the_last_place_all_stay() -> None:
    logits = torch.tensor([[5.0, 5.0, 5.0, 0.0] + [-9.0] * (VOCAB - 4)])
    drawn = {pick(logits, make(seed, top_k=2))[0] for seed in range(60)}
    assert drawn == {0, 1, 2}


def test_a_tiny_temperature_is_nearly_greedy_and_never_not_a_number() -> None:
    for seed in range(10):
        assert pick(row(seed), make(seed, temperature=1e-30)) == [row(seed).argmax().item()]


@pytest.mark.parametrize("wishes", [*FILTERS, {"temperature": 0}, {}], ids=str)
def test_the_crowd_moves_no_row_by_a_bit(wishes: dict[str, Any]) -> None:
    sequences = [make(seed, **wishes) for seed in range(40)]
    logits = torch.cat([row(seed) for seed in range(40)])
    crowd = [s for pair in zip(sequences, [make(7, top_k=2, logprobs=True)] * 40, strict=True) for s in pair]
    together = pick(logits.repeat_interleave(2, 0), *crowd)[::2]
    assert together == [pick(logits[i : i + 1], sequence)[0] for i, sequence in enumerate(sequences)]


def test_log_probabilities_are_those_before_temperature_and_only_if_asked_for() -> None:
    asks, does_not = make(temperature=0.1, top_k=1, logprobs=True), make(temperature=0)
    picked = sample(torch.cat([row(0), row(0)]), asks, does_not).read()
    assert picked[0].logprob == pytest.approx(torch.log_softmax(row(0), -1).max().item())
    assert picked[1].logprob is None


def test_log_probabilities_count_the_bias() -> None:
    [picked] = sample(torch.zeros(1, VOCAB), make(temperature=0, logprobs=True, logit_bias=((7, 100.0),))).read()
    assert (picked.token_id, picked.logprob) == (7, pytest.approx(0.0))


def test_the_likeliest_tokens_are_those_of_the_whole_distribution_and_as_many_as_each_row_asks_for() -> None:
    wishes = ({"top_logprobs": 3}, {"top_logprobs": 1}, {"top_logprobs": 0})
    sequences = [make(logprobs=True, **wish) for wish in wishes]
    rows = sample(torch.cat([row(seed) for seed in range(4)]), *sequences, make(temperature=0)).read()
    for seed, num_top in enumerate((3, 1, 0)):
        expected = torch.log_softmax(row(seed)[0], -1).topk(num_top)
        assert [token_id for token_id, _ in rows[seed].top] == expected.indices.tolist()
        assert [value for _, value in rows[seed].top] == pytest.approx(expected.values.tolist())
    assert (rows[3].logprob, rows[3].top) == (None, ())


def test_tokens_stay_on_the_device_until_read() -> None:
    sampled = sample(torch.cat([row(0), row(1)]), make(temperature=0, logprobs=True), make(temperature=0))
    assert sampled.token_ids.dtype == torch.int64
    assert sampled.token_ids.tolist() == [picked.token_id for picked in sampled.read()]


def test_each_of_several_answers_has_a_seed_of_its_own_and_the_first_the_requests() -> None:
    seeds = [sampler_module.derive_seed(-5, index) for index in range(8)]
    assert seeds[0] == -5
    assert len(set(seeds)) == 8
    assert all(0 <= seed < 2**63 for seed in seeds[1:])
    assert seeds == [sampler_module.derive_seed(-5, index) for index in range(8)]


def test_the_position_is_the_rows_and_not_what_the_host_has_read() -> None:
    ahead = logits_module.SampleRow(make(5), 3)
    [picked] = sampler().sample(row(), [ahead]).read()
    assert picked.token_id == pick(row(), make(5, position=3))[0]


def test_penalties_count_a_token_before_the_host_has_read_it() -> None:
    sequence, one = make(temperature=0, presence_penalty=2.0), sampler()
    logits = torch.zeros(1, VOCAB)
    logits[0, 3], logits[0, 8] = 2.0, 1.0
    rows = [[logits_module.SampleRow(sequence, position)] for position in range(3)]
    assert [one.sample(logits.clone(), r).token_ids.tolist() for r in rows] == [[3], [8], [0]]


def test_no_rows_give_no_tokens() -> None:
    assert sample(torch.zeros(0, VOCAB)).read() == []


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.parametrize(
    "wishes", [*FILTERS, {"temperature": 0}, {"frequency_penalty": 1.0, "logprobs": True}], ids=str
)
def test_a_gpu_samples_the_same_and_never_makes_the_host_wait(wishes: dict[str, Any]) -> None:
    logits = torch.cat([row(seed) for seed in range(40)])
    sequences = [make(seed, logit_bias=((2, 1.0),), **wishes) for seed in range(40)]
    gpu = sampler_module.Sampler(logits_module.LogitsProcessors(VOCAB, torch.device("cuda")))
    rows, on_gpu = [logits_module.SampleRow(sequence, 0) for sequence in sequences], logits.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sampled = gpu.sample(on_gpu, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [picked.token_id for picked in sampled.read()] == pick(logits, *sequences)
