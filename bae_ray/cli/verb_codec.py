"""The verbs `bae-ray compress | decompress`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from bae_ray.activations.config import Position
from bae_ray.cli.command import Command, Held
from bae_ray.compression.config import CompressConfig, DecompressConfig
from bae_ray.errors import ForeignModelError, InvalidInputError
from bae_ray.files import at_hand, write_text
from bae_ray.locations import Place, PlaceName, local_path, location_of, shown, without_credentials, without_options
from bae_ray.working_copies import reading

if TYPE_CHECKING:
    from bae_ray.compression.conversions import ActivationSource
    from bae_ray.compression.parallel import Receipt

RUN_FILE = "run.json"
CODES = (".codes", ".codes.safetensors")


class CompressCommand(Command):
    """Compress activations with trained binary autoencoders: one container (a file of codes) per cell or file."""

    compression: Held[CompressConfig]
    """How to compress."""
    source: Annotated[tuple[str, ...], Field(min_length=1)]
    """An activation store, or .npy and .safetensors files with one matrix each."""
    autoencoder: Annotated[tuple[PlaceName, ...], Field(min_length=1)]
    """Folders of autoencoders. For a store: one or more runs, each for the cell it was trained on. For files: one."""
    out: Place
    """Output folder, here or at a URI such as s3://bucket/folder: containers, with a receipt for each. The same command
    finishes an interrupted run."""
    layer: int | None = None
    """Layer of the cell. None: the one that the run was trained on."""
    site: str | None = None
    """Site of the cell. None: the one that the run was trained on."""
    position: Position | None = None
    """Position of the cell. None: the one that the run was trained on."""
    tensor: str | None = None
    """Name of the matrix in safetensors files. None: the only one."""


class DecompressCommand(Command):
    """Reconstruct activations from containers of codes, with the autoencoders that made the codes."""

    decompression: Held[DecompressConfig]
    """How to decompress."""
    source: Annotated[tuple[Place, ...], Field(min_length=1)]
    """Containers, or folders of them, as 'bae-ray compress' wrote them."""
    autoencoder: Annotated[tuple[PlaceName, ...], Field(min_length=1)]
    """Folders of the autoencoders that made the codes; each container names its own."""
    out: Place
    """Output folder, here or at a URI: arrays, with a receipt for each. The same command finishes an interrupted
    run."""


def compress(command: CompressCommand) -> None:
    """Run `bae-ray compress`."""
    from bae_ray.compression.conversions import Compression
    from bae_ray.compression.parallel import convert

    several = len(command.autoencoder) > 1
    conversions = [
        Compression(
            source,
            autoencoder,
            f"{Path(autoencoder).name}/{source.name}" if several else source.name,
            command.compression,
        )
        for autoencoder in command.autoencoder
        for source in _sources(command, autoencoder)
    ]
    receipts = convert(conversions, command.out, command.compression, "Compressing")
    _finish(command, command.out, receipts)


def decompress(command: DecompressCommand) -> None:
    """Run `bae-ray decompress`."""
    from bae_ray.autoencoders import load_autoencoder
    from bae_ray.autoencoders.checkpoint import model_hashes
    from bae_ray.compression import read_header
    from bae_ray.compression.conversions import Decompression
    from bae_ray.compression.parallel import convert

    owners = {known: folder for folder in command.autoencoder for known in model_hashes(load_autoencoder(folder))}
    conversions = []
    for file, name in _containers(command.source):
        wanted = read_header(file).model_hash
        if wanted not in owners:
            raise ForeignModelError(
                f"{shown(file)} holds codes of the autoencoder {wanted or '(not named)'}; those given are "
                f"{', '.join(owners)}. Give the autoencoder that compressed it."
            )
        conversions.append(Decompression(str(file), owners[wanted], name, command.decompression.format))
    receipts = convert(conversions, command.out, command.decompression, "Decompressing")
    _finish(command, command.out, receipts)


def _sources(command: CompressCommand, autoencoder: str) -> list["ActivationSource"]:
    """What to compress with an autoencoder."""
    from bae_ray.compression.conversions import FileSource, StoreSource, on_any_process

    if all(Path(without_options(source)).suffix in (".npy", ".safetensors") for source in command.source):
        if len(command.autoencoder) > 1:
            raise InvalidInputError(f"{len(command.autoencoder)} autoencoders are given: files take one, a store more.")
        return [FileSource(on_any_process(str(local_path(source))), command.tensor) for source in command.source]
    if len(command.source) != 1:
        raise InvalidInputError(f"source is {', '.join(command.source)}: give one store, or files only.")
    cell = _cell_of_run(autoencoder) | command.model_dump(include={"layer", "site", "position"}, exclude_none=True)
    if missing := {"layer", "position"} - set(cell):
        raise InvalidInputError(
            f"{autoencoder} does not say which cell it was trained on: check the folder, or give "
            f"--{' and --'.join(sorted(missing))}."
        )
    (store,) = command.source
    return [StoreSource(on_any_process(store), cell["layer"], cell.get("site", "residual"), cell["position"])]


def _cell_of_run(autoencoder: str) -> dict:
    """The cell that a run was trained on; empty if the folder is not a run."""
    file = at_hand(Path(autoencoder) / RUN_FILE)
    return json.loads(file.read_text(encoding="utf-8"))["cell"] if file.exists() else {}


def _containers(sources: Sequence[Path]) -> list[tuple[Path, str]]:
    """Every container, and the name of its array."""
    places = [reading(source, lambda name: name.endswith(CODES)) for source in sources]
    found = [
        (file, _without_suffix(str(file.relative_to(source if source.is_dir() else source.parent))))
        for source in places
        for file in (sorted(file for file in source.rglob("*") if file.name.endswith(CODES) and file.is_file())
                     if source.is_dir() else [source])
    ]  # fmt: skip
    if not found:
        raise InvalidInputError(f"{', '.join(map(shown, sources))} holds no container (*{' or *'.join(CODES)}).")
    return found


def _without_suffix(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in CODES if name.endswith(suffix)), name)


def _finish(command: CompressCommand | DecompressCommand, out: Path, receipts: Sequence["Receipt"]) -> None:
    """Write the command's config beside the outputs, and print the bytes before and after."""
    from bae_ray.report.terminal import print_tables, text_table

    compressing = isinstance(command, CompressCommand)
    verb, compressed = ("compress", "bytes_after") if compressing else ("decompress", "bytes_before")
    sources = [location_of(Path(source)) or without_credentials(str(source)) for source in command.source]
    write_text(out / f"{verb}.json", command.record(source=sources))
    rows = [
        {
            "file": receipt.name,
            "vectors": f"{receipt.rows:,}",
            "bytes before": f"{receipt.bytes_before:,}",
            "bytes after": f"{receipt.bytes_after:,}",
            "after / before": f"{receipt.bytes_after / receipt.bytes_before:.2%}",
            "bits per vector": f"{8 * getattr(receipt, compressed) / max(receipt.rows, 1):.1f}",
        }
        for receipt in receipts
    ]
    print_tables(text_table("", rows, left=["file"]))
