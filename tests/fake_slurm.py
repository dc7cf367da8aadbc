"""A SLURM of one machine, for submitit: ``sbatch``, ``srun``, ``sacct``, ``scancel`` and ``scontrol``.

Copies of this file with these names are the commands. Their folder holds every script, and of every attempt
of a task its process and, once it has ended, its exit status.
"""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

NAMES = ("sbatch", "srun", "sacct", "scancel", "scontrol")
FOLDER = Path(sys.argv[0]).parent
FIRST = 100  # number of a job


def install(folder: Path) -> None:
    """Put the commands into a folder, which is to be the first one in PATH."""
    folder.mkdir()
    for name in NAMES:
        text = Path(__file__).read_text(encoding="utf-8")
        (folder / name).write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
        (folder / name).chmod(0o755)


def end_all(folder: Path) -> None:
    """End what still runs."""
    for path in folder.glob("*.pid"):
        end(path)


def end(path: Path) -> None:
    if not path.with_suffix(".status").exists():
        with suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)


def sbatch(script: str) -> None:
    number, text = FIRST + len(list(FOLDER.glob("*.sbatch"))), Path(script).read_text(encoding="utf-8")
    (FOLDER / f"{number}.sbatch").write_text(text, encoding="utf-8")
    print(f"Submitted batch job {number}")
    array = re.search(r"--array=0-(\d+)", text)
    for name in [f"{number}_{task}" for task in range(int(array[1]) + 1)] if array else [str(number)]:
        begin(name)


def begin(name: str) -> None:
    """Run the script of a task in the background, once more if it has run before."""
    number, _, task = name.partition("_")
    attempt = len(list(FOLDER.glob(f"{name}-*.pid")))
    variables = {"JOB_ID": number, "NTASKS": "1", "JOB_NUM_NODES": "1"}
    variables |= dict.fromkeys(("NODEID", "PROCID", "LOCALID"), "0")
    variables |= {"ARRAY_JOB_ID": number, "ARRAY_TASK_ID": task} if task else {}
    process = subprocess.Popen(
        ["bash", "-c", f"bash {FOLDER / number}.sbatch; echo $? > {FOLDER / name}-{attempt}.status"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **{f"SLURM_{key}": value for key, value in variables.items()}},
    )
    (FOLDER / f"{name}-{attempt}.pid").write_text(str(process.pid))


def srun(*words: str) -> None:
    number, task = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_TASK_ID", "")
    places = {"%A": number, "%j": number, "%a": task, "%t": "0"}
    rest = list(words)
    while rest[0].startswith("--"):
        option = rest.pop(0)
        if option in ("--output", "--error"):
            path = re.sub("%[Ajat]", lambda match: places[match[0]], rest.pop(0))
            file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.dup2(file, 1 if option == "--output" else 2)
    os.execvp(rest[0], rest)


def sacct(*words: str) -> None:
    print("JobID|State|NodeList")
    for name in sorted({path.name.split("-")[0] for path in FOLDER.glob("*-*.pid")}):
        last = max(FOLDER.glob(f"{name}-*.pid"), key=lambda path: int(path.stem.split("-")[1]))
        status = last.with_suffix(".status")
        state = "RUNNING"
        if status.exists():
            state = "COMPLETED" if status.read_text().strip() == "0" else "FAILED"
        print(f"{name}|{state}|node1")


def scancel(*names: str) -> None:
    for name in names:
        for path in FOLDER.glob(f"{name}-*.pid"):
            end(path)


def scontrol(command: str, name: str) -> None:
    assert command == "requeue"
    begin(name)


if __name__ == "__main__":
    globals()[Path(sys.argv[0]).name](*sys.argv[1:])
