"""What a model says is shown, never run: Markdown becomes nodes, and everything else stays text."""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

import pytest

from tests.fakes import FakeBackend

pytestmark = pytest.mark.browser

RENDER = """(async () => {
    const box = document.createElement("div");
    const view = new m.MarkdownView(box);
    for (const text of a[0]) view.update(text);
    return READ;
})()"""

DOCUMENT = """# Title

A *slanted*, **strong** and `coded` text
over two lines.

- one
- two
  1. deeper
  2. still deeper

  more of two

> quoted
> > twice

| left | right |
|:-----|------:|
| a \\| b | 2 |

```python
if a < b:
    print("*not slanted*")
```

---
[A link](https://example.org/x_(y) "title") and <b>no markup</b>.
"""


def render(page: Any, *texts: str, then: str = "box.innerHTML") -> Any:
    """What is drawn after a text has grown through ``texts``."""
    return page.module("markdown_view", RENDER.replace("READ", then), texts)


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("# One\n\n###### Six", '<h4 dir="auto">One</h4><h6 dir="auto">Six</h6>'),
        (
            "*a* _b_ **c** __d__ ~~e~~",
            '<p dir="auto"><em>a</em> <em>b</em> <strong>c</strong> <strong>d</strong> <del>e</del></p>',
        ),
        ("***both***", '<p dir="auto"><strong><em>both</em></strong></p>'),
        ("snake_case_name and 2 * 3 * 4", '<p dir="auto">snake_case_name and 2 * 3 * 4</p>'),
        ("**open and *crossed** over*", '<p dir="auto"><strong>open and *crossed</strong> over*</p>'),
        ("`` a ` b `` and `open", '<p dir="auto"><code dir="ltr">a ` b</code> and `open</p>'),
        (r"\*plain\* \# \<", '<p dir="auto">*plain* # &lt;</p>'),
        (
            "1. a\n2. b",
            '<ol start="1"><li dir="auto"><div dir="auto">a</div></li><li dir="auto"><div dir="auto">b</div></li></ol>',
        ),
        ("7) a", '<ol start="7"><li dir="auto"><div dir="auto">a</div></li></ol>'),
        ("a\n***\nb", '<p dir="auto">a</p><hr><p dir="auto">b</p>'),
        ("<b>x</b> &amp;", '<p dir="auto">&lt;b&gt;x&lt;/b&gt; &amp;amp;</p>'),
    ],
)
def test_markdown_is_drawn(page: Any, text: str, drawn: str) -> None:
    assert render(page, text) == drawn


def test_a_document_is_drawn_with_all_its_parts(page: Any) -> None:
    names = "[...box.querySelectorAll('*')].map(n => n.localName)"

    drawn = render(page, DOCUMENT, then=names)

    for name in (
        "h4",
        "em",
        "strong",
        "code",
        "br",
        "ul",
        "ol",
        "li",
        "blockquote",
        "table",
        "th",
        "td",
        "pre",
        "hr",
        "a",
    ):
        assert name in drawn
    assert drawn.count("blockquote") == 2
    assert render(page, DOCUMENT, then="box.querySelector('ul ol').textContent") == "deeperstill deeper"
    assert render(page, DOCUMENT, then="box.querySelector('td').textContent") == "a | b"
    assert render(page, DOCUMENT, then="box.querySelector('a').outerHTML") == (
        '<a href="https://example.org/x_(y)" title="https://example.org/x_(y)" target="_blank" '
        'rel="noopener noreferrer">A link</a>'
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_text_that_grows_is_drawn_as_if_it_had_come_at_once(page: Any, seed: int) -> None:
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(1, len(DOCUMENT)), 40))

    grown = render(page, *(DOCUMENT[:cut] for cut in cuts), DOCUMENT)

    assert grown == render(page, DOCUMENT)


def test_finished_blocks_are_left_alone_while_the_text_grows(page: Any) -> None:
    parts = ["one\n\n", "two\n\n", "three\n\n", "four\n\n", "five"]
    script = RENDER.replace("view.update(text);", "{ view.update(text); box.firstChild.seen ??= text; }")

    first = page.module(
        "markdown_view", script.replace("READ", "box.firstChild.seen"), list(itertools.accumulate(parts))
    )

    # Drawn anew while it was one of the last two, kept from then on.
    assert first == "one\n\ntwo\n\nthree\n\n"


@pytest.mark.parametrize(
    "address",
    [
        "javascript:hacked()",
        "JaVaScRiPt:hacked()",
        "java\tscript:hacked()",
        "&#106;avascript:hacked()",
        "data:text/html,<script>hacked()</script>",
        "vbscript:hacked()",
        "file:///etc/passwd",
        "//example.org",
        "/v1/models",
        "blob:https://example.org/x",
    ],
)
def test_an_address_that_may_not_be_followed_is_no_link(page: Any, address: str) -> None:

    assert render(page, f"[here]({address}) ![pic]({address})", then="box.querySelectorAll('a, img').length") == 0
    assert "here" in render(page, f"[here]({address})", then="box.textContent")


def test_pictures_are_links_so_nothing_is_loaded_unasked(page: Any) -> None:
    drawn = render(page, "![a cat](https://example.org/cat.png)")

    assert "<img" not in drawn
    assert 'href="https://example.org/cat.png"' in drawn


HOSTILE = (
    "<script>window.hacked = 1</script>\n\n<img src=x onerror='window.hacked = 1'>\n\n"
    '<svg onload="window.hacked = 1">\n\n[x](javascript:window.hacked=1)\n\n'
    "```<img src=x onerror=window.hacked=1>\n<script>window.hacked = 1</script>\n"
)


def test_hostile_output_runs_nothing(read: Any) -> None:
    backend = FakeBackend(*(HOSTILE[at : at + 5] for at in range(0, len(HOSTILE), 5)))
    page = read(backend).connected()

    page.ask("<img src=x onerror='window.hacked = 1'>")
    page.answered()
    for link in page.elements(".prose a"):
        link.click()

    assert page.run("window.hacked ?? null") is None
    assert page.run("document.querySelectorAll('#turns :is(script, img, svg, iframe)').length") == 0
    assert "<img src=x onerror='window.hacked = 1'>" in page.text(".question p")
    assert "<script>window.hacked = 1</script>" in page.text(".prose")


def test_the_page_could_not_make_markup_of_text_if_it_tried(page: Any) -> None:
    outcome = page.module(
        "element", "(() => { try { document.createElement('p').innerHTML = '<b>'; } catch (e) { return e.name; } })()"
    )

    assert outcome == "TypeError"


def test_turns_of_direction_are_shown_not_obeyed(page: Any) -> None:
    drawn = render(page, "ab\u202ecd `x\u2066y`", then="box.textContent")

    assert drawn == "ab[U+202E]cd x[U+2066]y"


def test_joined_emoji_and_zero_widths_are_kept(page: Any) -> None:
    text = "\U0001f469\u200d\U0001f4bb a\u200bb"

    assert render(page, text, then="box.textContent") == text


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "word ",
        "[",
        "[[]](",
        "[a](",
        "![",
        "*",
        "**a ",
        "_a",
        "`",
        "` ``",
        "~~",
        "> ",
        "- ",
        "  - ",
        "1. ",
        "|",
        "|a",
        "#",
        "# # ",
        "\n",
        "\n\n> - ",
        "```\n",
        "<",
        "https://",
        "(",
        "\\",
        "&",
        " ",
        "\t- ",
        "|-|\n",
    ],
)
def test_a_hundred_thousand_characters_of_anything_are_drawn_in_time(page: Any, piece: str) -> None:
    text = (piece * 100_000)[:100_000]

    started_s = time.monotonic()
    shown = render(page, text, then="box.textContent.length")

    assert time.monotonic() - started_s < 3
    assert shown <= len(text) + 100_000
