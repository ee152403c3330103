"""Which clients are known to work, how to point each at a server, and how that is known.

README's table is :func:`table` word for word, and the tests take from here what they install, run and replay.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

HOST = "http://127.0.0.1:8000"
URL = f"{HOST}/v1"


@dataclass(frozen=True, slots=True)
class Client:
    """One client at one version.

    Attributes:
        version: the one that was looked at.
        pointed: how its user points it at a server.
        requirements: what its package manager is asked for; with git, repository, commit and what it needs from pip.
        manager: ``pip``, ``npm`` or ``git``; empty if ``install.py`` leaves it out.
        scenarios: what it was run for; empty: its requests are replayed only.
    """

    name: str
    version: str
    pointed: str
    requirements: tuple[str, ...] = ()
    manager: str = ""
    scenarios: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """Names its folder."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.name.lower())

    @property
    def verified(self) -> str:
        names = ", ".join(scenario.replace("_", " ") for scenario in self.scenarios)
        return f"run: {names}" if names else "replayed"


GITHUB = "https://github.com"

CLIENTS = (
    Client(
        "chatbot-ui v1",
        "6bdbf1c, April 2023",
        f"environment `OPENAI_API_HOST={HOST}`, without `/v1`",
        (f"{GITHUB}/mckaywrigley/chatbot-ui", "6bdbf1cbe38ff3a40c6d14df4610656ea26b174e"),
        "git",
        ("models", "stream"),
    ),
    Client("chatbot-ui v2", "81328b6, June 2024", f"Models → new custom model: base URL `{URL}`, any key"),
    Client(
        "chatgpt-minimal",
        "dfa584d, April 2024",
        f"environment `OPENAI_API_BASE_URL={HOST}`, without `/v1`",
        (f"{GITHUB}/blrchen/chatgpt-minimal", "dfa584dc6188016b124e9f2a96d50595ee49fedc"),
        "git",
        ("stream",),
    ),
    Client(
        "chatwithme.chat",
        "252905a, March 2023",
        "one line of `src/lib/client/OpenAI.ts`: the address in `completion()`",
        (f"{GITHUB}/kierangilliam/chatwithme.chat", "252905a2107d7819ff742f18a3e2f77e3da9982c"),
        "git",
        ("chat",),
    ),
    Client(
        "chatgptui/desktop",
        "00e5685, March 2023",
        f"Settings → OpenAI API (custom endpoint): `{URL}/chat/completions`",
    ),
    Client(
        "PatrikZeros",
        "8a93592, December 2023",
        "two lines of `src/App.svelte`: the address given to `SSE`, `basePath` in `Configuration`",
        (f"{GITHUB}/patrikzudel/PatrikZeros-ChatGPT-API-UI", "8a935929c47da17f789e852e20f12c24f4a24424"),
        "git",
        ("stream", "title", "error"),
    ),
    Client(
        "openai-cli-client",
        "cd224ff, March 2023",
        f"environment `OPENAI_API_BASE={URL}`",
        (
            f"{GITHUB}/Yisus7u7/openai-cli-client",
            "cd224ff33fd9f4ed3cb61aa75c73535a17d06e1c",
            "openai<1",
            "pygments",
            "pyxdg",
        ),
        "git",
        ("completion", "second_turn"),
    ),
    Client(
        "openai-cli 0.0.3",
        "0.0.3",
        f"environment `OPENAI_API_URL={URL}/completions`, `OPENAI_API_TOKEN=x`",
        ("openai-cli==0.0.3", "setuptools"),
        "pip",
        ("completion",),
    ),
    Client(
        "openai-cli git",
        "fd3ee04, September 2024",
        "one line of `src/openai_cli/config.py`: `API_BASE_URL`",
        (f"{GITHUB}/peterdemin/openai-cli", "fd3ee0441413613e1f4a5042298775e923c7602e", "click", "requests"),
        "git",
        ("chat",),
    ),
    Client(
        "openai-python",
        "3.57.0",
        f'`base_url="{URL}"`',
        ("openai==3.57.0",),
        "pip",
        ("chat", "stream", "completion", "tools", "structured", "response", "embeddings", "models", "full_context"),
    ),
    Client(
        "openai npm",
        "6.49.0",
        f'`baseURL: "{URL}"`',
        ("openai@6.49.0",),
        scenarios=("chat", "stream", "tools", "structured", "response", "embeddings", "models"),
    ),
    Client(
        "LangChain Python",
        "langchain-openai 1.7.4",
        f'`ChatOpenAI(base_url="{URL}")`; embeddings with `check_embedding_ctx_length=False`',
        ("langchain-openai==1.7.4",),
        "pip",
        ("chat", "stream", "completion", "tools", "tool_result", "structured", "embeddings", "full_context"),
    ),
    Client(
        "LangChain JS",
        "@langchain/openai 1.5.8",
        f'`configuration: {{baseURL: "{URL}"}}`',
        ("@langchain/openai@1.5.8", "@langchain/core", "zod"),
        "npm",
        ("chat", "stream", "tools", "structured", "embeddings"),
    ),
    Client(
        "LlamaIndex OpenAILike",
        "0.8.1",
        f'`api_base="{URL}"`; chats with `is_chat_model=True`',
        ("llama-index-llms-openai-like==0.8.1",),
        "pip",
        ("chat", "stream", "completion", "tools", "structured"),
    ),
    Client(
        "LiteLLM",
        "1.110.2",
        f'`model="openai/…"`, `api_base="{URL}"`',
        ("litellm==1.110.2",),
        "pip",
        ("chat", "stream", "completion", "as_its_proxy", "tools", "structured", "embeddings", "full_context"),
    ),
    Client(
        "AI SDK",
        "ai 6",
        f'`createOpenAICompatible({{baseURL: "{URL}"}})`, or `createOpenAI`',
        ("ai@6", "@ai-sdk/openai-compatible@2", "@ai-sdk/openai@3", "zod"),
        "npm",
        ("chat", "stream", "completion", "tools", "structured", "response", "embeddings"),
    ),
    Client(
        "llm",
        "0.36",
        f"`extra-openai-models.yaml`: `api_base: {URL}`",
        ("llm==0.36",),
        "pip",
        ("chat", "stream", "completion", "tools", "tool_result", "structured"),
    ),
    Client(
        "aider",
        "0.86.2",
        f"`--openai-api-base {URL} --model openai/…`",
        ("aider-chat==0.86.2",),
        "pip",
        ("chat", "stream"),
    ),
    Client(
        "Continue",
        "cli 1.5.47",
        f"`provider: openai`, `apiBase: {URL}`",
        ("@continuedev/cli@1.5.47",),
        "npm",
        ("stream",),
    ),
    Client(
        "Open WebUI",
        "0.12.4",
        f"Connections → OpenAI API: `{URL}`",
        ("open-webui==0.12.4",),
        "pip",
        ("models", "chat", "stream"),
    ),
    Client("LibreChat", "source of November 2026", f"`librechat.yaml`, custom endpoint: `baseURL: {URL}`"),
)


def table() -> str:
    """The rows as Markdown."""
    head = "| Client | Version | Point it at the server | Verified |\n|---|---|---|---|\n"
    return head + "".join(f"| {c.name} | {c.version} | {c.pointed} | {c.verified} |\n" for c in CLIENTS)


if __name__ == "__main__":
    sys.stdout.write(table())
