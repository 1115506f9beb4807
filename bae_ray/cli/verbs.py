"""The verbs of the `bae-ray` command: the module of each, which is imported when the verb is asked for."""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from bae_ray.cli.command import Command


class Verb(NamedTuple):
    """A sub-command: its options, and a function that takes them and returns the exit code, or None for 0."""

    module: str
    command: str
    function: str
    takes_job: bool = False
    """Whether a job follows, which the function takes too: a list of arguments, told from the options by the module's
    `split`."""

    first: str = ""
    """The option that a first word without dashes is the value of."""

    def load(self) -> tuple[type[Command], Callable[..., int | None]]:
        """The class of the options, and the function."""
        module = import_module(f"bae_ray.cli.{self.module}")
        return getattr(module, self.command), getattr(module, self.function)

    def named(self, arguments: list[str]) -> list[str]:
        """The arguments with the option before a first word that is its value."""
        leads = self.first and arguments and not arguments[0].startswith("-")
        return [f"--{self.first}", *arguments] if leads else arguments

    def split(self, arguments: list[str]) -> tuple[list[str], list[str]]:
        """Its own options, and the job that follows them."""
        return import_module(f"bae_ray.cli.{self.module}").split(arguments)

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        command, _ = self.load()
        return (command.__doc__ or "").splitlines()[0]


VERBS = {
    "extract": Verb("verb_stores", "ExtractCommand", "extract"),
    "store info": Verb("verb_stores", "InfoCommand", "info"),
    "store verify": Verb("verb_stores", "VerifyCommand", "verify"),
    "store export": Verb("verb_stores", "ExportStoreCommand", "export"),
    "train": Verb("verb_training", "TrainCommand", "train"),
    "sweep": Verb("verb_training", "SweepCommand", "sweep"),
    "measure": Verb("verb_measure", "MeasureCommand", "measure"),
    "fidelity": Verb("verb_fidelity", "FidelityCommand", "fidelity"),
    "watch": Verb("verb_training", "WatchCommand", "watch"),
    "entropy": Verb("verb_training", "EntropyCommand", "entropy"),
    "report": Verb("verb_training", "ReportCommand", "report"),
    "compress": Verb("verb_codec", "CompressCommand", "compress"),
    "decompress": Verb("verb_codec", "DecompressCommand", "decompress"),
    "comsem": Verb("verb_comsem", "ComSemCommand", "comsem"),
    "judge serve": Verb("verb_comsem", "JudgeServeCommand", "judge_serve"),
    "judge check": Verb("verb_comsem", "JudgeCheckCommand", "judge_check"),
    "export": Verb("verb_interchange", "ExportCommand", "export"),
    "import": Verb("verb_interchange", "ImportCommand", "import_"),
    "publish": Verb("verb_publish", "PublishCommand", "publish", first="run"),
    "serve": Verb("verb_serve", "ServeCommand", "serve"),
    "job": Verb("verb_job", "JobCommand", "job", takes_job=True),
    "submit": Verb("verb_submit", "SubmitCommand", "submit", takes_job=True),
}
"""By name."""
