"""The chat page at ``/``: a handful of files, read once, that talk to this API from the browser they are shown in.

What a model says is not to be trusted, and the page holds a key: so the policy sent with every file lets
nothing run, load or be sent to but this server, and forbids making markup of text altogether.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "trusted-types 'none'",
        "require-trusted-types-for 'script'",
    )
)

_FOLDER = Path(__file__).parent / "page"
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is sent. ``etag`` is quoted, and changes with the content only."""

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> PageFile:
        content = path.read_bytes()
        return cls(content, _MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    async def answer(self, http: Request) -> Response:
        """The file, or that the browser still has it: asking each time costs little and never shows an old page."""
        headers = {"content-security-policy": POLICY, "cache-control": "no-cache", "etag": self.etag}
        if _names(http.headers.get("if-none-match", ""), self.etag):
            return Response(status_code=304, headers=headers)
        if http.method == "HEAD":
            return Response(headers={**headers, "content-length": str(len(self.content))}, media_type=self.media_type)
        return Response(self.content, headers=headers, media_type=self.media_type)


def _names(if_none_match: str, etag: str) -> bool:
    """Whether a list of tags has this one; ``W/`` before a tag makes no difference to whoever reads."""
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return not tags.isdisjoint({etag, "*"})


def _files() -> Mapping[str, PageFile]:
    """Every file of the page by the path it is served at."""
    files = {path.name: PageFile.read(path) for path in sorted(_FOLDER.iterdir()) if path.suffix in _MEDIA_TYPES}
    return {"/" if name == "index.html" else f"/page/{name}": file for name, file in files.items()}


PAGE_FILES = _files()


def page_routes() -> list[Route]:
    """GET and HEAD for each file. The page is for people: it has no second address below ``/v1``."""
    return [Route(path, file.answer, methods=["GET"]) for path, file in PAGE_FILES.items()]
