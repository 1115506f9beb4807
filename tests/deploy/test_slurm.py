"""deploy/slurm beside stand-ins for Slurm's commands: what is started, and a sweep on several nodes of this machine."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest

from bae_ray import results
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.store import ActivationStore
from tests.deploy.command_lines import ROOT, read, recorded

SLURM = ROOT / "deploy" / "slurm"
SWEEP, ARRAY = SLURM / "sweep.sbatch", SLURM / "array.sbatch"
SHELLCHECK = Path(sys.executable).parent / "shellcheck"
GRID = ["--training.epochs", "4", "--training.batch-size", "16"]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Path]:
    """A folder with sbatch, srun and scontrol. What jobs left on their nodes is removed, as a site's epilog does."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name in ("sbatch", "srun", "scontrol"):
        (folder / name).write_text(
            f'#!/bin/bash\nexec {sys.executable} {Path(__file__).with_name("slurm.py")} {name} "$@"\n'
        )
        (folder / name).chmod(0o755)
    (folder / "jobs").touch()
    yield folder
    for job in (folder / "jobs").read_text().split():
        shutil.rmtree(f"/tmp/ray-{job}", ignore_errors=True)


def environment(slurm: Path, **more: str) -> dict[str, str]:
    """A user's, who has activated the environment. The job's number chooses the port of Ray's head: a free one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_", "BAE_RAY_API"))}
    path = os.pathsep.join([str(slurm), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = str(next(n for n in range(os.getpid() % 5000, 10_000) if free(20_000 + n % 5000 * 2)))
    with open(slurm / "jobs", "a") as jobs:
        jobs.write(f"{job}\n")
    more = {"SLURM_STANDIN": str(slurm), "SLURM_STANDIN_JOB": job, "PYTHONPATH": str(ROOT), **more}
    return {**kept, "PATH": path, **more}


def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def directives(script: Path) -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", script.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(lines)


@pytest.mark.parametrize("script", [SWEEP, ARRAY], ids=lambda script: script.name)
def test_the_shell_is_sound_and_the_job_is_queued_again(script: Path):
    done = subprocess.run([SHELLCHECK, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    text = script.read_text(encoding="utf-8")
    inside = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert text.index(inside[-1]) < text.index("set -euo pipefail"), "Slurm reads none after the first command"
    assert "requeue" in directives(script)
    assert directives(script)["open-mode"] == "append", "the log of the first try is kept"


JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "3", "SLURM_CPUS_PER_TASK": "8", "SLURM_GPUS_ON_NODE": "4"}
NODES = {"SLURMD_NODENAME": "node0", "SLURM_STANDIN_NODES": "node0 node1 node2"}
AS_RAY = """
case "$(basename "$0") $1" in
"ray start") exec sleep 300 ;;
"python -") until [ "$(tr '\\0' '\\n' < "$RECORDED" | grep -cxe --block)" -ge "$2" ]; do sleep 0.1; done ;;
esac"""
"""Nodes of Ray stay; what waits for them waits until as many were started as its argument says."""
COMMAND = ["python", "jobs/layer_position_entropy.py", "paper", "--out", "/shared/fig3"]


def job_of_three(slurm: Path, tmp_path: Path, then: str) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    path = {"PATH": f"{tmp_path / 'tools'}:{environment(slurm)['PATH']}", "SLURM_STANDIN": str(slurm), "THEN": then}
    return recorded(SWEEP, COMMAND, ["ray", "python"], tmp_path, {**path, **JOB, **NODES})


def test_a_node_that_ends_is_told_and_the_command_is_not_begun(slurm: Path, tmp_path: Path):
    done, calls = job_of_three(slurm, tmp_path, '[ "$1" != - ] || exec sleep 300')
    assert done.returncode == 1
    assert "a node of Ray has ended before all had joined" in done.stderr
    assert COMMAND not in calls


def test_what_is_started_can_be_parsed(slurm: Path, tmp_path: Path):
    done, calls = job_of_three(slurm, tmp_path, AS_RAY)
    assert done.returncode == 0, done.stderr
    assert COMMAND in calls
    assert read(COMMAND)
    started = [call for call in calls if call[:2] == ["ray", "start"]]
    assert all(map(read, started))
    heads = [call for call in started if "--head" in call]
    workers = [call for call in started if any(word.startswith("--address=") for word in call)]
    assert (len(heads), len(workers)) == (1, 2)
    for call in started:
        assert {"--num-cpus=8", "--num-gpus=4", "--block"} <= {*call}
    assert "--port=20014" in heads[0], "of the job's number"
    assert not any("token" in word for call in started for word in call), "arguments are seen by all users of a node"


def test_commands_in_the_comments_can_be_parsed():
    for script in (SWEEP, ARRAY):
        comments = [line[2:] for line in script.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        lines = [line.strip() for line in "\n".join(comments).replace("\\\n", " ").splitlines()]
        commands = [
            shlex.split(line, comments=True) for line in lines if re.match(r"(\w+=\S.* )?(sbatch|bae-ray) ", line)
        ]
        assert commands
        for words in commands:
            inner = [i for i, word in enumerate(words) if word in ("python", "bae-ray")]
            assert not inner or read(words[inner[0] :])


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "said"),
    [
        (SWEEP, [], {}, "sweep.sbatch: no command is given"),
        (ARRAY, ["store"], {}, "array.sbatch: expected the folders of the store and of the runs"),
        (ARRAY, ["store", "runs"], {"POSITIONS": "1"}, "LAYERS is '', POSITIONS is '1'; expected some"),
        (ARRAY, ["store", "runs"], {"LAYERS": "0 1", "POSITIONS": "2"}, "expected --array=0-1 for 2 cells"),
    ],
)
def test_wrong_use_is_told_before_anything_starts(
    slurm: Path, tmp_path: Path, script: Path, arguments: list[str], variables: dict[str, str], said: str
):
    task = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_CPUS_PER_TASK": "1"}
    done, calls = recorded(script, arguments, ["ray", "bae-ray", "srun"], tmp_path, {**variables, **task})
    assert done.returncode != 0
    assert said in done.stderr
    assert calls == []


def test_an_array_trains_each_cell_once(slurm: Path, tmp_path: Path):
    seen = []
    for task in range(6):
        variables = {"LAYERS": "0 10", "POSITIONS": "1 4 last", "SLURM_CPUS_PER_TASK": "2"}
        variables["SLURM_ARRAY_TASK_ID"] = str(task)
        done, (call,) = recorded(ARRAY, ["/s", "/r", "--training.epochs", "3"], ["bae-ray"], tmp_path, variables)
        assert done.returncode == 0, done.stderr
        assert read(call)
        assert call[-2:] == ["--training.epochs", "3"]
        seen.append((call[call.index("--layer") + 1], call[call.index("--position") + 1]))
    assert seen == [(layer, position) for layer in ("0", "10") for position in ("1", "4", "last")]


@pytest.fixture(scope="module")
def expected(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """What a sweep of the tiny store finds without Slurm."""
    from bae_ray.cli.parsing import parse
    from bae_ray.cli.verb_training import SweepCommand
    from bae_ray.training.sweep import sweep

    out = tmp_path_factory.mktemp("expected")
    command = parse(SweepCommand, "bae-ray sweep", ["--store", str(tiny_store), "--out", str(out), *GRID])
    sweep(command.sweep, ActivationStore.open(tiny_store), out, executor="inline")
    return measures(results(out))


def measures(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index("run").sort_index()[["layer", "position", "entropy_bits", "fvu_val"]]


def left_over(marker: str) -> list[str]:
    return [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"]) if marker in str(one.info)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_on_three_nodes_runs_to_its_end(
    slurm: Path, tiny_store: Path, tiny_config: ExtractConfig, expected: pd.DataFrame, tmp_path: Path
):
    variables = environment(slurm)
    submit = ["sbatch", "--nodes=3", "--cpus-per-task=1", str(SWEEP)]
    sweep = ["bae-ray", "sweep", "--store", str(tiny_store), "--out", str(tmp_path / "runs"), *GRID]
    seen = ["python", "-c", SEEN.format(sweep=sweep)]
    done = subprocess.run(
        [*submit, *seen], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False, timeout=1500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 nodes, 3 CPUs, token" in done.stdout
    pd.testing.assert_frame_equal(measures(results(tmp_path / "runs")), expected)
    assert not (slurm / "requeued").exists()
    assert left_over(f"/tmp/ray-{variables['SLURM_STANDIN_JOB']}/") == [], "all that it started has ended"


SEEN = """
import os, subprocess, sys, ray
ray.init(log_to_driver=False)
print(len(ray.nodes()), "nodes,", int(ray.cluster_resources()["CPU"]), "CPUs,", os.environ["RAY_AUTH_MODE"], flush=True)
ray.shutdown()
sys.exit(subprocess.run({sweep}).returncode)
"""
"""Says what the command finds, and goes on with it."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_out_of_time_the_job_is_queued_again_and_goes_on(
    slurm: Path, tiny_store: Path, expected: pd.DataFrame, tmp_path: Path
):
    variables = environment(slurm)
    submit = ["sbatch", "--nodes=1", "--cpus-per-task=1", str(SWEEP)]
    sweep = ["bae-ray", "sweep", "--store", str(tiny_store), "--out", str(tmp_path / "runs"), *GRID]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([*submit, *sweep], cwd=tmp_path, env=variables, stdout=log, stderr=log)
        until = time.monotonic() + 300
        while not list((tmp_path / "runs").glob("*/result.json")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) != 0
    assert (slurm / "requeued").read_text().split() == [variables["SLURM_STANDIN_JOB"]]
    finished = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").glob("*/result.json")}
    done = subprocess.run([*submit, *sweep], cwd=tmp_path, env=environment(slurm), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(measures(results(tmp_path / "runs")), expected)
    assert all(file.stat().st_mtime_ns == when for file, when in finished.items()), "what was finished was left alone"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_exit_code_is_the_commands(slurm: Path, tmp_path: Path):
    submit = ["sbatch", "--nodes=1", "--cpus-per-task=1", str(SWEEP), "bae-ray", "sweep", "--store", "no-such-store"]
    done = subprocess.run(
        [*submit, "--out", "runs"], cwd=tmp_path, env=environment(slurm), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no-such-store" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_array_finds_what_a_sweep_finds(
    bae_ray: Callable, slurm: Path, tiny_store: Path, expected: pd.DataFrame, tmp_path: Path
):
    store = ActivationStore.open(tiny_store)
    layers = sorted({cell.layer for cell in store.cells})
    positions = sorted({cell.position for cell in store.cells}, key=str)
    runs = tmp_path / "runs"
    variables = environment(slurm, LAYERS=" ".join(map(str, layers)), POSITIONS=" ".join(map(str, positions)))
    submit = ["sbatch", f"--array=0-{len(store.cells) - 1}", "--cpus-per-task=1", str(ARRAY)]
    done = subprocess.run(
        [*submit, str(tiny_store), str(runs), *GRID], cwd=tmp_path, env=variables, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    code, _, err = bae_ray("entropy", "--runs", runs, "--out", tmp_path / "entropy.csv")
    assert code == 0, err
    found = pd.read_csv(tmp_path / "entropy.csv")
    assert len(found) == len(expected)
    assert sorted(file.parent.name for file in runs.glob("*/result.json")) == [*expected.index]
