"""Every job with its folder in a bucket: files and tables are those of a folder here; a second run asks for nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bae_ray.cli.job import run_job
from bae_ray.experiments.compression.experiment import EXPERIMENT as COMPRESSION
from bae_ray.experiments.comsem_table.experiment import EXPERIMENT as COMSEM_TABLE
from bae_ray.experiments.feature_shape.experiment import EXPERIMENT as FEATURE_SHAPE
from bae_ray.experiments.icl.experiment import EXPERIMENT as ICL
from bae_ray.experiments.layer_position.experiment import EXPERIMENT as LAYER_POSITION
from bae_ray.experiments.more_bit.experiment import EXPERIMENT as MORE_BIT
from bae_ray.experiments.random_tokens.experiment import EXPERIMENT as RANDOM_TOKENS
from bae_ray.experiments.steering.experiment import EXPERIMENT as STEERING
from bae_ray.experiments.synthetic.experiment import EXPERIMENT as SYNTHETIC
from tests.bucket import Server, server
from tests.comsem.server import JudgeServer, perfect
from tests.experiments import test_feature_shape, test_icl, test_steering_job, test_synthetic

__all__ = ["server"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("ray_cluster")]

SCORED = (
    "--examples.k", 3, "--examples.n-interpret", 3, "--examples.n-test", 3, "--scoring.max-features", 6,
    "--scoring.random-features", 4,
)  # fmt: skip
CPU = ("--extract.gpus-per-worker", 0, "--sweep.gpus-per-trial", 0)
TRAINING = ("--sweep.training.epochs", 4, "--sweep.training.batch-size", 64)
JOBS = {
    "synthetic": SYNTHETIC, "random_tokens": RANDOM_TOKENS, "layer_position": LAYER_POSITION, "icl": ICL,
    "compression": COMPRESSION, "more_bit": MORE_BIT, "comsem_table": COMSEM_TABLE, "feature_shape": FEATURE_SHAPE,
    "steering": STEERING,
}  # fmt: skip


@pytest.fixture
def options(
    tiny_model: Path, tiny_causal_model: Path, tiny_corpus: Path, tiny_texts: list[str], tmp_path: Path
) -> Callable[[str, str], list[object]]:
    """The tiny options of a job, without its folder."""

    labelled, others = tmp_path / "labelled.jsonl", tmp_path / "others.jsonl"
    texts = [text.split() for text in tiny_texts]
    labelled.write_text(
        "".join(json.dumps({"text": " ".join(text[:4]), "label": i % 2}) + "\n" for i, text in enumerate(texts))
    )
    others.write_text("".join(json.dumps({"text": " ".join(sorted(text))}) + "\n" for text in texts))

    def of(job: str, judge_url: str) -> list[object]:
        judge = ("--judge.judge-url", judge_url, "--judge.judge-model", "scripted", "--judge.in-flight", 4)
        extract = ("--extract.model", tiny_causal_model, "--extract.corpus", tiny_corpus)
        vectors = ("--extract.max-tokens", 16, "--extract.tokens.max-vectors", 1200)
        evaluation = ("--evaluation.corpus", tiny_corpus, "--evaluation.max-texts", 60)
        if job in ("icl", "steering"):
            module = test_icl if job == "icl" else test_steering_job
            given = (labelled,) if job == "icl" else (labelled, tiny_corpus)
            more = (*CPU, *TRAINING, "--sweep.layers", 1, 3) if job == "icl" else ()
            return [*module.options(Path("there"), tiny_causal_model, *given)[2:], *more]
        return {
            "synthetic": [*test_synthetic.TINY],
            "random_tokens": [
                "--bits", 1, 3, "--extract.model", tiny_model, "--extract.layers", 2, "--extract.max-texts", 256,
                "--extract.input.tokens", 5, 9, *TRAINING, *CPU,
            ],
            "layer_position": [*extract, "--extract.layers", 1, "--extract.positions", 4, 7, *TRAINING, *CPU],
            "compression": [
                *extract, "--extract.layers", 1, *vectors, "--held-out.corpus", others, "--held-out-vectors", 300,
                *TRAINING, "--product-bytes", 2, "--residual-bytes", 2, "--spliced-texts", 10, *CPU,
            ],
            "more_bit": [
                *extract, "--extract.layers", 1, 3, "--layer", 3, "--bits", 2, *vectors, *evaluation,
                "--training.epochs", 4, "--training.batch-size", 64, "--autoencoder.expansion", 3,
                "--baseline.expansion", 3, "--scaled-entropy-weights", 0.02, "--map-samples", 50, "--map-columns", 20,
                "--extract.gpus-per-worker", 0, "--gpus-per-trial", 0, "--judged", *judge,
                "--scoring.max-features", 6, "--scoring.random-features", 4,
            ],
            "comsem_table": [
                *extract, "--extract.layers", 1, *vectors, *evaluation, *TRAINING, "--sweep.training.lr", 1e-2,
                *SCORED, "--scoring.shuffled", 4, *judge, *CPU,
            ],
            "feature_shape": [
                *extract, "--evaluation.corpus", tiny_corpus, *test_feature_shape.TINY, "--scores", "judge", *judge,
                "--scoring.max-features", 6, "--scoring.random-features", 4,
            ],
        }[job]  # fmt: skip

    return of


def kinds(names: set[str]) -> set[str]:
    """Names without the times in those of TensorBoard's files, and without what only disks have."""
    return {re.sub(r"tfevents\..*", "tfevents", name) for name in names if not name.endswith(".lock")}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_there_is_that_of_this_machine(
    job: str, options: Callable, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / "cache"))
    here, there = tmp_path / "here", server.bare_uri(f"bucket/{job}")
    with JudgeServer(perfect) as judge:
        given = [str(option) for option in options(job, judge.url)]
        for out in (str(here), there):
            assert run_job(JOBS[job], ["--out", out, *given]) == 0, capsys.readouterr().err[-3000:]
        printed = capsys.readouterr()
        assert f"s3://bucket/{job}/" in printed.out
        assert str(tmp_path / "cache") not in printed.out + printed.err
        ours = {str(file.relative_to(here)) for file in here.rglob("*") if file.is_file()}
        assert kinds(set(server.names(f"bucket/{job}"))) == kinds(ours)
        for name in sorted(name for name in ours if name.endswith(".csv")):
            assert server.read(f"bucket/{job}/{name}") == (here / name).read_bytes(), name
        monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / "another"))
        paid, before = judge.paid.total(), len(server.requests("PUT|POST", f"bucket/{job}/"))
        assert run_job(JOBS[job], ["--out", there, *given]) == 0, capsys.readouterr().err[-3000:]
        assert judge.paid.total() == paid
        again = server.requests("PUT|POST", f"bucket/{job}/")[before:]
        assert not [name for name in again if re.search(r"model\.safetensors|receipts/|/result\.json|measured/", name)]
