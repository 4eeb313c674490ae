"""Test sets in the layout in which others publish them: read, asked, scored and exported, and their mistakes named."""

import io

import pytest
import soundfile

from echox.audio import load_audio
from echox.evaluation.interop.export import export_run
from echox.evaluation.run import run_tasks
from echox.evaluation.scoring.choices import known_answer, names_only
from echox.evaluation.scoring.records import read_lines
from echox.evaluation.sets.tasks import open_tasks, typed_task
from echox.evaluation.summary import render
from echox.files import write_lines
from echox.streaming.events import Reply
from tiny_echox import tone

BIG_BENCH = [
    ("formal_fallacies", "valid"),
    ("formal_fallacies", "invalid"),
    ("navigate", "Yes"),
    ("navigate", "No"),
    ("object_counting", "18"),
    ("object_counting", "3"),
    ("web_of_lies", "Yes"),
    ("web_of_lies", "No"),
]
"""Category and answer of two questions of each category, as published."""


class Scripted:
    """Gives each reply in turn, aloud as a tone."""

    name, key, folder = "scripted", "scripted", None

    def __init__(self, replies):
        self.replies = list(replies)

    def answer(self, messages, speak=True):
        if isinstance(messages[-1]["content"], list):
            load_audio(messages[-1]["content"][0]["audio"], 16000)
        return Reply(self.replies.pop(0), tone(0.1), 16000, "", {})


class Listener:
    """A judge that has one transcript after another ready."""

    name, sampling_rate = "listener", 16000

    def __init__(self, heard):
        self.heard = list(heard)

    def as_heard(self, text):
        return text

    def unknown_words(self, text):
        return 0

    def transcribe(self, waveforms, sampling_rate):
        return [self.heard.pop(0)]


@pytest.fixture
def big_bench(tmp_path):
    """Eight questions as the hub has them: metadata.jsonl, and MP3 files in data/."""
    folder = tmp_path / "big_bench_audio"
    (folder / "data").mkdir(parents=True)
    rows = []
    for number, (category, answer) in enumerate(BIG_BENCH):
        file_name = f"data/question_{number}.mp3"
        soundfile.write(folder / file_name, tone(0.3, seed=number), 24000, format="MP3")
        rows.append({"category": category, "official_answer": answer, "file_name": file_name, "id": number})
    write_lines(folder / "metadata.jsonl", rows)
    return folder


@pytest.mark.parametrize(
    ("reply", "reference", "right"),
    [
        ("The argument is deductively valid.", "valid", True),
        ("The argument is invalid.", "valid", False),
        ("The argument is valid.", "invalid", False),
        ("It is in valid.", "invalid", True),
        ("The argument is not deductively valid.", "invalid", True),
        ("That isn\N{RIGHT SINGLE QUOTATION MARK}t a valid argument.", "invalid", True),
        ("Not valid.", "valid", False),
        ("Either valid or invalid.", "valid", False),
        ("It would be valid if all were. The answer is: invalid", "invalid", True),
        ("The answer is valid, no, invalid.", "valid", False),
        ("Yes.", "Yes", True),
        ("Yeah, you do.", "Yes", True),
        ("Yes and no.", "Yes", False),
        ("I do not know.", "No", False),
        ("**Answer:** No", "No", True),
        ("You have eighteen fruits.", "18", True),
        ("You have 18 fruits.", "18", True),
        ("You have 180 fruits.", "18", False),
        ("twenty-one", "21", True),
        ("One.", "1", True),
        ("Three apples, two pears.", "32", False),
        ("Three apples and two pears, so the answer is five.", "5", True),
        ("Three apples and two pears make five.", "5", False),
        ("1,000 of them.", "1000", True),
        ("", "No", False),
    ],
)
def test_a_reply_is_right_if_it_names_the_answer_and_no_other(reply, reference, right):
    assert names_only(reply, reference) is right


def test_an_answer_of_another_kind_is_no_choice():
    assert known_answer(" Invalid ") == "invalid"
    for odd in ("maybe", "1.5", "seven", ""):
        with pytest.raises(ValueError, match="expected an answer of valid, invalid, yes, no or a whole number"):
            known_answer(odd)


def test_big_bench_audio_is_scored_by_category(big_bench, tmp_path):
    written = ["It is valid.", "It is valid.", "Yes.", "Yes and no.", "Eighteen.", "3", "Yes.", "Who knows?"]
    heard = ["it is valid", "it is valid", "yes", "no", "eighteen", "free", "yes", "who knows"]
    (task,) = open_tasks("big-bench-audio", big_bench)
    assert [item.id for item in task.items] == [str(number) for number in range(8)]
    assert task.speaks
    summary = run_tasks([task], Scripted(written), Listener(heard), tmp_path / "run")
    found = summary["tasks"]["big-bench-audio"]
    assert (found["errors"], found["s2t"]["acc_strict"]["mean"], found["s2s"]["acc_strict"]["mean"]) == (
        0,
        5 / 8,
        5 / 8,
    )
    assert found["s2t_by_category"] == {
        "formal_fallacies": {"mean": 0.5, "count": 2},
        "navigate": {"mean": 0.5, "count": 2},
        "object_counting": {"mean": 1.0, "count": 2},
        "web_of_lies": {"mean": 0.5, "count": 2},
    }
    assert found["s2s_by_category"]["navigate"]["mean"] == 1.0
    assert found["s2s_by_category"]["object_counting"]["mean"] == 0.5
    assert found["s2t"]["unclear"] == 2 / 8  # "Yes and no." and "Who knows?"
    assert "acc_ultraeval" not in found["s2t"]
    text = render(summary)
    assert "| big-bench-audio | navigate | 2 | 50.0 % | 100.0 % |" in text
    assert "| big-bench-audio | unclear, of all | 8 | 25.0 % | 25.0 % |" in text


def test_without_a_judge_speech_is_not_measured(big_bench, tmp_path):
    summary = run_tasks(open_tasks("big_bench_audio", big_bench), Scripted(["Yes."] * 8), None, tmp_path / "run")
    found = summary["tasks"]["big-bench-audio"]
    assert "not_measured" in found["s2s"]
    assert "s2s_by_category" not in found
    assert "| big-bench-audio | web_of_lies | 2 | 50.0 % | not measured |" in render(summary)


def test_a_limited_set_has_all_categories(big_bench):
    (task,) = open_tasks("big-bench-audio", big_bench, limit=4)
    assert len({item.columns["category"] for item in task.items}) == 4


def test_big_bench_audio_as_parquet_and_in_writing(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    sound = io.BytesIO()
    soundfile.write(sound, tone(0.2), 16000, format="WAV")
    row = {
        "category": "navigate",
        "official_answer": "No",
        "file_name": "data/question_0.mp3",
        "id": 0,
        "audio": {"bytes": sound.getvalue(), "path": "question_0.mp3"},
        "question": "Turn right. Do you return to the starting point?",
    }
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "train-00000-of-00001.parquet")
    (task,) = open_tasks("big-bench-audio", tmp_path)
    assert task.items[0].audios == [sound.getvalue()]
    typed = typed_task(task)
    summary = run_tasks([task, typed], Scripted(["No.", "Yes or no?"]), None, tmp_path / "run")
    assert summary["tasks"]["big-bench-audio"]["s2t"]["acc_strict"]["mean"] == 1.0
    assert summary["tasks"]["big-bench-audio-typed"]["t2t"]["acc_strict"]["mean"] == 0.0  # the set's rule, not a match
    assert summary["tasks"]["big-bench-audio"]["t2t"]["acc_strict"]["mean"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"official_answer": None}, "'0': expected one answer, found 0"),
        ({"official_answer": 7}, "quote numbers"),
        ({"official_answer": "perhaps"}, "found 'perhaps'; ask tables with other answers as --task qa"),
        ({"category": ""}, "expected a column category"),
        ({"file_name": ""}, "expected a question"),
    ],
)
def test_mistakes_in_big_bench_audio_are_named(big_bench, change, message):
    rows = read_lines(big_bench / "metadata.jsonl")
    write_lines(big_bench / "metadata.jsonl", [{**rows[0], **change}, *rows[1:]])
    with pytest.raises(ValueError, match=message):
        open_tasks("big-bench-audio", big_bench)


def test_a_missing_recording_is_named_before_anything_is_asked(big_bench, tmp_path):
    (big_bench / "data" / "question_3.mp3").unlink()
    with pytest.raises(ValueError, match=r"question_3\.mp3: expected the spoken question of '3'"):
        run_tasks(open_tasks("big-bench-audio", big_bench), Scripted([]), None, tmp_path / "run")


def test_a_language_model_can_judge(big_bench, tmp_path):
    heard = ["so {question} is valid", *["no"] * 7]
    run_tasks(open_tasks("big-bench-audio", big_bench), Scripted(["Valid."] * 8), Listener(heard), tmp_path / "run")
    bare = export_run(tmp_path / "run", "llm-judge", tmp_path / "bare")
    assert [path.name for path in bare] == ["big-bench-audio-written.jsonl", "big-bench-audio-spoken.jsonl"]
    first = read_lines(bare[0])[0]
    assert first == {
        "id": "0",
        "category": "formal_fallacies",
        "question": "",
        "official_answer": "valid",
        "candidate_answer": "Valid.",
    }
    template = tmp_path / "prompt.txt"
    template.write_text("{question}\nOFFICIAL: {official_answer}\nCANDIDATE: {candidate_answer} {json}")
    _, spoken = export_run(tmp_path / "run", "llm-judge", tmp_path / "filled", template)
    assert read_lines(spoken)[0]["prompt"] == "\nOFFICIAL: valid\nCANDIDATE: so {question} is valid {json}"
    template.write_text("Judge {candidate_answer}.")
    with pytest.raises(ValueError, match=r"expected the places \{official_answer\} in the prompt"):
        export_run(tmp_path / "run", "llm-judge", tmp_path / "filled", template)
    with pytest.raises(ValueError, match="found none"):
        export_run(tmp_path / "run", "llm-judge", tmp_path / "filled", tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="--prompt with --format llm-judge only"):
        export_run(tmp_path / "run", "voicebench", tmp_path / "filled", template)


@pytest.fixture
def uro(tmp_path):
    """A single-round set of URO-Bench as its archive has it: <track>/<set>/test.jsonl and recordings beside it."""
    folder = tmp_path / "URO-Bench-data" / "basic" / "Repeat"
    (folder / "audio").mkdir(parents=True)
    rows = [
        {
            "id": 7,
            "source_wav": "audio/7.wav",
            "source_text": "Repeat: cats like fish.",
            "target_text": "Cats like fish.",
        },
        {"id": 8, "source_wav": "audio/8.wav", "source_text": "Say it again."},
        {"id": 9, "source_wav": "audio/9.wav", "source_text": "A or B?", "target_text": ["A", "B"], "style": "calm"},
        {"id": 10, "source_wav": "audio/10.wav", "source_text": "Five and three?", "target_text": 8},
    ]
    for row in rows:
        soundfile.write(folder / row["source_wav"], tone(0.2, seed=row["id"]), 16000)
    write_lines(folder / "test.jsonl", rows)
    return folder


REPEATED = ["Cats like red fish.", "Say it again!", "C", "8"]
REPEATED_ALOUD = ["cats like red fish", "say it", "", "ate"]


def test_uro_bench_is_scored_as_published(uro, tmp_path):
    (task,) = open_tasks("uro-repeat", uro)
    assert [item.answers for item in task.items] == [("Cats like fish.",), (), ("A", "B"), ("8",)]
    summary = run_tasks([task], Scripted(REPEATED), Listener(REPEATED_ALOUD), tmp_path / "run")
    found = summary["tasks"]["uro-repeat"]
    # One word of four is too many: the published rate divides by the reply's words. The third says something else.
    assert found["text_repeat"]["mean"] == pytest.approx((0.75 + 1 + 0 + 1) / 4)
    assert found["text_repeat"]["ok_rate"] == 0.75
    assert found["asr_repeat"]["mean"] == pytest.approx((0.75 + 0.5 + 0 + 0) / 4)
    assert found["uro_wer"]["mean"] == pytest.approx((0 + 1 / 3 + 1 + 1) / 4)  # a mean over replies
    assert found["reply_wer"]["mean"] == pytest.approx(3 / 9)  # over words
    assert "| asr_repeat | 31.2 % (" in render(summary)


def test_uro_bench_needs_a_judge_that_spells(uro, tmp_path):
    summary = run_tasks(open_tasks("uro-repeat", uro), Scripted(REPEATED), None, tmp_path / "run")
    assert "not_measured" in summary["tasks"]["uro-repeat"]["asr_repeat"]
    listener = Listener(REPEATED_ALOUD)
    listener.name, listener.as_heard = "phones", str.upper
    summary = run_tasks(open_tasks("uro-bench", uro), Scripted(REPEATED), listener, tmp_path / "run")
    assert summary["tasks"]["uro-bench"]["uro_wer"]["not_measured"] == "the judge does not spell as people do"


def test_uro_bench_finds_our_replies(uro, tmp_path):
    replies, heard = ["One.", "Two.", "Three.", "Four."], ["one", "", "three", "four"]
    run_tasks(open_tasks("uro-bench", uro), Scripted(replies), Listener(heard), tmp_path / "run")
    paths = export_run(tmp_path / "run", "uro-bench", tmp_path / "export")
    place = tmp_path / "export" / "eval" / "basic" / "Repeat"
    assert [path.parent for path in paths] == [place] * 4
    lines = {path.stem: read_lines(path) for path in paths}
    assert lines["pred_text"] == [{f"{number:04d}": text} for number, text in enumerate(replies)]
    assert lines["asr_text"][1] == {"0001": " "}
    assert [next(iter(line.values())) for line in lines["gt_text"]] == [
        "Cats like fish.",
        "Say it again.",
        "A / B",
        "8",
    ]
    assert lines["question_text"][2] == {"0002": "A or B?"}
    assert sorted(path.name for path in (place / "audio").iterdir()) == [f"{number:04d}.wav" for number in range(4)]


def test_uro_bench_without_a_judge_has_no_transcripts_and_a_failure_no_speech(uro, tmp_path):
    (uro / "audio" / "9.wav").write_text("no audio")
    run_tasks(open_tasks("uro-bench", uro / "test.jsonl"), Scripted(REPEATED), None, tmp_path / "run")
    paths = export_run(tmp_path / "run", "uro-bench", tmp_path / "export")
    assert [path.stem for path in paths] == ["question_text", "gt_text", "pred_text"]
    assert read_lines(paths[2])[2] == {"0002": ""}
    assert not (paths[0].parent / "audio" / "0002.wav").exists()


def test_a_set_elsewhere_is_exported_under_its_task(uro, tmp_path):
    elsewhere = tmp_path / "mine"
    uro.rename(elsewhere)
    run_tasks(open_tasks("uro-bench", elsewhere), Scripted(REPEATED), None, tmp_path / "run")
    paths = export_run(tmp_path / "run", "uro-bench", tmp_path / "export")
    assert paths[0].parent == tmp_path / "export" / "eval" / "uro-bench"


def test_conversations_of_uro_bench_are_refused(uro):
    turns = [{"round": 0, "source_wav": "audio/7.wav", "source_text": "Hi.", "target_text": "Hello."}]
    write_lines(uro / "test.jsonl", [{"id": 0, "num_round": 1, "dialogue": turns}])
    with pytest.raises(ValueError, match="one question a row, found a conversation"):
        open_tasks("uro-bench", uro)


def test_sets_of_uro_bench_with_short_answers_can_be_matched(uro):
    rows = [row for row in read_lines(uro / "test.jsonl") if isinstance(row.get("target_text"), str)]
    write_lines(uro / "test.jsonl", rows)
    (task,) = open_tasks("qa", uro)
    assert [item.answers for item in task.items] == [("Cats like fish.",)]
    assert typed_task(task).items[0].messages == [{"role": "user", "content": "Repeat: cats like fish."}]


def test_texts_alone_are_asked_in_writing_and_spoken_by_any_voice(tmp_path):
    """BIG-Bench Hard's texts as a table of Big Bench Audio, and IFEval's prompts as one of VoiceBench."""
    reasoning = {"id": "navigate-0", "category": "navigate", "question": "Options: - Yes - No", "official_answer": "No"}
    write_lines(tmp_path / "bba.jsonl", [reasoning])
    (task,) = open_tasks("big-bench-audio", tmp_path / "bba.jsonl")
    assert task.items[0].messages == [{"role": "user", "content": "Options: - Yes - No"}]
    ifeval = {"key": 1000, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    write_lines(tmp_path / "input_data.jsonl", [ifeval])
    run_tasks(open_tasks("voicebench", tmp_path / "input_data.jsonl"), Scripted(["None."]), None, tmp_path / "run")
    (responses,) = export_run(tmp_path / "run", "voicebench", tmp_path / "export")
    assert read_lines(responses) == [{**ifeval, "response": "None."}]  # what their ifeval evaluator reads
