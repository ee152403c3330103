"""How long a prompt is before anybody tokenises it: seconds of work for megabytes that will be refused anyway."""

from __future__ import annotations

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.errors import PromptTooLong


def num_prompt_bytes(request: GenerateRequest) -> int:
    """UTF-8 bytes of what the client wrote; JSON may bring half a surrogate pair, which counts as it would in UTF-8."""
    texts = [request.prompt or "", *(message.content for message in request.messages)]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def require_possible(num_bytes: int, longest_token: int, max_model_len: int) -> None:
    """
    Raises:
        PromptTooLong: so many bytes are too many tokens even if each spells ``longest_token`` bytes; it tells these.
    """
    if (least := -(-num_bytes // longest_token)) > max_model_len:
        raise PromptTooLong(least, max_model_len)
