"""Every error this project raises, as one tree::

    LMoEError                       500 server_error
    ├── SetupError                  the operator must act: the service does not start with it
    │   ├── SettingsError
    │   ├── StaleCalibration
    │   ├── ModelSourceError
    │   ├── PackageError
    │   │   ├── PickleRefused
    │   │   ├── BaseMismatch
    │   │   └── AdapterInert
    │   ├── TrainingDataError
    │   └── PeerFailed
    ├── RequestError                400 invalid_request_error: the caller must change the request
    │   ├── MalformedBody
    │   ├── InvalidField
    │   │   └── UnsupportedValue
    │   ├── ConstraintFailed
    │   ├── PromptTooLong
    │   ├── InvalidApiKey           401
    │   ├── BodyTimeout             408
    │   ├── BodyTooLarge            413
    │   ├── TooManyHeaders          431
    │   ├── ModelNotFound           404
    │   ├── ExpertNotFound          422
    │   ├── RouteNotFound           404
    │   └── MethodNotAllowed        405
    ├── CapacityError               the caller may try again
    │   ├── Overloaded              429, with Retry-After
    │   ├── RateLimited             429, with Retry-After
    │   ├── KeysUnavailable         503, with Retry-After
    │   ├── QuotaUncounted          503, with Retry-After
    │   ├── NotReady                503, with Retry-After
    │   ├── ReplicaLost             503, with Retry-After
    │   └── GenerationTimeout       408
    ├── EngineFailed                500: a bug of ours or a dead device
    ├── InternalError               500: an exception nobody foresaw
    ├── ConversationUnusable        raised by the terminal chat, never on the wire
    └── ClientError                 raised by our own HTTP client, never on the wire
        ├── ServerUnreachable
        ├── ServerRefused
        └── ReplyUnreadable

Each message names the value, the bound and the way out, on one line of ASCII: some clients put it
into an HTTP status line. Constructors take positional arguments only, so that every error survives
pickling between Ray processes.
"""

from __future__ import annotations

from typing import ClassVar


def one_line(text: object, limit: int = 400) -> str:
    """Printable ASCII on one line, cut after ``limit`` characters: fit for a header or a status line."""
    whole = str(text)
    # What a client sent may be megabytes, and only the beginning of it is shown.
    begin = whole[: 10 * limit]
    flat = " ".join(begin.split()).encode("ascii", "backslashreplace").decode()
    flat = "".join(c for c in flat if c.isprintable())
    is_cut = len(flat) > limit or len(begin) < len(whole)
    return flat[: limit - 3] + "..." if is_cut else flat


class LMoEError(Exception):
    """Root of the tree. ``status``, ``type``, ``code`` and ``param`` fill an OpenAI error object."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    param: str | None = None
    retry_after_s: float | None = None

    @property
    def message(self) -> str:
        return one_line(self)


# ── the operator must act ────────────────────────────────────────────────────────────────────────


class SetupError(LMoEError):
    """Configuration, model or package on disk cannot be used; raised before serving starts."""

    code = "setup_error"


class SettingsError(SetupError):
    """The configuration file is wrong: ``place`` in it and the ``problem`` there."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(place, problem)
        self.place, self.problem = place, problem

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


class StaleCalibration(SetupError):
    """A threshold was measured on another routing index than the one in use; both by their digest."""

    def __init__(self, calibrated: str, in_use: str) -> None:
        super().__init__(calibrated, in_use)
        self.calibrated, self.in_use = calibrated, in_use

    def __str__(self) -> str:
        return (
            f"router.calibration was measured on the routing index {self.calibrated}, the one in use is {self.in_use}: "
            "its threshold means nothing here. Run `lmoe calibrate` again, or set router.precision instead"
        )


class ModelSourceError(SetupError):
    """A model source (``builtin:``, folder or hub id) leads to no usable model."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(source, problem)
        self.source, self.problem = source, problem

    def __str__(self) -> str:
        return f"model source {self.source!r}: {self.problem}"


class PackageError(SetupError):
    """An LMoE package, or one expert in it, is broken. ``place`` is a path or an expert's name."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(place, problem)
        self.place, self.problem = place, problem

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


class PickleRefused(PackageError):
    """Pickle weights run code when they are opened, so they need the operator's word."""

    def __init__(self, place: str) -> None:
        super().__init__(place, "")
        self.args = (place,)

    def __str__(self) -> str:
        return (
            f"{self.place}: weights are a pickle, which can run code when opened; convert them to "
            "adapter_model.safetensors, or set allow_pickle: true if you trust their author"
        )


class BaseMismatch(PackageError):
    """The adapter was made for another base model."""


class AdapterInert(PackageError):
    """The adapter is loaded but does not act: tensors left unbound, or logits equal to the base's."""


class TrainingDataError(SetupError):
    """A row of training or evaluation data cannot be used."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(place, problem)
        self.place, self.problem = place, problem

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


class PeerFailed(SetupError):
    """An engine that is measured beside ours cannot be made, started or heard."""

    def __init__(self, engine: str, problem: str) -> None:
        super().__init__(engine, problem)
        self.engine, self.problem = engine, problem

    def __str__(self) -> str:
        return f"{self.engine} is left out: {self.problem}"


# ── the caller must change the request ───────────────────────────────────────────────────────────


class RequestError(LMoEError):
    """The request cannot be served as it is."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class MalformedBody(RequestError):
    """The body is not a JSON object."""

    code = "invalid_json"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the request body must be a JSON object: {self.problem}"


class InvalidField(RequestError):
    """One field has the wrong type or lies outside its range."""

    code = "invalid_value"

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(param, problem)
        self.param, self.problem = param, problem

    def __str__(self) -> str:
        return f"{self.param}: {self.problem}"


class UnsupportedValue(InvalidField):
    """A valid OpenAI field that this server refuses rather than pretend to honour."""

    code = "unsupported_value"


class ConstraintFailed(RequestError):
    """The answer cannot go on within the JSON schema or the tools it was asked to keep to."""

    code = "constraint_failed"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the answer cannot keep to its JSON schema or tools any further ({self.reason}); simplify them"


class PromptTooLong(RequestError):
    """The prompt alone does not leave room for one new token.

    The wording is OpenAI's: PatrikZeros, LiteLLM and LangChain look for it and shorten the history.
    """

    code = "context_length_exceeded"
    param = "messages"

    def __init__(self, num_prompt_tokens: int, max_model_len: int) -> None:
        super().__init__(num_prompt_tokens, max_model_len)
        self.num_prompt_tokens, self.max_model_len = num_prompt_tokens, max_model_len

    def __str__(self) -> str:
        return (
            f"This model's maximum context length is {self.max_model_len} tokens. However, your messages "
            f"resulted in {self.num_prompt_tokens} tokens. Please reduce the length of the messages. "
            "(context_length_exceeded)"
        )


class InvalidApiKey(RequestError):
    """The request shows no key, or none that is known. The start of the message is what clients look for."""

    status = 401
    code = "invalid_api_key"

    def __init__(self, is_shown: bool) -> None:
        super().__init__(is_shown)
        self.is_shown = is_shown

    def __str__(self) -> str:
        start = "Incorrect API key" if self.is_shown else "No API key"
        return f"{start} in this request; send yours as Authorization: Bearer KEY, api-key or x-api-key"


class BodyTimeout(RequestError):
    """The body did not arrive in time."""

    status = 408
    code = "request_timeout"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"the body was not complete after {self.timeout_s:g} s; send it at once, or less of it"


class BodyTooLarge(RequestError):
    """The body exceeds ``api.max_body_bytes``."""

    status = 413
    code = "request_too_large"

    def __init__(self, num_bytes: int, max_body_bytes: int) -> None:
        super().__init__(num_bytes, max_body_bytes)
        self.num_bytes, self.max_body_bytes = num_bytes, max_body_bytes

    def __str__(self) -> str:
        return f"the body has at least {self.num_bytes} bytes, the limit is {self.max_body_bytes}; send less text"


class TooManyHeaders(RequestError):
    """The request has more headers than ``api.max_headers``."""

    status = 431
    code = "too_many_headers"

    def __init__(self, num_headers: int, max_headers: int) -> None:
        super().__init__(num_headers, max_headers)
        self.num_headers, self.max_headers = num_headers, max_headers

    def __str__(self) -> str:
        return f"the request has {self.num_headers} headers, the limit is {self.max_headers}; send fewer"


class ModelNotFound(RequestError):
    """No base, expert or alias of that name is served."""

    status = 404
    code = "model_not_found"
    param = "model"

    def __init__(self, model: str, known: tuple[str, ...]) -> None:
        super().__init__(model, known)
        self.model, self.known = model, known

    def __str__(self) -> str:
        return f"model {one_line(self.model, 80)!r} does not exist; served: {', '.join(self.known)}"


class ExpertNotFound(RequestError):
    """The model has no expert of that name."""

    status = 422
    code = "expert_not_found"
    param = "expert"

    def __init__(self, expert: str, known: tuple[str, ...]) -> None:
        super().__init__(expert, known)
        self.expert, self.known = expert, known

    def __str__(self) -> str:
        return f"expert {one_line(self.expert, 80)!r} does not exist; this model has: {', '.join(self.known) or 'none'}"


class RouteNotFound(RequestError):
    """No such path."""

    status = 404
    code = "route_not_found"

    def __init__(self, method: str, path: str) -> None:
        super().__init__(method, path)
        self.method, self.path = method, path

    def __str__(self) -> str:
        hint = "; it has a doubled slash" if "//" in self.path else ""
        if "/v1/v1" in self.path:
            hint = "; the base URL already ends in /v1, drop one"
        return f"no route {self.method} {one_line(self.path, 120)}{hint}"


class MethodNotAllowed(RequestError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, path: str) -> None:
        super().__init__(method, path)
        self.method, self.path = method, path

    def __str__(self) -> str:
        return f"{one_line(self.path, 120)} does not answer {self.method}"


# ── the caller may try again ─────────────────────────────────────────────────────────────────────


class CapacityError(LMoEError):
    """Nothing is wrong with the request; the service cannot take it now."""

    status = 503
    type = "server_error"
    code = "unavailable"
    retry_after_s = 1.0


class Overloaded(CapacityError):
    """The pool's queue is full."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"

    def __init__(self, num_waiting: int, max_waiting: int) -> None:
        super().__init__(num_waiting, max_waiting)
        self.num_waiting, self.max_waiting = num_waiting, max_waiting

    def __str__(self) -> str:
        return f"{self.num_waiting} requests are waiting, the limit is {self.max_waiting}; try again shortly"


class RateLimited(CapacityError):
    """A key has used up its requests or tokens; ``retry_after_s`` is when its window ends."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, caller: str, limit: int, what: str, period: str, retry_after_s: float) -> None:
        super().__init__(caller, limit, what, period, retry_after_s)
        self.caller, self.limit, self.what, self.period = caller, limit, what, period
        self.retry_after_s = max(retry_after_s, 1.0)

    def __str__(self) -> str:
        return (
            f"key {self.caller!r} has used its {self.limit} {self.what} per {self.period}; "
            f"try again in {self.retry_after_s:.0f} s"
        )


class KeysUnavailable(CapacityError):
    """The file of keys can no longer be read, so nobody can be told from a stranger."""

    code = "keys_unavailable"
    retry_after_s = 5.0

    def __str__(self) -> str:
        return "API keys cannot be checked at the moment; the operator must look at the key file, the log says why"


class QuotaUncounted(CapacityError):
    """The storage that counts requests and tokens does not answer."""

    code = "quota_unavailable"
    retry_after_s = 5.0

    def __str__(self) -> str:
        return "the quota of this key cannot be counted at the moment; try again in a few seconds"


class NotReady(CapacityError):
    """A part of the graph is still starting."""

    code = "not_ready"
    retry_after_s = 5.0

    def __init__(self, part: str) -> None:
        super().__init__(part)
        self.part = part

    def __str__(self) -> str:
        return f"{self.part} is not ready yet; try again in a few seconds"


class ReplicaLost(CapacityError):
    """The replica that ran the request died, or its deployment is gone."""

    code = "replica_lost"

    def __init__(self, part: str) -> None:
        super().__init__(part)
        self.part = part

    def __str__(self) -> str:
        return f"the replica of {self.part} that served this request stopped; it is being restarted, try again"


class GenerationTimeout(CapacityError):
    """No token came within ``api.token_timeout_s``."""

    status = 408
    code = "timeout"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"no token came within {self.timeout_s:g} s; try again, or ask for fewer tokens"


class EngineFailed(LMoEError):
    """The engine thread stopped on an exception; the replica restarts."""

    code = "engine_failed"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the engine failed ({one_line(self.reason, 120)}); its replica is being restarted"


class InternalError(LMoEError):
    """An exception nobody foresaw. Its traceback is in the log; the caller learns nothing of it."""

    def __str__(self) -> str:
        return "internal server error; the server's log has the details"


class ConversationUnusable(LMoEError):
    """A saved conversation cannot be read or written."""

    code = "conversation_unusable"

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


# ── what our own HTTP client reports ─────────────────────────────────────────────────────────────


class ClientError(LMoEError):
    """A request to a server did not lead to an answer."""

    code = "client_error"


class ServerUnreachable(ClientError):
    """Nothing answers at ``base_url``, or the connection broke."""

    def __init__(self, base_url: str, problem: str) -> None:
        super().__init__(base_url, problem)
        self.base_url, self.problem = base_url, problem

    def __str__(self) -> str:
        return f"{self.base_url} gives no answer ({one_line(self.problem, 120)}); is the server running?"


class ServerRefused(ClientError):
    """The server answered with an error; ``problem`` is its own message."""

    def __init__(self, http_status: int, error_code: str, problem: str) -> None:
        super().__init__(http_status, error_code, problem)
        self.http_status, self.error_code, self.problem = http_status, error_code, problem

    def __str__(self) -> str:
        return f"{self.problem} (HTTP {self.http_status}, {self.error_code})"


class ReplyUnreadable(ClientError):
    """The server answered in a way that our own client does not understand."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the server's answer cannot be read: {one_line(self.problem, 160)}"
