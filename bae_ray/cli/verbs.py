"""The verbs of the `bae-ray` command: where each one's options and its work are, loaded when it is asked for."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from bae_ray.config import Config


class Verb(NamedTuple):
    """A sub-command: a config, and a function that takes it and gives the exit code."""

    module: str
    command: str
    function: str

    def load(self) -> tuple[type[Config], Callable[[Any], int]]:
        """The config's class and the function."""
        module = import_module(f"bae_ray.cli.{self.module}")
        return getattr(module, self.command), getattr(module, self.function)


VERBS = {
    "extract": Verb("verb_extract", "ExtractCommand", "extract"),
    "store info": Verb("verb_stores", "InfoCommand", "info"),
    "store verify": Verb("verb_stores", "VerifyCommand", "verify"),
    "store export": Verb("verb_stores", "ExportStoreCommand", "export"),
    "train": Verb("verb_training", "TrainCommand", "train"),
    "sweep": Verb("verb_training", "SweepCommand", "sweep"),
    "watch": Verb("verb_training", "WatchCommand", "watch"),
    "entropy": Verb("verb_report", "EntropyCommand", "entropy"),
    "report": Verb("verb_report", "ReportCommand", "report"),
    "compress": Verb("verb_codec", "CompressCommand", "compress"),
    "decompress": Verb("verb_codec", "DecompressCommand", "decompress"),
    "comsem": Verb("verb_comsem", "ComSemCommand", "comsem"),
    "judge serve": Verb("verb_judge", "JudgeServeCommand", "judge_serve"),
    "judge check": Verb("verb_judge", "JudgeCheckCommand", "judge_check"),
    "export": Verb("verb_interchange", "ExportCommand", "export"),
    "import": Verb("verb_interchange", "ImportCommand", "import_"),
    "serve": Verb("verb_serve", "ServeCommand", "serve"),
}
"""By name."""
