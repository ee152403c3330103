"""Clients that are pages, unmodified, in headless Chromium: typed into, and read from the screen.

They are started from their own source, which ``tests/clients/install.py`` fetches; two ask the server from their own
back end, two from the browser, across origins.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import ARGUMENTS, BROWSERS
from tests.clients.catalogue import CLIENTS, Client
from tests.clients.conftest import Target
from tests.clients.obliging_backend import TEXT
from tests.clients.stand_in import NAME, stand_in
from tests.tiny_graph import free_port

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

#: A first start compiles the page.
DEADLINE_S = 150.0
CLIENT = {client.name: client for client in CLIENTS}
ANSWER = "".join(TEXT)


@pytest.fixture(scope="module")
def browser(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """It reaches nothing but this machine, which it takes for OpenAI's."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None or shutil.which("openssl") is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)}, chromedriver and openssl on the PATH")
    with stand_in(httpx.URL(target.url).port or 80, tmp_path_factory.mktemp("tls")) as port:
        options = webdriver.ChromeOptions()
        options.binary_location = program
        rules = f"MAP {NAME} 127.0.0.1:{port}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        for argument in (*ARGUMENTS, f"--host-resolver-rules={rules}", "--ignore-certificate-errors"):
            options.add_argument(argument)
        chrome = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield chrome
        finally:
            chrome.quit()


@pytest.fixture
def start(folder_of: Callable[[Client], Path], target: Target, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start a page's own development server; returns its address. Arguments are the command and its environment."""
    if target.is_real:
        pytest.skip("what is on the screen can only be checked if it is known beforehand")
    with _processes() as processes:

        def start(client: Client, *command: str, **variables: str) -> str:
            folder, port = folder_of(client), free_port()
            program = folder / "node_modules/.bin" / command[0]
            environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NEXT_TELEMETRY_DISABLED": "1"}
            with (tmp_path / "log").open("w") as log:
                process = subprocess.Popen(
                    [program, *command[1:], str(port)],
                    cwd=folder,
                    env={**environment, **variables},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            processes.append(process)
            url = f"http://127.0.0.1:{port}/"
            until(lambda: is_served(url), process, tmp_path / "log")
            return url

        yield start


@contextmanager
def _processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Ended, with all they started, when the test is over."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield processes
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(10)


def is_served(url: str) -> bool:
    try:
        return httpx.get(url, timeout=DEADLINE_S).status_code == 200
    except httpx.TransportError:
        return False


def until(
    condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None, log: Path | None = None
) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        told = log.read_text()[-2000:] if log else ""
        assert process is None or process.poll() is None, told
        assert time.monotonic() < deadline_s, told or "it did not happen"
        time.sleep(0.2)


def say(browser: webdriver.Chrome, text: str, held: str = "") -> None:
    """Into the field at the bottom: others are for settings. ``held`` is held when Enter is pressed."""
    fields = [field for field in browser.find_elements(By.TAG_NAME, "textarea") if field.is_displayed()]
    field = max(fields, key=lambda field: field.location["y"])
    until(field.is_enabled)
    field.send_keys(text)
    field.send_keys(held, Keys.ENTER)


def num_answers(browser: webdriver.Chrome) -> int:
    return str(browser.find_element(By.TAG_NAME, "body").text).count(ANSWER)


def open_with(browser: webdriver.Chrome, url: str, **stored: str) -> None:
    """Open a page that finds these values, JSON each, in the browser's storage."""
    browser.get(url)
    browser.execute_script("for (const [k, v] of Object.entries(arguments[0])) localStorage.setItem(k, v)", stored)
    browser.get(url)
    until(lambda: bool(browser.find_elements(By.TAG_NAME, "textarea")))


def test_patrikzeros_streams_answers_and_finds_a_title(start: Any, browser: webdriver.Chrome) -> None:
    url = start(CLIENT["PatrikZeros"], "vite", "--host", "127.0.0.1", "--port")
    open_with(browser, url, api_key='"sk-test"')
    for turn in (1, 2):
        say(browser, "hello there")
        until(lambda turn=turn: num_answers(browser) >= turn)
    # It shows a block as long as it waits for more; the title is the answer to a request of its own.
    until(lambda: "█" not in browser.page_source and ANSWER in browser.title)


def test_patrikzeros_shows_why_it_was_refused(start: Any, browser: webdriver.Chrome) -> None:
    url = start(CLIENT["PatrikZeros"], "vite", "--host", "127.0.0.1", "--port")
    model = '{"code": "gpt-9", "name": "GPT 9", "inputCost": 0, "outputCost": 0, "tokenLimit": 4096}'
    open_with(browser, url, api_key='"sk-test"', conversations="null", model=model)
    say(browser, "hello there")
    until(lambda: "does not exist; served: demo" in browser.find_element(By.TAG_NAME, "body").text)


def test_chatwithme_takes_its_own_answers_back(start: Any, browser: webdriver.Chrome) -> None:
    url = start(CLIENT["chatwithme.chat"], "vite", "dev", "--host", "127.0.0.1", "--port")
    chat = {"id": "1", "name": "talk", "created_at": 1, "messages": []}
    stored = {"state": {"api_token": "sk-test"}, "chat-history-v1": [chat]}
    open_with(browser, f"{url}1", **{name: json.dumps(value) for name, value in stored.items()})
    until(lambda: "talk" in browser.find_element(By.TAG_NAME, "body").text)
    for turn in (1, 2, 3):
        say(browser, "hello there", Keys.CONTROL)
        until(lambda turn=turn: num_answers(browser) >= turn)


def test_chatgpt_minimal_streams(start: Any, target: Target, browser: webdriver.Chrome) -> None:
    variables = {"OPENAI_API_BASE_URL": target.url, "OPENAI_API_KEY": "x"}
    open_with(browser, start(CLIENT["chatgpt-minimal"], "next", "dev", "-p", **variables))
    for turn in (1, 2):
        say(browser, "hello there")
        until(lambda turn=turn: num_answers(browser) >= turn)


def test_chatbot_ui_offers_a_model_and_streams(start: Any, target: Target, browser: webdriver.Chrome) -> None:
    variables = {"OPENAI_API_HOST": target.url, "OPENAI_API_KEY": "x"}
    open_with(browser, start(CLIENT["chatbot-ui v1"], "next", "dev", "-p", **variables))
    until(lambda: "GPT-3.5" in browser.page_source)
    for turn in (1, 2):
        say(browser, "hello there")
        until(lambda turn=turn: num_answers(browser) >= turn)
