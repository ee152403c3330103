from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

from lmoe_ray.bench.speed_workload import PromptMaker, make_adapters
from lmoe_ray.domain.package import load_package
from lmoe_ray.errors import ModelSourceError


def test_prompts_are_words_that_survive_a_round_trip(model_folder: Path) -> None:
    prompts = PromptMaker(model_folder).make(3, 16, seed=(0,))

    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    assert [len(prompt) for prompt in prompts] == [16] * 3
    for prompt in prompts:
        text = tokenizer.decode(prompt)
        assert len(text.split()) == 16
        assert tokenizer.encode(text).ids == prompt


def test_prompts_differ_by_request_and_round_and_repeat_by_seed(model_folder: Path) -> None:
    maker = PromptMaker(model_folder)

    first, second = maker.make(2, 16, seed=(0,)), maker.make(2, 16, seed=1)

    assert first[0] != first[1]
    assert first[0] != second[0]
    assert first == PromptMaker(model_folder).make(2, 16, seed=(0,))


def test_a_lone_request_gets_the_first_prompt_of_many(model_folder: Path) -> None:
    maker = PromptMaker(model_folder)

    assert maker.make(1, 16, seed=(3,)) == maker.make(4, 16, seed=(3,))[:1]


def test_a_vocabulary_without_words_is_refused(model_folder: Path) -> None:
    bare = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.save(str(model_folder / "tokenizer.json"))

    with pytest.raises(ModelSourceError, match="has no words of one token"):
        PromptMaker(model_folder)


def test_adapters_are_a_package_with_all_seven_linears(model_folder: Path, tmp_path: Path) -> None:
    folders = make_adapters(model_folder, 2, tmp_path / "cache")

    package = load_package(folders[0].parents[1])
    assert [expert.name for expert in package.experts] == [folder.name for folder in folders]
    assert len({expert.digest for expert in package.experts}) == 2
    lora = package.experts[0].lora
    assert (lora.rank, lora.alpha, len(lora.targets)) == (16, 32.0, 7)
    tensors = load_file(folders[0] / "adapter_model.safetensors")
    assert len(tensors) == 2 * 7 * 2
    name = "base_model.model.model.layers.1.self_attn.k_proj"
    # 8 in; two heads of two out.
    assert (tensors[f"{name}.lora_A.weight"].shape, tensors[f"{name}.lora_B.weight"].shape) == ((16, 8), (4, 16))


def test_adapters_that_are_there_are_kept(model_folder: Path, tmp_path: Path) -> None:
    (first,) = make_adapters(model_folder, 1, tmp_path)
    (first / "adapter_config.json").write_text(json.dumps({}))

    assert make_adapters(model_folder, 2, tmp_path)[0] == first
    assert (first / "adapter_config.json").read_text() == "{}"
