"""Compression and decompression of files in parts, by the workers of an executor.

The unit of work is a part: a range of rows of one output. Workers write parts, atomically, into `.parts/` beside the
outputs; the main process joins the parts of an output, then writes its receipt. A rerun skips outputs with a receipt
and parts that are there.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bae_ray.autoencoders import Autoencoder, load_autoencoder
from bae_ray.compression.config import ParallelConfig
from bae_ray.compression.conversions import Conversion
from bae_ray.config import Config, content_hash
from bae_ray.errors import ConversionError, InvalidInputError, UnfinishedError
from bae_ray.files import at_hand, atomic_path, exists, file_size, remove, remove_folder, write_text
from bae_ray.progress import track
from bae_ray.storage import folder_at
from bae_ray.work.attempts import Attempts
from bae_ray.work.executor import Executor, WorkOrder
from bae_ray.work.executors import ExecutorName, data_executor
from bae_ray.work.receipts import listed, read_receipt, traceback_of, write_failures
from bae_ray.working_copies import refresh, working

OTHERS = ", of other input or options. Give another folder, or remove it."


class Receipt(Config):
    """One finished output."""

    name: str
    """Path of the output, relative to the folder of outputs."""
    request: dict[str, Any]
    """All that it depends on."""
    rows: int
    """Vectors."""
    bytes_before: int
    """Bytes of its input."""
    bytes_after: int
    """Bytes of the output."""


class Part(NamedTuple):
    """A unit of work."""

    output: int
    """Index of its output."""
    part: int


class PartFailure(Config):
    """A part that was not written."""

    name: str
    """Path of the output, relative to the folder of outputs."""
    start: int
    """Its first row, and the one after its last."""
    stop: int
    reason: str
    traceback: str = ""
    """Traceback of an unexpected error; else empty."""

    def __str__(self) -> str:
        return f"{self.name}, rows {self.start} to {self.stop - 1}: {self.reason}"


def convert(
    conversions: Sequence[Conversion],
    out: str | Path,
    config: ParallelConfig,
    label: str,
    executor: Executor | ExecutorName = "ray",
) -> list[Receipt]:
    """Make the outputs in the folder `out`, here or at a URI, or finish those of an interrupted call.

    Returns a receipt for each.

    Raises `InvalidInputError`, before any work, if an output of other inputs is already there, and `ConversionError` if
    parts failed (listed in failures.json). Finished outputs and parts are kept.
    """
    with working(out, "a conversion") as folder:
        return _convert(conversions, folder, config, label, executor)


def _convert(
    conversions: Sequence[Conversion], out: Path, config: ParallelConfig, label: str, executor: Executor | ExecutorName
) -> list[Receipt]:
    outputs = [_Output(conversion, out, config) for conversion in conversions]
    if doubled := {o.conversion.name for o in outputs if sum(o.file == other.file for other in outputs) > 1}:
        raise InvalidInputError(f"{min(doubled)} would be written twice. Give inputs of different names.")
    waiting = [output for output in outputs if output.receipt() is None]
    for output in outputs:
        if output not in waiting:
            output.clean()
    for output in waiting:
        output.begin()
    parts = [Part(number, part) for number, output in enumerate(waiting) for part in output.missing()]
    failures: list[PartFailure] = []
    with track(label, sum(output.conversion.rows for output in outputs)) as tracker:
        left = sum(waiting[part.output].rows_in(part.part) for part in parts)
        tracker.advance(sum(output.conversion.rows for output in outputs) - left)

        def told(part: Part, failure: PartFailure | None) -> None:
            failures.extend([failure] if failure else [])
            tracker.advance(waiting[part.output].rows_in(part.part))

        if parts:
            _run(parts, waiting, config, data_executor(executor), told)
    for output in waiting:
        if not output.missing():
            output.join()
    write_failures(folder_at(out), failures)
    if failures:
        raise ConversionError(
            f"{listed(failures, len(parts), 'parts')}\nFinished files and parts are kept in {out}; the same command "
            "tries the others again."
        )
    return [receipt for output in outputs if (receipt := output.receipt()) is not None]


class _Output:
    """One output and its parts on disk."""

    def __init__(self, conversion: Conversion, out: Path, config: ParallelConfig) -> None:
        self.conversion, self.file, self._out = conversion, out / conversion.name, out
        self._others = [out / name for name in conversion.excluded]
        self._receipt_file = f"receipts/{conversion.name}.json"
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
            if exists(other):
                raise InvalidInputError(f"{other} is already there{OTHERS}")
        if (size := file_size(self.file)) is None:
            return None
        receipt = read_receipt(folder_at(self._out), self._receipt_file, Receipt)
        if receipt is None and self._folders():
            return None
        if receipt is None or receipt.request != self.conversion.request:
            raise InvalidInputError(f"{self.file} is already there{OTHERS}")
        return receipt if receipt.bytes_after == size else None

    def begin(self) -> None:
        """Make the folder of the parts, and count attempts anew. Raises `InvalidInputError` where that fails."""
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            Attempts(folder_at(self._parts), 0).forget()
        except OSError as error:
            raise InvalidInputError(f"{self._parts.parent.parent} cannot be written to: {error}.") from error

    def clean(self) -> None:
        """Remove the parts, of whatever size; they are no longer needed."""
        for folder in self._folders():
            remove_folder(folder)

    def _folders(self) -> list[Path]:
        return list(self._parts.parent.glob(f"{self._begun}-*"))

    def part_file(self, part: int) -> Path:
        return self._parts / f"{part:05d}"

    def missing(self) -> list[int]:
        refresh(self._parts)
        return [part for part in range(self._n_parts) if not self.part_file(part).exists()]

    def range(self, part: int) -> tuple[int, int]:
        return part * self._part_rows, min((part + 1) * self._part_rows, self.conversion.rows)

    def rows_in(self, part: int) -> int:
        start, stop = self.range(part)
        return stop - start

    def write(self, part: int, autoencoder: Autoencoder, attempts: int) -> str:
        """Write a part; what went wrong."""
        if exists(self.part_file(part)):  # Ray asks again where the node with the first answer is gone
            return ""
        counted, name = Attempts(folder_at(self._parts), attempts), f"{part:05d}"
        with counted.under_way(name):
            if given_up := counted.begin(name):
                return given_up
            with atomic_path(self.part_file(part)) as temporary, open(temporary, "wb") as file:
                self.conversion.write_part(autoencoder, *self.range(part), file)
        return ""

    def join(self) -> None:
        """Write the output and its receipt, and remove the parts."""
        try:
            # Of an earlier output: it must not stand beside this one.
            remove(self._out / self._receipt_file)
            with atomic_path(self.file) as temporary, open(temporary, "wb") as file:
                self.conversion.join([at_hand(self.part_file(part)) for part in range(self._n_parts)], file)
            receipt = Receipt(
                name=self.conversion.name,
                request=self.conversion.request,
                rows=self.conversion.rows,
                bytes_before=self.conversion.bytes_before,
                bytes_after=self.file.stat().st_size,
            )
            write_text(self._out / self._receipt_file, receipt.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise ConversionError(
                f"{self.file} cannot be written: {error}. Its parts are kept; make room, and the same command goes on."
            ) from error
        self.clean()


class PartWriter:
    """One worker: writes parts, and reports why a part was not written."""

    def __init__(self, device: str, outputs: Sequence[_Output], attempts: int) -> None:
        self._device, self._outputs, self._attempts = device, outputs, attempts
        self._loaded: tuple[str, Autoencoder] | None = None

    def __call__(self, part: Part) -> PartFailure | None:
        """Write one part; no part stops the others."""
        output, trace = self._outputs[part.output], ""
        try:
            problem = output.write(part.part, self._autoencoder(output.conversion.autoencoder), self._attempts)
        except Exception as error:
            trace = traceback_of(error)
            problem = f"{type(error).__name__}: {error}" if trace else str(error)
        start, stop = output.range(part.part)
        name = output.conversion.name
        return PartFailure(name=name, start=start, stop=stop, reason=problem, traceback=trace) if problem else None

    def _autoencoder(self, path: str) -> Autoencoder:
        if self._loaded is None or self._loaded[0] != path:
            self._loaded = (path, load_autoencoder(path).to(self._device))
        return self._loaded[1]


def _run(
    parts: list[Part],
    outputs: Sequence[_Output],
    config: ParallelConfig,
    executor: Executor,
    told: Callable[[Part, PartFailure | None], None],
) -> None:
    share = executor.share("a worker", config.cpus_per_worker, config.gpus_per_worker)
    worker = partial(PartWriter, outputs=outputs, attempts=config.attempts)
    try:
        executor.run(WorkOrder([[part] for part in parts], worker, told, share, config.workers))
    except UnfinishedError as error:
        raise ConversionError(
            f"the work stopped: {error}. Finished parts are kept; the same command goes on."
        ) from error
