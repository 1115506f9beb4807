"""A corpus of a hundred times the demo's size: the driver holds no more of it than of the demo's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DEMO, TIMES = 2048, 100
EXTRACT = """
import resource
import sys
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import extract
model, corpus, out = sys.argv[1:]
store = extract(ExtractConfig(model=model, corpus=corpus, layers=(0,), positions=(2,), max_texts=None, workers=1,
                              gpus_per_worker=0), out)
print(store.manifest.texts, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_the_drivers_memory_does_not_grow_with_the_corpus(tiny_model: Path, tiny_texts: list[str], tmp_path: Path):
    peaks: dict[int, int] = {}
    for n in (DEMO, DEMO * TIMES):
        corpus = tmp_path / f"{n}.jsonl"
        with corpus.open("w") as file:
            for i in range(n):
                text = f"{tiny_texts[i % 200]} {tiny_texts[i % 199]} {tiny_texts[i % 197]} w1 w2"
                file.write(json.dumps({"text": text}) + "\n")
        command = [sys.executable, "-c", EXTRACT, str(tiny_model), str(corpus), str(tmp_path / f"store-{n}")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        texts, peaks[n] = map(int, done.stdout.split())
        assert texts == n
    assert peaks[DEMO * TIMES] < 1.15 * peaks[DEMO], peaks
