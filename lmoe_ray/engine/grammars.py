"""From a request to the constraint of its answers: grammars compiled for one tokenizer, by llguidance.

llguidance (MIT) walks the tokenizer's trie with an Earley parser when a mask is wanted, so a grammar costs
milliseconds to compile and none has to be kept. It refuses schema keywords it cannot enforce.
"""

from __future__ import annotations

import logging
import re

from llguidance import LLMatcher, LLTokenizer

from lmoe_ray.domain.chat import GenerateRequest
from lmoe_ray.domain.tool_dialect import ToolDialect
from lmoe_ray.engine.constraint import Constraint
from lmoe_ray.engine.grammar import answer_grammar, json_rule
from lmoe_ray.engine.tokenizer import Tokenizer
from lmoe_ray.errors import InvalidField, UnsupportedValue, one_line

logger = logging.getLogger(__name__)

_TOO_LARGE = (
    "too large to be enforced; declare fewer properties, alternatives and values, or spread them over several requests"
)
#: What the library says where one of its bounds is reached; it panics where it has none.
_SAYS_TOO_LARGE = re.compile(r"panic: |schema too large|grammar\) too big")
#: Advice to whoever calls the library, which is not the client.
_ADVICE = re.compile(r" Enable '.*")


class Grammars:
    """Of one tokenizer. Compiling releases the interpreter's lock, so it may go on in any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """``vocab_size``: columns of the model's logits, often more than the tokenizer has tokens."""
        self._dialect: ToolDialect = tokenizer.dialect
        self._tokenizer: LLTokenizer | None = None
        try:
            self._tokenizer = LLTokenizer(tokenizer.as_json(), n_vocab=vocab_size, eos_token=sorted(tokenizer.eos_ids))
        except ValueError as exc:
            logger.warning("answers cannot be constrained: the tokenizer is of an unknown kind: %s", exc)

    def compile(self, request: GenerateRequest) -> LLMatcher | None:
        """The grammar's first state; ``None`` if the answer is free. Each sequence needs a copy of its own.

        Raises:
            InvalidField: a schema that cannot be satisfied or enforced.
            UnsupportedValue: this model's tokenizer is of a kind that cannot be constrained.
        """
        grammar = answer_grammar(request, self._dialect)
        if not grammar:
            return None
        field = "tools" if request.tools else "response_format"
        if self._tokenizer is None:
            raise UnsupportedValue(field, "this model's tokenizer is of a kind whose answers cannot be constrained")
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidField(field, self._name_the_culprit(request) or _reason(matcher))
        return matcher

    def _name_the_culprit(self, request: GenerateRequest) -> str:
        """The function whose parameters cannot be compiled, and why; empty if each can."""
        assert self._tokenizer is not None, "nothing was compiled. This is a bug."
        for tool in request.tools.callable if request.tools else ():
            matcher = LLMatcher(self._tokenizer, f"start: {json_rule(tool.parameters)}", log_level=0)
            if matcher.is_error():
                return f"parameters of function {tool.name!r}: {_reason(matcher)}"
        return ""


def constraint_of(matcher: LLMatcher | None) -> Constraint | None:
    """One for each sequence."""
    return None if matcher is None else Constraint(matcher.deep_copy())


def _reason(matcher: LLMatcher) -> str:
    """What the library says, without its state and the grammar around the schema, which the caller has not seen."""
    said = re.split(r"\n<(?:state|backtrace)>|\n\s+\d+ \|", matcher.get_error())[0]
    if _SAYS_TOO_LARGE.search(said):
        logger.warning("a grammar cannot be compiled: %s", one_line(said))
        return _TOO_LARGE
    return one_line(_ADVICE.sub("", said.rpartition("failed to compile JSON schema: ")[2]), 200)
