"""A run: stages resume, a failing item is wrong and reported, scoring needs no model, a server is like a model."""

import base64
import json
import shutil
import signal
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import forked
from echox.audio import encode_audio, load_audio, save_audio
from echox.evaluation.interop.export import export_run
from echox.evaluation.judges.asr import embedded_judge, open_judge
from echox.evaluation.latency.run import run_latency
from echox.evaluation.rating import rate_run
from echox.evaluation.run import run_tasks, score_run
from echox.evaluation.scoring.records import read_lines
from echox.evaluation.sets.heldout import LEXICON, embedded_heldout
from echox.evaluation.sets.tasks import Task, open_tasks
from echox.evaluation.subjects.local import LocalSubject
from echox.evaluation.subjects.remote import RemoteSubject
from echox.evaluation.summary import compare, read_summary, render
from tiny_echox import tiny_echox, tone

SEED = 2
"""Of a random model whose replies never name the answer."""


class FixedJudge:
    """A judge whose transcript is always the right answer; ``unknown`` words are not in its vocabulary."""

    sampling_rate = 16000

    def __init__(self, name: str = "fixed judge", unknown: int = 0) -> None:
        self.name, self.unknown, self.transcribed = name, unknown, 0

    def as_heard(self, text):
        return text

    def unknown_words(self, text):
        return self.unknown

    def transcribe(self, waveforms, sampling_rate):
        self.transcribed += len(waveforms)
        return ["it is paris" for _ in waveforms]


class Asked(LocalSubject):
    """The tiny model; it counts its questions, and after ``stop_after`` of them it stops as if by Ctrl-C."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(tiny_echox(SEED, unit_words_per_word=12), "tiny")
        self.asked, self.stop_after = 0, stop_after

    def answer(self, messages, speak=True):
        if self.asked == self.stop_after:
            raise KeyboardInterrupt
        self.asked += 1
        return super().answer(messages, speak)


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """Five spoken questions, and the folder of a run that has their replies and no judge's transcripts."""
    folder = tmp_path_factory.mktemp("answered")
    path = write_questions(folder)
    summary = run_tasks(open_tasks("qa", path), Asked(), None, folder / "run")
    assert summary["tasks"]["qa"]["items"] == 5
    return path, folder / "run"


@pytest.fixture
def run_of_five(answered, tmp_path):
    """The questions of `answered`, and a copy of its run: what goes on there asks the model the third only."""
    path, run = answered
    shutil.copytree(run, tmp_path / "run")
    return path, tmp_path / "run"


@pytest.fixture
def questions(tmp_path):
    return write_questions(tmp_path)


def write_questions(folder: Path) -> Path:
    """Five spoken questions; the third is no audio."""
    rows = []
    for number in range(5):
        audio = folder / "data" / f"{number}.wav"
        audio.parent.mkdir(exist_ok=True)
        if number == 2:
            audio.write_text("no audio")
        else:
            save_audio(audio, tone(1.0, seed=number), 16000)
        rows.append(
            {"id": f"q{number}", "WavPath": audio.name, "Questions": "Where?", "Answer": "Paris", "level": number}
        )
    path = folder / "data" / "qa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def figures(output: Path) -> tuple[dict, list[dict]]:
    """What a run found, and what each item scored; not where the audio lies."""
    return json.loads((output / "summary.json").read_text()), read_lines(output / "qa" / "items.jsonl")


def test_a_failing_item_is_wrong_and_told(run_of_five):
    questions, run = run_of_five
    summary = run_tasks(open_tasks("qa", questions), Asked(), FixedJudge(), run)
    task = summary["tasks"]["qa"]
    assert (task["items"], task["errors"]) == (5, 1)
    assert task["failed"][0]["id"] == "q2"
    assert "2.wav" in task["failed"][0]["error"]
    assert task["s2s"]["fail_rate"] == pytest.approx(1 / 5)
    assert task["s2s"]["acc_ultraeval"] == 1.0  # UltraEval-Audio leaves it out
    assert task["s2s"]["acc_strict"]["mean"] == pytest.approx(4 / 5)  # ours does not
    assert task["s2t"]["acc_strict"]["mean"] == 0.0
    assert task["table"] == {"both_right": 0, "only_written_right": 0, "only_spoken_right": 4, "both_wrong": 1}
    assert task["gap"]["mean"] == pytest.approx(-4 / 5)
    text = (run / "summary.md").read_text(encoding="utf-8")
    assert "- qa `q2`: " in text
    assert "**acc_strict**" in text


@pytest.mark.slow
def test_stopped_and_started_again_is_as_if_never_stopped(questions, tmp_path):
    whole = Asked()
    run_tasks(open_tasks("qa", questions), whole, FixedJudge(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_tasks(open_tasks("qa", questions), Asked(stop_after=3), FixedJudge(), tmp_path / "stopped")
    path = tmp_path / "stopped" / "qa" / "replies.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"id": "q3", "key": "cut o')  # as a kill leaves it
    again = Asked()
    run_tasks(open_tasks("qa", questions), again, FixedJudge(), tmp_path / "stopped")
    assert (whole.asked, again.asked) == (5, 3)  # the two that were missing, and the one that had failed
    assert figures(tmp_path / "stopped") == figures(tmp_path / "whole")


def test_items_that_failed_once_are_as_if_they_never_had(questions, tmp_path):
    """A server that was down for some of the questions: they are asked, and what is said is heard, by the next call."""

    class Failing(Asked):
        failing = (0, 3)

        def answer(self, messages, speak=True):
            self.asked += 1
            if self.asked - 1 in self.failing:
                raise OSError("the server is down")
            return LocalSubject.answer(self, messages, speak)

    run_tasks(open_tasks("qa", questions), Asked(), FixedJudge(), tmp_path / "whole")
    run_tasks(open_tasks("qa", questions), Failing(), FixedJudge(), tmp_path / "run")
    assert figures(tmp_path / "run") != figures(tmp_path / "whole")
    run_tasks(open_tasks("qa", questions), Asked(), FixedJudge(), tmp_path / "run")
    assert figures(tmp_path / "run") == figures(tmp_path / "whole")


def test_scored_again_without_model_or_judge(run_of_five, tmp_path):
    questions, run = run_of_five
    judge = FixedJudge()
    first = run_tasks(open_tasks("qa", questions), Asked(), judge, run)
    before = figures(run)
    assert score_run(run) == first
    assert figures(run) == before
    assert judge.transcribed == 4
    (run / "qa" / "heard.jsonl").unlink()
    with pytest.raises(ValueError, match="finish the run"):
        score_run(run)
    with pytest.raises(ValueError, match=r"no run\.json"):
        score_run(tmp_path / "elsewhere")


def test_a_changed_question_is_asked_again(questions, tmp_path):
    model, tasks = Asked(), partial(open_tasks, "qa", questions, limit=3)
    run_tasks(tasks(), model, None, tmp_path / "run")
    save_audio(questions.parent / "1.wav", tone(1.0, seed=9), 16000)
    before = model.asked
    run_tasks(tasks(), model, None, tmp_path / "run")
    assert model.asked == before + 2  # that one, and the one that fails


@pytest.mark.parametrize(
    ("judge", "reason"), [(None, "no judge was asked for"), (FixedJudge(unknown=9), "does not know")]
)
def test_not_measured_rather_than_a_wrong_judge(run_of_five, judge, reason):
    questions, run = run_of_five
    summary = run_tasks(open_tasks("qa", questions), Asked(), judge, run)
    for figure in ("s2s", "gap", "reply_wer"):
        assert reason in summary["tasks"]["qa"][figure]["not_measured"]
    assert "not measured" in render(summary)


def test_the_embedded_judge_does_not_judge_words_it_never_learned(questions, tmp_path):
    judge = open_judge(embedded_judge(), embedded_heldout() / LEXICON)
    assert judge.unknown_words("Paris quixotry.") == 1
    summary = run_tasks(open_tasks("consistency", questions, limit=2), Asked(), judge, tmp_path / "run")
    assert "does not know" in summary["tasks"]["consistency"]["reply_wer"]["not_measured"]


def test_other_kinds_of_tasks(questions, tmp_path):
    tasks = [task for name in ("asr", "translation", "consistency") for task in open_tasks(name, questions, limit=2)]
    found = run_tasks(tasks, Asked(), FixedJudge(), tmp_path / "run")["tasks"]
    assert found["asr"]["asr_wer"]["mean"] > 0
    assert found["asr"]["unspoken_replies"] == 0  # none was asked for
    assert found["translation"]["asr_bleu"] == 0.0
    shown = (tmp_path / "run" / "summary.md").read_text()
    assert f"BLEU by sacreBLEU: `{found['translation']['bleu_signature']}`" in shown
    assert found["consistency"]["words_per_s"] > 0
    assert found["consistency"]["first_audio_tokens"]["p50"] > 0
    assert found["consistency"]["utmos"] == {"not_measured": "no model file was named"}
    assert (tmp_path / "run" / "plots" / "reply_wer.png").exists()


@pytest.mark.slow
def test_naturalness_by_a_named_file(questions, tmp_path):
    torch = pytest.importorskip("torch")

    class Loudness(torch.nn.Module):
        def forward(self, waveform: torch.Tensor) -> torch.Tensor:
            return waveform.abs().mean(1) * 0 + 3.5

    torch.jit.script(Loudness()).save(tmp_path / "mos.pt")
    run_tasks(open_tasks("qa", questions), Asked(), None, tmp_path / "run")
    rate_run(tmp_path / "run", tmp_path / "mos.pt", None)
    assert score_run(tmp_path / "run")["tasks"]["qa"]["utmos"] == pytest.approx(3.5)
    with pytest.raises(ValueError, match="TorchScript"):
        rate_run(tmp_path / "run", questions, None)


def test_exports_are_read_by_the_other_tools(questions, tmp_path):
    run_tasks(open_tasks("qa", questions, limit=2), Asked(), None, tmp_path / "run")
    items, replies, registry = export_run(tmp_path / "run", "ultraeval", tmp_path / "ue")
    rows = read_lines(items)
    assert rows[0]["answers"] == ["Paris"]
    assert Path(rows[0]["WavPath"]).is_file()
    content = json.loads(next(line for line in read_lines(replies) if line["type"] == "inference")["data"]["content"])
    assert Path(content["audio"]).is_file()
    assert "ref_col: answers" in registry.read_text()
    (responses,) = export_run(tmp_path / "run", "voicebench", tmp_path / "vb")
    assert responses.name == "tiny-qa-test-audio.jsonl"
    assert set(read_lines(responses)[0]) == {"id", "Questions", "Answer", "level", "response"}
    with pytest.raises(ValueError, match="expected a format"):
        export_run(tmp_path / "run", "xml", tmp_path)


@pytest.mark.slow
def test_runs_side_by_side(questions, tmp_path):
    run_tasks(open_tasks("qa", questions), Asked(), FixedJudge(), tmp_path / "run")
    summary = read_summary(tmp_path / "run")
    assert compare([summary, summary]).count("| tiny |") == 2


def test_one_run_a_folder(questions, tmp_path):
    class Intruder(Asked):
        def answer(self, messages, speak=True):
            with pytest.raises(ValueError, match="no other run"):
                run_tasks(open_tasks("qa", questions), Asked(), None, tmp_path / "run")
            return super().answer(messages, speak)

    run_tasks(open_tasks("qa", questions, limit=1), Intruder(), None, tmp_path / "run")


@pytest.fixture
def server():
    """OpenAI's interface over the tiny model, as their documents describe it: whole replies and streamed ones."""
    model = tiny_echox(SEED, unit_words_per_word=12)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, content: bytes, kind: str = "application/json") -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            self.answer(json.dumps({"object": "list", "data": [{"id": "tiny"}]}).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            part = body["messages"][-1]["content"][0]["input_audio"]
            reply = model.generate(base64.b64decode(part["data"]), temperature=0.0, echo_temperature=0.0)
            if body.get("stream"):
                pcm = base64.b64encode((np.zeros(2400)).astype("<i2").tobytes()).decode()
                deltas = [{"content": reply.text}, {"audio": {"data": pcm}}, {"audio": {"data": pcm}}]
                lines = [f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n" for delta in deltas]
                self.answer("".join([*lines, "data: [DONE]\n\n"]).encode(), "text/event-stream")
                return
            wav = base64.b64encode(encode_audio(reply.waveform, reply.sampling_rate)).decode()
            message = {
                "role": "assistant",
                "content": None,
                "audio": {"id": "a", "data": wav, "expires_at": 0, "transcript": reply.text},
            }
            self.answer(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def good(questions: Path) -> list[Task]:
    (task,) = open_tasks("qa", questions)
    return [Task("qa", "qa", [item for item in task.items if item.id != "q2"], "test")]


@pytest.mark.slow
def test_a_server_is_examined_like_a_model(questions, tmp_path, server):
    there = RemoteSubject(server)
    assert there.name == f"tiny at {server}"
    run_tasks(good(questions), there, FixedJudge(), tmp_path / "there", workers=3)
    run_tasks(good(questions), Asked(), FixedJudge(), tmp_path / "here")
    remote, local = (read_lines(tmp_path / place / "qa" / "items.jsonl") for place in ("there", "here"))
    assert [row["text"] for row in remote] == [row["text"] for row in local]
    assert [row["s2s"] for row in remote] == [row["s2s"] for row in local] == [True] * 4
    waveform = load_audio(tmp_path / "there" / "qa" / remote[0]["audio"], 24000)
    assert len(waveform) > 1000


@pytest.mark.slow
def test_latency_in_process_and_at_a_client(questions, tmp_path, server):
    questions.write_text(questions.read_text().replace("2.wav", "1.wav"), encoding="utf-8")
    text = run_latency(Asked(), questions, tmp_path / "here", 3, 1, [1])
    assert "| ttfa_s |" in text
    assert "**clock**" in text
    run_latency(RemoteSubject(server), questions, tmp_path / "there", 4, 0, [1, 2])
    found = json.loads((tmp_path / "there" / "latency.json").read_text())
    assert [run["concurrency"] for run in found["runs"]] == [1, 2]
    assert found["runs"][0]["audio_s"]["p50"] == pytest.approx(0.2)
    assert (tmp_path / "there" / "first_audio.png").exists()


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="is the server running"):
        RemoteSubject("http://127.0.0.1:9/v1")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_started_again_equals_an_uninterrupted_run(tmp_path):
    """The whole command on the embedded model, killed with SIGKILL after some items."""

    def command(output: Path) -> list[str]:
        return [
            "echox",
            "eval",
            "run",
            "--task",
            "nano",
            "--limit",
            "3",
            "--threads",
            "1",
            "--output",
            str(output),
        ]

    forked.run(command(tmp_path / "whole"), tmp_path).check_returncode()
    output = tmp_path / "killed"
    process = forked.start(command(output), tmp_path, tmp_path / "killed.log")
    path = output / "heldout_seen_voices" / "replies.jsonl"
    while process.is_alive() and not (path.exists() and path.read_bytes().count(b"\n") >= 2):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it was done before it could be killed"
    assert not (output / "summary.json").exists()
    forked.run(command(output), tmp_path).check_returncode()
    assert json.loads((output / "summary.json").read_text()) == json.loads(
        (tmp_path / "whole" / "summary.json").read_text()
    )
    for task in ("typed", "heldout_seen_voices", "heldout_new_voices", "multi_turn"):
        assert read_lines(output / task / "items.jsonl") == read_lines(tmp_path / "whole" / task / "items.jsonl")
