"""The page's reader of server-sent events, by itself."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_events_are_read_wherever_the_network_cuts_them(page: Any, size: int, line_end: str) -> None:
    lines = [
        "\ufeff: hello",
        'data: {"a":1}',
        "",
        ":",
        "event: x",
        "data: Käse",
        "data:  zwei 🧀",
        "",
        "data",
        "",
        "data: cut",
    ]
    sent = list(line_end.join(lines).encode())

    events = page.module(
        "event_stream",
        """(async () => {
            const bytes = Uint8Array.from(a[0]), pieces = [];
            for (let at = 0; at < bytes.length; at += a[1]) pieces.push(bytes.slice(at, at + a[1]));
            const body = new ReadableStream({
                start(stream) { pieces.forEach((piece) => stream.enqueue(piece)); stream.close(); },
            });
            const events = [];
            for await (const event of m.eventsOf(body)) events.push(event);
            return events;
        })()""",
        sent,
        size,
    )

    assert events == ['{"a":1}', "Käse\n zwei 🧀", ""]
