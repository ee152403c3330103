"""How to ask command-line clients what the drivers ask of libraries.

Each function gets the folder its client was installed into, a server's URL, a model's name and a folder of its own
to work in, and returns what the client printed in each scenario.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.clients.open_webui import open_webui

DRIVERS = Path(__file__).with_name("drivers")
#: The one with a built-in wish for 1,024 tokens is slow on a CPU.
TIMEOUT_S = 600
HELLO = "hello there"
QUESTION = "What is the weather in Paris?"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

Told = dict[str, Any]
Drive = Callable[[Path, str, str, Path], Told]


def run(*command: str | Path, home: Path, stdin: str = "", **variables: str) -> str:
    """What a program prints. It sees nothing of this user's home, keys and proxies.

    Raises:
        AssertionError: with what it said, if it failed.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = {**kept, "HOME": str(home), "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1", **variables}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=home,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return _COLOURS.sub("", done.stdout)


def python_driver(name: str) -> Drive:
    def drive(folder: Path, url: str, model: str, home: Path) -> Told:
        return last_line(run(folder / ".venv/bin/python", DRIVERS / name, f"{url}/v1", model, home=home))

    return drive


def node_driver(name: str) -> Drive:
    def drive(folder: Path, url: str, model: str, home: Path) -> Told:
        return last_line(run("node", DRIVERS / name, folder, f"{url}/v1", model, home=home))

    return drive


def last_line(printed: str) -> Told:
    """What a driver tells; libraries print advice of their own before it."""
    told: Told = json.loads(printed.splitlines()[-1])
    return told


def openai_cli(folder: Path, url: str, model: str, home: Path) -> Told:
    """The model is built in: text-davinci-003."""
    (home / "question").write_text(HELLO)
    variables = {"OPENAI_API_URL": f"{url}/v1/completions", "OPENAI_API_TOKEN": "x"}
    return {"completion": run(folder / ".venv/bin/openai", "complete", "question", home=home, **variables)}


def openai_cli_git(folder: Path, url: str, model: str, home: Path) -> Told:
    """The address is a constant of its source, set here before the rest of it is loaded."""
    (home / "question").write_text(HELLO)
    set_address = f"import openai_cli.config as config; config.API_BASE_URL = '{url}/v1/chat/completions'"
    start = f"{set_address}; from openai_cli.cli import cli; cli()"
    variables = {"OPENAI_API_KEY": "x", "PYTHONPATH": str(folder / "src")}
    return {"chat": run(folder / ".venv/bin/python", "-c", start, "complete", "question", home=home, **variables)}


def openai_cli_client(folder: Path, url: str, model: str, home: Path) -> Told:
    """The engine is built in: text-davinci-002. Two turns, the second with the first in its prompt."""
    (home / "openai_client.conf").write_text("[openai]\ntoken = x\n")
    variables = {"OPENAI_API_BASE": f"{url}/v1", "XDG_CONFIG_HOME": str(home)}
    typed = f"{HELLO}\nand then?\nexit()\n"
    program = folder / "openai_chat.py"
    printed = run(folder / ".venv/bin/python", program, home=home, stdin=typed, **variables)
    return dict(zip(("completion", "second_turn"), printed.split("You: ")[1:], strict=False))


def llm(folder: Path, url: str, model: str, home: Path) -> Told:
    ours = {"model_name": model, "api_base": f"{url}/v1", "supports_schema": True, "supports_tools": True}
    models = [{**ours, "model_id": "chat"}, {**ours, "model_id": "completion", "completion": True}]
    (home / "extra-openai-models.yaml").write_text(yaml.safe_dump(models))
    (home / "weather.py").write_text(
        "import json, pathlib\n\n\n"
        "def weather(city: str) -> str:\n"
        "    pathlib.Path('called').write_text(json.dumps(['weather', {'city': city}]))\n"
        "    return 'sunny'\n"
    )

    def ask(*arguments: str, model_id: str = "chat", num_tokens: int = 16) -> str:
        options = ("-m", model_id, "-o", "temperature", "0", "-o", "max_tokens", str(num_tokens))
        return run(folder / ".venv/bin/llm", *options, *arguments, home=home, LLM_USER_PATH=str(home))

    told = {
        "chat": ask("--no-stream", HELLO),
        "stream": ask(HELLO),
        "completion": ask(HELLO, model_id="completion"),
        "structured": json.loads(ask("--schema", json.dumps(SCHEMA), QUESTION, num_tokens=120)),
        "tool_result": ask("--functions", str(home / "weather.py"), QUESTION, num_tokens=120),
    }
    called = home / "called"
    return {**told, "tools": json.loads(called.read_text()) if called.exists() else None}


def aider(folder: Path, url: str, model: str, home: Path) -> Told:
    """A program that edits files: here it is only talked to."""
    (home / ".env").write_text("")
    quiet = ("--no-git", "--yes-always", "--no-check-update", "--no-show-model-warnings", "--analytics-disable")
    plain = ("--no-pretty", "--no-show-release-notes", "--no-detect-urls", "--no-suggest-shell-commands")
    server = ("--model", f"openai/{model}", "--openai-api-base", f"{url}/v1", "--openai-api-key", "x")
    told = {}
    for scenario, how in (("chat", "--no-stream"), ("stream", "--stream")):
        folder_of_its_own = home / scenario
        folder_of_its_own.mkdir()
        command = (folder / ".venv/bin/aider", *quiet, *plain, *server, how, "--message", HELLO)
        run(*command, home=folder_of_its_own, LITELLM_LOCAL_MODEL_COST_MAP="True")
        history = (folder_of_its_own / ".aider.chat.history.md").read_text(encoding="utf-8")
        told[scenario] = history.split(f"#### {HELLO}")[1].split("> Tokens")[0]
    return told


def continue_cli(folder: Path, url: str, model: str, home: Path) -> Told:
    """It declares nine functions with each request."""
    ours = {"name": "ours", "provider": "openai", "model": model, "apiBase": f"{url}/v1", "apiKey": "x"}
    config = {"name": "ours", "version": "0.0.1", "schema": "v1", "models": [{**ours, "roles": ["chat"]}]}
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    command = (folder / "node_modules/.bin/cn", "--config", home / "config.yaml", "-p", HELLO)
    return {"stream": run(*command, home=home, CONTINUE_TELEMETRY_ENABLED="0")}


DRIVES: Mapping[str, Drive] = {
    "openai-python": python_driver("with_openai.py"),
    "LangChain Python": python_driver("with_langchain.py"),
    "LangChain JS": node_driver("with_langchain.mjs"),
    "LlamaIndex OpenAILike": python_driver("with_llamaindex.py"),
    "LiteLLM": python_driver("with_litellm.py"),
    "AI SDK": node_driver("with_ai_sdk.mjs"),
    "openai-cli 0.0.3": openai_cli,
    "openai-cli git": openai_cli_git,
    "openai-cli-client": openai_cli_client,
    "llm": llm,
    "aider": aider,
    "Continue": continue_cli,
    "Open WebUI": open_webui,
}
