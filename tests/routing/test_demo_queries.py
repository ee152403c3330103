"""The demo package's samples lead three well-known questions to the right expert."""

from __future__ import annotations

import pytest

from lmoe_ray.domain.package import load_package
from lmoe_ray.pretrained.package_source import DEMO_FOLDER, DEMO_INDEX
from lmoe_ray.routing.embedder import Embedder
from lmoe_ray.routing.router import RoutedModel, RouterChain
from lmoe_ray.routing.similarity import SimilarityRouter
from lmoe_ray.settings import RouterSettings
from tests.routing.experts import ask
from tests.routing.test_embedder import model_folder


@pytest.fixture(scope="module")
def chain() -> RouterChain:
    model = RoutedModel("demo", load_package(DEMO_FOLDER).experts)
    router = SimilarityRouter(
        model, Embedder(model_folder(), num_threads=1), RouterSettings(), None, shipped_dir=DEMO_INDEX
    )
    return RouterChain(model, router)


@pytest.mark.model
@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("Create a python FastAPI hello world script.", "code"),
        ("Write a haiku about the first snow on a quiet street.", "creative"),
        (
            "There are two ducks in front of a duck, two ducks behind a duck and a duck in the middle. "
            "How many ducks are there?",
            "reasoning",
        ),
    ],
)
async def test_a_well_known_question_finds_its_expert(chain: RouterChain, question: str, name: str) -> None:
    decision = await chain.route(ask(question))

    assert decision.expert == name, decision.reason
    assert decision.confidence > 0.5
