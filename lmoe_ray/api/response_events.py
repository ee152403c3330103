"""The events of one response: every item is announced, grows, and is told once more when it is complete.

::

    created ─ in_progress ─ items … ─ completed | incomplete | failed ─ error
    message:  item added ─ part added ─ text delta … ─ text done ─ part done ─ item done
    call:     item added ─ arguments delta … ─ arguments done ─ item done

Each has its number. One item is open at a time: the message, then each call.
"""

from __future__ import annotations

from collections.abc import Iterator

from lmoe_ray.api.replies import Json
from lmoe_ray.api.reply_events import ReplyEvents
from lmoe_ray.api.responses import ResponseReply, Status, encode_logprobs, status_of, text_part
from lmoe_ray.api.sse import encode_named_event
from lmoe_ray.domain.stream import TokenDelta, TokenLogprob
from lmoe_ray.domain.tools import CallPiece
from lmoe_ray.errors import LMoEError, one_line


class _Message:
    """The text while it grows."""

    def __init__(self, reply: ResponseReply, output_index: int) -> None:
        self._reply, self._text = reply, ""
        self._logprobs: tuple[TokenLogprob, ...] = ()
        item = reply.message_item("in_progress", [])
        self._place = {"item_id": item["id"], "output_index": output_index}
        self._added = {"type": "response.output_item.added", "output_index": output_index, "item": item}

    def open(self) -> Iterator[Json]:
        yield self._added
        yield self._event("response.content_part.added", part=text_part(""))

    def grow(self, text: str, logprobs: tuple[TokenLogprob, ...]) -> Iterator[Json]:
        self._text += text
        self._logprobs += logprobs
        yield self._event("response.output_text.delta", delta=text, logprobs=encode_logprobs(logprobs))

    def close(self, status: Status) -> Iterator[Json]:
        part = text_part(self._text, self._logprobs)
        yield self._event("response.output_text.done", text=self._text, logprobs=part["logprobs"])
        yield self._event("response.content_part.done", part=part)
        item = self._reply.message_item(status, [part])
        yield {"type": "response.output_item.done", "output_index": self._place["output_index"], "item": item}

    def _event(self, kind: str, **rest: object) -> Json:
        return {"type": kind, **self._place, "content_index": 0, **rest}


class _Call:
    """A call while its arguments grow."""

    def __init__(self, reply: ResponseReply, output_index: int, piece: CallPiece) -> None:
        self._reply, self._call = reply, CallPiece(piece.call, piece.name)
        item = reply.call_item(self._call, "in_progress")
        self._place = {"item_id": item["id"], "output_index": output_index}
        self._added = {"type": "response.output_item.added", "output_index": output_index, "item": item}

    def open(self) -> Iterator[Json]:
        yield self._added

    def grow(self, arguments: str) -> Iterator[Json]:
        self._call += CallPiece(self._call.call, arguments=arguments)
        yield {"type": "response.function_call_arguments.delta", **self._place, "delta": arguments}

    def close(self, status: Status) -> Iterator[Json]:
        whole = {"arguments": self._call.arguments, "name": self._call.name}
        yield {"type": "response.function_call_arguments.done", **self._place, **whole}
        item = self._reply.call_item(self._call, status)
        yield {"type": "response.output_item.done", "output_index": self._place["output_index"], "item": item}


class ResponseEvents(ReplyEvents):
    """Of a reply that has one answer."""

    def __init__(self, reply: ResponseReply, num_answers: int, include_usage: bool) -> None:
        assert num_answers == 1, "a response has one answer. This is a bug."
        self._reply = reply
        self._answer: TokenDelta | None = None
        self._item: _Message | _Call | None = None
        self._num_items = self._num_events = 0
        self._duration_s = 0.0

    def encode(self, event: Json) -> bytes:
        numbered = {"type": event["type"], "sequence_number": self._num_events, **event}
        self._num_events += 1
        return encode_named_event(numbered)

    def begin(self) -> Iterator[Json]:
        for stage in ("created", "in_progress"):
            yield {"type": f"response.{stage}", "response": self._reply.begun()}

    def news(self, delta: TokenDelta, duration_s: float) -> Iterator[Json]:
        self._answer = delta if self._answer is None else self._answer + delta
        self._duration_s = duration_s
        logprobs = tuple(token for token in delta.logprobs if token.token)
        if delta.text or (logprobs and not self._answer.calls):
            yield from self._grow_message(delta.text, () if delta.calls else logprobs)
        for piece in delta.calls:
            yield from self._grow_call(piece)

    def end(self) -> Iterator[Json]:
        assert self._answer is not None, "a response without an answer. This is a bug."
        if self._item is None:
            yield from self._start(_Message(self._reply, 0))
        status = status_of(self._answer)
        yield from self._finish_item(status)
        yield {"type": f"response.{status}", "response": self._reply.whole((self._answer,), self._duration_s)}

    def fail(self, error: LMoEError) -> Iterator[Json]:
        """Twice, because some clients look for the one event and some for the other."""
        yield {"type": "response.failed", "response": self._reply.broken(error, self._answer)}
        param = None if error.param is None else one_line(error.param, 80)
        yield {"type": "error", "code": error.code, "message": error.message, "param": param}

    def _grow_message(self, text: str, logprobs: tuple[TokenLogprob, ...]) -> Iterator[Json]:
        if not isinstance(self._item, _Message):
            yield from self._start(_Message(self._reply, self._num_items))
        assert isinstance(self._item, _Message)
        yield from self._item.grow(text, logprobs)

    def _grow_call(self, piece: CallPiece) -> Iterator[Json]:
        if piece.name:
            yield from self._start(_Call(self._reply, self._num_items, piece))
        assert isinstance(self._item, _Call), "arguments without a call. This is a bug."
        if piece.arguments:
            yield from self._item.grow(piece.arguments)

    def _start(self, item: _Message | _Call) -> Iterator[Json]:
        yield from self._finish_item("completed")
        self._item = item
        self._num_items += 1
        yield from item.open()

    def _finish_item(self, status: Status) -> Iterator[Json]:
        if self._item is not None:
            yield from self._item.close(status)
