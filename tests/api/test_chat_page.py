"""The files of the chat page over HTTP: for anybody, never stale, and under a policy that lets nothing else in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmoe_ray.api import chat_page
from lmoe_ray.api.api_keys import KeyRing, hash_key
from lmoe_ray.api.chat_page import PAGE_FILES
from lmoe_ray.api.route_bodies import MAX_COMPARED
from lmoe_ray.api.security_headers import HEADERS
from tests.fakes import FakeBackend

FOLDER = Path(chat_page.__file__).with_name("page")


@pytest.fixture
def client(serve: Any) -> httpx.AsyncClient:
    client: httpx.AsyncClient = serve(FakeBackend("Hi"))
    return client


def policy_of(response: httpx.Response) -> dict[str, str]:
    directives = (part.strip().partition(" ") for part in response.headers["content-security-policy"].split(";"))
    return {name: value for name, _, value in directives}


def test_every_file_of_the_folder_is_served() -> None:
    assert len(PAGE_FILES) == len(list(FOLDER.iterdir()))
    assert {"/", "/page/main.js", "/page/page.css"} <= PAGE_FILES.keys()


def test_the_page_asks_as_many_together_as_one_request_may_name() -> None:
    found = re.search(r"const MAX_TOGETHER = (\d+);", (FOLDER / "asking.js").read_text(encoding="utf-8"))

    assert found is not None
    assert int(found[1]) == MAX_COMPARED


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/page.css", "text/css; charset=utf-8"),
        ("/page/main.js", "text/javascript; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ],
)
async def test_a_file_comes_with_its_type_and_is_asked_for_each_time(
    client: httpx.AsyncClient, path: str, media_type: str
) -> None:
    response = await client.get(path)

    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert response.headers["cache-control"] == "no-cache"
    assert response.content == PAGE_FILES[path].content


@pytest.mark.parametrize("path", PAGE_FILES)
async def test_only_this_servers_scripts_run_and_only_it_is_spoken_to(client: httpx.AsyncClient, path: str) -> None:
    policy = policy_of(await client.get(path))

    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' data:"
    assert policy["require-trusted-types-for"] == "'script'"
    assert not any("unsafe" in value for value in policy.values())


async def test_answers_of_the_api_keep_their_own_policy(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/models")

    assert {name: response.headers[name] for name in HEADERS} == HEADERS


@pytest.mark.parametrize("shown", ["{etag}", "W/{etag}", '"other", {etag}', "*"])
async def test_a_browser_that_has_the_file_is_told_so(client: httpx.AsyncClient, shown: str) -> None:
    etag = (await client.get("/page/main.js")).headers["etag"]

    response = await client.get("/page/main.js", headers={"if-none-match": shown.format(etag=etag)})

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == etag
    assert "script-src 'self'" in response.headers["content-security-policy"]


async def test_a_browser_that_has_another_version_gets_the_file(client: httpx.AsyncClient) -> None:
    response = await client.get("/page/main.js", headers={"if-none-match": '"other"'})

    assert response.status_code == 200


async def test_head_tells_the_size_and_sends_nothing(client: httpx.AsyncClient) -> None:
    response = await client.head("/")

    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) == len(PAGE_FILES["/"].content)


@pytest.mark.parametrize(
    "path",
    [
        "/page",
        "/page/",
        "/page/nothing.js",
        "/page/index.html",
        "/page/..%2fchat_page.py",
        "/page/../chat_page.py",
        "/v1/page/main.js",
    ],
)
async def test_nothing_else_is_served(client: httpx.AsyncClient, error_of: Any, path: str) -> None:
    assert error_of(await client.get(path))["code"] == "route_not_found"


async def test_the_page_is_only_read(client: httpx.AsyncClient, error_of: Any) -> None:
    assert error_of(await client.post("/"))["code"] == "method_not_allowed"


async def test_the_page_needs_no_key_and_what_it_asks_does(serve: Any) -> None:
    client = serve(FakeBackend("Hi"), keys=KeyRing(None, [hash_key("secret")]))

    statuses = {path: (await client.get(path)).status_code for path in (*PAGE_FILES, "/v1/models", "/page/nothing.js")}

    assert {path for path, status in statuses.items() if status == 200} == set(PAGE_FILES)
    assert statuses["/v1/models"] == statuses["/page/nothing.js"] == 401


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_no_file_loads_from_elsewhere_or_makes_markup_of_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text) == []
    assert re.findall(r"""(?:src|href)=["'](?:https?:)?//""", text) == []
    assert re.findall(r"url\(|@import", text) == []
    assert re.findall(r"<style|<script(?! type=\"module\" src=)|\sstyle=|\son\w+=\"", text) == []


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.js")), ids=lambda path: path.name)
def test_every_script_says_what_it_is_and_stays_small(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()

    assert lines[0].startswith("// ")
    assert len(lines) <= 200
    assert [line for line in lines if len(line) > 120] == []
