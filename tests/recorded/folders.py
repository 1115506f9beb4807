"""Files on disk: what each command leaves in its folder, so that older folders are read and finished for ever.

Everything is run through the command itself, on exact stores and autoencoders (`made.py`), so that ids and checksums
that hang on their content are the same everywhere. Numbers that a training or a language model gives are not: of
those only the names and kinds are told.
"""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import xxhash
from safetensors import safe_open

from bae_ray.autoencoders import BAEConfig, ReLUConfig
from tests.comsem.server import JudgeServer, perfect
from tests.recorded import made
from tests.recorded.compare import volatile
from tests.recorded.options import call

RECORDS = ("request", "manifest", "rows")
EXACT_CELLS = "cells/residual/layer-00/"
"""Embeddings: copies of the model's exact weights."""
TENSORBOARD = re.compile(r"events\.out\.tfevents\.[^/]*")
TRAINING = ("--training.epochs", 2, "--training.batch-size", 16)


def stores(folder: Path) -> dict[str, Any]:
    """Stores of a tiny language model, of texts and of prompts, in several shards."""
    model, corpus = made.language_model(folder / "model"), made.corpus(folder / "corpus.jsonl")
    given = ("--model", model, "--corpus", corpus, "--shard-size", 16, "--gpus-per-worker", 0, "--workers", 1)
    texts = ("--layers", 0, 1, "--sites", "residual", "mlp_out", "--positions", 1, "last")
    prompts = ("--layers", 0, "--positions", "last", "--input.kind", "icl", "--input.k", 1, "--max-texts", 40)
    found: dict[str, Any] = {}
    for name, options in (("texts", texts), ("prompts", prompts)):
        ok("extract", *given, *options, "--out", folder / name)
        found[name] = _store(folder / name)
    return found


def _store(store: Path) -> dict[str, Any]:
    """Files of a store, what it says of itself, and its rows."""
    tables = [pq.read_table(file).to_pylist() for file in sorted((store / "rows").iterdir())]
    request, manifest, rows = (json.loads((store / f"{name}.json").read_text()) for name in RECORDS)
    for made_by in (request, manifest["request"]):
        made_by["model"]["files"] = volatile(made_by["model"]["files"])
    for shard in manifest["shards"]:
        shard["files"] = {
            name: record if name.startswith(EXACT_CELLS) else volatile(record)
            for name, record in shard["files"].items()
        }
        shard["made_with"] = volatile(shard["made_with"])
    for shard in rows["shards"]:
        shard["file"] = volatile(shard["file"])
    manifest["probe"] = shape(manifest["probe"])
    rows_text = json.dumps(tables, sort_keys=True).encode()
    return {
        "files": sorted(listing(store)),
        "request": request,
        "manifest": manifest,
        "rows": rows,
        "texts": {"first": tables[0][:3], "all": xxhash.xxh3_128_hexdigest(rows_text)},
    }


def runs(folder: Path) -> dict[str, Any]:
    """Folders of a training, a sweep with a run that fails and one that cannot be, and the reports of them."""
    store, out = made.store(folder / "store", (0, 1), (2,)), folder / "sweep"
    ok("train", "--store", store, "--out", folder / "train", "--layer", 1, "--position", 2, *TRAINING)
    axes = ("--axes", "autoencoder.bits_per_feature=1,3", "training.lr=1e-3,1e30", "--skip-illegal")
    code, _, _ = call("sweep", "--store", store, "--out", out, "--gpus-per-trial", 0, "--layers", 0, *TRAINING, *axes)
    ok("entropy", "--runs", folder / "train", "--out", folder / "entropy" / "entropy.csv")
    ok("report", "--runs", folder / "train", "--out", folder / "report")
    reported = {name: listing(folder / name) for name in ("train", "entropy", "report")}
    failed = sorted(out.glob("*/failure.json"))
    failures = {file.parent.name: json.loads(file.read_text(encoding="utf-8"))["error"] for file in failed}
    return {**reported, "sweep": listing(out), "exit code": code, "failures": failures}


def compression(folder: Path) -> dict[str, Any]:
    """Folders of containers and of what is decompressed of them; contents are exact, and so are the receipts."""
    store = made.store(folder / "store", (0,), (2,), n=80)
    made.autoencoder(BAEConfig(d_in=made.D, d_latent=made.F)).save_pretrained(folder / "bae")
    here = ("--autoencoder", folder / "bae", "--gpus-per-worker", 0, "--workers", 1)
    cell = ("--layer", 0, "--position", 2, "--block-rows", 16, "--part-rows", 32)
    ok("compress", "--source", store, *here, *cell, "--out", folder / "codes")
    ok("decompress", "--source", folder / "codes", *here, "--out", folder / "arrays")
    found: dict[str, Any] = {}
    for name in ("codes", "arrays"):
        found[name] = listing(folder / name)
        for receipt in sorted((folder / name / "receipts").rglob("*.json")):
            said = json.loads(receipt.read_text(encoding="utf-8"))
            found[f"{name} receipt"] = json.loads(json.dumps(said).replace(str(folder), "FOLDER"))
    found["container"] = next((folder / "codes").rglob("*.codes")).read_bytes().hex()
    return found


def comsem(folder: Path) -> dict[str, Any]:
    """The folder of a ComSem whose judge is a script, what it is asked, the cards, and the store of every token.

    Answers are kept under the request: one that is written otherwise is paid for again.
    """
    model, corpus = made.language_model(folder / "model"), made.corpus(folder / "corpus.jsonl")
    ok("extract", "--model", model, "--corpus", corpus, "--layers", 0, "--positions", "all", "--tokens.per-text", 4,
       "--shard-size", 16, "--gpus-per-worker", 0, "--workers", 1, "--out", folder / "store")  # fmt: skip
    made.autoencoder(ReLUConfig(d_in=made.D, d_latent=made.F)).save_pretrained(folder / "relu")
    few = ("--examples.k", 2, "--examples.n-interpret", 3, "--examples.n-test", 3, "--examples.top", 4,
           "--scoring.random-features", 4, "--scoring.max-features", 5)  # fmt: skip
    with JudgeServer(perfect) as judge:
        ok("comsem", "--autoencoders", folder / "relu", "--store", folder / "store", "--tokenizer", model, "--layer", 0,
           "--judge-url", judge.url, "--judge-id", "script", "--out", folder / "out", *few,
           "--publish", "--json-features")  # fmt: skip
        asked = sorted(json.dumps(body, sort_keys=True) for body in judge.bodies)
    summary = json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))
    summary["judge"]["url"] = "URL"
    return {
        "store": _store(folder / "store"),
        "out": listing(folder / "out"),
        "published": listing(folder / "relu"),
        "summary": summary,
        "asked": json.loads(asked[0]),
        "requests": len(asked),
        "all that is asked": xxhash.xxh3_128_hexdigest("\n".join(asked).encode()),
    }


def ok(*arguments: object) -> None:
    """Run the command, which has to succeed."""
    code, out, err = call(*arguments)
    assert code == 0, f"{arguments}: {out} {err}"


def listing(folder: Path) -> dict[str, Any]:
    """Every file below a folder by its path there, with the names and kinds of what is in it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {TENSORBOARD.sub("events", str(file.relative_to(folder))): _inside(file) for file in files}


def _inside(file: Path) -> Any:
    match file.suffix:
        case ".json":
            return shape(json.loads(file.read_text(encoding="utf-8")))
        case ".jsonl":
            return [shape(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()][:1]
        case ".parquet":
            return {field.name: str(field.type) for field in pq.read_schema(file)}
        case ".csv":
            with open(file, encoding="utf-8", newline="") as lines:
                return next(csv.reader(lines))
        case ".safetensors":
            with safe_open(file, "pt") as tensors:
                names = sorted(tensors.keys())
                slices = [tensors.get_slice(name) for name in names]
                return {name: f"{s.get_dtype()} {s.get_shape()}" for name, s in zip(names, slices, strict=True)}
    return "file"


def shape(value: Any) -> Any:
    """Names and kinds of a JSON value, without what it says; of a list the shapes that there are."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        shapes = {json.dumps(shape(inner), sort_keys=True): shape(inner) for inner in value}
        return [shapes[text] for text in sorted(shapes)]
    return "null" if value is None else type(value).__name__
