"""Pages for browsers that the service has of its own: the API's description at /docs, and the workbench.

They load nothing from other hosts, and need no key: what they show they ask the API for.
"""

from functools import cache
from importlib.resources import files
from typing import NamedTuple

from fastapi import APIRouter, Response
from starlette.responses import HTMLResponse, RedirectResponse

from bae_ray.serving.http.problems import Problem

SCRIPT, STYLE, PLAIN = "text/javascript", "text/css", "text/plain"


class Page(NamedTuple):
    """A page, and the files that it asks for."""

    package: str
    file: str
    """Its HTML, in that package."""
    files: dict[str, tuple[str, str]]
    """The package and media type of the others, by name."""
    styles: str
    """Where its styles may come from, in the words of a Content-Security-Policy."""

    @property
    def policy(self) -> str:
        """What the browser may load for it: files of this service and embedded images."""
        return (
            f"default-src 'none'; script-src 'self'; style-src {self.styles}; img-src 'self' data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )


DOCS = Page(
    package="bae_ray.serving.http",
    file="docs.html",
    files={
        "swagger-ui-bundle.js": ("fastapi_offline.static", SCRIPT),
        "swagger-ui.css": ("fastapi_offline.static", STYLE),
        "docs.js": ("bae_ray.serving.http", SCRIPT),
    },
    styles="'self' 'unsafe-inline'",  # Swagger UI writes some of its own
)
WORKBENCH = Page(
    package="bae_ray.serving.workbench",
    file="index.html",
    files={
        "workbench.js": ("bae_ray.serving.workbench", SCRIPT),
        "workbench.css": ("bae_ray.serving.workbench", STYLE),
        "NOTICES.txt": ("bae_ray.serving.workbench", PLAIN),
    },
    styles="'self'",
)
HEADERS = {"cache-control": "max-age=3600", "x-content-type-options": "nosniff"}
FRESH = {"cache-control": "no-cache", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


def docs() -> APIRouter:
    """The API's description and its files."""
    return _router("docs", DOCS, HEADERS)


def workbench(is_served: bool) -> APIRouter:
    """The workbench and its files; where it is not served, what to do about that."""
    if is_served:
        return _router("workbench", WORKBENCH, FRESH)
    router = APIRouter(include_in_schema=False)

    @router.get("/workbench")
    @router.get("/workbench/{name:path}")
    async def get_none(name: str = "") -> Response:  # noqa: ARG001 - whichever it is
        raise Problem("not_found", "The workbench is served by `bae-ray serve --workbench`.")

    return router


def _router(at: str, page: Page, headers: dict[str, str]) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get(f"/{at}")
    async def get_page() -> Response:
        return HTMLResponse(_read(page.package, page.file), headers={"content-security-policy": page.policy, **FRESH})

    @router.get(f"/{at}/")
    async def get_page_elsewhere() -> Response:
        return RedirectResponse(f"../{at}")

    @router.get(f"/{at}/{{name}}")
    async def get_file(name: str) -> Response:
        if name not in page.files:
            raise Problem("not_found", "This page has no such file.")
        package, media = page.files[name]
        return Response(_read(package, name), media_type=media, headers=headers)

    return router


@cache
def _read(package: str, name: str) -> bytes:
    return (files(package) / name).read_bytes()
