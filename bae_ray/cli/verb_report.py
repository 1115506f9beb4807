"""The verbs `bae-ray entropy | report`."""

from pathlib import Path

from pydantic import Field

from bae_ray.cli.command import Command


class EntropyCommand(Command):
    """Write entropy.csv from the finished runs of a folder, and print it as a table."""

    runs: Path
    """Folder of runs."""
    out: Path = Path("entropy.csv")
    """The table's file."""


class ReportCommand(Command):
    """Write entropy.csv, entropy.png, report.html, and of several entropy weights matched.csv and .png, from runs."""

    runs: Path
    """Folder of runs."""
    out: Path
    """Folder of the files."""
    matched_fvu: float | None = Field(default=None, gt=0)
    """The held-out FVU at which cells are compared. Left out: the one that most cells' curves have."""
    fixed_weight: float | None = Field(default=None, ge=0)
    """The entropy weight whose bits stand beside those. Left out: the smallest above 0."""


def entropy(command: EntropyCommand) -> None:
    """Run `bae-ray entropy`."""
    from bae_ray.report.entropy_tables import entropy_tables
    from bae_ray.report.terminal import print_tables
    from bae_ray.training.results import entropy_table, results, write_csv

    table = results(command.runs)
    write_csv(entropy_table(table), command.out)
    print_tables(*entropy_tables(table))
    print(command.out)


def report(command: ReportCommand) -> None:
    """Run `bae-ray report`."""
    from bae_ray.experiments.layer_position.report import report_entropies

    report_entropies(command.runs, command.out, matched_fvu=command.matched_fvu, fixed_weight=command.fixed_weight)
