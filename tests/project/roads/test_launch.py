"""The scripts under runs/: they parse, and the launchers for SLURM and for plain SSH do what they were told."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch.distributed as dist

from echox.data.manifest import Dialogue, Turn, write_dialogues
from echox.training.checkpoints.checkpoint import checkpoints
from echox.training.records.record import log_entries
from paths import RECIPES, ROOT
from waiting import wait_until

RUNS = ROOT / "runs"


@pytest.mark.parametrize("script", sorted(RUNS.rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(script):
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def put_on_path(folder: Path, programs: dict[str, str]) -> str:
    """Write small programs, and the PATH that finds them first."""
    folder.mkdir(exist_ok=True)
    for name, body in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.fixture
def launch(tmp_path):
    """Run the launcher with an `ssh` that stays here and a `torchrun` that writes down its arguments."""
    programs = {
        "ssh": 'exec bash -c "${@: -1}"',
        "torchrun": 'echo "$ECHOX_RESTART_COUNT: $(printf "<%s>" "$@")"; exit ${CODE:-0}',  # a line in one write
    }
    path = put_on_path(tmp_path, programs)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {"PATH": path, "TORCHRUN": str(tmp_path / "torchrun"), "PAUSE_S": "0"}
        command = [str(RUNS / "launch" / "ssh.sh"), *arguments]
        return subprocess.run(command, env={**os.environ, **known, **environment}, capture_output=True, text=True)

    return run


def test_every_machine_gets_the_whole_command(launch):
    done = launch("recipes/3b/s2t.yaml", "data.manifests=[a, b c]", HOSTS="one two", GPUS="4")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert len(lines) == 2
    for line in lines:
        assert "<--nnodes><2><--nproc-per-node><4>" in line
        assert "<--rdzv-endpoint><one:29500>" in line
        assert line.endswith("<-m><echox.training.loop><recipes/3b/s2t.yaml><data.manifests=[a, b c]>")


def test_it_tries_again_and_gives_up(launch):
    failed = launch("recipe.yaml", HOSTS="one two", TRIES="2", CODE="3")
    assert failed.returncode == 1
    assert failed.stderr.count("all start again") == 2
    assert sorted({line.split(":")[0] for line in failed.stdout.splitlines()}) == ["0", "1"]  # a run knows its try
    assert launch(HOSTS="one").returncode == 2
    assert "expected host names" in launch("recipe.yaml", HOSTS="").stderr


@pytest.mark.parametrize("appears", [False, True])
def test_a_stage_that_was_asked_to_stop_is_not_finished_and_none_follows(appears, tmp_path):
    (tmp_path / "runs").mkdir()
    shutil.copy(RUNS / "stages.sh", tmp_path / "runs")
    stops = '[ -e again ] || touch "$ECHOX_STOP_FILE"' if appears else "true"
    put_on_path(tmp_path / "bin", {"python": f'echo "$4" >> calls; {stops}'})
    script = "source runs/stages.sh; set -e; begin out/x out/smoke; stage one a; stage two b; echo the end"
    known = {"PYTHON": str(tmp_path / "bin" / "python"), "ECHOX_STOP_FILE": str(tmp_path / "stop")}

    def run() -> tuple[int, list[str], list[str]]:
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env={**os.environ, **known}, capture_output=True)
        calls = [Path(line).stem for line in (tmp_path / "calls").read_text().splitlines()]
        return done.returncode, calls, sorted(path.name for path in (tmp_path / "out" / "x").iterdir())

    if appears:
        assert run() == (75, ["a"], [])
        (tmp_path / "stop").unlink()
        (tmp_path / "again").touch()
        (tmp_path / "calls").unlink()
    assert run() == (0, ["a", "b"], [".done-one", ".done-two"])


SCONTROL = 'case "$1" in requeue) echo "$2" >>requeued;; *) echo 127.0.0.1; esac'
WAITS = 'touch started; until [ -e "$ECHOX_STOP_FILE" ]; do sleep 0.05; done; exit ${CODE:-0}'
TWO_NODES = """shift
"$@" & first=$!
"$@" || code=$?
wait $first && exit ${code:-0}"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class SlurmJob:
    """The SLURM script, with an `srun` and a `scontrol` that stay here."""

    def __init__(self, folder: Path, srun: str) -> None:
        self.folder, self.process = folder, None
        torchrun = f'exec {sys.executable} -m torch.distributed.run "$@"'
        programs = {"scontrol": SCONTROL, "srun": srun, "torchrun": torchrun}
        self.known = {"PATH": put_on_path(folder / "bin", programs), "GPUS": "1", "OMP_NUM_THREADS": "1"}
        self.known |= {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}

    def start(self, *arguments: str, **environment: str) -> None:
        with (self.folder / "log.txt").open("w") as log:
            self.process = subprocess.Popen(
                [str(RUNS / "launch" / "slurm.sh"), *arguments],
                env={**os.environ, **self.known, **environment},
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end(self, timeout_s: float = 60) -> tuple[int, str]:
        """Exit status and output."""
        return self.process.wait(timeout_s), (self.folder / "log.txt").read_text()[-4000:]

    @property
    def requeued(self) -> list[str]:
        path = self.folder / "requeued"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def slurm(tmp_path):
    jobs = []

    def make(srun: str) -> SlurmJob:
        jobs.append(SlurmJob(tmp_path, srun))
        return jobs[-1]

    yield make
    for job in jobs:
        with suppress(ProcessLookupError):
            os.killpg(job.process.pid, signal.SIGKILL)
        job.process.wait()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signalled_job_is_requeued_when_its_run_has_stopped(slurm, tmp_path, number):
    job = slurm(WAITS)
    job.start("recipe.yaml")
    wait_until((tmp_path / "started").exists, "srun was called")
    job.process.send_signal(number)
    status, output = job.end()
    assert status == 0, output
    assert job.requeued == ["17"]
    assert not list((tmp_path / "out").iterdir()), "the request is gone before the job begins again"


@pytest.mark.parametrize(
    ("environment", "expected"), [({"CODE": "3"}, 3), ({"REQUEUES": "2", "SLURM_RESTART_COUNT": "2"}, 1)]
)
def test_a_job_that_fails_or_was_requeued_often_is_not_requeued(slurm, tmp_path, environment, expected):
    job = slurm(WAITS)
    job.start("recipe.yaml", **environment)
    wait_until((tmp_path / "started").exists, "srun was called")
    job.process.send_signal(signal.SIGUSR1)
    assert job.end()[0] == expected
    assert job.requeued == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed part")
def test_a_chain_of_jobs_trains_every_step_once(slurm, tmp_path):
    """Two torchruns, as on two machines, are told to stop between two checkpoints; the next job continues there."""
    said = Turn("user", "Good morning!"), Turn("assistant", "Hello.")
    dialogues = [Dialogue(f"{number}", said, "train" if number else "heldout") for number in range(9)]
    write_dialogues(tmp_path / "dialogues.jsonl", dialogues)
    settings = ["output_dir=run", "workers=1", "device=cpu", "tensorboard=false", "steps=300", "batch_size=2"]
    settings += ["log_every_steps=1", "save_every_steps=0", "sample_every_steps=0", "evaluate_every_steps=0"]
    sizes = ["tokenizer.vocab_size=280", "model.hidden_size=32", "model.num_hidden_layers=1"]
    command = [str(RECIPES / "nano" / "lm.yaml"), f"data.dialogues={tmp_path}/dialogues.jsonl", *sizes]
    command += [f"training.{setting}" for setting in settings]
    job = slurm(TWO_NODES)
    job.known |= {"PORT": str(free_port()), "RESTARTS": "0"}
    job.start(*command)
    wait_until(lambda: len(log_entries(tmp_path / "run")) > 3 or job.process.poll() is not None, "four steps", 300)
    job.process.send_signal(signal.SIGUSR1)
    status, output = job.end(300)
    assert status == 0, output
    assert job.requeued == ["17"]
    [left] = checkpoints(tmp_path / "run")
    assert f"asked to stop, after step {int(left.name[5:])}" in output
    job.start(*command, SLURM_RESTART_COUNT="1")
    status, output = job.end(300)
    assert status == 0, output
    assert job.requeued == ["17"], "it is finished"
    trained = [entry["step"] for entry in log_entries(tmp_path / "run") if entry["kind"] == "train"]
    assert trained == list(range(1, 301))
