"""From a cell of a store and two configs to the config of a run."""

from bae_ray.activations.layout import Cell
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import ArchitectureConfig, check_architecture
from bae_ray.config import content_hash
from bae_ray.errors import InvalidInputError
from bae_ray.training.config import CellConfig, RunConfig, TrainingConfig


def plan_run(
    store: ActivationStore, cell: Cell, autoencoder: ArchitectureConfig, training: TrainingConfig
) -> RunConfig:
    """The config of a run on one cell of a store, with everything taken from the data filled in.

    Raises `InvalidInputError` where the store lacks the cell that a transcoder is to reconstruct, or the widths do not
    go together.
    """
    data = store.fingerprint(cell)
    target = None
    if (place := autoencoder.target_cell(cell.layer, cell.site)) is not None:
        target = Cell(*place, cell.position)
        if target not in store.cells:
            raise InvalidInputError(
                f"the transcoder is to reconstruct the cell ({target}), which {store.folder} does not hold. Set "
                "autoencoder.target_site and target_layer_offset to what it holds, such as residual and 1: the next "
                "layer's hidden state."
            )
        data = content_hash([data, store.fingerprint(target)])
    filled = autoencoder.model_copy(update={"d_in": autoencoder.d_in or store.manifest.d})
    check_architecture(filled)
    return RunConfig(
        cell=CellConfig(**cell._asdict()),
        target=CellConfig(**target._asdict()) if target else None,
        data=data,
        autoencoder=filled,
        training=training,
    )
