"""The tables of benchmarks/training.py, for a terminal or for docs/performance.md."""

from typing import Any, NamedTuple

from rich.table import Table

Result = dict[str, Any]

VARYING_TOLERANCE = 0.01

COMPARED = (
    "d, varying latents",
    "plain ms (MiB)",
    "ours ms (MiB)",
    "plain / ours",
    "5 GEMMs ms (MiB)",
    "Adam ms (MiB)",
    "ours / GEMMs",
    "ours / (GEMMs + Adam)",
    "of peak",
)
"""Columns of the tables that compare ours with the plain implementation and with the floors."""

CAPTURED = (
    "d, d_latent, batch, members, precision",
    "floor ms (MiB)",
    "5% varying",
    "/ floor",
    "20%",
    "/ floor",
    "100%",
    "/ floor",
    "20%, not captured",
    "/ floor",
)
"""Columns of the table of steps as CUDA graphs."""


FLIPPED = ("d, weights", "precision", "varying latents", "flipped bits", "of those that vary")
"""Columns of the table of the bits that a precision flips."""


class Section(NamedTuple):
    """One table of the report."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def rich(self) -> Table | str:
        """For a terminal."""
        if not self.rows:
            return self.title
        table = Table(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For docs/performance.md."""
        if not self.rows:
            return self.title + "\n"
        lines = [self.columns, ("---", *["---:"] * (len(self.columns) - 1)), *self.rows]
        return f"{self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def compared(name: str, floor: Result, adam: Result, plain: Result, ours: Result, peak: Result) -> tuple[str, ...]:
    """The row of `COMPARED` for one shape."""
    _check_equal(plain, ours)
    return (
        name,
        ms(plain),
        ms(ours),
        f"{plain['s'] / ours['s']:.2f}",
        ms(floor),
        ms(adam),
        f"{ours['s'] / floor['s']:.2f}",
        f"{ours['s'] / (floor['s'] + adam['s']):.2f}",
        f"{floor['flop'] / ours['s'] * peak['s'] / peak['flop']:.0%}",
    )


def captured(answers: list[Result]) -> tuple[str, ...]:
    """The row of `CAPTURED` for one shape, of the floor and then each side."""
    floor, *sides = answers
    d, batch, members = (floor[key] for key in ("d", "batch_size", "members"))
    shape = f"{d}, {d * floor['expansion']}, {batch}, {members}, {floor['precision']}"
    cells = ((ms(side, 2), f"{side['s'] / floor['s']:.2f}") for side in sides)
    return shape, ms(floor, 2), *(cell for pair in cells for cell in pair)


def flipped(what: str, answer: Result) -> tuple[str, ...]:
    """The row of `FLIPPED` for one code and precision."""
    varying, share = answer["found_varying"], answer["flipped"]
    return what, answer["precision"], f"{varying:.1%}", f"{share:.3%}", f"{share / varying:.3%}" if varying else "-"


def _check_equal(plain: Result, ours: Result) -> None:
    """Both sides must have computed the same numbers on the code that was asked for."""
    tolerance = 0.05 if ours["precision"] == "bf16" else 0.001
    for one, other in zip(plain["terms"], ours["terms"], strict=True):
        assert abs(one - other) <= tolerance * abs(other) + 0.01, (plain["terms"], ours["terms"])
    for side in (plain, ours):
        assert side["trained"] or abs(side["found_varying"] - side["varying"]) < VARYING_TOLERANCE, side


def ms(result: Result, decimals: int = 1) -> str:
    """Milliseconds of a step, and its peak memory in MiB."""
    milliseconds = result["s"] * 1000
    return f"{milliseconds:,.{0 if milliseconds >= 1000 else decimals}f} ({result['peak_mib']:,.0f})"


def machine(facts: Result) -> str:
    """What it was measured on."""
    device = f"{facts['gpu']}, " if facts["gpu"] else ""
    return (
        f"Machine: {device}{facts['cores']} cores of {facts['cpu']}, {facts['threads']} threads, torch "
        f"{facts['torch']}, load average {facts['load']:.1f} at the start."
    )
