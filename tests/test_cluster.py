"""The SLURM script of docs/cluster.md with a scheduler that is played here."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny_runs
from epic_pl.cli import run

PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "food101",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NODELIST": "localhost",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.mark.slow
def test_a_job_that_is_requeued_goes_on_where_it_was(workdir, tiny_vit_dir, tiny_tokenizer_dir):
    tiny_runs.table(workdir / "data", train=40)
    config = tiny_runs.table_config(workdir / "data", tiny_vit_dir, tiny_tokenizer_dir)
    (script,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "--config food101.yaml --config multi_node.yaml" in script
    job = workdir / "job.sh"
    job.write_text(script.replace("food101.yaml --config multi_node.yaml", str(config)))
    tools = workdir / "tools"
    tools.mkdir()
    (tools / "srun").write_text('#!/bin/bash\nexec "$@" --trainer.max_epochs 12\n')
    (tools / "scontrol").write_text('#!/bin/bash\necho "$@" >> asked\n')
    (tools / "epic-pl").write_text(f'#!/bin/bash\nexec {sys.executable} -m epic_pl "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"

    def start(**variables: str) -> subprocess.Popen:
        own = {"PATH": path, "OMP_NUM_THREADS": "1", **SLURM, **variables}
        with open("log.txt", "ab") as log:
            return subprocess.Popen(
                ["bash", str(job)],
                stdout=log,
                stderr=log,
                env={**os.environ, **own},
                start_new_session=True,
            )

    first = start()
    last = Path("runs/fit/version_0/checkpoints/last.ckpt")
    while not last.exists():
        assert first.poll() is None, Path("log.txt").read_text()
        time.sleep(0.02)
    # SLURM signals the tasks, not the script
    (task,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR1)
    first.wait()
    log = Path("log.txt").read_text()
    assert Path("asked").read_text() == "requeue 7\n", log
    assert f"Saved {last.resolve()} upon SIGUSR1" in log
    assert start(SLURM_RESTART_COUNT="1").wait() == 0, Path("log.txt").read_text()
    result = json.loads(Path("runs/fit/version_1/run.json").read_text())["result"]
    alone = run(["fit", "--config", str(config), "--trainer.max_epochs", "12"])
    undisturbed = json.loads((Path(alone.trainer.log_dir) / "run.json").read_text())["result"]
    assert result["step"] == undisturbed["step"] > 100
    assert result["weights"] == undisturbed["weights"]
