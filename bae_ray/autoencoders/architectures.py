"""The architectures: what the rest of the package knows about each, declared only here.

Another package adds one with `register`: docs/add-an-architecture.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Field, SerializeAsAny, TypeAdapter

from bae_ray.autoencoders.config import (
    ArchitectureConfig,
    BAEConfig,
    BatchTopKConfig,
    GatedConfig,
    GatedSAEConfig,
    JumpReLUConfig,
    ReLUConfig,
    TopKConfig,
    TranscoderConfig,
)
from bae_ray.errors import InvalidInputError

Format = Literal["saelens", "sparsify", "release"]
"""Packages whose autoencoders can be read: SAELens, sparsify, and the paper's released code."""
Kind = Literal["bae", "relu", "topk", "jumprelu"]
"""What the paper's released code calls its autoencoders."""
Penalty = Literal["entropy", "covariance", "l1", "l0", "auxiliary"]
"""Terms of the training objective besides the reconstruction (training/objective.py)."""

ENTRY_POINTS = "bae_ray.architectures"
"""Where an installed package names its architectures, so that every process finds them."""
_SAELENS = "bae_ray.autoencoders.interop.saelens_export"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the rest of the package knows about an architecture."""

    config: type[ArchitectureConfig]
    """Its options. The default of their field `architecture` is its name."""
    autoencoder: str
    """Its class, as MODULE:CLASS. It is imported when one is built, so that configs need no torch."""
    label: str
    """What tables call it."""
    penalties: tuple[Penalty, ...] = ()
    """Its terms of the training objective besides the reconstruction."""
    is_binary: bool = False
    """Whether its latents are a code of 0 and 1: then its entropy is measured, and the codec can compress it."""
    reconstructs: Literal["input", "target"] = "input"
    """What the decoder reconstructs: the input, or activations of another cell (`config.target_cell`)."""
    read_from: Mapping[Format, str] = field(default_factory=dict)
    """Packages whose files can be read as this architecture, and their name for it."""
    saelens: str = ""
    """The function that exports it to SAELens, as MODULE:FUNCTION; see `saelens_export`. Empty: SAELens has no such
    architecture."""

    @property
    def name(self) -> str:
        """Its name in configs, on the command line and in results."""
        return str(self.config.model_fields["architecture"].default)

    def load(self) -> Any:
        """Its class."""
        return loaded(self.autoencoder)


ARCHITECTURES: dict[str, Architecture] = {}
"""Every architecture that is known in this process, by name."""


def register(architecture: Architecture) -> None:
    """Make an architecture known. Raises `InvalidInputError` if another one has its name."""
    if ARCHITECTURES.setdefault(architecture.name, architecture) != architecture:
        raise InvalidInputError(f"there is an architecture '{architecture.name}' already. Choose another name.")


def every_architecture() -> Mapping[str, Architecture]:
    """Every architecture by name, including those of installed packages."""
    _register_installed()
    return ARCHITECTURES


def find_architecture(name: str) -> Architecture:
    """The architecture of this name, also from an installed package. Raises `InvalidInputError` if there is none."""
    if name not in ARCHITECTURES and name not in every_architecture():
        raise InvalidInputError(f"architecture '{name}' is not known; expected one of {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]


def architecture_of(config: ArchitectureConfig) -> Architecture:
    """The architecture whose options these are."""
    return find_architecture(config.name)


def config_read_from(package: Format, name: str) -> type[ArchitectureConfig]:
    """The options of the architecture that another package calls `name`."""
    return next(one.config for one in ARCHITECTURES.values() if one.read_from.get(package) == name)


def loaded(reference: str) -> Any:
    """The object that MODULE:NAME names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


@cache
def _register_installed() -> None:
    for entry in entry_points(group=ENTRY_POINTS):
        register(entry.load())


def _validated(value: Any) -> Any:
    """The config that a record holds; its field `architecture` says of what."""
    if isinstance(value, ArchitectureConfig):
        return value
    name = value.get("architecture") if isinstance(value, Mapping) else None
    if isinstance(name, str) and name not in ARCHITECTURES:
        _register_installed()
    return _any_of(tuple(one.config for one in ARCHITECTURES.values())).validate_python(value)


@cache
def _any_of(configs: tuple[type[ArchitectureConfig], ...]) -> TypeAdapter[Any]:
    # Type checkers do not know unions whose members are only known when it runs.
    union: Any = Union[configs]  # noqa: UP007  # pyright: ignore[reportInvalidTypeArguments, reportInvalidTypeForm]
    tagged: Any = Annotated[union, Field(discriminator="architecture")]  # pyright: ignore[reportInvalidTypeForm]
    return TypeAdapter(tagged)


AutoencoderConfig = Annotated[SerializeAsAny[ArchitectureConfig], BeforeValidator(_validated)]
"""The config of any architecture; the field `architecture` says which."""
CONFIGS: TypeAdapter[ArchitectureConfig] = TypeAdapter(AutoencoderConfig)
"""Reads and checks such a config."""


for _architecture in (
    Architecture(
        config=BAEConfig,
        autoencoder="bae_ray.autoencoders.bae:BinaryAutoencoder",
        label="BAE",
        penalties=("entropy", "covariance"),
        is_binary=True,
        read_from={"saelens": "gated, with magnitudes of 1", "release": "bae"},
        saelens=f"{_SAELENS}:binary",
    ),
    Architecture(
        config=ReLUConfig,
        autoencoder="bae_ray.autoencoders.baselines:ReLUAutoencoder",
        label="ReLU SAE",
        penalties=("l1",),
        read_from={"saelens": "standard", "release": "relu"},
        saelens=f"{_SAELENS}:relu",
    ),
    Architecture(
        config=TopKConfig,
        autoencoder="bae_ray.autoencoders.baselines:TopKAutoencoder",
        label="Top-k SAE",
        read_from={"saelens": "topk", "sparsify": "topk", "release": "topk"},
        saelens=f"{_SAELENS}:topk",
    ),
    Architecture(
        config=GatedConfig,
        autoencoder="bae_ray.autoencoders.baselines:GatedAutoencoder",
        label="Gated ReLU SAE",
        penalties=("l1",),
        read_from={"release": "jumprelu"},
        saelens=f"{_SAELENS}:gated",
    ),
    Architecture(
        config=TranscoderConfig,
        autoencoder="bae_ray.autoencoders.baselines:Transcoder",
        label="Transcoder",
        penalties=("l1",),
        reconstructs="target",
        read_from={"saelens": "transcoder"},
        saelens=f"{_SAELENS}:transcoder",
    ),
    Architecture(
        config=BatchTopKConfig,
        autoencoder="bae_ray.autoencoders.literature:BatchTopKAutoencoder",
        label="Batch top-k SAE",
        saelens=f"{_SAELENS}:batchtopk",
    ),
    Architecture(
        config=JumpReLUConfig,
        autoencoder="bae_ray.autoencoders.literature:JumpReLUAutoencoder",
        label="JumpReLU SAE",
        penalties=("l0",),
        read_from={"saelens": "jumprelu"},
        saelens=f"{_SAELENS}:jumprelu",
    ),
    Architecture(
        config=GatedSAEConfig,
        autoencoder="bae_ray.autoencoders.literature:GatedSAE",
        label="Gated SAE",
        penalties=("l1", "auxiliary"),
        read_from={"saelens": "gated"},
        saelens=f"{_SAELENS}:gated_sae",
    ),
):
    register(_architecture)
