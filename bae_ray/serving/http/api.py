"""The HTTP API as an application: its routes, its errors as problems, and its pages."""

import json
from typing import cast

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from bae_ray.serving.http.effect_routes import effects
from bae_ray.serving.http.openapi import check_parameters, describe
from bae_ray.serving.http.pages import docs, workbench
from bae_ray.serving.http.problems import INTERNAL, MEDIA_TYPE, Problem
from bae_ray.serving.http.request import ClientGoneError, Exchange
from bae_ray.serving.http.routes import catalog, codes, compressed, health, tokens
from bae_ray.serving.http.run_routes import runs
from bae_ray.serving.http.service import Service
from bae_ray.version import __version__

DESCRIPTION = "Encode hidden states of a language model with Binary Autoencoders, decode them, and compress them."


def create_app(service: Service, needs_key: bool = True, has_workbench: bool = False) -> FastAPI:
    """The routes as an application, to be wrapped in `middleware.RequestMiddleware`, which checks keys."""
    app = FastAPI(
        title="bae_ray",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
    )
    for routes in (catalog, codes, compressed, tokens, effects, runs):
        app.include_router(routes(service), dependencies=[Depends(check_parameters)])
    app.include_router(health(service))  # probes and scrapers may have parameters of their own
    app.include_router(docs())
    app.include_router(workbench(has_workbench))
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientGoneError, _gone)
    app.add_exception_handler(Exception, _internal)
    app.openapi = lambda: describe(app, needs_key)
    return app


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    exchange: Exchange = request.state.exchange
    exchange.code = error.code
    return Response(error.body(exchange.id), error.status, error.headers, MEDIA_TYPE)


async def _invalid(request: Request, error: Exception) -> Response:
    """An invalid parameter: say which one and what was expected, not what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = " ".join(str(part) for part in first["loc"] if not isinstance(part, int))
    return await _problem(request, Problem("invalid", f"{where}: {first['msg']}."))


async def _http(request: Request, error: Exception) -> Response:
    """Starlette's own errors: unknown route or method."""
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "malformed")
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"
    return await _problem(request, Problem(code, str(error.detail), headers))


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody is there to read it


async def _internal(request: Request, _error: Exception) -> Response:
    return await _problem(request, Problem("internal", INTERNAL))


if __name__ == "__main__":  # the description that is committed; no route is called, so that no service is needed
    print(json.dumps(create_app(cast(Service, None)).openapi(), indent=1))
