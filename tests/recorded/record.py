"""Record what may not change: ids, checksums, bytes, answers, options, files on disk.

python tests/recorded/record.py            # what is not recorded yet
python tests/recorded/record.py --force options runs   # these anew; say in the commit why they change
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])  # in place of this folder, whose names are not top-level ones

from tests.recorded import containers, folders, ids, options, service
from tests.recorded.compare import made_with

FILES = Path(__file__).parent / "files"


class Kind(NamedTuple):
    """Observations that are recorded in one file."""

    observe: Callable[[Path], dict[str, Any]]
    """Makes them in an empty folder."""
    needs_ray: bool = False
    is_long: bool = False
    """Whether it is for `make test-slow`."""

    @property
    def name(self) -> str:
        """Name of the file, and of the function."""
        return self.observe.__name__

    @property
    def file(self) -> Path:
        """Where they are recorded."""
        return FILES / f"{self.name}.json"


KINDS = (
    Kind(ids.ids),
    Kind(ids.experiments),
    Kind(containers.containers),
    Kind(containers.autoencoders),
    Kind(options.options),
    Kind(folders.stores, needs_ray=True, is_long=True),
    Kind(folders.runs, needs_ray=True, is_long=True),
    Kind(folders.compression, needs_ray=True, is_long=True),
    Kind(service.service, is_long=True),  # has a Ray of its own
)


def record(kind: Kind) -> None:
    """Write an observation's file."""
    with tempfile.TemporaryDirectory() as folder:
        observed = kind.observe(Path(folder))
    FILES.mkdir(exist_ok=True)
    content = {"made_with": made_with(), "observed": observed}
    kind.file.write_text(written(content), encoding="utf-8")


def written(value: Any, depth: int = 0) -> str:
    """JSON with a line for each entry of the outer objects: a change is seen where it is, and files are small."""
    if not (isinstance(value, dict) and value and depth < 4 and len(json.dumps(value)) > 100):
        return json.dumps(value, ensure_ascii=False)
    entries = [f"{json.dumps(name)}: {written(inner, depth + 1)}" for name, inner in value.items()]
    return "{\n" + ",\n".join(entries) + "\n}" + ("\n" if depth == 0 else "")


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(kind.name for kind in KINDS)}")
    parser.add_argument("--force", action="store_true", help="write over what is recorded")
    arguments = parser.parse_args()
    if unknown := set(arguments.kinds) - {kind.name for kind in KINDS}:
        parser.error(f"{', '.join(sorted(unknown))} is no kind of observation")
    chosen = [kind for kind in KINDS if not arguments.kinds or kind.name in arguments.kinds]
    if not arguments.force:
        there = [kind.name for kind in chosen if kind.file.exists()]
        if arguments.kinds and there:
            parser.error(f"{', '.join(there)} is recorded already: --force writes over it")
        chosen = [kind for kind in chosen if not kind.file.exists()]
        if not chosen:
            parser.error("all is recorded already: --force writes over it")
    if any(kind.needs_ray for kind in chosen):
        import ray

        ray.init("local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
    for kind in chosen:
        record(kind)
        print(kind.file)


if __name__ == "__main__":
    main()
