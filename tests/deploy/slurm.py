"""Slurm's commands as far as deploy/slurm needs them, on this machine: `python slurm.py COMMAND ARGUMENTS`.

`sbatch` runs a script at once, with the variables that Slurm gives it; `srun` starts as many processes as nodes are
asked for, each of which believes to be on a node of its own; `scontrol requeue` writes the job down in
$SLURM_STANDIN/requeued. Each has the options that the scripts use: others are errors, as are nodes of other jobs.
"""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path


def parser(command: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=command, allow_abbrev=False)


def sbatch(arguments: list[str]) -> int:
    options = parser("sbatch")
    for name in ("job-name", "output", "open-mode", "signal", "time"):
        options.add_argument(f"--{name}")
    for name in ("nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node"):
        options.add_argument(f"--{name}", type=int)
    options.add_argument("--array", type=lambda given: re.fullmatch(r"(\d+)-(\d+)", given))
    for name in ("requeue", "wait"):
        options.add_argument(f"--{name}", action="store_true")
    options.add_argument("script")
    options.add_argument("arguments", nargs=argparse.REMAINDER)
    script = next(Path(given) for given in arguments if given.endswith(".sbatch"))
    inside = re.findall(r"^#SBATCH (.*)$", script.read_text(encoding="utf-8"), re.MULTILINE)
    given = options.parse_args([*(word for line in inside for word in shlex.split(line)), *arguments])
    nodes = given.nodes or 1
    job = {
        "SLURM_JOB_ID": os.environ.get("SLURM_STANDIN_JOB", str(os.getpid())),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_CPUS_PER_TASK": str(given.cpus_per_task),
        "SLURMD_NODENAME": "node0",
        "SLURM_STANDIN_NODES": " ".join(f"node{i}" for i in range(nodes)),
    }
    tasks = range(int(given.array[1]), int(given.array[2]) + 1) if given.array else [None]
    code = 0
    for task in tasks:
        # As Slurm does, a copy of the script is run, from the folder of submission.
        with tempfile.NamedTemporaryFile("w", suffix="-slurm_script") as copy:
            copy.write(script.read_text(encoding="utf-8"))
            copy.flush()
            of_task = {} if task is None else {"SLURM_ARRAY_TASK_ID": str(task)}
            code = max(code, run([["bash", copy.name, *given.arguments]], {**os.environ, **job, **of_task}))
    return code


def srun(arguments: list[str]) -> int:
    options = parser("srun")
    for name in ("nodes", "ntasks", "cpus-per-task"):  # Slurm would take what is left out from the job
        options.add_argument(f"--{name}", type=int, required=True)
    options.add_argument("--nodelist")
    options.add_argument("--exclude")
    options.add_argument("command", nargs=argparse.REMAINDER)
    given = options.parse_args(arguments)
    nodes = os.environ["SLURM_STANDIN_NODES"].split()
    for named in (given.nodelist, given.exclude):
        if named not in (None, *nodes):
            options.error(f"{named} is not among the job's nodes {nodes}")
    left = [given.nodelist] if given.nodelist else [node for node in nodes if node != given.exclude]
    if given.nodes > len(left):
        options.error(f"{given.nodes} nodes are asked for, of {left}")
    if given.ntasks != given.nodes or given.cpus_per_task != int(os.environ["SLURM_CPUS_PER_TASK"]):
        options.error("a step asks for more than a task per node with the job's CPUs")
    environments = [
        {**os.environ, "SLURM_PROCID": str(i), "SLURMD_NODENAME": node} for i, node in enumerate(left[: given.nodes])
    ]
    return run([given.command] * given.nodes, *environments)


def run(commands: list[list[str]], *environments: dict[str, str]) -> int:
    """Run them side by side, handing on what asks this process to end; the largest exit code."""
    processes: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, frame: object) -> None:
        for process in processes:
            process.send_signal(number)

    signal.signal(signal.SIGTERM, hand_on)
    for command, environment in zip(commands, environments, strict=True):
        processes.append(subprocess.Popen(command, env=environment))
    return max(process.wait() if process.wait() >= 0 else 128 - process.returncode for process in processes)


def scontrol(arguments: list[str]) -> int:
    assert arguments == ["requeue", os.environ["SLURM_JOB_ID"]], arguments
    with open(Path(os.environ["SLURM_STANDIN"]) / "requeued", "a", encoding="utf-8") as stream:
        stream.write(f"{arguments[1]}\n")
    return 0


if __name__ == "__main__":
    commands = {"sbatch": sbatch, "srun": srun, "scontrol": scontrol}
    sys.exit(commands[sys.argv[1]](sys.argv[2:]))
