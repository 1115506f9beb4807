"""texts/steer and texts/fidelity against the library and against plain hooks; what is refused; clients that go away."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from httpx_sse import EventSource, connect_sse
from transformers import AutoTokenizer, LlamaForCausalLM

from bae_ray.activations.layout import Cell
from bae_ray.activations.model import find_model
from bae_ray.autoencoders import Autoencoder, ReLUConfig, TranscoderConfig, build_autoencoder, load_autoencoder
from bae_ray.feature_model import FeatureModel
from bae_ray.interventions.editable_model import EditableModel
from bae_ray.steering.generation import GenerationConfig, write
from bae_ray.steering.steered_model import SteeredModel
from tests.serving.http.test_problems import problem
from tests.serving.support import LIMITS, NARROW_KEY, D, F, Served, make_run, until
from tests.steering.naive import Naive

STEER, FIDELITY = "/v1/encoders/run/texts/steer", "/v1/encoders/run/texts/fidelity"
TEXT = "w3 w14 w15 w9"
BODIES: list[dict[str, Any]] = [
    {"add": [{"feature": 3, "strength": 2.5}, {"feature": 7, "strength": -1}]},
    {"clamp": [{"feature": 3, "value": 1}, {"feature": 5, "value": 0.5}], "seed": 4},
    {"ablate": [0, 1, 2, 43], "tokens": "all", "temperature": 0},
    {"add": [{"feature": 3, "strength": 90}], "ablate": [4], "tokens": "all", "max_new_tokens": 20, "temperature": 0.7},
]


@pytest.fixture(scope="module")
def model(served: Served, tiny_causal_model: Path) -> FeatureModel:
    """What the service's `run` is, in this process."""
    autoencoder = load_autoencoder(served.registry / "run")
    return FeatureModel(EditableModel(find_model(str(tiny_causal_model))), autoencoder, Cell(2, "residual", "all"))


def written(model: FeatureModel, body: dict[str, Any]) -> tuple[list[int], list[int]]:
    """What the library writes, steered and plain."""
    add = {one["feature"]: one["strength"] for one in body.get("add", [])}
    clamp = {one["feature"]: one["value"] for one in body.get("clamp", [])} | dict.fromkeys(body.get("ablate", []), 0.0)
    options = {name: body[name] for name in ("max_new_tokens", "temperature", "seed") if name in body}
    config, ids = GenerationConfig(**options), model.token_ids(TEXT)
    edits = model.edits(add, clamp, body.get("tokens", "last"))
    steered, plain = (list(write(SteeredModel(model.model), ids, config, edit)) for edit in (edits, []))
    return steered, plain


def post(http: httpx.Client, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    return http.post(path, json=body, headers={"accept": "application/json", **headers})


@pytest.mark.parametrize("body", BODIES)
def test_what_is_written_is_what_the_library_writes(http: httpx.Client, model: FeatureModel, body: dict[str, Any]):
    answer = post(http, STEER, {"text": TEXT, **body})
    assert answer.status_code == 200, answer.text
    found, (steered, plain) = answer.json(), written(model, body)
    assert (found["encoder"], found["model"], found["layer"], found["site"]) == ("run", "tiny", 2, "residual")
    assert (found["steered"]["token_ids"], found["plain"]["token_ids"]) == (steered, plain)
    assert steered != plain
    most = body.get("max_new_tokens", 32)
    for side, ids in (("steered", steered), ("plain", plain)):
        assert found[side]["ended"] == (len(ids) < most)
        assert found[side]["text"].split() == str(model.model.tokenizer.decode(ids)).split()
    assert answer.headers["x-encoder-version"] == http.get("/v1/encoders/run").json()["version"]


@pytest.mark.parametrize("body", BODIES)
def test_events_bring_the_same_token_by_token(http: httpx.Client, body: dict[str, Any]):
    answer = post(http, STEER, {"text": TEXT, **body}).json()
    with connect_sse(http, "POST", STEER, json={"text": TEXT, **body}) as source:
        assert source.response.headers["content-type"].startswith("text/event-stream")
        events = list(source.iter_sse())
    *tokens, end = events
    assert {event.event for event in tokens} == {"token"}
    assert (end.event, json.loads(end.data)) == ("end", answer)
    told = [json.loads(event.data) for event in tokens]
    for side in ("steered", "plain"):
        mine = [token for token in told if token["side"] == side]
        assert [token["token_id"] for token in mine] == answer[side]["token_ids"]
        assert "".join(token["text"] for token in mine) == answer[side]["text"]
    shorter = min(len(answer[side]["token_ids"]) for side in ("steered", "plain"))
    assert [token["side"] for token in told[: 2 * shorter]] == ["steered", "plain"] * shorter


def test_greedy_text_is_that_of_a_plain_hook(http: httpx.Client, served: Served, tiny_causal_model: Path):
    plain_model = LlamaForCausalLM.from_pretrained(tiny_causal_model).eval()
    naive, made = Naive(plain_model, plain_model.model.layers), load_autoencoder(served.registry / "run")
    ids = AutoTokenizer.from_pretrained(tiny_causal_model)(TEXT).input_ids
    direction = (made.W_dec[3] * made.scale).detach()

    def clamped(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return x + (1 - made.encode(x)[:, 5:6]) * made.W_dec[5] * made.scale

    for change, body in (
        (lambda x: x + 4 * direction, {"add": [{"feature": 3, "strength": 4}]}),
        (clamped, {"clamp": [{"feature": 5, "value": 1}]}),
    ):
        wanted: list[int] = []
        while len(wanted) < 12:
            logits = naive.logits([*ids, *wanted], 2, change, len(ids) - 1)
            wanted.append(int(logits[-1].argmax()))
        found = post(http, STEER, {"text": TEXT, "temperature": 0, "max_new_tokens": 12, **body}).json()["steered"]
        ends = wanted.index(2) if 2 in wanted else 12  # Llama's end of a text
        assert found["token_ids"] == wanted[:ends]


def test_a_client_that_goes_away_ends_the_writing(http: httpx.Client, dropped: Path):
    make_run(dropped, "endless")
    until(lambda: http.get("/v1/encoders/dropped").status_code == 200)
    path = "/v1/encoders/dropped/texts/steer"
    body = {"text": TEXT, "ablate": [1], "max_new_tokens": LIMITS.max_new_tokens}

    def count() -> float:
        lines = http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("bae_ray_written_tokens_total"))

    before = count()
    with http.stream("POST", path, json=body) as response:
        events = EventSource(response).iter_sse()
        assert [next(events).event for _ in range(4)] == ["token"] * 4
    time.sleep(1)  # a page of metrics is up to .5 s old
    last = count()
    time.sleep(1)
    assert count() == last, "it goes on writing"
    assert 4 <= last - before < LIMITS.max_new_tokens  # of the two texts together
    assert post(http, STEER, {"text": TEXT, "ablate": [1]}).status_code == 200, "the replica serves others"


NONE: dict[str, Any] = {"text": TEXT}
GOOD: dict[str, Any] = {"text": TEXT, "ablate": [1]}
BAD: list[tuple[dict[str, Any], str]] = [
    (NONE, "has to name a feature"),
    ({"ablate": [1]}, "text: Field required"),
    ({**GOOD, "text": ""}, "text: String should have at least 1 character"),
    ({**GOOD, "text": "   "}, "the text is empty"),
    ({**GOOD, "text": ["w1"]}, "text: Input should be a valid string"),
    ({**GOOD, "ablate": [F]}, f"has the features 0 to {F - 1}"),
    ({**GOOD, "ablate": [-1]}, "ablate 0: Input should be greater than or equal to 0"),
    ({**GOOD, "ablate": [1.5]}, "ablate 0: Input should be a valid integer"),
    ({**GOOD, "ablate": [1, 1]}, "once in clamp and ablate together"),
    ({**GOOD, "clamp": [{"feature": 1, "value": 1}]}, "once in clamp and ablate together"),
    ({**GOOD, "clamp": [{"feature": 2, "value": float("nan")}]}, "clamp 0 value: Input should be a finite number"),
    ({**GOOD, "add": [{"feature": 2, "strength": float("inf")}]}, "add 0 strength: Input should be a finite number"),
    ({**GOOD, "add": [{"feature": 2}]}, "add 0 strength: Field required"),
    ({**GOOD, "add": [{"feature": 2, "strength": 1, "secret": 1}]}, "add 0 has a field that is not taken"),
    ({**GOOD, "add": {"2": 1.0}}, "add: Input should be a valid list"),
    ({**GOOD, "tokens": "secret"}, "tokens: Input should be 'last' or 'all'"),
    ({**GOOD, "max_new_tokens": 0}, "max_new_tokens: Input should be greater than or equal to 1"),
    ({**GOOD, "max_new_tokens": LIMITS.max_new_tokens + 1}, f"max_new_tokens may be {LIMITS.max_new_tokens} at most"),
    ({**GOOD, "ablate": list(range(20)), "add": [{"feature": i, "strength": 1} for i in range(21)]}, "40 features at"),
    ({**GOOD, "temperature": -1}, "temperature: Input should be greater than or equal to 0"),
    ({**GOOD, "seed": -1}, "seed: Input should be greater than or equal to 0"),
    ({**GOOD, "secret": 1}, "The body has a field that is not taken. The body may hold text, add"),
]


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize(("body", "told"), BAD)
def test_what_cannot_be_done_is_told_before_anything_is_written(
    http: httpx.Client, body: dict[str, Any], told: str, accept: str
):
    content = json.dumps(body)  # httpx refuses NaN
    answer = http.post(STEER, content=content, headers={"content-type": "application/json", "accept": accept})
    detail = problem(answer, 422, "invalid")["detail"]
    assert told in detail
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("bae/texts/steer", GOOD, 422, "no_language_model"),
        ("nobody/texts/steer", GOOD, 404, "encoder_not_found"),
        ("cut/texts/steer", GOOD, 503, "encoder_broken"),
        ("run/texts/steer", {**GOOD, "text": "w1 " * (LIMITS.max_tokens + 1)}, 413, "too_much_text"),
        ("run/texts/steer", {**GOOD, "max_new_tokens": 61}, 413, "too_much_text"),  # 4 and 61 of 64 positions
        ("run/texts/steer", {**GOOD, "add": [{"feature": 2, "strength": 1e60}]}, 422, "not_finite"),
        ("bae/texts/fidelity", {"texts": [TEXT]}, 422, "no_language_model"),
        ("run/texts/fidelity", {"texts": []}, 422, "invalid"),
        ("run/texts/fidelity", {"texts": ["w1"]}, 422, "invalid"),  # nothing follows
        ("run/texts/fidelity", {"texts": ["w1 w2"], "first": False}, 422, "invalid"),
        ("run/texts/fidelity", {"texts": [TEXT], "first": 1}, 422, "invalid"),
        ("run/texts/fidelity", {"texts": [TEXT] * (LIMITS.max_texts + 1)}, 413, "too_much_text"),
        ("run/texts/fidelity", {"texts": ["w1 " * (LIMITS.max_tokens + 1)]}, 413, "too_much_text"),
    ],
)
def test_problems_have_the_codes_of_other_routes(
    http: httpx.Client, path: str, body: dict[str, Any], status: int, code: str
):
    problem(post(http, f"/v1/encoders/{path}", body), status, code)


def test_keys_and_media_types_are_those_of_other_routes(http: httpx.Client):
    narrow = {"authorization": f"Bearer {NARROW_KEY}"}
    for path, body in ((STEER, GOOD), (FIDELITY, {"texts": [TEXT]})):
        problem(post(http, path.replace("run", "demo"), body, **narrow), 403, "not_allowed")
        problem(post(http, path, body, authorization="Bearer wrong"), 401, "wrong_key")
        assert post(http, path, body, **narrow).status_code == 200
        for accept in ("image/png", "application/x-safetensors"):
            told = problem(post(http, path, body, accept=accept), 406, "not_acceptable")["detail"]
            assert "safetensors" not in told
        problem(http.post(path, content=b"x", headers={"content-type": "text/plain"}), 415, "unsupported_media_type")
        problem(post(http, f"{path}?seed=1", body), 422, "invalid")


def test_a_model_without_a_head_is_refused_and_still_encodes(http: httpx.Client, dropped: Path):
    make_run(dropped, "headless")
    until(lambda: http.get("/v1/encoders/dropped").status_code == 200)
    for _ in range(2):
        for verb, body in (("steer", GOOD), ("fidelity", {"texts": [TEXT]})):
            detail = problem(post(http, f"/v1/encoders/dropped/texts/{verb}", body), 422, "no_language_model")["detail"]
            assert "has no language-model head" in detail
        assert post(http, "/v1/encoders/dropped/texts/encode", {"texts": [TEXT]}).status_code == 200


def drop(http: httpx.Client, folder: Path, dropped: Path, made: Autoencoder, **result: Any) -> None:
    """Make a run of an encoder and move it, whole, into the registry."""
    make_run(folder, "tiny")
    made.save_pretrained(folder)
    told = json.loads((folder / "result.json").read_text()) | result
    (folder / "result.json").write_text(json.dumps(told))
    folder.rename(dropped)
    until(lambda: http.get("/v1/encoders/dropped").status_code == 200)


@pytest.mark.parametrize(
    "changes",
    [
        {"layer": 9},
        {"layer": -1},
        {"layer": 3, "site": "mlp_out"},
        {"layer": 1, "site": "nowhere"},
        {"d_in": 8},
    ],
)
def test_an_encoder_that_does_not_fit_its_model_is_told_as_by_texts_encode(
    http: httpx.Client, dropped: Path, tmp_path: Path, changes: dict[str, Any]
):
    config = ReLUConfig(d_in=changes.get("d_in", D), d_latent=F)
    drop(
        http, tmp_path / "made", dropped, build_autoencoder(config), **{k: v for k, v in changes.items() if k != "d_in"}
    )
    for verb, body in (("steer", GOOD), ("fidelity", {"texts": [TEXT]}), ("encode", {"texts": [TEXT]})):
        problem(post(http, f"/v1/encoders/dropped/texts/{verb}", body), 422, "no_language_model")


def test_a_transcoder_is_added_where_it_writes_and_cannot_be_clamped(
    http: httpx.Client, dropped: Path, tiny_causal_model: Path, tmp_path: Path
):
    made = build_autoencoder(TranscoderConfig(d_in=D, d_latent=F, target_site="residual", target_layer_offset=1))
    drop(http, tmp_path / "made", dropped, made, layer=1)
    path = "/v1/encoders/dropped/texts/steer"
    assert "cannot" not in problem(post(http, path, GOOD), 422, "invalid")["detail"].split("Use add")[1]
    body = {"add": [{"feature": 3, "strength": 30.0}], "temperature": 0}
    found = post(http, path, {"text": TEXT, **body}).json()
    source = EditableModel(find_model(str(tiny_causal_model)))
    cells = Cell(1, "residual", "all"), Cell(2, "residual", "all")
    assert found["steered"]["token_ids"] == written(FeatureModel(source, load_autoencoder(dropped), *cells), body)[0]


@pytest.mark.parametrize("first", [True, False])
def test_fidelity_is_that_of_plain_hooks(http: httpx.Client, served: Served, tiny_causal_model: Path, first: bool):
    texts = [TEXT, "w1 w2 w3", "w40 w41 w42 w43 w44 w45 w46"]
    plain, tokenizer = (
        LlamaForCausalLM.from_pretrained(tiny_causal_model).eval(),
        AutoTokenizer.from_pretrained(tiny_causal_model),
    )
    made = load_autoencoder(served.registry / "run").eval()
    answer = post(http, FIDELITY, {"texts": texts, "first": first})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    ids = [tokenizer(text).input_ids for text in texts]
    wanted = [_naive(plain, made, text, first) for text in ids]
    for mine, theirs in zip(found["texts"], wanted, strict=True):
        for name, value in theirs.items():
            assert mine[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    tokens = [text["tokens"] for text in found["texts"]]
    assert tokens == [len(text) - (1 if first else 2) for text in ids]
    for name in ("ce_clean", "ce_spliced", "ce_mean", "ce_zero", "kl", "jsd", "top1_agreement"):
        mean = sum(text[name] * n for text, n in zip(found["texts"], tokens, strict=True)) / sum(tokens)
        assert found["all"][name] == pytest.approx(mean)
    every = found["all"]
    recovered = (every["ce_zero"] - every["ce_spliced"]) / (every["ce_zero"] - every["ce_clean"])
    assert every["ce_recovered"] == pytest.approx(recovered)


def _naive(plain: LlamaForCausalLM, made: Autoencoder, ids: list[int], first: bool) -> dict[str, float]:
    naive, begin = Naive(plain, plain.model.layers), 0 if first else 1
    at = torch.arange(begin, len(ids) - 1), torch.tensor(ids)[begin + 1 :]

    def after(change: Callable[[torch.Tensor], torch.Tensor] | None) -> torch.Tensor:
        return naive.logits(ids, 2, change, begin).log_softmax(1)

    with torch.no_grad():
        clean, spliced = after(None), after(lambda x: made(x).x_hat)
        mean, zero = after(made.mean.expand_as), after(torch.zeros_like)
    kl = (clean.exp() * (clean - spliced)).sum(1)[at[0]]
    ce = {name: -value[at].mean().item() for name, value in
          (("ce_clean", clean), ("ce_spliced", spliced), ("ce_mean", mean), ("ce_zero", zero))}  # fmt: skip
    return {**ce, "kl": kl.mean().item()}


def test_both_are_described(http: httpx.Client):
    paths = http.get("/openapi.json").json()["paths"]
    steer = paths["/v1/encoders/{encoder_id}/texts/steer"]["post"]
    assert set(steer["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert steer["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("SteerBody")
    for verb in ("steer", "fidelity"):
        responses = paths[f"/v1/encoders/{{encoder_id}}/texts/{verb}"]["post"]["responses"]
        assert {"401", "403", "404", "413", "422", "429", "503", "504"} <= set(responses)
        assert "safetensors" not in json.dumps(responses)
