"""What a text says by itself, before it is embedded: read in one thread while the encoder works in another."""

from __future__ import annotations

from dataclasses import dataclass

from lmoe_ray.routing.expert_index import Encoder
from lmoe_ray.routing.head_inputs import Inputs, text_inputs


@dataclass(frozen=True, slots=True)
class Reading:
    """One text.

    Attributes:
        text: as it was read.
        inputs: its words and form, ``[1, NUM_TEXT_FEATURES]``.
        known_share: of its words, those that the encoder knows, 0 to 1.
    """

    text: str
    inputs: Inputs
    known_share: float


def read(text: str, encoder: Encoder) -> Reading:
    """A millisecond for a text of average length."""
    return Reading(text, text_inputs([text]), encoder.known_share(text))
