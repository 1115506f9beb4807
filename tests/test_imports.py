"""What is imported, and what is not, where nothing is computed: in fresh processes, whose modules are looked at."""

import subprocess
import sys

import pytest

from bae_ray.serving.ray_serve.ports import free_port

HEAVY = ("torch", "ray", "transformers", "pandas", "openai", "fastapi", "matplotlib", "plotly")
CHECK = f"""
import sys
def check(what):
    heavy = [name for name in {HEAVY} if name in sys.modules]
    assert not heavy, f"{{what}} imports {{', '.join(heavy)}}"
"""

HELP = """
import contextlib, io
from bae_ray.cli import VERBS, main
for verb in ["", *VERBS]:
    sys.argv = ["bae-ray", *verb.split(), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        main()
    assert "usage: bae-ray" in printed.getvalue()
    check(f"bae-ray {verb} --help")
"""

CONFIGS = """
import importlib, pathlib, bae_ray
root = pathlib.Path(bae_ray.__file__).parents[1]
files = [*root.glob("bae_ray/**/config.py"), *root.glob("bae_ray/**/*_config.py"), *root.glob("bae_ray/cli/*.py")]
assert len(files) > 20
for file in [root / "bae_ray" / "autoencoders" / "architectures.py", *files]:
    name = ".".join(file.relative_to(root).with_suffix("").parts)
    importlib.import_module(name)
    check(name)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", [HELP, CONFIGS], ids=["help", "configs"])
def test_nothing_heavy_is_imported_before_it_is_needed(script: str):
    done = run("-c", CHECK + script)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "not_needed"),
    [
        ("bae_ray.serving.gateway", "transformers"),
        ("bae_ray.serving.http.feature_cards", "transformers"),
        ("bae_ray.activations.dataset", "transformers.modeling_utils"),
    ],
)
def test_workers_that_start_often_load_only_what_they_need(name: str, not_needed: str):
    done = run("-c", f"import sys, {name}; assert {not_needed!r} not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_a_judge_that_is_not_there_is_told_of_without_delay():
    arguments = ["bae-ray", "judge", "check", "--judge-url", f"http://127.0.0.1:{free_port()}/v1"]
    script = f"sys.argv = {arguments}\ntry:\n    main()\nfinally:\n    check('judge check')"
    done = run("-c", f"{CHECK}from bae_ray.cli import main\n{script}")
    assert "cannot be reached" in done.stderr, done.stderr
    assert "imports" not in done.stderr
    assert done.returncode == 2


def test_the_package_is_the_command():
    done = run("-m", "bae_ray", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "verbs:\n  extract " in done.stdout
    assert run("-m", "bae_ray", "exract").returncode == 2
