"""The page at /docs: Swagger UI from installed files. It loads nothing from other hosts."""

from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Response
from starlette.responses import HTMLResponse

from bae_ray.serving.http.problems import Problem

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the browser may load for the page: files of this service and embedded images."""
FILES = {
    "swagger-ui-bundle.js": ("fastapi_offline.static", "text/javascript"),
    "swagger-ui.css": ("fastapi_offline.static", "text/css"),
    "docs.js": ("bae_ray.serving.http", "text/javascript"),
}
"""The page's files: their package and media type."""
HEADERS = {"cache-control": "max-age=3600", "x-content-type-options": "nosniff"}


def docs() -> APIRouter:
    """The page and its files."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def get_docs() -> Response:
        return HTMLResponse(_read("bae_ray.serving.http", "docs.html"), headers={"content-security-policy": POLICY})

    @router.get("/docs/{name}")
    async def get_docs_file(name: str) -> Response:
        if name not in FILES:
            raise Problem("not_found", "The page of the description has no such file.")
        package, media = FILES[name]
        return Response(_read(package, name), media_type=media, headers=HEADERS)

    return router


@cache
def _read(package: str, name: str) -> bytes:
    return (files(package) / name).read_bytes()
