"""Every block of code on a page is run by a test, or says why not; the commands of those are read by their parsers."""

import subprocess
from pathlib import Path

import pytest

from bae_ray.cli.job import DRY_RUN
from bae_ray.cli.parsing import parse
from bae_ray.cli.remote_job import remote_job, split
from bae_ray.cli.verb_submit import SubmitCommand
from bae_ray.cli.verb_training import SweepCommand
from tests.deploy.command_lines import read
from tests.docs.code_blocks import ROOT, blocks, commands, pages, run_blocks

README, GUIDES = "tests/test_readme.py", "tests/docs/test_guides.py"
RUN_BY = {
    ("README.md", "bash"): README,
    ("README.md", "python"): README,
    ("docs/add-an-architecture.md", "bash"): "tests/autoencoders/test_new_architecture.py",
    ("docs/add-an-architecture.md", "python"): "tests/autoencoders/test_new_architecture.py",
    ("docs/bits.md", "bash"): GUIDES,
    ("docs/compress.md", "bash"): GUIDES,
    ("docs/compress.md", "python"): GUIDES,
    ("docs/extract.md", "bash"): GUIDES,
    ("docs/fidelity.md", "bash"): GUIDES,
    ("docs/get-started.md", "bash"): GUIDES,
    ("docs/get-started.md", "python"): GUIDES,
    ("docs/http-api.md", "bash"): "tests/serving/test_docs.py",
    ("docs/http-api.md", "python"): "tests/serving/test_docs.py",
    ("docs/measure.md", "bash"): GUIDES,
    ("docs/measure.md", "python"): GUIDES,
    ("docs/notebooks.md", "python"): "tests/test_feature_model.py",
    ("docs/serve.md", "python"): README,
    ("docs/steer.md", "bash"): README,
    ("docs/steer.md", "python"): GUIDES,
}
"""The test that runs a page's blocks of a language."""
NOT_OURS = {"cd", "curl", "docker", "echo", "export", "kubectl", "pip", "pipx", "sbatch", "source"} | {
    "deploy/kubernetes/secrets.sh"
}
"""What else begins a command. docs/deploy.md's are read in tests/deploy/test_examples.py."""


NOT_RUN = [
    pytest.param(block.code, id=f"{page}:{i}")
    for page in pages()
    for i, block in enumerate(blocks(page))
    if block.language == "bash" and block.why_not is not None
]


@pytest.mark.parametrize("page", pages())
@pytest.mark.parametrize("language", ["bash", "python"])
def test_every_block_is_run_or_says_why_not(page: str, language: str):
    run = run_blocks(page, language)
    if (page, language) in RUN_BY:
        assert run, "no block of it is run: leave it out of RUN_BY"
        assert f'{Path(page).name}"' in (ROOT / RUN_BY[page, language]).read_text(encoding="utf-8")
    else:
        assert not run, "say why before it: <!-- not run: ... -->, or run it in a test and add it to RUN_BY"


@pytest.mark.parametrize("code", NOT_RUN)
def test_every_command_can_be_parsed(code: str):
    for words in commands(code):
        if "..." in words:
            continue  # not whole, and says so
        if words[0] == "make":
            done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        elif words[:2] == ["bae-ray", "submit"]:
            own, job = split(words[2:])
            parse(SubmitCommand, "bae-ray submit", own)
            remote_job(job, ROOT)
        elif "--help" in words:
            with pytest.raises(SystemExit) as shown:
                read(words)
            assert shown.value.code == 0
        elif words[0] not in NOT_OURS and "=" not in words[0]:
            last = words.index("&") if "&" in words else None
            assert read([word for word in words[:last] if word != DRY_RUN or "jobs/" not in words[1]]), words


def test_a_command_that_is_wrong_is_found():
    with pytest.raises(SystemExit):
        test_every_command_can_be_parsed("bae-ray sweep --store a --out b --seed 0\n")
    with pytest.raises(AssertionError):
        test_every_command_can_be_parsed("bae-ray swep --store a --out b\n")
    with pytest.raises(AssertionError):
        test_every_command_can_be_parsed("make everything\n")


def test_every_grid_in_a_file_is_one(tmp_path: Path):
    (grid,) = [block for page in pages() for block in blocks(page) if block.language == "yaml"]
    (tmp_path / "grid.yaml").write_text(grid.code)
    config = ["--config", str(tmp_path / "grid.yaml"), "--store", "s", "--out", "o"]
    sweep = parse(SweepCommand, "bae-ray sweep", config).sweep
    assert len(sweep.axes) == 2
    assert sweep.seeds == (0, 1, 2)
