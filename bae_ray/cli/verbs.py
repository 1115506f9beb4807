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
    "extract": Verb("commands", "ExtractCommand", "extract"),
    "store info": Verb("stores", "InfoCommand", "info"),
    "store verify": Verb("stores", "VerifyCommand", "verify"),
    "store export": Verb("stores", "ExportStoreCommand", "export"),
    "train": Verb("commands", "TrainCommand", "train"),
    "sweep": Verb("commands", "SweepCommand", "sweep"),
    "watch": Verb("commands", "WatchCommand", "watch"),
    "entropy": Verb("commands", "EntropyCommand", "entropy"),
    "report": Verb("commands", "ReportCommand", "report"),
    "compress": Verb("codec", "CompressCommand", "compress"),
    "decompress": Verb("codec", "DecompressCommand", "decompress"),
    "comsem": Verb("comsem", "ComSemCommand", "comsem"),
    "judge serve": Verb("judge", "JudgeServeCommand", "judge_serve"),
    "judge check": Verb("judge", "JudgeCheckCommand", "judge_check"),
    "export": Verb("commands", "ExportCommand", "export"),
    "import": Verb("commands", "ImportCommand", "import_"),
    "serve": Verb("serve", "ServeCommand", "serve"),
}
"""By name."""
