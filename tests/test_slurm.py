"""clusters/slurm.sh: refused with placeholders, and really run, with stand-ins for the commands of SLURM only."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from tests.helpers import shared_ray
from tests.study.tiny import environment, records, wait_for, write_study

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "clusters" / "slurm.sh"
COMMANDS = {
    "scontrol": """
case $1 in
  show) echo "${HEAD%:*}" ;; # the first node of the job
  *) echo "$@" >>"$REQUEUED" ;;
esac""",
    "squeue": 'echo "${STATE-RUNNING}"',
    # Every node of the job is this machine: the first runs the command, another one joins the Ray that it starts.
    "srun": """
options=()
while [[ $1 == --* ]]; do options+=("$1"); shift; done
echo "${options[@]}" >>"$SRUN"
if [[ "$*" == *symmetric-run* ]]; then
  { sleep 5; until ray start --address="$HEAD" --num-cpus=1 --num-gpus=0; do sleep 1; done } >/dev/null 2>&1 &
fi
"$@" """,
}


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The script as a user leaves it, in the spool of a node, beside the commands of SLURM."""
    for name, body in COMMANDS.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    alone = {"space": {}, "search": {}, "final": {"top_k": 1, "seeds": 1}, "budget": {"trials": 1}, "baseline": False}
    study = write_study(tmp_path / "input", **alone)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    for name in ("study", "ray"):
        (tmp_path / "venv" / "bin" / name).symlink_to(Path(sys.executable).parent / name)
    values = {"study_file": study, "venv": tmp_path / "venv", "scratch": tmp_path / "scratch"}
    text = SCRIPT.read_text()
    for name, value in values.items():
        text = re.sub(rf"^{name}=CHANGE", f"{name}={value}", text, flags=re.M)
    spooled = tmp_path / "slurm_script"
    spooled.write_text(re.sub(r"^(#SBATCH --\w+=)CHANGE$", r"\1mine", text, flags=re.M))
    return spooled


def of_slurm(folder: Path, nodes: int, **changes: str) -> dict[str, str]:
    """Variables of a job of so many nodes with a core each."""
    number = str(os.getpid())
    mine = {"SLURM_JOB_ID": number, "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_JOB_NODELIST": "nodes", "SLURM_CPUS_PER_TASK": "1"}
    files = {"REQUEUED": str(folder / "requeued"), "SRUN": str(folder / "srun")}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    head = f"{ray.util.get_node_ip_address()}:{20000 + int(number) % 20000}"  # loopback is no address of several nodes
    return environment(**mine, **files, HEAD=head, PATH=path, HOME="/nonexistent", **changes)


def test_shell_is_sound() -> None:
    subprocess.run([Path(sys.executable).parent / "shellcheck", SCRIPT], check=True)


def test_placeholders_are_refused_before_anything_starts(tmp_path: Path) -> None:
    script = shutil.copy(SCRIPT, tmp_path)
    done = subprocess.run(["bash", script], capture_output=True, text=True, env=of_slurm(tmp_path, 1), cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == len(re.findall("=CHANGE", SCRIPT.read_text())) == 5
    assert "nothing was started" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["slurm.sh"]


@pytest.mark.slow  # starts three Rays
def test_a_job_is_stopped_on_one_node_queued_again_and_finished_on_two(tmp_path: Path, script: Path) -> None:
    """What SLURM sends before the limit stops the study; the next job resumes it, through `ray symmetric-run`."""
    run, epochs = tmp_path / "scratch" / "runs" / "study", ("--set", "recipe.finetune.epochs=20")
    with open(tmp_path / "log", "w") as log:
        job = subprocess.Popen(["bash", script, *epochs], env=of_slurm(tmp_path, 1), stdout=log, stderr=subprocess.STDOUT)
    wait_for(lambda: job.poll() is not None or records(run, "evaluation"))
    job.send_signal(signal.SIGTERM)
    assert job.wait(120) == 130, (tmp_path / "log").read_text()
    assert (tmp_path / "requeued").read_text() == f"requeue {os.getpid()}\n"
    assert records(run, "study")[-1]["status"] == "interrupted"
    evaluated = len(records(run, "evaluation"))
    assert not (tmp_path / "srun").exists(), "one node needs no srun"

    apart = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]  # `ray stop` ends every Ray that it sees
    if subprocess.run([*apart, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine allows no name space of processes, without which other Rays here would be ended")
    before = shared_ray()
    variables = of_slurm(tmp_path, 2, SLURM_RESTART_COUNT="1")
    done = subprocess.run([*apart, "bash", script, *epochs], env=variables, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny finished" in done.stdout
    assert records(run, "plan")[-1]["computes_on"].startswith("2 CPU cores")
    assert len({(row["stage_id"], row.get("epoch")) for row in records(run, "evaluation")}) > evaluated
    assert (run / "report" / "report.html").exists()
    assert not list((tmp_path / "scratch" / "jobs").iterdir())
    assert not Path(f"/tmp/ray-{os.getpid()}").exists()
    assert (tmp_path / "requeued").read_text().count("requeue") == 1
    assert shared_ray() == before


@pytest.mark.parametrize(
    ("code", "variables", "again"),
    [
        (130, {}, True),
        (130, {"STATE": "COMPLETING"}, False),
        (130, {"SLURM_RESTART_COUNT": "50"}, False),
        (4, {}, False),
        (0, {}, False),
    ],
    ids=["interrupted", "cancelled", "too often", "machine failed", "finished"],
)
def test_only_an_interrupted_job_that_was_not_cancelled_is_queued_again(
    tmp_path: Path, script: Path, code: int, variables: dict[str, str], again: bool
) -> None:
    command = tmp_path / "venv" / "bin" / "study"
    command.unlink()
    command.write_text(f"#!/bin/sh\nexit {code}\n")
    command.chmod(0o755)
    done = subprocess.run(["bash", script], env=of_slurm(tmp_path, 1, **variables), capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "requeued").exists() == again
