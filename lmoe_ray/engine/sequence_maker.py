"""From a request to its sequences, one for each answer: limits checked, seeds derived, stops chosen."""

from __future__ import annotations

import secrets

from llguidance import LLMatcher

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.prompt import PromptFormat
from lmoe_ray.engine.call_reader import CallReader
from lmoe_ray.engine.grammars import constraint_of
from lmoe_ray.engine.sampler import derive_seed
from lmoe_ray.engine.sequence import Sequence
from lmoe_ray.engine.stopping import Answer
from lmoe_ray.engine.tokenizer import Tokenizer
from lmoe_ray.errors import InvalidField, PromptTooLong


def is_constrained(request: GenerateRequest) -> bool:
    """Whether the answer must keep to a grammar."""
    wishes = request.sampling
    return bool(wishes.choices or wishes.json_schema or request.tools)


class SequenceMaker:
    """Of one engine."""

    def __init__(self, tokenizer: Tokenizer, prompt_format: PromptFormat, max_model_len: int, vocab_size: int) -> None:
        self._tokenizer, self._prompt_format = tokenizer, prompt_format
        self._max_model_len, self._vocab_size = max_model_len, vocab_size

    def make(
        self,
        request: GenerateRequest,
        prompt_ids: tuple[int, ...],
        adapter_digest: str | None,
        matcher: LLMatcher | None,
    ) -> list[Sequence]:
        """One for each answer. The first leads: the others find its prompt in the cache.

        Raises:
            PromptTooLong: there is no room for one new token.
            InvalidField: a bias is for no token of the vocabulary.
        """
        wishes = request.sampling
        room = self._max_model_len - len(prompt_ids)
        if room < 1:
            raise PromptTooLong(len(prompt_ids), self._max_model_len)
        self._check_biases(wishes.logit_bias)
        max_new_tokens = min(wishes.max_tokens or room, room)
        seed = secrets.randbits(63) if wishes.seed is None else wishes.seed
        sequences: list[Sequence] = []
        for index in range(wishes.n):
            sequences.append(
                Sequence(
                    request_id=request.request_id,
                    prompt_ids=prompt_ids,
                    sampling=wishes,
                    answer=self.make_answer(request, len(prompt_ids), max_new_tokens, index),
                    max_new_tokens=max_new_tokens,
                    seed=derive_seed(seed, index),
                    adapter_digest=adapter_digest,
                    constraint=constraint_of(matcher),
                    leader=sequences[0] if sequences else None,
                )
            )
        return sequences

    def make_answer(
        self, request: GenerateRequest, num_prompt_tokens: int, max_new_tokens: int, index: int = 0
    ) -> Answer:
        """An answer in the making: what ends it, and whether calls are read out of it."""
        return Answer(
            self._tokenizer.detokenizer(),
            num_prompt_tokens=num_prompt_tokens,
            max_new_tokens=max_new_tokens,
            eos_ids=() if request.sampling.ignore_eos and not is_constrained(request) else self._tokenizer.eos_ids,
            stops=self._stops(request),
            calls=None if request.tools is None else CallReader(self._tokenizer.dialect),
            index=index,
        )

    def _stops(self, request: GenerateRequest) -> tuple[str, ...]:
        """A prompt format's own stops may be part of choices and of JSON, which end by themselves."""
        wishes = request.sampling
        if wishes.choices:
            return ()
        if wishes.use_default_stops and request.prompt is None and not wishes.json_schema:
            return wishes.stop + self._prompt_format.default_stops
        return wishes.stop

    def _check_biases(self, biases: tuple[tuple[int, float], ...]) -> None:
        if strangers := [token_id for token_id, _ in biases if not 0 <= token_id < self._vocab_size]:
            raise InvalidField("logit_bias", f"token {strangers[0]} is not in the vocabulary of {self._vocab_size}")
