"""How much each caller has used, counted in windows by the library ``limits``.

A window of a minute or a day begins with a key's first use and ends that long after. A request costs
one; tokens are counted while they are made, so a request is admitted as long as anything is left, and
what it overdraws counts until the window ends. In memory every ingress replica counts for itself; with
``api.quota_storage`` all of them share one count.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string

from lmoe_ray.domain.caller import Caller, Quota
from lmoe_ray.domain.stream import TokenDelta, Usage, total_usage
from lmoe_ray.errors import QuotaUncounted, RateLimited, SettingsError

logger = logging.getLogger(__name__)

#: What :attr:`Standing.headers` may hold.
RATE_HEADERS = tuple(
    f"x-ratelimit-{part}-{what}" for part in ("limit", "remaining", "reset") for what in ("requests", "tokens")
)

#: Tokens between two bookings of one answer: bounds what a long answer overdraws, and trips to the storage.
_BOOKING_TOKENS = 256
_PLACE = "args.api.quota_storage"


@dataclass(frozen=True, slots=True)
class Standing:
    """One caller's place in one window. ``what`` is ``requests`` or ``tokens``."""

    what: str
    limit: int
    remaining: int
    reset_s: float
    period: str

    @property
    def headers(self) -> dict[str, str]:
        """As OpenAI names them."""
        return {
            f"x-ratelimit-limit-{self.what}": str(self.limit),
            f"x-ratelimit-remaining-{self.what}": str(self.remaining),
            f"x-ratelimit-reset-{self.what}": f"{self.reset_s:.3f}s",
        }


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a request may pass, and the headers that say how things stand, either way."""

    headers: dict[str, str]
    refusal: RateLimited | None


class Quotas:
    """Admits requests and books tokens; keeps nothing itself."""

    def __init__(self, storage_uri: str) -> None:
        """``storage_uri`` is one of ``limits``' own for asyncio, such as ``async+memory://``.

        Raises:
            SettingsError: no such storage, or its client library is not installed.
        """
        self._counters = FixedWindowRateLimiter(_storage(storage_uri))

    async def admit(self, caller: Caller) -> Admission:
        """Count one request of the caller, unless its tokens are used up already.

        Raises:
            QuotaUncounted: the storage does not answer.
        """
        try:
            standings = [await self._standing(caller, *window) for window in _token_windows(caller.quota)]
            spent = [standing for standing in standings if standing.remaining == 0]
            if not spent and (window := _request_window(caller.quota)):
                is_within = await self._counters.hit(window[1], window[0], caller.name)
                standings.append(standing := await self._standing(caller, *window))
                spent = [] if is_within else [standing]
        except StorageError as exc:
            logger.error("quota storage fails caller=%s problem=%r", caller.name, exc.storage_error)
            raise QuotaUncounted from exc
        return _admission(caller, standings, spent)

    async def metered(
        self, deltas: AsyncGenerator[TokenDelta, None], caller: Caller, request_id: str
    ) -> AsyncGenerator[TokenDelta, None]:
        """The same answers; what they used together is booked on the caller however they end."""
        num_booked = num_used = 0
        usages: dict[int, Usage] = {}
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    usages[delta.index] = delta.usage
                    num_used = total_usage(usages.values()).total_tokens
                    if not num_booked or num_used - num_booked >= _BOOKING_TOKENS:
                        await self.book(caller, num_used - num_booked)
                        num_booked = num_used
                    yield delta
        finally:
            await self.book(caller, num_used - num_booked)
            logger.info("tokens booked request_id=%s caller=%s tokens=%d", request_id, caller.name, num_used)

    async def book(self, caller: Caller, num_tokens: int) -> None:
        """Count tokens on the caller.

        Errors are logged only: the tokens are made, and the next request is refused for the same reason.
        """
        try:
            for what, item, _ in _token_windows(caller.quota) if num_tokens else ():
                await self._counters.hit(item, what, caller.name, cost=num_tokens)
        except StorageError as exc:
            logger.error("%d tokens are not booked caller=%s problem=%r", num_tokens, caller.name, exc.storage_error)

    async def _standing(self, caller: Caller, what: str, item: RateLimitItem, period: str) -> Standing:
        stats = await self._counters.get_window_stats(item, what, caller.name)
        untouched = stats.remaining == item.amount
        reset_s = 0.0 if untouched else max(0.0, stats.reset_time - time.time())
        return Standing(what, item.amount, stats.remaining, reset_s, period)


def _storage(uri: str) -> Storage:
    try:
        storage = storage_from_string(uri, wrap_exceptions=True)
    except (ConfigurationError, ValueError) as exc:
        # The message of the library repeats the address, which may hold a password.
        raise SettingsError(_PLACE, f"{_hint(uri)}; is its client library installed?") from exc
    if not isinstance(storage, Storage):
        raise SettingsError(_PLACE, _hint(uri))
    return storage


def _hint(uri: str) -> str:
    return f"no storage for {uri.partition('://')[0]!r}; use async+memory:// or, for example, async+redis://host:6379"


def _request_window(quota: Quota) -> tuple[str, RateLimitItem, str] | None:
    limit = quota.requests_per_minute
    return None if limit is None else ("requests", RateLimitItemPerMinute(limit), "minute")


def _token_windows(quota: Quota) -> list[tuple[str, RateLimitItem, str]]:
    windows: list[tuple[str, RateLimitItem, str]] = []
    if quota.tokens_per_minute is not None:
        windows.append(("tokens", RateLimitItemPerMinute(quota.tokens_per_minute), "minute"))
    if quota.tokens_per_day is not None:
        windows.append(("tokens", RateLimitItemPerDay(quota.tokens_per_day), "day"))
    return windows


def _admission(caller: Caller, standings: list[Standing], spent: list[Standing]) -> Admission:
    """With two windows of tokens, the headers speak of the one that is nearer to its end."""
    headers: dict[str, str] = {}
    for standing in sorted(standings, key=lambda standing: standing.remaining, reverse=True):
        headers |= standing.headers
    if not spent:
        return Admission(headers, None)
    last = max(spent, key=lambda standing: standing.reset_s)
    return Admission(headers, RateLimited(caller.name, last.limit, last.what, last.period, last.reset_s))
