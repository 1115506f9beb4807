"""The service's answers over real HTTP, from `bae-ray serve` in a process of its own, and its OpenAPI description."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bae_ray.autoencoders import BAEConfig, ReLUConfig
from tests.recorded import made
from tests.recorded.calls import BINARY, BYTES, JSON, KEY, NARROW, RATIONED, Ask, X, bearer, calls, refused
from tests.serving.command import serving

MASKED = ("date", "server", "x-request-id", "x-encoder-version", "retry-after", "content-length")
"""Headers that are another at another time, on another path, or the length of numbers that are."""
TOLD = ("allow", "accept-encoding", "content-security-policy", "content-type", "link", "www-authenticate")
UNSAID = ("description", "summary", "title", "example", "examples")
FAMILY = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)


def service(folder: Path) -> dict[str, Any]:
    """What the service answers to each request: status, headers, body."""
    with _served(folder) as url, httpx.Client(base_url=url, timeout=60) as http:
        container = http.post("/v1/encoders/bae/compress", content=save({"x": X}),
                              headers={**bearer(KEY), "content-type": BINARY}).content  # fmt: skip
        found: dict[str, Any] = {ask.name: _answer(http, ask) for ask in [*calls(container), *refused(container)]}
        found["openapi"] = _unsaid(http.get("/openapi.json").json())
        found["metrics"] = sorted(FAMILY.findall(http.get("/metrics").text))
        return found


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    registry = folder / "registry"
    configs = {"bae": BAEConfig, "relu": ReLUConfig}
    for name, config in configs.items():
        made.autoencoder(config(d_in=made.D, d_latent=made.F)).save_pretrained(registry / name)
    more = BAEConfig(d_in=made.D, d_latent=made.F, bits_per_feature=2)
    made.autoencoder(more).save_pretrained(registry / "two-bits")
    made.autoencoder(BAEConfig(d_in=made.D, d_latent=made.F), prior=False).save_pretrained(registry / "no-prior")
    run = registry / "run"  # at layer 0, whose activations are the model's exact embeddings
    made.autoencoder(ReLUConfig(d_in=made.D, d_latent=made.F)).save_pretrained(run)
    result = {"model": "tiny", "layer": 0, "site": "residual", "position": "all", "fvu_val": 0.25, "entropy_bits": 9.5}
    (run / "run.json").write_text("{}")
    (run / "result.json").write_text(json.dumps(result))
    made.autoencoder(configs["bae"](d_in=made.D, d_latent=made.F)).save_pretrained(registry / "cut")
    weights = registry / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    keys = folder / "keys"
    keys.write_text(f"{KEY} name=all\n{NARROW} name=narrow encoders=rel*,run\n{RATIONED} name=some per_minute=1\n")
    limits = {"max_body_bytes": 1 << 16, "max_response_bytes": 1 << 16, "max_rows": 64, "max_texts": 4,
              "max_tokens": 32, "max_inflight_bytes": 8 << 20}  # fmt: skip
    model = made.language_model(folder / "model")
    config = {"limits": limits, "keys_file": str(keys), "texts": {"min_replicas": 1, "models": {"tiny": str(model)}}}
    (folder / "service.json").write_text(json.dumps(config))
    with serving(registry, "--config", folder / "service.json", ready_s=600) as command:
        yield command.url


def _answer(http: httpx.Client, ask: Ask) -> dict[str, Any]:
    headers = {**bearer(KEY), **ask.headers}
    headers = {name: value for name, value in headers.items() if value or name == "content-type"}
    answer = http.request(ask.method, ask.path, content=ask.body, headers=headers)
    told = {name: answer.headers[name] for name in (*TOLD, *MASKED) if name in answer.headers and name != "server"}
    masked = {name: "*" if name in MASKED else value for name, value in told.items()}
    return {"status": answer.status_code, "headers": masked, "body": _body(answer)}


def _body(answer: httpx.Response) -> Any:
    media = answer.headers.get("content-type", "")
    if not answer.content:  # of HEAD
        return ""
    if media in (JSON, "application/problem+json"):
        found = answer.json()
        return "the description" if "openapi" in found else _masked(found)
    if media == BINARY:
        return _tensors(answer.content)
    return answer.content.hex() if media == BYTES else ""


def _tensors(content: bytes) -> Any:
    length = int.from_bytes(content[:8], "little")
    try:
        arrays = {name: [array.dtype.name, array.tolist()] for name, array in load(content).items()}
    except SafetensorError:
        return content.hex()
    return {"header": json.loads(content[8 : 8 + length]), "arrays": arrays}  # its metadata come in any order


def _masked(value: Any) -> Any:
    """A JSON value without what is another at each time: request ids, and versions, which are times of files."""
    if isinstance(value, dict):
        return {key: "*" if key in ("request_id", "version") else _masked(inner) for key, inner in value.items()}
    return [_masked(inner) for inner in value] if isinstance(value, list) else value


def _unsaid(value: Any, names: bool = False) -> Any:
    """An OpenAPI description without its words; `names`: keys are names of fields, not of OpenAPI."""
    if isinstance(value, dict):
        kept = value if names else {key: inner for key, inner in value.items() if key not in UNSAID}
        return {key: _unsaid(inner, not names and key in ("properties", "schemas")) for key, inner in kept.items()}
    return [_unsaid(inner) for inner in value] if isinstance(value, list) else value
