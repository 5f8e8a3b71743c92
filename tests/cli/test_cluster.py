"""The SLURM scripts of docs/cluster.md with a scheduler that is played here."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import tiny_runs
from epic_pl.run.epic_cli import run

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
TRAINING, ARRAY = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
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


@pytest.fixture
def tools(workdir):
    """The PATH with mocks of SLURM's commands, and with epic-pl."""
    folder = workdir / "tools"
    folder.mkdir()
    (folder / "srun").write_text('#!/bin/bash\nexec "$@" --trainer.max_epochs 12\n')
    (folder / "scontrol").write_text('#!/bin/bash\necho "$@" >> asked\n')
    (folder / "epic-pl").write_text(f'#!/bin/bash\nexec {sys.executable} -m epic_pl "$@"\n')
    for tool in folder.iterdir():
        tool.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.slow
def test_a_job_that_is_requeued_goes_on_where_it_was(
    tools, workdir, tiny_vit_dir, tiny_tokenizer_dir
):
    tiny_runs.table(workdir / "data", train=40)
    config = tiny_runs.table_config(workdir / "data", tiny_vit_dir, tiny_tokenizer_dir)
    assert "--config food101.yaml --config multi_node.yaml" in TRAINING
    job = workdir / "job.sh"
    job.write_text(TRAINING.replace("food101.yaml --config multi_node.yaml", str(config)))

    def start(**variables: str) -> subprocess.Popen:
        own = {"PATH": tools, "OMP_NUM_THREADS": "1", **SLURM, **variables}
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
    assert f"Saved {last.resolve()} after SIGUSR1" in log
    assert start(SLURM_RESTART_COUNT="1").wait() == 0, Path("log.txt").read_text()
    result = json.loads(Path("runs/fit/version_1/run.json").read_text())["result"]
    alone = run(["fit", "--config", str(config), "--trainer.max_epochs", "12"])
    undisturbed = json.loads((Path(alone.trainer.log_dir) / "run.json").read_text())["result"]
    assert result["step"] == undisturbed["step"] > 100
    assert result["weights"] == undisturbed["weights"]


@pytest.mark.slow
def test_the_tasks_of_an_array_predict_each_row_once(
    tools, workdir, tiny_vit_dir, tiny_tokenizer_dir
):
    table = tiny_runs.table(workdir / "data", test=300)
    config = tiny_runs.table_config(workdir / "data", tiny_vit_dir, tiny_tokenizer_dir)
    run(["fit", "--config", str(config), "--trainer.max_epochs", "1"])
    script = ARRAY
    for given, own in (("my/epic.yaml", config), ("rows.parquet", table)):
        assert given in script
        script = script.replace(given, str(own))
    for task in ("2", "1"):
        array = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2"}
        environment = {**os.environ, **SLURM, **array, "PATH": tools, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    assert len(list(Path("predictions").iterdir())) == 2
    ids = pq.read_table("predictions")["sample_id"].to_pylist()
    expected = pyarrow.csv.read_csv(table)["id"].to_pylist()
    assert ids == expected
