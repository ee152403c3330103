from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import BertModel

from lmoe_ray.demo.task_head_build import read_task_prompts
from lmoe_ray.routing.bert_weights import read_bert
from lmoe_ray.routing.embedder import model_digest
from lmoe_ray.routing.encoder_tuning import FOLDER, EncoderTuning, read_tuning, tuning_for
from lmoe_ray.routing.flat_bert import FlatBert
from lmoe_ray.routing.sentence_encoder import encode_together
from lmoe_ray.routing.text_tokens import TextTokens
from lmoe_ray.training.tune_encoder import Prompt, tune_encoder
from tests.routing.encoder_folders import make_encoder

pytestmark = [
    pytest.mark.torch,
    # PEFT asks transformers for it.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

#: Two tasks that words tell apart, in either of two topics.
PROMPTS = [
    Prompt(expert, f"{expert}/{task}", f"{task} {topic} {filler}")
    for expert, task in (("code", "write a loop sum"), ("creative", "haiku about"))
    for topic in ("the rain in spain", "snow on the plains")
    for filler in (
        "mainly",
        "numbers",
        "falls",
        "a",
        "python",
        "in",
        "on",
        "the plains",
        "about",
        "rain",
        "write",
        "sum",
    )
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"), num_hidden_layers=3)


@pytest.fixture(scope="module")
def adapter(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    tune_encoder(encoder, 8 * PROMPTS, folder, model_digest(encoder))
    return folder


def vectors(encoder: Path, tuning: EncoderTuning | None) -> np.ndarray:
    weights = read_bert(encoder, tuning)
    ids = TextTokens(encoder, 64, len(weights.words))([prompt.text for prompt in PROMPTS])
    return encode_together(FlatBert(weights), ids)


def contrast(rows: np.ndarray) -> float:
    """Mean cosine of prompts of one task over two topics, less that of one topic over two tasks."""
    quarter = len(rows) // 4
    code_rain, code_snow, creative_rain = (rows[i * quarter : (i + 1) * quarter].mean(axis=0) for i in range(3))
    return float(code_rain @ code_snow - code_rain @ creative_rain)


def test_tuning_brings_prompts_of_one_task_together(encoder: Path, adapter: Path) -> None:
    assert contrast(vectors(encoder, read_tuning(adapter))) > contrast(vectors(encoder, None)) + 0.05


def test_the_additions_are_those_of_peft(encoder: Path, adapter: Path) -> None:
    merged = (
        PeftModel.from_pretrained(BertModel.from_pretrained(encoder, add_pooling_layer=False), adapter)
        .merge_and_unload()
        .state_dict()
    )
    plain = BertModel.from_pretrained(encoder, add_pooling_layer=False).state_dict()

    tuned = read_tuning(adapter).apply(plain)

    assert tuned.keys() == plain.keys()
    for name, tensor in tuned.items():
        assert torch.allclose(tensor, merged[name], atol=1e-6), name
    assert sum(not torch.equal(tuned[name], plain[name]) for name in plain) == 12


def test_the_adapter_names_its_encoder_and_no_folder(encoder: Path, adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())

    assert config["base_model_name_or_path"] == model_digest(encoder)
    assert str(encoder) not in json.dumps(config)
    assert sorted(file.name for file in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_the_same_prompts_make_the_same_adapter(encoder: Path, adapter: Path, tmp_path: Path) -> None:
    tune_encoder(encoder, 8 * PROMPTS, tmp_path, model_digest(encoder))

    assert read_tuning(tmp_path).digest == read_tuning(adapter).digest


def test_the_shipped_tuning_is_for_its_own_encoder_only(encoder: Path) -> None:
    base = json.loads((FOLDER / "adapter_config.json").read_text())["base_model_name_or_path"]

    assert tuning_for(base) is not None
    assert tuning_for(model_digest(encoder)) is None


def test_samples_name_their_task_together_with_their_expert(tmp_path: Path) -> None:
    rows = [{"task": "regex", "instruction": " match a date "}, {"instruction": "sort a list"}]
    (tmp_path / "expert_code.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert read_task_prompts(tmp_path) == [
        Prompt("code", "code/regex", "match a date"),
        Prompt("code", "", "sort a list"),
    ]
