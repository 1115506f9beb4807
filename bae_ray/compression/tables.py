"""What writer and reader of a container know of each latent: its rate, or its place in a tree."""

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from torch import Tensor

from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.chow_liu import ChowLiuTree
from bae_ray.compression.header import Header, Scheme
from bae_ray.compression.prior import PriorTable
from bae_ray.compression.tree_table import TreeTable
from bae_ray.errors import ForeignModelError, InvalidInputError, NoPriorError

if TYPE_CHECKING:
    from bae_ray.compression.container import ContainerReader

Table = PriorTable | TreeTable
Model = Tensor | ChowLiuTree
"""Firing rates [F], or a tree."""
NO_TREE = (
    "this autoencoder has no tree over its latents, which scheme tree needs: it was trained by an earlier version, or "
    "imported. Choose scheme entropy, or in Python set autoencoder.tree = fit_tree(codes) and save it."
)

_of_trees: WeakKeyDictionary[ChowLiuTree, TreeTable] = WeakKeyDictionary()
"""Tables that were made: that of 8,192 latents takes 20 ms, as long as some calls of the service."""


def table_of(model: Model) -> Table:
    """The table of firing rates [F] or of a tree. Raises `InvalidInputError` for rates that are none."""
    if not isinstance(model, ChowLiuTree):
        return PriorTable.of(model)
    if (made := _of_trees.get(model)) is None:
        made = _of_trees[model] = TreeTable.of(model)
    return made


def table_for_scheme(model: Model, scheme: Scheme) -> Table:
    """The same for writing; raises `InvalidInputError` where the scheme needs the other."""
    if isinstance(model, ChowLiuTree) != (scheme == "tree"):
        needed = "a tree, as fit_tree(codes) gives it," if scheme == "tree" else "firing rates [d_latent], a tensor"
        raise InvalidInputError(f"scheme {scheme} takes {needed} and got a {type(model).__name__}. Give it that.")
    return table_of(model)


def kind_of_table(header: Header) -> str:
    """What the container refers to."""
    return "the tree" if header.scheme == "tree" else "the table of firing rates"


def check_table(header: Header, table: Table) -> None:
    """Raise `ForeignModelError` where a container refers to another table."""
    if isinstance(table, TreeTable) != (header.scheme == "tree"):
        given = "a tree" if isinstance(table, TreeTable) else "firing rates"
        raise ForeignModelError(f"the container refers to {kind_of_table(header)} {header.prior_hash}, not to {given}.")
    if not table.hash.startswith(header.prior_hash) or len(table.typical) != header.d_latent:
        raise ForeignModelError(
            f"the container was written with {kind_of_table(header)} {header.prior_hash} of {header.d_latent} "
            f"latents; this one is {table.hash[: len(header.prior_hash)]} of {len(table.typical)}. Load the "
            "autoencoder that compressed it, with the prior that it had then."
        )


def own_model(autoencoder: Autoencoder, scheme: Scheme) -> Model:
    """The autoencoder's rates [F], or its tree for scheme `tree`. Raises `NoPriorError` where it has no tree."""
    if scheme != "tree":
        return autoencoder.prior
    if autoencoder.tree is None:
        raise NoPriorError(NO_TREE)
    return autoencoder.tree


def use_own(reader: "ContainerReader", autoencoder: Autoencoder) -> None:
    """Let a container that refers to a table use the autoencoder's. Raises `ForeignModelError` for another one."""
    header = reader.header
    if header.table == "reference":
        if header.scheme == "tree" and autoencoder.tree is None:
            raise ForeignModelError(
                f"the container refers to the tree {header.prior_hash} of its autoencoder; this one has none. Load it "
                "with the tree.safetensors that it had."
            )
        reader.use_table(table_of(own_model(autoencoder, header.scheme)))
