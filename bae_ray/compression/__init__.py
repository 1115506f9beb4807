"""The codec: codes of 0 and 1 in as many bits as their entropy. Only `bae_ray.compression.parallel` needs Ray."""

from typing import TYPE_CHECKING

from bae_ray.compression.header import Header as Header
from bae_ray.compression.header import Scheme as Scheme
from bae_ray.compression.header import TableChoice as TableChoice
from bae_ray.lazy import lazily

if TYPE_CHECKING:
    from bae_ray.autoencoders.checkpoint import model_hash as model_hash
    from bae_ray.compression.activations import compress_activations as compress_activations
    from bae_ray.compression.activations import decompress_activations as decompress_activations
    from bae_ray.compression.codec import MAX_BYTES as MAX_BYTES
    from bae_ray.compression.codec import CodeWriter as CodeWriter
    from bae_ray.compression.codec import compress as compress
    from bae_ray.compression.codec import decompress as decompress
    from bae_ray.compression.codec import fit_tree as fit_tree
    from bae_ray.compression.codec import open_container as open_container
    from bae_ray.compression.codec import read_header as read_header
    from bae_ray.compression.codec import read_rows as read_rows

__getattr__, __dir__ = lazily(
    __name__,
    {
        "model_hash": "bae_ray.autoencoders.checkpoint",
        "compress_activations": "bae_ray.compression.activations",
        "decompress_activations": "bae_ray.compression.activations",
        "MAX_BYTES": "bae_ray.compression.codec",
        "CodeWriter": "bae_ray.compression.codec",
        "compress": "bae_ray.compression.codec",
        "decompress": "bae_ray.compression.codec",
        "fit_tree": "bae_ray.compression.codec",
        "open_container": "bae_ray.compression.codec",
        "read_header": "bae_ray.compression.codec",
        "read_rows": "bae_ray.compression.codec",
    },
)
