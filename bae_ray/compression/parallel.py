"""Compression and decompression of files on a pool of Ray Data actors.

The unit of work is a part: a range of rows of one output. Actors write parts, atomically, into `.parts/` beside the
outputs; whoever runs the command joins the parts of an output, and then writes its receipt. A rerun skips outputs with
a receipt and parts that are there.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
from pydantic import ValidationError
from ray.exceptions import RayError

from bae_ray.autoencoders import Autoencoder, load_autoencoder
from bae_ray.cluster import check_fits, configure_data, connect, total
from bae_ray.compression.config import ParallelConfig
from bae_ray.compression.conversions import Conversion
from bae_ray.config import Config, content_hash
from bae_ray.errors import BaeRayError, CompressionError, InvalidInputError
from bae_ray.files import atomic_path, write_text
from bae_ray.progress import track

MAX_PROBLEMS_SHOWN = 10
OTHERS = ", of other input or options. Give another folder, or remove it."
RESULT = ("item", "part", "problem")
"""What a worker says of a part; no problem: it is written."""


class Receipt(Config):
    """One finished output."""

    name: str
    """Path of the output, relative to the folder of outputs."""
    request: dict[str, Any]
    """All that it depends on."""
    rows: int
    """Vectors."""
    bytes_before: int
    """Bytes of what it was made of."""
    bytes_after: int
    """Its own."""


def convert(conversions: Sequence[Conversion], out: Path, config: ParallelConfig, label: str) -> list[Receipt]:
    """Make the outputs in the folder `out`, or finish what an earlier call has begun there; a receipt for each.

    Raises `InvalidInputError` where an output is already there of something else, before any work, and
    `CompressionError` where parts failed; outputs and parts that are finished are kept.
    """
    outputs = [_Output(conversion, out.absolute(), config) for conversion in conversions]
    if doubled := {o.conversion.name for o in outputs if sum(o.file == other.file for other in outputs) > 1}:
        raise InvalidInputError(f"{min(doubled)} would be written twice. Give inputs of different names.")
    waiting = [output for output in outputs if output.receipt() is None]
    for output in outputs:
        if output not in waiting:
            output.clean()
    for output in waiting:
        output.begin()
    tasks = [{"item": i, "part": part} for i, output in enumerate(waiting) for part in output.missing()]
    problems: list[str] = []
    with track(label, sum(output.conversion.rows for output in outputs)) as tracker:
        left = sum(waiting[task["item"]].rows_in(task["part"]) for task in tasks)
        tracker.advance(sum(output.conversion.rows for output in outputs) - left)
        if tasks:
            problems = _run(tasks, waiting, config, tracker.advance)
    for output in waiting:
        if not output.missing():
            output.join()
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS_SHOWN} more"] if len(problems) > MAX_PROBLEMS_SHOWN else []
        raise CompressionError(
            "\n  ".join(
                [f"{len(problems)} of {len(tasks)} parts were not written:", *problems[:MAX_PROBLEMS_SHOWN], *more]
            )
            + f"\nFinished files and parts are kept in {out}; the same command tries the others again."
        )
    return [receipt for output in outputs if (receipt := output.receipt()) is not None]


class _Output:
    """One output and its parts on disk."""

    def __init__(self, conversion: Conversion, out: Path, config: ParallelConfig) -> None:
        self.conversion, self.file = conversion, out / conversion.name
        self._others = [out / name for name in conversion.excluded]
        self._receipt_file = out / "receipts" / f"{conversion.name}.json"
        self._begun = content_hash([conversion.name, conversion.request])
        self._parts = out / ".parts" / f"{self._begun}-{config.part_rows}"
        blocks = max(1, config.part_rows // conversion.block_rows)
        self._part_rows = blocks * conversion.block_rows
        self._n_parts = -(-conversion.rows // self._part_rows)

    def receipt(self) -> Receipt | None:
        """The receipt, if the output is finished. Raises `InvalidInputError` where it is of something else.

        An output without a receipt but with parts of this request was cut off between the two, and is not finished.
        """
        for other in self._others:
            if other.exists():
                raise InvalidInputError(f"{other} is already there{OTHERS}")
        if not self.file.exists():
            return None
        try:
            receipt = Receipt.model_validate_json(self._receipt_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValidationError):
            receipt = None
        if receipt is None and self._folders():
            return None
        if receipt is None or receipt.request != self.conversion.request:
            raise InvalidInputError(f"{self.file} is already there{OTHERS}")
        return receipt if receipt.bytes_after == self.file.stat().st_size else None

    def begin(self) -> None:
        """Make the folder of the parts, and count attempts anew. Raises `InvalidInputError` where that fails."""
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self._parts / "attempts", ignore_errors=True)
        except OSError as error:
            raise InvalidInputError(f"{self._parts.parent.parent} cannot be written to: {error}.") from error

    def clean(self) -> None:
        """Remove the parts, of whatever size; they are no longer needed."""
        for folder in self._folders():
            shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return list(self._parts.parent.glob(f"{self._begun}-*"))

    def part_file(self, part: int) -> Path:
        return self._parts / f"{part:05d}"

    def missing(self) -> list[int]:
        return [part for part in range(self._n_parts) if not self.part_file(part).exists()]

    def range(self, part: int) -> tuple[int, int]:
        return part * self._part_rows, min((part + 1) * self._part_rows, self.conversion.rows)

    def rows_in(self, part: int) -> int:
        start, stop = self.range(part)
        return stop - start

    def write(self, part: int, autoencoder: Autoencoder, attempts: int) -> str:
        """Write a part; what went wrong."""
        if self.part_file(part).exists():  # Ray asks again where the node with the first answer is gone
            return ""
        # Ray replaces a dead worker and retries its part without end: one that kills its workers is given up here.
        tries = self._parts / "attempts" / f"{part:05d}"
        attempt = int(tries.read_text()) + 1 if tries.exists() else 1
        if attempt > attempts:
            return f"its worker died {attempts} times; too little memory is the usual reason"
        write_text(tries, str(attempt))
        with atomic_path(self.part_file(part)) as temporary, open(temporary, "wb") as file:
            self.conversion.write_part(autoencoder, *self.range(part), file)
        return ""

    def join(self) -> None:
        """Write the output and its receipt, and remove the parts."""
        try:
            self._receipt_file.unlink(missing_ok=True)  # of an earlier output: it must not stand beside this one
            with atomic_path(self.file) as temporary, open(temporary, "wb") as file:
                self.conversion.join([self.part_file(part) for part in range(self._n_parts)], file)
            receipt = Receipt(
                name=self.conversion.name,
                request=self.conversion.request,
                rows=self.conversion.rows,
                bytes_before=self.conversion.bytes_before,
                bytes_after=self.file.stat().st_size,
            )
            write_text(self._receipt_file, receipt.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise CompressionError(
                f"{self.file} cannot be written: {error}. Its parts are kept; make room, and the same command goes on."
            ) from error
        self.clean()


class PartWriter:
    """One worker: a part's number in, how it went out."""

    def __init__(self, outputs: Sequence[_Output], attempts: int, cpus: float, gpus: float) -> None:
        import torch

        torch.set_num_threads(max(1, int(cpus)))
        self._outputs, self._attempts = outputs, attempts
        self._device = "cuda" if gpus and torch.cuda.is_available() else "cpu"
        self._loaded: tuple[str, Autoencoder] | None = None

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[Any]]:
        """Write one part (a batch is one row with its numbers); no part stops the others."""
        item, part = int(batch["item"][0]), int(batch["part"][0])
        try:
            problem = self._outputs[item].write(part, self._autoencoder(item), self._attempts)
        except (BaeRayError, OSError) as error:
            problem = str(error)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        return {"item": [item], "part": [part], "problem": [problem]}

    def _autoencoder(self, item: int) -> Autoencoder:
        path = self._outputs[item].conversion.autoencoder
        if self._loaded is None or self._loaded[0] != path:
            self._loaded = (path, load_autoencoder(path).to(self._device))
        return self._loaded[1]


def _run(tasks: list[dict[str, int]], outputs: Sequence[_Output], config: ParallelConfig, advance: Any) -> list[str]:
    """Write the parts; what is wrong with those that failed."""
    connect()
    gpus = config.gpus_per_worker if config.gpus_per_worker is not None else float(total("GPU") > 0)
    check_fits("a worker", config.cpus_per_worker, gpus)
    fit = int(total("GPU") // gpus) if gpus else int(total("CPU") // config.cpus_per_worker)
    workers = min(config.workers or max(fit, 1), len(tasks))
    configure_data(keep_order=False)
    results = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        PartWriter,
        fn_constructor_args=(outputs, config.attempts, config.cpus_per_worker, gpus),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
        num_cpus=config.cpus_per_worker,
        num_gpus=gpus,
    )
    problems: list[str] = []
    try:
        for batch in results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            for item, part, problem in zip(*(batch[name] for name in RESULT), strict=True):
                output = outputs[item]
                if problem:
                    start, stop = output.range(part)
                    problems.append(f"{output.conversion.name}, rows {start} to {stop - 1}: {problem}")
                advance(output.rows_in(part))
    except RayError as error:
        raise CompressionError(
            f"the work stopped: {error}. Finished parts are kept; the same command goes on."
        ) from error
    return problems
