"""Train on two hosts, cut the link or kill one in mid-epoch, resume, and compare.

    sudo python benchmarks/two_hosts.py [--json]

Each host is a network namespace of Linux with its own address, joined by a pair of virtual network
devices; torchrun meets over that link. What a scheduler does afterwards is done here: all processes
end, and the same command starts again with `--ckpt_path last`. Weights and metrics on validation
must be those of a run that nobody disturbed. Exit code 1 if they are not.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import build_parser, show
from soak import Soak, Tally, fabricate

HOSTS = {"epic_a": "10.231.7.1", "epic_b": "10.231.7.2"}
_PORT = 29431
_TRAINING = (
    "--config=ddp.yaml --trainer.num_nodes=2 --trainer.devices=1 --trainer.accelerator=cpu "
    "--trainer.max_epochs=6 --trainer.enable_progress_bar=false --model.head.dropout=0.3 "
    "--last_checkpoint.every_n_train_steps=1"
)
_PATIENCE = 15  # seconds in which a job that lost its link must not end well


def main() -> int:
    options = build_parser(__doc__).parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="epic_pl_hosts_") as scratch:
        config = fabricate(Path(scratch))
        connect()
        try:
            undisturbed = Job(config, Path(scratch) / "undisturbed")
            undisturbed.run()
            for name, disturb in (("link cut", cut_link), ("host killed", kill_host)):
                job = Job(config, Path(scratch) / name.replace(" ", "_"))
                step = job.run(disturb)
                job.run()
                same = job.record.result() == undisturbed.record.result()
                results.append({"what": name, "at step": step, "ends as undisturbed": same})
        finally:
            disconnect()
    show(results, options.json)
    return 0 if all(each["ends as undisturbed"] for each in results) else 1


def connect() -> None:
    """Make the hosts and the link."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    hosts = list(HOSTS)
    for host in hosts:
        ip("netns", "add", host)
    ends = ["type", "veth", "peer", "name", hosts[1], "netns", hosts[1]]
    ip("link", "add", hosts[0], "netns", hosts[0], *ends)
    for host, address in HOSTS.items():
        ip("-n", host, "address", "add", f"{address}/24", "dev", host)
        ip("-n", host, "link", "set", host, "up")
        ip("-n", host, "link", "set", "lo", "up")


def disconnect() -> None:
    """Remove the hosts, and the link with them."""
    for host in HOSTS:
        subprocess.run(["ip", "netns", "delete", host])


def cut_link(hosts: dict[str, subprocess.Popen[bytes]]) -> None:
    """Take the link away for some seconds, in which no step can be made."""
    subprocess.run(["ip", "-n", "epic_b", "link", "set", "epic_b", "down"], check=True)
    time.sleep(_PATIENCE)
    if any(process.poll() == 0 for process in hosts.values()):
        raise SystemExit("A job that lost its link has ended as if all were done.")
    subprocess.run(["ip", "-n", "epic_b", "link", "set", "epic_b", "up"], check=True)


def kill_host(hosts: dict[str, subprocess.Popen[bytes]]) -> None:
    """End every process of a host at once; the other host must notice."""
    end("epic_b")
    if hosts["epic_a"].wait(timeout=120) == 0:
        raise SystemExit("A job that lost a host has ended as if all were done.")


def end(host: str) -> None:
    """Kill all processes of a host; torchrun's workers are in sessions of their own."""
    listed = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True)
    for pid in listed.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


class Job:
    """A training on both hosts with one folder, as on shared storage."""

    def __init__(self, config: Path, folder: Path) -> None:
        self.config = config
        self.record = Soak(config, "two hosts", folder, Tally())

    def run(
        self, disturb: Callable[[dict[str, subprocess.Popen[bytes]]], None] | None = None
    ) -> int:
        """Start or resume it; disturb it after its fifth step, if asked to; returns the step."""
        hosts = {host: self._start(rank, host) for rank, host in enumerate(HOSTS)}
        if disturb is None:
            if any(process.wait() for process in hosts.values()):
                raise SystemExit(f"The job fails:\n{self.record.log()}")
            return self.record.step()
        while self.record.step() < 5:
            if any(process.poll() is not None for process in hosts.values()):
                raise SystemExit(f"The job has ended by itself:\n{self.record.log()}")
            time.sleep(0.02)
        disturb(hosts)
        for host, process in hosts.items():
            end(host)
            process.wait()
        return self.record.step()

    def _start(self, rank: int, host: str) -> subprocess.Popen[bytes]:
        folder = self.record.folder
        command = ["ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run"]
        command += ["--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1"]
        command += [f"--master-addr={HOSTS['epic_a']}", f"--master-port={_PORT}"]
        command += ["-m", "epic_pl", "fit", "--config", str(self.config), *_TRAINING.split()]
        command += [f"--trainer.default_root_dir={folder}"]
        command += ["--ckpt_path=last"] if self.record.checkpoints() else []
        own = {"EPIC_PL_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        own |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": host}
        with (folder / "log.txt").open("ab") as log:
            shared: Any = {"stdout": log, "stderr": log, "start_new_session": True}
            return subprocess.Popen(command, env={**os.environ, **own}, **shared)


if __name__ == "__main__":
    sys.exit(main())
