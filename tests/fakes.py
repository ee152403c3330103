"""One honest double per seam: it keeps the seam's promises and counts what it was asked."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.decision import Candidate, Neighbour, RoutingDecision
from lmoe_ray.domain.embedding import Embeddings, EmbedRequest
from lmoe_ray.domain.served import ServedExpert, ServedModel
from lmoe_ray.domain.stream import FinishReason, TokenDelta, Usage
from lmoe_ray.domain.tokenized import TokenizedPrompt
from lmoe_ray.errors import InvalidField, UnsupportedValue

#: Names OpenAI clients have built in and cannot change (chatgpt-minimal, openai-cli, chatbot-ui …).
CLIENT_ALIASES = (
    "gpt-3.5-turbo",
    "gpt-4",
    "gpt-4o-mini",
    "text-davinci-002",
    "text-davinci-003",
)

MODEL = ServedModel(
    name="demo",
    experts=(ServedExpert("code", "c0de", "writes code", "MIT"), ServedExpert("math", "3a74")),
    aliases=CLIENT_ALIASES,
    created=1_700_000_000,
)

#: What a fake answer does next: say a text in each choice, pass on a delta as it is, wait some seconds, or fail.
Step = str | TokenDelta | float | BaseException


class FakeBackend:
    """The graph behind the HTTP API: every text of its script is one token of the answer.

    Keeps to :class:`lmoe_ray.api.backend.Backend`: the last delta of each choice, and only that, has a finish
    reason; ``max_tokens`` cuts the answer; closing the generator ends it at once; an expert that the
    caller may not use is neither chosen nor shown.
    """

    def __init__(
        self,
        *script: Step,
        models: tuple[ServedModel, ...] = (MODEL,),
        routing: Step = "code",
        not_ready: BaseException | None = None,
    ) -> None:
        self.script = script
        self.requests: list[GenerateRequest] = []
        self.embedded: list[EmbedRequest] = []
        self.num_running = 0
        self.stopped = asyncio.Event()
        self._models, self._routing, self._not_ready = models, routing, not_ready

    def models(self) -> tuple[ServedModel, ...]:
        return self._models

    async def check_ready(self) -> None:
        if self._not_ready is not None:
            raise self._not_ready

    async def route(self, request: GenerateRequest) -> RoutingDecision:
        self.requests.append(request)
        if isinstance(self._routing, BaseException):
            raise self._routing
        if isinstance(self._routing, float):
            await self._wait(self._routing)
        if request.expert is not None:
            return RoutingDecision(request.model, request.expert, "explicit", reason="the client named it")
        if request.is_for_base:
            return RoutingDecision(request.model, None, "explicit", reason="the client named the base model")
        allowed = request.allowed_experts if request.allowed_experts is not None else ("code", "math")
        if not isinstance(self._routing, str) or self._routing not in allowed:
            return RoutingDecision(request.model, None, "abstained", 0.25, threshold=0.5)
        return RoutingDecision(
            request.model,
            self._routing,
            "similarity",
            confidence=0.75,
            candidates=tuple(c for c in (Candidate("code", 0.75), Candidate("math", 0.25)) if c.expert in allowed),
            neighbours=tuple(n for n in (Neighbour("code", 0.5, "write a loop"),) if n.expert in allowed),
            threshold=0.5,
            reason="its samples are nearest",
            duration_s=0.125,
        )

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Each word is a token, and the number of words the only number of a vector of two."""
        self.embedded.append(request)
        if request.dimensions not in (None, 2):
            raise UnsupportedValue("dimensions", "is 2")
        counts = [len(text.split()) for text in request.texts]
        return Embeddings("counting", tuple(struct.pack("<2f", count, 0.0) for count in counts), sum(counts))

    async def tokenize(self, request: GenerateRequest) -> TokenizedPrompt:
        """A token for each character, its code point."""
        self.requests.append(request)
        text = request.prompt if request.prompt is not None else "".join(m.content for m in request.messages)
        return TokenizedPrompt(tuple(map(ord, text)), 4096)

    async def detokenize(self, model: str, token_ids: tuple[int, ...]) -> str:
        if strangers := [token_id for token_id in token_ids if not chr_exists(token_id)]:
            raise InvalidField("tokens", f"no token {strangers[0]}")
        return "".join(map(chr, token_ids))

    async def generate(self, request: GenerateRequest, decision: RoutingDecision) -> AsyncGenerator[TokenDelta, None]:
        num_prompt_tokens = len((request.prompt or " ".join(m.content for m in request.messages)).split())
        num_texts = sum(isinstance(step, str) for step in self.script)
        limit = min(num_texts, request.sampling.max_tokens or num_texts)
        num_said = 0
        self.num_running += 1
        try:
            for step in self.script:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                    continue
                if isinstance(step, TokenDelta):
                    yield step
                    continue
                num_said += 1
                reason: FinishReason | None = None
                if num_said == limit:
                    reason = "length" if limit < num_texts else "stop"
                for index in range(request.sampling.n):
                    yield TokenDelta(step, (num_said,), Usage(num_prompt_tokens, num_said), reason, index=index)
                if reason is not None:
                    return
        finally:
            self.num_running -= 1
            self.stopped.set()

    async def _wait(self, seconds: float) -> None:
        self.num_running += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self.num_running -= 1
            self.stopped.set()


def chr_exists(code_point: int) -> bool:
    return code_point < 0x110000 and not 0xD800 <= code_point < 0xE000


class HashingEncoder:
    """An embedding model that reads words: each adds one to a dimension chosen by its hash.

    Texts with no word in common are nearly at right angles. Counts what it was asked to embed.
    """

    def __init__(self, *, dim: int = 256, max_tokens: int = 256, identity: str = "hashing") -> None:
        self.identity = self.space = identity
        self.max_tokens, self._dim = max_tokens, dim
        self.embedded: list[str] = []

    def embed(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> NDArray[np.float32]:
        self.embedded += texts
        vectors = np.zeros((len(texts), self._dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split()[: self.max_tokens] or [""]:
                vectors[row, int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % self._dim] += 1
            if progress is not None:
                progress(row + 1, len(texts))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    async def embed_one(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self.embed([text])[0]
        return vector

    def known_share(self, text: str) -> float:
        """It knows all words but those that are not plain letters."""
        words = text.split()
        return sum(word.isascii() and word.isalpha() for word in words) / len(words) if words else 0.0
