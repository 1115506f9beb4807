"""The units of the experiment: a way of making a vector, at a layer, for a seed, tried at some strengths."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from bae_ray.experiments.steering.config import SteeringConfig

NONE, CENTROIDS, COMPONENT, DIRECTION, FEATURES = "none", "centroids", "pca", "random direction", "random features"
CONTROLS = (DIRECTION, FEATURES)
WITHOUT_AUTOENCODER = (CENTROIDS, COMPONENT, DIRECTION)

Weights = Literal["values", "signs"]


class Trained(NamedTuple):
    """A finished run."""

    architecture: str
    layer: int
    seed: int
    run: str
    """Its id."""
    weights: str
    """Checksum of its file of weights."""
    is_binary: bool


class Setting(NamedTuple):
    """A way of making a vector."""

    layer: int
    method: str
    """An architecture, or one of the names above."""
    kept: int | None = None
    """Latents that are kept; None: all, or there are none."""
    weights: Weights = "values"
    """Of the kept latents: the differences themselves, or their signs."""
    rescaled: bool = True
    """Whether the vector is as long as the centroids are apart. Otherwise as the paper: as it is decoded."""


class SteeringUnit(NamedTuple):
    """A unit of work."""

    seed: int
    setting: Setting
    strengths: tuple[float, ...]
    autoencoder: Trained | None = None
    """Whose features are used. Of a control: whose vector or number of features it equals."""


def units_of(
    config: SteeringConfig, layers: tuple[int, ...], trained: Mapping[tuple[str, int, int], Trained]
) -> Iterator[SteeringUnit]:
    """Every unit. `trained` holds finished runs by architecture, layer and seed; what needs others is left out."""
    architectures = list(dict.fromkeys(run.architecture for run in trained.values()))
    strengths = tuple(strength for strength in config.strengths if strength)
    for seed in config.seeds:
        yield SteeringUnit(seed, Setting(config.layer, NONE), (0.0,))
        for setting in _settings(config, layers, architectures):
            tried = strengths if setting.weights == "values" and _is_main(config, setting) else (config.compared_at,)
            runs = [run for name in architectures if (run := trained.get((name, setting.layer, seed))) is not None]
            if setting.method in architectures:
                runs = [run for run in runs if run.architecture == setting.method]
            else:  # a control equals the binary one, which the paper is about, or the first that there is
                runs.sort(key=lambda run: not run.is_binary)
            if runs or (setting.method in WITHOUT_AUTOENCODER and setting.rescaled):
                needs = setting.method not in WITHOUT_AUTOENCODER or not setting.rescaled
                yield SteeringUnit(seed, setting, tried, runs[0] if needs else None)


def _is_main(config: SteeringConfig, setting: Setting) -> bool:
    return setting.kept == config.kept or setting.method in WITHOUT_AUTOENCODER


def _settings(config: SteeringConfig, layers: tuple[int, ...], architectures: list[str]) -> list[Setting]:
    """Fig. 6, vectors as they are and of one length; numbers of features and signs; other layers. Each once."""
    here, kept = config.layer, config.kept
    found = [Setting(here, CENTROIDS), Setting(here, COMPONENT)]
    for rescaled in (False, True):
        found += [Setting(here, name, kept, rescaled=rescaled) for name in architectures]
        found += [
            Setting(here, DIRECTION, None if rescaled else kept, rescaled=rescaled),
            Setting(here, FEATURES, kept, rescaled=rescaled),
        ]
    found += [
        Setting(here, name, number, weights)
        for name in architectures
        for number in dict.fromkeys((*config.kept_compared, kept))
        for weights in ("values", "signs")
    ]
    for layer in layers:
        if layer != here:
            found += [Setting(layer, name) for name in WITHOUT_AUTOENCODER]
            found += [Setting(layer, name, kept) for name in (*architectures, FEATURES)]
    return list(dict.fromkeys(found))


class SteeredRow(NamedTuple):
    """What is measured of a vector at a strength."""

    strength: float
    whole: float
    """Share of prompts after which the likeliest of all tokens begins the right label."""
    among: float
    """Share of prompts after which the right label is the likeliest of the labels."""
    log_odds: float
    """Mean, in nats: the right label against the likeliest wrong one."""
    kl: float
    """Mean divergence, in nats, of the next token's distribution after a neutral text from that without steering."""
    norm: float
    """Length of the vector, before the strength."""
    distance: float
    """Of the two centroids."""


def as_columns(unit: SteeringUnit, row: SteeredRow) -> dict[str, Any]:
    """A row of the table."""
    return {
        "seed": unit.seed,
        **unit.setting._asdict(),
        **row._asdict(),
        "run": unit.autoencoder.run if unit.autoencoder else "",
    }
