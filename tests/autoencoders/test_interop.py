import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bae_ray import cli
from bae_ray.autoencoders import Autoencoder, BAEConfig, build_autoencoder, interop, load_autoencoder
from bae_ray.errors import BaeRayError, CheckpointError, InvalidInputError

VARIANTS = [
    "bae", "bae_release", "bae_3_bits", "bae_no_bias", "relu", "relu_no_bias", "topk", "gated", "transcoder",
    "batchtopk", "batchtopk_untrained", "jumprelu", "gated_sae",
]  # fmt: skip
IMPORTED_AS = {
    "bae_release": "bae", "bae_3_bits": "bae", "bae_no_bias": "bae", "relu_no_bias": "relu", "gated": "jumprelu",
    "batchtopk": "jumprelu", "batchtopk_untrained": "jumprelu",
}  # fmt: skip
RELEASED = {"bae": {}, "relu": {}, "topk": {"k": 4}, "jumprelu": {"threshold": 0.5}}
OURS = {"bae": "bae", "relu": "relu", "topk": "topk", "jumprelu": "gated"}


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def architecture(autoencoder: Autoencoder) -> str:
    return json.loads(autoencoder.config.model_dump_json())["architecture"]


def released_state(golden: dict, kind: str = "bae") -> dict[str, Tensor]:
    state = golden["bae_state_dict"] if kind == "bae" else golden[f"sae_{kind}"]["state_dict"]
    return {name: torch.tensor(values) for name, values in state.items()}


def check_released(golden: dict, kind: str, autoencoder: Autoencoder) -> None:
    expected = golden["bae"] if kind == "bae" else golden[f"sae_{kind}"]
    latents, x_hat = autoencoder(torch.tensor(golden["x"]))
    if kind == "bae":
        assert latents.tolist() == expected["code"]
    else:
        torch.testing.assert_close(latents, torch.tensor(expected["latents"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(x_hat, torch.tensor(expected["reconstruction"]), rtol=0, atol=1e-5)


# The paper's released code


@pytest.mark.parametrize("kind", RELEASED)
def test_released_weights_give_the_released_numbers(golden: dict, kind: Any):
    autoencoder = interop.load_release(released_state(golden, kind), kind=kind, **RELEASED[kind])
    assert architecture(autoencoder) == OURS[kind]
    assert not autoencoder.training
    check_released(golden, kind, autoencoder)


def test_released_step_is_0_at_0(golden: dict):
    state = released_state(golden) | {"encoder.weight": torch.zeros(32, 8), "encoder.bias": torch.zeros(32)}
    assert not interop.load_release(state).encode(torch.tensor(golden["x"])).any()


def test_release_without_decoder_bias(golden: dict):
    state = released_state(golden)
    del state["decoder.bias"]
    assert not interop.load_release(state).b_dec.any()


def test_widths_of_the_release():
    def state(d_in: int, d_latent: int) -> dict[str, Tensor]:
        encoder, decoder = torch.nn.Linear(d_in, d_latent), torch.nn.Linear(d_latent, d_in)
        modules = {"encoder": encoder, "decoder": decoder}
        return {f"{key}.{name}": value.data for key, of in modules.items() for name, value in of.named_parameters()}

    multiple, other = interop.load_release(state(4, 12)).config, interop.load_release(state(4, 6)).config
    assert (multiple.expansion, multiple.d_latent) == (3, None)
    assert other.widths() == (4, 6)


def test_defaults_of_the_release(golden: dict):
    topk = interop.load_release(released_state(golden, "topk"), kind="topk")
    jumprelu = interop.load_release(released_state(golden, "jumprelu"), kind="jumprelu")
    assert (topk.k, jumprelu.threshold) == (10, 0.5)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"kind": "sigmoid"}, "kind 'sigmoid' is not known: give one of bae, relu, topk, jumprelu"),
        ({}, {"k": 3}, "k is 3, but only the kind topk has it: leave it out for 'bae'"),
        ({}, {"kind": "relu", "threshold": 0.1}, "threshold is 0.1, but only the kind jumprelu has it"),
        ({}, {"kind": "topk", "k": 33}, "k is 33 but there are only 32 latents"),
        ({}, {"kind": "topk", "k": 0}, "k of the state dict is 0: Input should be greater than or equal to 1"),
        ({}, {"kind": "jumprelu", "threshold": -1.0}, "threshold of the state dict is -1.0: Input should be greater"),
        ({"encoder.bias": None}, {}, "missing: encoder.bias; unknown: none"),
        ({"W_skip": torch.zeros(8), 3: torch.zeros(8)}, {}, "missing: none; unknown: 3, W_skip"),
        ({"encoder.weight": torch.zeros(32, 0)}, {}, r"encoder.weight in .* has shape \[32, 0\], expected \[F, D\]"),
        (
            {"encoder.weight": torch.zeros(8)},
            {},
            r"encoder.weight in the state dict has shape \[8\], expected \[F, D\]",
        ),
        ({"encoder.bias": torch.zeros(31)}, {}, r"encoder.bias in .* has shape \[31\], expected \[32\]"),
        ({"decoder.weight": torch.zeros(32, 8)}, {}, r"decoder.weight in .* has shape \[32, 8\], expected \[8, 32\]"),
        ({"decoder.bias": torch.full((8,), torch.nan)}, {}, "decoder.bias in the state dict has values that are not"),
        ({"decoder.bias": torch.zeros(8, dtype=torch.int64)}, {}, "decoder.bias in the state dict is of torch.int64"),
        ({"decoder.bias": [0.0] * 8}, {}, "decoder.bias in the state dict is of list, expected a floating-point"),
    ],
)
def test_what_cannot_be_a_release(golden: dict, changes: dict, arguments: dict, message: str):
    state = {name: value for name, value in {**released_state(golden), **changes}.items() if value is not None}
    with pytest.raises(BaeRayError, match=message) as raised:
        interop.load_release(state, **arguments)
    assert isinstance(raised.value, CheckpointError if changes else InvalidInputError)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
def test_release_from_a_file(golden: dict, tmp_path: Path, suffix: str):
    file = tmp_path / f"model{suffix}"
    state = released_state(golden)
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    check_released(golden, "bae", interop.read_release(file))
    check_released(golden, "bae", interop.import_autoencoder(file, format="release", kind="bae"))


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("bae", "inner_expand_rate: 4\nbinarization_type: sign_s\ncycle_for_squarewave: 2\noutput_activation: none\n"),
        ("relu", {"inner_activation": "relu", "topk": 4, "theta": 0.5, "output_activation": None, "lr": 1e-3}),
        ("topk", "inner_activation: topk\ntopk: 4\noutput_activation: none\nfeature_path: a:b\n"),
        ("topk", {"kind": "topk", "k": 4, "d_in": 8}),
        ("jumprelu", {"inner_activation": "jumprelu", "theta": "0.5"}),
    ],
)
def test_parameter_file_beside_the_release(golden: dict, tmp_path: Path, kind: str, parameters: str | dict):
    save_file(released_state(golden, kind), tmp_path / "model.safetensors")
    if isinstance(parameters, str):
        (tmp_path / "experiment_params.txt").write_text(parameters)
    else:
        (tmp_path / "experiment_params.json").write_text(json.dumps(parameters))
    autoencoder = interop.read_release(tmp_path / "model.safetensors")
    assert architecture(autoencoder) == OURS[kind]
    check_released(golden, kind, autoencoder)


@pytest.mark.parametrize(
    ("parameters", "arguments", "message"),
    [
        ("inner_activation: topk", {"kind": "relu"}, "kind is 'relu', but .*params.txt records 'topk'"),
        ("inner_activation: topk\ntopk: 4", {"k": 5}, "k is 5, but .*params.txt records 4: leave it out"),
        ("inner_activation: jumprelu\ntheta: 0.5", {"threshold": 1.0}, "threshold is 1.0, but .* records 0.5"),
        ("inner_activation: sigmoid", {}, "tells the kind 'sigmoid', expected one of bae, relu"),
        ("binarization_type: squarewave", {}, "binarization_type is 'squarewave' in .*, expected 'sign' or 'sign_s'"),
        ("binarization_type: sign\noutput_activation: tanh", {}, "output_activation is 'tanh' in .*, expected 'none'"),
        ("inner_activation: topk\ntopk: many", {}, "topk is 'many' in the parameters of .*, expected a number"),
        ("inner_expand_rate: 8", {}, "inner_expand_rate is 8 in the parameter file, but the weights in .* have 4"),
    ],
)
def test_parameter_file_that_contradicts(golden: dict, tmp_path: Path, parameters: str, arguments: dict, message: str):
    save_file(released_state(golden), tmp_path / "model.safetensors")
    (tmp_path / "experiment_params.txt").write_text(parameters)
    with pytest.raises(BaeRayError, match=message):
        interop.read_release(tmp_path / "model.safetensors", **arguments)


class Malicious:
    """Unpickled by a loader that runs code, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("save", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content))])
def test_a_pickle_that_runs_code_is_refused(golden: dict, tmp_path: Path, save: Callable):
    trap = tmp_path / "executed"
    save({**released_state(golden), "extra": Malicious(trap)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt is not a file of plain tensors and is not read"):
        interop.read_release(tmp_path / "model.pt")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.pt", b"", "model.pt is not a file of plain tensors"),
        ("model.pt", b"not a pickle", "model.pt is not a file of plain tensors"),
        ("model.pt", None, "model.pt cannot be read: .*No such file"),
        ("model.safetensors", b"not safetensors", "model.safetensors cannot be read as safetensors"),
        ("model.safetensors", None, "model.safetensors is missing"),
    ],
)
def test_damaged_files_of_the_release(tmp_path: Path, name: str, content: bytes | None, message: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        interop.read_release(tmp_path / name)


def test_a_pickle_of_something_else(tmp_path: Path):
    torch.save([torch.zeros(2)], tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt holds a list, expected a state dict"):
        interop.read_release(tmp_path / "model.pt")


# SAELens


def saelens_encode(folder: Path, x: Tensor) -> Tensor:
    """Latents by SAELens' equations, sample by sample and in float64, from nothing but the two files."""
    config = json.loads((folder / "cfg.json").read_text())
    weights = {name: tensor.double() for name, tensor in load_file(folder / "sae_weights.safetensors").items()}
    latents = []
    for sample in x.double():
        p = (sample - weights["b_dec"] * config["apply_b_dec_to_input"]) @ weights["W_enc"]
        match config["architecture"]:
            case "gated":
                magnitude = (p * weights["r_mag"].exp() + weights["b_mag"]).clamp(min=0)
                latents.append(magnitude * (p + weights["b_gate"] > 0))
            case "jumprelu":
                p = p + weights["b_enc"]
                latents.append(p.clamp(min=0) * (p > weights["threshold"]))
            case "topk":
                p = p + weights["b_enc"]
                p = p * weights["W_dec"].norm(dim=-1) if config.get("rescale_acts_by_decoder_norm") else p
                latents.append(p.clamp(min=0) * (p >= p.sort(descending=True).values[config["k"] - 1]))
            case "standard" | "transcoder":
                latents.append((p + weights["b_enc"]).clamp(min=0))
    return torch.stack(latents).float()


def saelens_decode(folder: Path, latents: Tensor) -> Tensor:
    weights = load_file(folder / "sae_weights.safetensors")
    return latents @ weights["W_dec"] + weights["b_dec"]


@pytest.mark.filterwarnings("ignore::bae_ray.autoencoders.interop.InexactConversionWarning")
@pytest.mark.parametrize("name", VARIANTS)
def test_saelens_there_and_back(autoencoders: dict, activations: Tensor, tmp_path: Path, name: str):
    autoencoder = autoencoders[name]
    expected = autoencoder(activations)
    interop.export_saelens(autoencoder, tmp_path)
    latents = saelens_encode(tmp_path, activations)
    close(latents, expected.latents)
    close(saelens_decode(tmp_path, latents), expected.x_hat)

    back = interop.import_autoencoder(tmp_path, format="saelens")
    assert architecture(back) == IMPORTED_AS.get(name, name)
    assert not back.training
    found = back(activations)
    close(found.latents, expected.latents)
    close(found.x_hat, expected.x_hat)


def test_variants_are_all_of_them(autoencoders: dict):
    assert sorted(VARIANTS) == sorted(autoencoders)


@pytest.mark.parametrize("gradient", ["sigmoid", "straight_through", "release"])
def test_gradient_and_latents_without_weights_survive(tmp_path: Path, gradient: str):
    autoencoder = build_autoencoder(BAEConfig(d_in=3, expansion=1, gradient=gradient))  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        autoencoder.W_enc.zero_()
        assert autoencoder.b_enc is not None
        autoencoder.b_enc.zero_()
    x = torch.randn(5, 3)
    interop.export_saelens(autoencoder, tmp_path)
    back = interop.import_saelens(tmp_path)
    assert getattr(back.config, "gradient", None) == gradient
    assert torch.equal(saelens_encode(tmp_path, x), autoencoder.encode(x))
    assert torch.equal(back.encode(x), autoencoder.encode(x))


def test_bae_of_unknown_origin_has_their_step(autoencoders: dict, tmp_path: Path):
    interop.export_saelens(autoencoders["bae"], tmp_path)
    edit(tmp_path, metadata={"sae_lens_version": "6.54.12"})
    assert getattr(interop.import_saelens(tmp_path).config, "gradient", None) == "release"


def test_metadata_of_an_export(autoencoders: dict, tmp_path: Path):
    interop.export_saelens(autoencoders["relu"], tmp_path, model_name="gpt2", hook_name="blocks.2.hook_resid_pre")
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["metadata"] == {
        "sae_lens_version": "6.54.12",
        "sae_lens_training_version": None,
        "model_name": "gpt2",
        "hook_name": "blocks.2.hook_resid_pre",
    }


def test_topk_that_keeps_negative_latents_is_said(autoencoders: dict, tmp_path: Path):
    with pytest.warns(interop.InexactConversionWarning, match="least k pre-activations of a sample are positive"):
        interop.export_saelens(autoencoders["topk"], tmp_path)


def test_topk_without_negative_latents_is_exact(random_autoencoder, activations: Tensor, tmp_path: Path):
    """With k so large that negative latents are among those kept."""
    autoencoder = random_autoencoder("topk", k=11, nonnegative=True)
    interop.export_saelens(autoencoder, tmp_path)
    latents = autoencoder.encode(activations)
    assert ((latents > 0).sum(-1) < 11).any()
    close(saelens_encode(tmp_path, activations), latents)
    back = interop.import_saelens(tmp_path)
    assert back.config == autoencoder.config
    close(back.encode(activations), latents)


@pytest.mark.filterwarnings("ignore::bae_ray.autoencoders.interop.InexactConversionWarning")
def test_topk_agrees_where_the_latents_kept_are_positive(random_autoencoder, activations: Tensor, tmp_path: Path):
    autoencoder = random_autoencoder("topk", k=11)
    latents = autoencoder.encode(activations)
    interop.export_saelens(autoencoder, tmp_path)
    negative = (latents < 0).any(-1)
    assert 0 < negative.sum() < len(negative)
    close(saelens_encode(tmp_path, activations), latents.relu())


@pytest.mark.filterwarnings("ignore::bae_ray.autoencoders.interop.InexactConversionWarning")
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("name", ["relu", "topk", "jumprelu", "gated_sae", "bae"])
def test_b_dec_and_decoder_norms_are_folded(autoencoders, activations, tmp_path: Path, name: str, rescale: bool):
    interop.export_saelens(autoencoders[name], tmp_path)
    edit(tmp_path, apply_b_dec_to_input=True, rescale_acts_by_decoder_norm=rescale)
    latents = saelens_encode(tmp_path, activations)
    found = interop.import_saelens(tmp_path)(activations)
    close(found.latents, latents)
    scaled = rescale and name == "topk"  # the only architecture that has it
    norms = load_file(tmp_path / "sae_weights.safetensors")["W_dec"].norm(dim=-1) if scaled else 1
    close(found.x_hat, saelens_decode(tmp_path, latents / norms))


@pytest.mark.filterwarnings("ignore::bae_ray.autoencoders.interop.InexactConversionWarning")
def test_configs_before_6(autoencoders: dict, activations: Tensor, tmp_path: Path):
    interop.export_saelens(autoencoders["topk"], tmp_path)
    legacy = {
        "d_in": 6, "d_sae": 24, "dtype": "float32", "hook_point": "blocks.0.hook_resid_pre",
        "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3},
        "normalize_activations": None, "finetuning_scaling_factor": False,
    }  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps(legacy))
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({**weights, "scaling_factor": torch.ones(24)}, tmp_path / "sae_weights.safetensors")
    found = interop.import_saelens(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "topk", "k": 3, "apply_b_dec_to_input": True}))
    close(found.encode(activations), saelens_encode(tmp_path, activations))
    legacy.update(activation_fn_str="relu", architecture="standard")
    (tmp_path / "cfg.json").write_text(json.dumps(legacy))
    assert architecture(interop.import_saelens(tmp_path)) == "relu"


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "cfg.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "temporal"}, "architecture is 'temporal' in .*cfg.json; expected one of standard, topk"),
        ({"architecture": ["standard"]}, "architecture is "),
        ({"architecture": "batchtopk"}, "save it with save_inference_model"),
        ({"architecture": "topk"}, "k is None in .*; expected the number of latents kept"),
        ({"architecture": "topk", "k": 99}, "k is 99 but there are only 24 latents"),
        ({"architecture": "topk", "k": "few"}, "k of .*cfg.json is 'few': Input should be a valid integer"),
        ({"architecture": "jumprelu"}, "missing: threshold; unknown: none"),
        ({"architecture": "transcoder", "d_out": 7}, r"d_out is 7 .*; expected d_in \(6\)"),
        ({"architecture": "transcoder", "d_out": 6, "apply_b_dec_to_input": True}, "expected false for a transcoder"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm' in .*; expected 'none'"),
        ({"normalize_activations": True}, "normalize_activations is True"),
        ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z' in .*; expected 'none'"),
        ({"reshape_activations": ..., "hook_name": "blocks.0.attn.hook_z"}, "reshape_activations is 'hook_z'"),
        ({"activation_fn": "tanh-relu"}, "activation_fn is 'tanh-relu' in .*; expected 'relu' or 'topk'"),
        ({"activation_fn_kwargs": {"signed": True}}, "activation_fn_kwargs is {'signed': True}"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input is 'yes' in .*; expected true or false"),
        ({"d_in": ...}, "d_in is None in .*; expected a positive whole number"),
        ({"d_sae": 23}, r"W_enc in .* has shape \[6, 24\], expected \[6, 23\]"),
    ],
)
def test_what_saelens_has_and_we_do_not(autoencoders: dict, tmp_path: Path, changes: dict, message: str):
    interop.export_saelens(autoencoders["relu"], tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(BaeRayError, match=message):
        interop.import_saelens(tmp_path)


def test_damaged_saelens_folders(autoencoders: dict, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"cfg\.json is missing"):
        interop.import_saelens(tmp_path)
    interop.export_saelens(autoencoders["relu"], tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({**weights, "scaling_factor": torch.full((24,), 2.0)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(CheckpointError, match=r"scaling_factor in .* is not 1"):
        interop.import_saelens(tmp_path)
    (tmp_path / "sae_weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"sae_weights\.safetensors is missing"):
        interop.import_saelens(tmp_path)
    for content, message in (("{", "cannot be read as JSON"), ("[]", "holds a list, expected a JSON object")):
        (tmp_path / "cfg.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            interop.import_saelens(tmp_path)


def test_decoder_rows_of_norm_0_cannot_be_rescaled(autoencoders: dict, tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interop.export_saelens(autoencoders["topk"], tmp_path)
    edit(tmp_path, rescale_acts_by_decoder_norm=True)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    weights["W_dec"][2] = 0
    save_file(weights, tmp_path / "sae_weights.safetensors")
    with pytest.raises(CheckpointError, match="W_dec has rows of norm 0"):
        interop.import_saelens(tmp_path)


# sparsify


@pytest.fixture
def sparsify_folder(tmp_path: Path) -> Path:
    """A folder as sparsify 1.3.3 saves it."""
    folder = tmp_path / "layers.3"
    folder.mkdir()
    config = {
        "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": 20, "k": 4,
        "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": 6,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    shapes = {"encoder.weight": (20, 6), "encoder.bias": (20,), "W_dec": (20, 6), "b_dec": (6,)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, folder / "sae.safetensors")
    return folder


def test_sparsify_against_its_equations(sparsify_folder: Path, activations: Tensor):
    autoencoder = interop.import_autoencoder(sparsify_folder, format="sparsify")
    weights = load_file(sparsify_folder / "sae.safetensors")
    for x in activations:
        pre = [
            max(0.0, float((x - weights["b_dec"]) @ row + bias))
            for row, bias in zip(weights["encoder.weight"], weights["encoder.bias"], strict=True)
        ]
        kept = sorted(range(20), key=lambda i: -pre[i])[:4]
        x_hat = weights["b_dec"] + sum(pre[i] * weights["W_dec"][i] for i in kept)
        found = autoencoder(x[None])
        close(found.latents[0], torch.tensor([pre[i] if i in kept else 0.0 for i in range(20)]))
        close(found.x_hat[0], x_hat)


def test_sparsify_by_expansion_factor(sparsify_folder: Path):
    edit(sparsify_folder, num_latents=0, expansion_factor=4)
    with pytest.raises(CheckpointError, match=r"encoder.weight in .* has shape \[20, 6\], expected \[24, 6\]"):
        interop.import_sparsify(sparsify_folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "groupmax"}, "activation is 'groupmax' in .*cfg.json; expected 'topk'"),
        ({"skip_connection": True}, "skip_connection is True in .*; expected False"),
        ({"transcode": True}, "transcode is True in .*; expected False"),
        ({"signed": True}, "signed is True in .*; expected False"),
        ({"d_in": ...}, "d_in is None in .*; expected a whole number"),
        ({"k": "4"}, "k is '4' in .*; expected a whole number"),
        ({"d_in": 7}, r"encoder.weight in .* has shape \[20, 6\], expected \[20, 7\]"),
    ],
)
def test_what_sparsify_has_and_we_do_not(sparsify_folder: Path, changes: dict, message: str):
    edit(sparsify_folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        interop.import_sparsify(sparsify_folder)


# Both, by name


def test_unknown_format(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="format 'onnx' is not known: give one of saelens, sparsify, release"):
        interop.import_autoencoder(tmp_path, format="onnx")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("value", [{"kind": "bae"}, {"k": 3}, {"threshold": 0.5}])
def test_options_of_the_release_alone(tmp_path: Path, value: dict):
    with pytest.raises(InvalidInputError, match="but only the format release takes it"):
        interop.import_autoencoder(tmp_path, format="saelens", **value)


@pytest.mark.parametrize("verb", ["export", "import"])
def test_help_of_the_commands(bae_ray, verb: str):
    code, out, _ = bae_ray(verb, "--help")
    assert code == 0
    assert (cli.COMMANDS[verb].__doc__ or "?") in " ".join(out.split())
    assert all(field.description for field in cli.COMMANDS[verb].model_fields.values())


def test_export_and_import_commands(bae_ray, autoencoders: dict, activations: Tensor, tmp_path: Path):
    ours, theirs, back = tmp_path / "ours", tmp_path / "theirs", tmp_path / "back"
    autoencoders["topk"].save_pretrained(ours)
    code, out, err = bae_ray("export", "--source", ours, "--out", theirs, "--layer", 3, "--model-name", "gpt2")
    assert (code, out.strip()) == (0, str(theirs))
    assert err.startswith("warning: SAELens sets negative")
    metadata = json.loads((theirs / "cfg.json").read_text())["metadata"]
    assert (metadata["model_name"], metadata["hook_name"]) == ("gpt2", "blocks.3.hook_resid_pre")

    code, out, err = bae_ray("import", "--source", theirs, "--format", "saelens", "--out", back)
    assert code == 0
    assert str(back) in out
    assert not err
    close(load_autoencoder(back)(activations).x_hat, autoencoders["topk"](activations).x_hat)

    code, _, err = bae_ray("import", "--source", theirs, "--format", "saelens", "--out", back)
    assert code == cli.EXIT_INVALID
    assert f"--out {back} already holds a config.json" in err
    code, _, err = bae_ray("export", "--source", ours, "--out", theirs)
    assert code == cli.EXIT_INVALID
    assert f"--out {theirs} already holds a cfg.json" in err


def test_import_command_of_a_release(bae_ray, golden: dict, tmp_path: Path):
    torch.save(released_state(golden, "topk"), tmp_path / "model.pt")
    source = ["--source", tmp_path / "model.pt", "--format", "release", "--out", tmp_path / "out"]
    code, out, _ = bae_ray("import", *source, "--kind", "topk", "--k", 4)
    assert code == 0
    assert '"k":4' in out
    check_released(golden, "topk", load_autoencoder(tmp_path / "out"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--source", "{tmp}", "--out", "{tmp}/o", "--layer", 1, "--hook-name", "h"], "are both given: give"),
        (["export", "--source", "{tmp}", "--out", "{tmp}/o"], "is not a saved autoencoder: config.json is missing"),
        (["import", "--source", "{tmp}", "--format", "sparsify", "--out", "{tmp}/o"], "cfg.json is missing"),
        (["import", "--source", "{tmp}", "--format", "saelens", "--k", "3", "--out", "{tmp}/o"], "only the format"),
    ],
)
def test_bad_input_of_the_commands(bae_ray, tmp_path: Path, arguments: list, message: str):
    code, _, err = bae_ray(*(str(argument).format(tmp=tmp_path) for argument in arguments))
    assert code == cli.EXIT_INVALID
    assert message in err
    assert not (tmp_path / "o").exists()
