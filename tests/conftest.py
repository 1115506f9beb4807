import json
import os
import random
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from bae_ray import cli
from bae_ray.activations.config import ExtractConfig
from bae_ray.autoencoders import Autoencoder

hypothesis.settings.register_profile("busy machine", deadline=None)  # a busy machine fails no test
hypothesis.settings.load_profile("busy machine")

if threading.current_thread() is threading.main_thread():  # tests send it; shells have it ignored in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # each process has its share of the cores: threads that share one wait in vain
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))

# Of the S3 servers in tests: before a Ray is started, whose workers take them over.
os.environ |= {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "hushhush", "AWS_EC2_METADATA_DISABLED": "true"}

WORDS = [f"w{i}" for i in range(60)]
N_LAYERS = 3
D = 16


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In several processes: files of few tests first. Theirs are the long ones; short ones fill up the end.

    Tests of Triton's kernels are skipped where these do not run.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (tests[item.path], item.path))
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    for item in items:
        for marker in item.iter_markers("triton"):
            on_gpu = torch.cuda.is_available() and not marker.kwargs.get("interpreted")
            if not find_spec("triton") or not (interpreted or on_gpu):
                item.add_marker(pytest.mark.skip(reason="needs Triton, and TRITON_INTERPRET=1 or a GPU"))


@pytest.fixture(scope="session")
def golden() -> dict:
    """Numbers that the paper's released code produced at d = 8."""
    return json.loads((Path(__file__).parent / "golden" / "release_d8.json").read_text())


@pytest.fixture(scope="session")
def set_released_weights() -> Callable[[Autoencoder, dict[str, Any]], None]:
    """Give an autoencoder the weights of a state dict of the released code, as in the golden file."""

    def set_weights(autoencoder: Autoencoder, state: dict[str, Any]) -> None:
        weights = {name: torch.tensor(values) for name, values in state.items()}
        with torch.no_grad():
            autoencoder.W_enc.copy_(weights["encoder.weight"].T)
            autoencoder.W_dec.copy_(weights["decoder.weight"].T)
            autoencoder.get_parameter("b_enc").copy_(weights["encoder.bias"])
            autoencoder.b_dec.copy_(weights["decoder.bias"])

    return set_weights


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray for the whole session, with two logical GPUs so that fractional-GPU placement is exercised."""
    import ray

    ray.init(num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random 3-block Llama of width 16 with a word-level tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_llama")
    vocabulary = {word: i for i, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=D,
        intermediate_size=32,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    LlamaModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_texts() -> list[str]:
    """200 texts of 1 to 24 words."""
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 24))) for _ in range(200)]


@pytest.fixture(scope="session")
def tiny_corpus(tiny_texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny texts as a .jsonl file."""
    file = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny_texts))
    return file


@pytest.fixture(scope="session")
def tiny_config(tiny_model: Path, tiny_corpus: Path) -> ExtractConfig:
    """All four layers at positions 2 and 7 of the tiny corpus, in several shards, on the CPU."""
    return ExtractConfig(
        model=str(tiny_model),
        corpus=str(tiny_corpus),
        positions=(2, 7),
        shard_size=40,
        batch_size=16,
        gpus_per_worker=0,
        workers=1,  # each loads its libraries anew, for seconds
    )


@pytest.fixture(scope="session")
def tiny_store(ray_cluster: None, tiny_config: ExtractConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `tiny_config`."""
    from bae_ray.activations.extract import extract

    path = tmp_path_factory.mktemp("stores") / "tiny"
    extract(tiny_config, path)
    return path


@pytest.fixture
def bae_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command as the shell would: exit code, what it printed, what it complained of."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["bae-ray", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        printed = capsys.readouterr()
        return int(exit_.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture(scope="session")
def tiny_causal_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a language-model head, untied and random."""
    folder = tmp_path_factory.mktemp("tiny_causal") / "model"
    shutil.copytree(tiny_model, folder)
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_model))
    model.model.load_state_dict(LlamaModel.from_pretrained(tiny_model).state_dict())
    model.save_pretrained(folder)
    return folder
