"""Routes of what is known about the encoders: the table of their runs, each one's training and features."""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Query, Request, Response
from pydantic_core import to_json
from safetensors import SafetensorError

from bae_ray.analysis.matched_entropy import WEIGHT, matched_entropy
from bae_ray.errors import BaeRayError
from bae_ray.files import read_text
from bae_ray.report.entropy_tables import settings_that_differ
from bae_ray.report.measures import MEASURES, known_measures
from bae_ray.serving.http import media_types
from bae_ray.serving.http import run_schemas as s
from bae_ray.serving.http.keys import Caller
from bae_ray.serving.http.media_types import JSON
from bae_ray.serving.http.openapi import EncoderId, produces
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.http.request import EncoderRequest
from bae_ray.serving.http.service import Service
from bae_ray.serving.registry.entry import Entry
from bae_ray.serving.registry.feature_table import FeatureTable, Order, read_features
from bae_ray.serving.registry.sweep_table import read_sweep
from bae_ray.serving.time_limits import AwaitedCalls, SlowError
from bae_ray.training.caveats import CAVEATS, marks
from bae_ray.training.curves import read_curves
from bae_ray.training.run_fidelity import FIDELITY_FILE
from bae_ray.training.run_folder import METRICS_FILE, RESULT_FILE, RUN_FILE

ABOUT = (
    "run", "status", "reason", "model", "layer", "site", "position", "seed", "epochs", "n_train", "n_val", "d_latent",
    "entropy_low", "entropy_high",
)  # fmt: skip
"""Columns of the table beside measures and settings."""
TERMS = ("loss", "reconstruction", "entropy", "covariance", "l1", "l0")
MAX_POINTS = 300
"""Of a training curve."""
LOOK_AGAIN_S = 2.0
READ_TIMEOUT_S = 30.0
"""A table of many thousand runs that no sweep has written takes seconds."""
MOST_FEATURES = 1000

log = logging.getLogger("ray.serve")


class Table:
    """The table of the registry's runs, read again where that was some seconds ago."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reads = AwaitedCalls(READ_TIMEOUT_S)
        self._table, self._until = pd.DataFrame(), 0.0

    async def of(self, caller: Caller) -> pd.DataFrame:
        """The rows that a key is for. Raises `unavailable`."""
        try:
            table = await self._reads.call("table", self._read)
        except OSError as error:
            detail = "The runs cannot be read now." if isinstance(error, SlowError) else "The runs cannot be read."
            raise Problem("unavailable", detail) from error
        if not len(table):
            return table
        return table[[caller.may_use(run if isinstance(run, str) else "") for run in table["run"]]]

    def _read(self) -> pd.DataFrame:
        if time.monotonic() >= self._until:
            self._table = read_sweep(self._service.config.registry)
            self._until = time.monotonic() + LOOK_AGAIN_S
        return self._table


def runs(service: Service) -> APIRouter:
    """The routes."""
    router, table = APIRouter(tags=["runs"]), Table(service)

    @router.get("/v1/sweep", **produces(s.SweepAnswer, "not_acceptable"))
    async def get_sweep(request: Request) -> Response:
        """Every run in the registry, finished or not, with its measures and the settings in which runs differ."""
        incoming = _plain(service, request)
        found = await table.of(incoming.exchange.caller)
        return Response(await asyncio.to_thread(_sweep, found), media_type=JSON)

    @router.get("/v1/sweep/matched", **produces(s.MatchedAnswer, "not_acceptable"))
    async def get_matched(
        request: Request, fvu: Annotated[float, Query(gt=0, le=10, allow_inf_nan=False, description="Held-out FVU.")]
    ) -> Response:
        """The bits of each cell at one FVU on held-out texts, from sweeps with several entropy weights."""
        incoming = _plain(service, request)
        found = await table.of(incoming.exchange.caller)
        return Response(await asyncio.to_thread(_matched, found, fvu), media_type=JSON)

    @router.get("/v1/encoders/{encoder_id}/run", **produces(s.RunAnswer, *ERRORS))
    async def get_run(request: Request, encoder_id: EncoderId) -> Response:
        """How the encoder was trained: its settings, its training curves and all its measures."""
        entry = await _entry(service, request, encoder_id)
        return Response(await _in_time(entry, partial(_run, entry)), media_type=JSON)

    @router.get("/v1/encoders/{encoder_id}/features", **produces(s.FeatureList, *ERRORS))
    async def list_features(
        request: Request,
        encoder_id: EncoderId,
        search: Annotated[str, Query(max_length=200, description="Words of an explanation, or an index.")] = "",
        sort: Annotated[Order, Query(description="Sort by this, largest first; by index, smallest first.")] = "index",
        limit: Annotated[int, Query(ge=1, le=MOST_FEATURES)] = 100,
        skip: Annotated[int, Query(ge=0, description="Number of features to skip.")] = 0,
    ) -> Response:
        """The features of the encoder: how often each fires, and what ComSem found about it."""
        entry = await _entry(service, request, encoder_id)
        return Response(await _in_time(entry, partial(_features, entry, search, sort, limit, skip)), media_type=JSON)

    return router


ERRORS = ("not_acceptable", "encoder_not_found", "not_allowed", "encoder_broken")
_reads = AwaitedCalls(READ_TIMEOUT_S)


def _plain(service: Service, request: Request) -> EncoderRequest:
    incoming = EncoderRequest(service, request, takes_body=False)
    media_types.chosen(request.headers.get("accept"), (JSON,))
    return incoming


async def _entry(service: Service, request: Request, encoder_id: str) -> Entry:
    incoming = await EncoderRequest.of(service, request, encoder_id, takes_body=False, answers=(JSON,))
    return incoming.entry


async def _in_time(entry: Entry, read: Callable[[], bytes]) -> bytes:
    """What a thread reads of an encoder's folder. Raises `encoder_broken` where it cannot, and `unavailable`."""
    try:
        return await _reads.call(entry.key, read)
    except SlowError as error:
        raise Problem("unavailable", "The encoder's files cannot be read in time.") from error
    except (OSError, ValueError, KeyError, BaeRayError, SafetensorError) as error:
        log.error(f"encoder {entry.key}: {type(error).__name__}: {error}")  # with paths of this machine
        raise Problem("encoder_broken", "Its files cannot be read. The service's log says why.") from error


def _sweep(table: pd.DataFrame) -> bytes:
    measures = known_measures(table) if len(table) else []
    settings = settings_that_differ(table) if len(table) else []
    told = [name for name in (*ABOUT, *measures, *settings) if name in table]
    columns = _columns(table[[*dict.fromkeys(told)]])
    columns["marks"] = marks(table).tolist() if len(table) else []
    shown = [{"name": name, **MEASURES[name]._asdict()} for name in measures]
    caveats = [{"mark": one.mark, "said": one.said} for one in CAVEATS]
    return to_json(
        {"runs": len(table), "caveats": caveats, "measures": shown, "settings": settings, "columns": columns}
    )


def _matched(table: pd.DataFrame, fvu: float) -> bytes:
    done = table[table["status"] == "finished"] if len(table) else table
    parts: list[pd.DataFrame] = []
    if len(done):
        differing = settings_that_differ(done, aside=(WEIGHT,))
        groups = done.groupby(differing, dropna=False) if differing else [((), done)]
        for values, rows in groups:
            part = matched_entropy(rows, fvu)
            setting: dict[str, Any] = dict(zip(differing, values, strict=True))
            parts.append(part.assign(**setting))
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return to_json({"fvu": fvu, "columns": _columns(found)})


def _columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    """Columns as JSON has them: what is not known is null."""
    return {str(name): column.astype(object).where(column.notna(), None).tolist() for name, column in table.items()}


def _run(entry: Entry) -> bytes:
    files = {"settings": RUN_FILE, "result": RESULT_FILE}
    read = {name: _object(entry, file) for name, file in files.items()}
    fidelity = _object(entry, FIDELITY_FILE).get("columns", {})
    curves = read_curves(entry.folder / METRICS_FILE, TERMS, MAX_POINTS)
    return to_json({"encoder": entry.id, **read, "fidelity": fidelity, "curves": curves})


def _object(entry: Entry, name: str) -> dict[str, Any]:
    file = entry.folder / name
    return json.loads(read_text(file)) if file.exists() else {}


def _features(entry: Entry, search: str, sort: Order, limit: int, skip: int) -> bytes:
    table = read_features(entry)
    indices = table.sorted(table.found(search, entry.n_features), sort)
    edges, counts = table.histogram()
    answer = s.FeatureList(
        encoder=entry.id,
        n_features=entry.n_features,
        found=len(indices),
        features=[_row(table, int(index)) for index in indices[skip : skip + limit]],
        rate_edges=edges,
        rate_counts=counts,
        judge=table.about.get("judge"),
        summary=table.about.get("summary"),
    )
    return answer.model_dump_json().encode()


def _row(table: FeatureTable, index: int) -> s.FeatureRow:
    card = table.cards.get(index, {})
    return s.FeatureRow(
        index=index,
        firing_rate=None if table.rates is None else float(table.rates[index]),
        bits=None if table.bits is None else float(table.bits[index]),
        **{name: card.get(name) for name in ("status", "explanation", "score", "chance")},
    )
