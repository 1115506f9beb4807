"""Models whose vectors would be wrong, or that cannot run, end an extraction in one line before it reads its corpus."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, ViTConfig

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.extract import check, extract
from bae_ray.activations.loading import load_model, load_model_with_head
from bae_ray.activations.model import find_model
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError
from tests.activations.odd_models import BASE_ONLY, GEMMA, GROUPED, SIZES, VISION, WITH_IMAGES, change, save_random

pytestmark = pytest.mark.usefixtures("ray_cluster")

AHEAD: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "is_causal": ("llama", None, {**GROUPED, "is_causal": False}),
    "embedding gemma": ("gemma3_text", BASE_ONLY, {**GEMMA, "use_bidirectional_attention": True}),
    "gemma 4": (
        "gemma4_text",
        None,
        {**GEMMA, "hidden_size_per_layer_input": 0, "use_bidirectional_attention": "all",
         "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    ),
    "prefix lm": (
        "paligemma",
        WITH_IMAGES,
        {"text_config": {"model_type": "gemma", **GROUPED, "head_dim": 8}, "image_token_index": 50,
         "vision_config": {"model_type": "siglip_vision_model", **VISION}, "projection_dim": 16, "hidden_size": 16},
    ),
}  # fmt: skip


def extracted(config: ExtractConfig, model: Path, out: Path, **changes: Any) -> ActivationStore:
    return extract(
        ExtractConfig.model_validate({**config.model_dump(), "model": str(model), "positions": ("all",), **changes}),
        out,
        "inline",
    )


def refused(config: ExtractConfig, model: Path, out: Path, message: str, **changes: Any) -> None:
    with pytest.raises(InvalidInputError, match=message) as error:
        extracted(config, model, out, **changes)
    assert "\n" not in str(error.value)
    assert not list(out.rglob("*.parquet")), "before the corpus is read"


@pytest.mark.parametrize("name", AHEAD)
def test_model_that_looks_ahead_is_refused(name: str, tiny_config: ExtractConfig, tiny_model: Path, tmp_path: Path):
    kind, cls, fields = AHEAD[name]
    folder = save_random(tiny_model, tmp_path / "model", kind, **({"kind": cls} if cls else {}), **fields)
    refused(tiny_config, folder, tmp_path / "store", "whose tokens see those after them|tokens see those after them")


@pytest.mark.parametrize("name", AHEAD)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_probe_sees_it_where_the_config_does_not_say(
    name: str, dtype: str, tiny_config: ExtractConfig, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bae_ray.activations.model._refuse_looking_ahead", lambda *_: None)
    kind, cls, fields = AHEAD[name]
    folder = save_random(tiny_model, tmp_path / "model", kind, **({"kind": cls} if cls else {}), **fields)
    message = r"tokens see those after them: by \d\.\d+ of their length at layer 3, residual, where rounding explains"
    refused(tiny_config, folder, tmp_path / "store", message, dtype=dtype)


def test_blocks_with_axes_of_another_order_are_refused(tiny_config: ExtractConfig, tiny_model: Path, tmp_path: Path):
    folder = save_random(
        tiny_model, tmp_path / "model", "xlnet", vocab_size=61, d_model=16, n_layer=3, n_head=4, d_inner=24
    )
    refused(tiny_config, folder, tmp_path / "store", r"layer 0, residual, of a XLNetModel is of shape .*; expected")


LACKING: dict[str, tuple[Callable[[dict], dict], dict[str, Any], str]] = {
    "compiled": (
        lambda weights: {f"_orig_mod.{name}": value for name, value in weights.items()},
        {},
        r"lacks 29 of its weights: .*embed_tokens\.weight, .* and 26 more.* begin with '_orig_mod\.'.*`_orig_mod`",
    ),
    "peft": (
        lambda weights: {f"base_model.model.{name}": value for name, value in weights.items()},
        {},
        r"lacks 29 of its weights: .* begin with 'base_model\.model\.'.*merge_and_unload",
    ),
    "one matrix": (
        lambda weights: {name: value for name, value in weights.items() if "1.mlp.down_proj" not in name},
        {},
        r"lacks 1 of its weights: .*layers\.1\.mlp\.down_proj\.weight\.",
    ),
    "more layers": (dict, {"num_hidden_layers": 5, "layer_types": None}, r"lacks 18 of its weights: .*layers\.3\."),
    "fewer layers": (dict, {"num_hidden_layers": 2, "layer_types": None}, r"has 9 weights that a .*layers\.2\."),
    "another width": (
        dict, {"intermediate_size": 32}, r"9 weights are of another shape .* \[16, 24\], expected \[16, 32\]",
    ),
    "a bias": (
        lambda weights: {**weights, "model.layers.0.self_attn.q_proj.bias": torch.zeros(16)},
        {},
        r"has 1 weights that a Llama\w+ of its config.json has no place for: .*q_proj\.bias",
    ),
    "final norm's bias": (
        lambda weights: {**weights, "model.norm.bias": torch.ones(16)},
        {},
        r"has 1 weights that a Llama\w+ of its config.json has no place for: .*norm\.bias",
    ),
    "parts after the embeddings": (
        lambda weights: {
            **weights, "model.embed_norm.weight": torch.ones(16), "model.embed_positions.weight": torch.ones(61, 16),
        },
        {},
        r"has 2 weights that .* no place for: .*embed_norm\.weight, .*embed_positions\.weight",
    ),
    "parts of a stack saved alone": (
        lambda weights: {
            **{name.removeprefix("model."): value for name, value in weights.items() if "lm_head" not in name},
            "norm.bias": torch.ones(16), "wpe.weight": torch.ones(61, 16),
        },
        {},
        r"has 2 weights that .* no place for: .*norm\.bias, .*wpe\.weight",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def llama(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tiny_model, tmp_path_factory.mktemp("llama"), "llama", **GROUPED)


@pytest.mark.parametrize("name", LACKING)
def test_weights_that_are_not_all_there_are_refused(name: str, tiny_config: ExtractConfig, llama: Path, tmp_path: Path):
    weights, fields, message = LACKING[name]
    folder = change(llama, tmp_path / "model", weights, **fields)
    refused(tiny_config, folder, tmp_path / "store", message)
    for load in (load_model, load_model_with_head):  # of texts and of fidelity
        with pytest.raises(InvalidInputError, match=message):
            load(find_model(str(folder)), "float32", "cpu")


def test_what_a_checkpoint_may_lack_or_have(tiny_model: Path, llama: Path, tmp_path: Path):
    """No head, a tied head, other heads, no prefix, constants of older versions, a pooler that was never trained."""
    headless = change(llama, tmp_path / "headless", lambda old: {n: w for n, w in old.items() if "lm_head" not in n})
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)}
    aged = change(llama, tmp_path / "aged", lambda old: {**old, **buffers})
    heads = {"v_head.summary.weight": torch.zeros(1, 16), "score.weight": torch.zeros(2, 16)}
    judged = change(llama, tmp_path / "judged", lambda old: {**old, **heads, "model.position_ids": torch.zeros(1, 8)})
    bare = change(llama, tmp_path / "bare", lambda old: {n.removeprefix("model."): w for n, w in old.items()})
    tied = save_random(tiny_model, tmp_path / "tied", "llama", **GROUPED, tie_word_embeddings=True)
    pooled = save_random(tiny_model, tmp_path / "pooled", "roberta", **SIZES, is_decoder=True)
    ids = torch.tensor([[5, 6, 7]])
    for folder in (headless, aged, judged, bare, tied, pooled):
        theirs = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()(ids).last_hidden_state
        ours = load_model(find_model(str(folder)), "float32", "cpu")(ids).last_hidden_state
        assert torch.equal(theirs, ours)
    assert load_model_with_head(find_model(str(tied)), "float32", "cpu").get_output_embeddings() is not None
    with pytest.raises(InvalidInputError, match="no language-model head"):
        load_model_with_head(find_model(str(headless)), "float32", "cpu")


def _without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def _cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def _a_file_short(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    parts = {"model.embed_tokens.weight": 1, "model.norm.weight": 2}
    index = {"metadata": {}, "weight_map": {name: f"model-0000{i}-of-00002.safetensors" for name, i in parts.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _config(**fields: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return write


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tokenizer": (
        _without("tokenizer.json", "tokenizer_config.json"),
        "the tokenizer of model .* cannot be loaded: .*tokenizer.json beside config.json",
    ),
    "no weights": (_without("model.safetensors"), "cannot be loaded: .*no file named"),
    "file cut short": (_cut_short, "cannot be loaded: Error while deserializing header"),
    "a file missing": (_a_file_short, r"cannot be loaded: No such file .*model-00002-of-00002.safetensors"),
    "quantised": (
        _config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "cannot be loaded: .*requires.*bitsandbytes",
    ),
    "adapter beside it": (
        lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}'),
        "holds an adapter .*merge_and_unload",
    ),
    "adapter alone": (
        lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"),
        "holds an adapter .*merge_and_unload",
    ),
    "code of its own": (
        _config(model_type="theirs", auto_map={"AutoConfig": "c.C", "AutoModel": "m.M"}),
        "has code of its own, which is not run",
    ),
    "no json": (lambda folder: (folder / "config.json").write_text("{"), "its config.json cannot be used"),
    "tokens it has not": (
        lambda folder: (folder / "tokenizer.json").write_text(
            (folder / "tokenizer.json").read_text().replace('"w59":60', '"w59":61').replace('"w59": 60', '"w59": 61')
        ),
        "has 1 tokens that the model does not, such as 'w59' with id 61: the model has 61",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_work_is_found_before_the_corpus_is_read(
    name: str, tiny_config: ExtractConfig, llama: Path, tmp_path: Path
):
    breaks, message = BROKEN[name]
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    breaks(folder)
    refused(tiny_config, folder, tmp_path / "store", message)


def test_a_model_of_images_is_no_language_model(tiny_config: ExtractConfig, tmp_path: Path):
    AutoModel.from_config(ViTConfig(**VISION)).save_pretrained(tmp_path / "model")
    refused(tiny_config, tmp_path / "model", tmp_path / "store", "is a vit, whose config has no vocab_size")


LLAMA_4 = {
    "text_config": {**GROUPED, "head_dim": 8, "intermediate_size_mlp": 24, "num_local_experts": 2},
    "vision_config": {**VISION, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
    "image_token_index": 50, "boi_token_index": 51, "eoi_token_index": 52,
}  # fmt: skip
INTERNVL = {
    "text_config": {"model_type": "qwen2", **GROUPED}, "image_token_id": 50,
    "vision_config": {**VISION, "image_size": [16, 16], "patch_size": [8, 8]},
}  # fmt: skip
MLLAMA = {
    "text_config": {**GROUPED, "num_hidden_layers": 4, "cross_attention_layers": [1, 3]}, "image_token_index": 50,
    "vision_config": {
        **VISION, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 4, "vision_output_dim": 32,
        "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]],
    },
}  # fmt: skip
OPT = {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 8, "do_layer_norm_before": False}


@pytest.mark.parametrize(
    ("kind", "cls", "fields", "layers", "message"),
    [
        ("mllama", WITH_IMAGES, MLLAMA, (0, 2), r"layers 1, 3 of a MllamaModel do not run on text input"),
        ("opt", None, OPT, (0, 1, 2), r"layer 3, residual, of a OPTModel is of shape \(1, 20, 8\); expected"),
        ("internvl", WITH_IMAGES, INTERNVL, (0, 1, 2, 3), None),
        pytest.param("llama4", WITH_IMAGES, LLAMA_4, (0, 1, 2, 3), None, marks=pytest.mark.slow),
    ],
    ids=["mllama", "opt", "internvl", "llama4"],
)
def test_layers_that_can_be_read_are_and_the_others_named(
    kind: str, cls: Any, fields: dict, layers: tuple[int, ...], message: str | None,
    tiny_config: ExtractConfig, tiny_model: Path, tmp_path: Path,
):  # fmt: skip
    folder = save_random(tiny_model, tmp_path / "model", kind, **({"kind": cls} if cls else {}), **fields)
    if message is not None:
        refused(tiny_config, folder, tmp_path / "store", message)
    store = extracted(tiny_config, folder, tmp_path / "store", layers=layers, max_texts=10)
    ids = torch.tensor([store.texts["token_ids"].iloc[0].tolist()])
    text_part = load_model(find_model(str(folder)), "float32", "cpu")
    with torch.no_grad():
        theirs = text_part(ids, output_hidden_states=True).hidden_states
    for layer in layers:
        expected = theirs[layer if kind != "mllama" else {0: 0, 2: 1}[layer]][0]  # it skips what it does not run
        torch.testing.assert_close(store.matrix(layer, "all")[: ids.shape[1]], expected, rtol=0, atol=1e-4)


ROPES: dict[str, tuple[str, dict[str, Any]]] = {
    "longrope": (
        "phi3",
        {**GROUPED, "original_max_position_embeddings": 16,
         "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [4.0, 9.0]}},
    ),
    "dynamic": (
        "llama",
        {**GROUPED, "max_position_embeddings": 16, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "longrope" else ()) for name in ROPES]
)
def test_rotary_factors_never_hang_on_the_longest_text(
    name: str, tiny_config: ExtractConfig, tiny_model: Path, tmp_path: Path
):
    """Texts of up to 24 tokens: they are read up to 16, where the factors are those of short texts."""
    kind, fields = ROPES[name]
    folder = save_random(tiny_model, tmp_path / "model", kind, **fields)
    refused(
        tiny_config, folder, tmp_path / "store", "texts of 20 tokens are too long: the model takes 16", max_tokens=20
    )
    store = extracted(tiny_config, folder, tmp_path / "store", layers=(1, 3), max_texts=40)
    lengths = store.texts["token_ids"].map(len)
    assert lengths.max() == 16
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    start = 0
    for ids in store.texts["token_ids"]:
        with torch.no_grad():
            hidden = model(torch.tensor([ids.tolist()]), output_hidden_states=True).hidden_states
        for layer in (1, 3):
            ours = store.matrix(layer, "all")[start : start + len(ids)]
            torch.testing.assert_close(ours, hidden[layer][0], rtol=0, atol=1e-4)
        start += len(ids)


def test_probe_sees_that_vectors_hang_on_the_batch(
    tiny_config: ExtractConfig, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bae_ray.activations.model._longest_of_one_kind", lambda _: None)
    kind, fields = ROPES["longrope"]
    folder = save_random(tiny_model, tmp_path / "model", kind, **fields)
    config = ExtractConfig.model_validate({**tiny_config.model_dump(), "model": str(folder), "positions": ("all",)})
    with pytest.raises(InvalidInputError, match=r"vectors .* depend on the texts beside it .* Give --batch-size 1"):
        extract(config, tmp_path / "store", "inline")
    with pytest.raises(InvalidInputError, match=r"vectors .* depend on the texts beside it .* Give --batch-size 1"):
        check(config)


def test_what_was_found_is_in_the_manifest(tiny_store: Path, tiny_config: ExtractConfig, bae_ray: Callable):
    found = ActivationStore.open(tiny_store).manifest.probe
    assert found is not None
    assert found.texts == "made up"
    assert found.numbering == "hidden_states[l]"
    assert 0 == found.later_token < found.batched < 1e-5 < found.tolerance
    assert 0 < found.cut < 1e-5
    corpus = check(tiny_config)
    assert corpus.texts == "of the corpus"
    assert corpus.tokens > 2 * 8
    code, out, _ = bae_ray(
        "extract", "--check", "--out", "nowhere", "--model", tiny_config.model, "--corpus", tiny_config.corpus,
        "--positions", "2", "--gpus-per-worker", "0",
    )  # fmt: skip
    assert code == 0
    assert "a later token changes vectors by 0 of their length" in out
    assert not Path("nowhere").exists()
