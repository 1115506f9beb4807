"""Autoencoders that the paper's released code saved (github.com/hc495/Binary_Autoencoder, module/)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import torch
from torch import Tensor

from bae_ray.autoencoders.architectures import Kind, config_read_from
from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.interop.weights import assemble, check_tensors, read_json, read_safetensors
from bae_ray.errors import CheckpointError, InvalidInputError, first_line

T = TypeVar("T")

RELEASED_K = 10
RELEASED_THRESHOLD = 0.5
PARAMETER_FILES = ("experiment_params.txt", "experiment_params.json")

_LAYOUT = {"encoder.weight": "F D", "encoder.bias": "F", "decoder.weight": "D F", "decoder.bias": "D"}


def load_release(
    state_dict: Mapping[str, Tensor], kind: Kind = "bae", k: int | None = None, threshold: float | None = None
) -> Autoencoder:
    """The autoencoder of a state dict of the released code, in evaluation mode; x goes in as it is, nothing normalised.

    `state_dict` has the layout of torch.nn.Linear: `encoder.weight` [F, D], `encoder.bias` [F], `decoder.weight`
    [D, F], `decoder.bias` [D]. The last is taken as 0 where it is left out, as the release does without its --bias.
    The weights do not tell what they were trained as, so `kind` does:

    bae: with the release's own step function, 1 only where x > 0, and its gradient.
    relu: a ReLU autoencoder.
    topk: `k` pre-activations are kept, by default 10, as in the release (which keeps more where some are equal).
    jumprelu: the paper's Gated ReLU, our architecture `gated`, of `threshold`, by default 0.5, as in the release.

    Raises `InvalidInputError` for an unknown kind and for a `k` or a `threshold` that cannot be or that the kind does
    not have, `CheckpointError` for weights that are missing, unknown, misshaped or not finite.
    """
    return _load(state_dict, kind, k, threshold, "the state dict", {})


def read_release(
    file: str | Path, kind: Kind | None = None, k: int | None = None, threshold: float | None = None
) -> Autoencoder:
    """`load_release` of a .safetensors, .pt, .pth or .bin file.

    A pickled file is read by a loader that accepts nothing but tensors, and runs no code of the file. What is left out
    of `kind`, `k` and `threshold` is taken from the `experiment_params.txt` (or .json) that lies beside the file, as
    the release writes it, and else is as in `load_release`. The release itself writes neither topk nor theta there.

    Raises what `load_release` does, `InvalidInputError` where a given value contradicts the parameter file, and
    `CheckpointError` where a file cannot be read or describes an autoencoder that is not one of these kinds.
    """
    file = Path(file)
    parameters: dict[str, str] = {}
    for candidate in (file.with_name(name) for name in PARAMETER_FILES):
        if candidate.exists():
            parameters = _read_parameters(candidate)
            kind = _agree("kind", kind, _recorded_kind(parameters, candidate), candidate)
            if kind == "topk":
                k = _agree("k", k, _number(parameters, ("k", "topk"), int, candidate), candidate)
            if kind == "jumprelu":
                recorded = _number(parameters, ("threshold", "theta"), float, candidate)
                threshold = _agree("threshold", threshold, recorded, candidate)
            break
    tensors = read_safetensors(file) if file.suffix == ".safetensors" else _read_pickled(file)
    return _load(tensors, kind or "bae", k, threshold, file, parameters)


def _load(
    tensors: Mapping[str, Any], kind: str, k: int | None, threshold: float | None, source: object,
    parameters: Mapping[str, str],
) -> Autoencoder:  # fmt: skip
    if kind not in get_args(Kind):
        raise InvalidInputError(f"kind '{kind}' is not known: give one of {', '.join(get_args(Kind))}.")
    for name, value, owner in (("k", k, "topk"), ("threshold", threshold, "jumprelu")):
        if value is not None and kind != owner:
            raise InvalidInputError(f"{name} is {value}, but only the kind {owner} has it: leave it out for '{kind}'.")
    has_decoder_bias = "decoder.bias" in tensors
    layout = {name: shape for name, shape in _LAYOUT.items() if has_decoder_bias or name != "decoder.bias"}
    sizes = check_tensors(tensors, layout, source)
    for name, found in (("d_in", sizes["D"]), ("inner_expand_rate", sizes["F"] / sizes["D"])):
        recorded = _number(parameters, (name,), int, source)
        if recorded is not None and recorded != found:
            raise CheckpointError(
                f"{name} is {recorded} in the parameter file, but the weights in {source} have {found:g}. Keep each "
                "parameter file beside the weights that it belongs to."
            )
    fields = {
        "bae": {"gradient": "release"},
        "topk": {"k": RELEASED_K if k is None else k},
        "jumprelu": {"threshold": RELEASED_THRESHOLD if threshold is None else threshold},
    }
    weights = {
        "W_enc": tensors["encoder.weight"].T,
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["decoder.weight"].T,
        "b_dec": tensors["decoder.bias"] if has_decoder_bias else torch.zeros(sizes["D"]),
    }
    return assemble(config_read_from("release", kind), sizes, fields.get(kind, {}), weights, source)


def _read_pickled(file: Path) -> dict[str, Any]:
    """The state dict in a file of torch.save."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251 - refuses all but tensors
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}. Give a file that the released code saved.") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{file} is not a file of plain tensors and is not read: {first_line(error)} Save the model's "
            "state_dict() alone, best as .safetensors; a file that you did not make yourself may be malicious."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds a {type(content).__name__}, expected a state dict: save state_dict().")
    return content


def _read_parameters(file: Path) -> dict[str, str]:
    """The fields of a parameter file as text: of JSON, or of the release's lines `key: value`."""
    if file.suffix == ".json":
        fields = {name: value for name, value in read_json(file).items() if value is not None}
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is not text: {error}. Restore or remove it.") from error
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip()}


def _recorded_kind(parameters: Mapping[str, str], file: Path) -> Kind | None:
    """The kind that a parameter file tells. Raises `CheckpointError` for one that is not among ours."""
    if parameters.get("output_activation", "none") != "none":
        raise CheckpointError(
            f"output_activation is '{parameters['output_activation']}' in {file}, expected 'none': bae_ray's decoders "
            "are linear, this autoencoder cannot be represented."
        )
    binarization = parameters.get("binarization_type")
    if binarization is not None and binarization not in ("sign", "sign_s"):
        raise CheckpointError(
            f"binarization_type is '{binarization}' in {file}, expected 'sign' or 'sign_s': this autoencoder cannot be "
            "represented."
        )
    kind = parameters.get("kind") or ("bae" if binarization else parameters.get("inner_activation"))
    if kind is not None and kind not in get_args(Kind):
        raise CheckpointError(f"{file} tells the kind '{kind}', expected one of {', '.join(get_args(Kind))}.")
    return cast(Kind | None, kind)


def _number(
    parameters: Mapping[str, str], names: tuple[str, ...], convert: type[int] | type[float], file: object
) -> Any:
    """The number under the first of `names` that a parameter file has; None if it has none."""
    for name in names:
        if name in parameters:
            try:
                return convert(parameters[name])
            except ValueError as error:
                raise CheckpointError(
                    f"{name} is '{parameters[name]}' in the parameters of {file}, expected a number. Mend the file."
                ) from error
    return None


def _agree(name: str, given: T | None, recorded: T | None, file: Path) -> T | None:
    """The value that is given or recorded. Raises `InvalidInputError` where both are and differ."""
    if given is not None and recorded is not None and given != recorded:
        raise InvalidInputError(
            f"{name} is {given!r}, but {file} records {recorded!r}: leave it out, or move the parameter file away."
        )
    return recorded if given is None else given
