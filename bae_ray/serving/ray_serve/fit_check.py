"""Whether the replicas of a config fit on the machine, checked before anything starts."""

from collections.abc import Mapping
from typing import NamedTuple

from bae_ray.errors import InvalidInputError
from bae_ray.serving.config import ReplicasConfig, ServiceConfig
from bae_ray.work.devices import PER_DEVICE, parts

KINDS = {"gateway": "gateway", "encoders": "encoders", "texts": "language models"}
"""Fields of the config and their names in messages. Earlier kinds come first if there is little room."""


def placed(config: ServiceConfig, have: Mapping[str, float] | None) -> tuple[ServiceConfig, list[str]]:
    """The config with only as many replicas as fit at once, and notes of what was reduced.

    So no kind can take the place of another one whose replica died. `have`: CPUs and GPUs of the only machine; None,
    for a cluster of several, changes nothing. Raises `InvalidInputError` if the least number of replicas, one of each
    kind at least, does not fit.
    """
    if have is None:
        return config, []
    wanted: dict[str, ReplicasConfig] = {name: getattr(config, name) for name in KINDS}
    counts = {name: max(1, kind.min_replicas) for name, kind in wanted.items()}
    room: _Room | None = _Room(parts(have["CPU"]), (PER_DEVICE,) * int(have["GPU"]))
    for name in sorted(wanted, key=lambda name: -wanted[name].num_gpus):  # small shares lie beside others
        for _ in range(counts[name]):
            room = room and room.beside(wanted[name])
    if room is None:
        raise InvalidInputError(_too_much(wanted, counts, have))
    notes: list[str] = []
    for name, kind in wanted.items():
        while counts[name] < kind.max_replicas and (left := room.beside(kind)) is not None:
            counts[name], room = counts[name] + 1, left
        if counts[name] < kind.max_replicas:
            notes.append(
                f"{name}.max_replicas is {kind.max_replicas}; beside the others this machine has room for "
                f"{counts[name]} of {_need(kind)}: there will be no more."
            )
            config = config.model_copy(update={name: kind.model_copy(update={"max_replicas": counts[name]})})
    return config, notes


class _Room(NamedTuple):
    """What is left of the machine, in Ray's parts of a CPU or GPU."""

    cpus: int
    gpus: tuple[int, ...]
    """Of each GPU: a share below one lies on one of them, larger ones are whole GPUs."""

    def beside(self, kind: ReplicasConfig) -> "_Room | None":
        """What is left beside one more replica; None where there is no room for it."""
        cpus, gpus, share = self.cpus - parts(kind.num_cpus), [*self.gpus], parts(kind.num_gpus)
        each = min(share, PER_DEVICE)
        taken = [number for number, left in enumerate(gpus) if left >= each][: -(-share // PER_DEVICE)]
        for number in taken:
            gpus[number] -= each
        fits = cpus >= 0 and len(taken) * PER_DEVICE >= share
        return _Room(cpus, tuple(gpus)) if fits else None


def _need(kind: ReplicasConfig) -> str:
    return f"{kind.num_cpus:g} CPUs" + (f" and {kind.num_gpus:g} GPUs" if kind.num_gpus else "")


def _too_much(kinds: dict[str, ReplicasConfig], counts: dict[str, int], have: Mapping[str, float]) -> str:
    asked = [f"{counts[name]} of the {called} at {_need(kinds[name])}" for name, called in KINDS.items()]
    sums = [sum(counts[name] * kind.needs[resource] for name, kind in kinds.items()) for resource in ("CPU", "GPU")]
    return (
        f"the service needs {sums[0]:g} CPUs and {sums[1]:g} GPUs ({', '.join(asked)}), but this machine has "
        f"{have['CPU']:g} and {have['GPU']:g}. Set less aside: --gateway.num-cpus, --encoders.num-cpus and "
        "--texts.num-cpus (or num-gpus) may be fractions, and are not what a replica can use; or join a larger cluster."
    )
