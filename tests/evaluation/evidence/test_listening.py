"""The blind listening test: nothing on its page tells systems apart, and preferences come back as they were given."""

import base64
import io
import json
import random
import re
import subprocess

import numpy as np
import pytest
import soundfile

from browser import CHROMIUM
from echox.audio import save_audio
from echox.evaluation.control import control_key
from echox.evaluation.evidence.listening import (
    ASKED,
    LOUDNESS_DBFS,
    make_sheet,
    preferences_markdown,
    score_sheets,
    spoken_replies,
)
from echox.evaluation.scoring.statistics import unseen_share
from echox.files import write_lines

QUESTIONS = 6


def run_folder(path, name, gain, rate=16000, tasks=("qa",), ask="Is {} < 9?</script>"):
    """A run with spoken replies of one system, at a level of its own."""
    entries = []
    for kind in tasks:
        task = path / kind
        (task / "audio").mkdir(parents=True)
        keys, lines = [], []
        for number in range(QUESTIONS):
            tone = gain * np.sin(np.arange(rate // 4) * (0.02 + 0.01 * number)).astype(np.float32)
            save_audio(task / "audio" / f"q{number}.flac", tone, rate)
            keys.append(f"{name} q{number} digest{number}")
            audio = f"audio/q{number}.flac" if number or name != "late" else None
            question = ask.format(number) if kind == "qa" else f"{kind} {number}?"
            lines.append({"id": f"q{number}", "key": keys[-1], "question": question, "audio": audio, "text": name})
        write_lines(task / "replies.jsonl", lines)
        ids = [line["id"] for line in lines]
        entries.append({"name": kind, "kind": "qa", "source": "here", "ids": ids, "keys": keys})
    run = {"version": 1, "subject": {"name": name, "key": name, "folder": None}, "judge": {}, "tasks": entries}
    (path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return str(path)


@pytest.fixture
def sheet(tmp_path):
    systems = {"loud": run_folder(tmp_path / "a", "loud", 0.8), "soft": run_folder(tmp_path / "b", "soft", 0.02, 22050)}
    page, key = make_sheet(systems, tmp_path / "sheet", items=5, repeated=2, seed=3)
    return page.read_text(encoding="utf-8"), json.loads(key.read_text(encoding="utf-8")), key


def data_of(page):
    inside = page.split('<script id="sheet" type="application/json">')[1].split("</script>")[0]
    return json.loads(inside)


def test_the_page_does_not_tell_systems_apart(sheet):
    page, key, _ = sheet
    data = data_of(page)
    assert len(data["pairs"]) == len(key["pairs"]) == 7
    assert "loud" not in page.replace("loudspeaker", "")
    assert "soft" not in page
    levels = []
    for pair in data["pairs"]:
        assert pair["question"].endswith("9?</script>")
        for side in "AB":
            waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(pair[side].split(",")[1])))
            levels.append(20 * np.log10(np.sqrt(np.mean(waveform**2))))
            assert rate == 24000
    assert max(levels) - min(levels) < 0.2
    assert levels[0] == pytest.approx(LOUDNESS_DBFS, abs=0.2)
    firsts = [pair["A"] for pair in key["pairs"]]
    assert set(firsts) == {"loud", "soft"}  # sides are drawn


def test_the_same_seed_gives_the_same_sheet(tmp_path):
    systems = {name: run_folder(tmp_path / name, name, 0.1) for name in ("one", "other")}
    pages = [
        make_sheet(systems, tmp_path / f"s{turn}", 4, 1, seed)[0].read_text() for turn, seed in enumerate((1, 1, 2))
    ]
    assert pages[0] == pages[1] != pages[2]


def answer(tmp_path, key, listener, prefers):
    """What a listener saves who chooses by ``prefers`` (of the name of a system)."""

    def choice(pair):
        wanted = prefers(pair)
        return "equal" if wanted is None else next(side for side in "AB" if pair[side] == wanted)

    choices = [dict.fromkeys(ASKED, choice(pair)) for pair in key["pairs"]]
    path = tmp_path / f"{listener}.json"
    path.write_text(json.dumps({"sheet": key["sheet"], "listener": listener, "choices": choices}), encoding="utf-8")
    return path


def test_preferences_are_scored(sheet, tmp_path):
    _, key, path = sheet
    fond, unsure = (answer(tmp_path, key, "fond", lambda _: "soft"), answer(tmp_path, key, "unsure", lambda _: None))
    found = score_sheets(path, [fond, unsure])
    assert found["consistency"] == {"helpful": 1.0, "natural": 1.0}
    one = found["preferences"][0]
    assert (one["first"], one["second"]) == ("loud", "soft")
    assert (one["for_first"], one["equal"], one["for_second"]) == (0, 5, 5)
    assert one["preference"]["mean"] == pytest.approx(-0.5)
    assert one["preference"]["low"] == pytest.approx(-1.0)  # another panel might be all fond ...
    assert one["preference"]["high"] == pytest.approx(-0.5 + 1.5 * unseen_share(5))  # ... or unsure; five pairs are few
    assert one["p"] == pytest.approx(2 / 2**5)
    assert "| loud | soft | helpful | 0 / 5 / 5 | -50 (-100 to +28) | 0.062 |" in preferences_markdown(found)
    rng = random.Random(1)
    careless = answer(tmp_path, key, "careless", lambda pair: rng.choice((pair["A"], pair["B"])))
    assert score_sheets(path, [careless])["consistency"]["helpful"] in (0.0, 0.5, 1.0)


LISTENER = """
<script>
const before = document.getElementById("save").disabled;
for (const part of document.querySelectorAll("fieldset")) {
  const open = part.querySelectorAll("input:enabled").length;
  part.querySelectorAll("audio").forEach((player) => player.dispatchEvent(new Event("ended")));
  if (open === 0) part.querySelectorAll("input[value=B]").forEach((input) => input.click());
}
const name = document.getElementById("listener");
name.value = "a listener";
name.dispatchEvent(new Event("input"));
URL.createObjectURL = (blob) => {
  blob.text().then((text) => { document.body.textContent = btoa(text); });
  return "#";
};
if (before) document.getElementById("save").click();
</script>
"""
"""Hears every reply to its end, which opens the choices; always chooses B; saves."""


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM} (apt install chromium)")
def test_the_page_gives_a_file_that_is_scored(sheet, tmp_path):
    page, key, path = sheet
    (tmp_path / "page.html").write_text(page.replace("</html>", LISTENER + "</html>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom"]
    found = subprocess.run(
        [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    saved = tmp_path / "choices.json"
    saved.write_bytes(base64.b64decode(re.search(r"<body>([A-Za-z0-9+/=]+)", found)[1]))
    one = score_sheets(path, [saved])["preferences"][0]
    soft = sum(pair["B"] == "soft" for pair in key["pairs"] if not pair.get("again"))
    assert (one["for_first"], one["equal"], one["for_second"]) == (5 - soft, 0, soft)


def test_what_is_no_answer_is_refused(sheet, tmp_path):
    _, key, path = sheet
    good = answer(tmp_path, key, "good", lambda _: "soft")
    with pytest.raises(ValueError, match="each listener once"):
        score_sheets(path, [good, good])
    other = tmp_path / "other.json"
    other.write_text(good.read_text().replace(key["sheet"], "another"), encoding="utf-8")
    with pytest.raises(ValueError, match="expected choices of sheet .* found another"):
        score_sheets(path, [other])
    half = json.loads(good.read_text())
    half["choices"][0]["natural"] = None
    other.write_text(json.dumps(half), encoding="utf-8")
    with pytest.raises(ValueError, match="of all 7 pairs, found it incomplete"):
        score_sheets(path, [other])
    with pytest.raises(ValueError, match="at least one listener"):
        score_sheets(path, [])


def test_systems_need_shared_spoken_replies(tmp_path):
    systems = {name: run_folder(tmp_path / name, name, 0.1) for name in ("prompt", "late")}
    with pytest.raises(ValueError, match="expected 6 questions that all systems answered aloud, found 5"):
        make_sheet(systems, tmp_path / "sheet", items=QUESTIONS)
    with pytest.raises(ValueError, match="two or more systems"):
        make_sheet({"late": systems["late"]}, tmp_path / "sheet")
    with pytest.raises(ValueError, match="expected spoken replies, found none"):
        make_sheet({**systems, "read": systems["late"] + ":control"}, tmp_path / "sheet")


def test_a_pair_has_one_question_also_of_tasks_with_the_same_ids(tmp_path):
    systems = {name: run_folder(tmp_path / name, name, 0.1, tasks=("qa", "triviaqa")) for name in ("one", "other")}
    page, key = make_sheet(systems, tmp_path / "sheet", items=2 * QUESTIONS, repeated=2)
    pairs = json.loads(key.read_text())["pairs"]
    asked = {f"{task}/q{number}" for task in ("qa", "triviaqa") for number in range(QUESTIONS)}
    assert {pair["item"] for pair in pairs} == asked
    for pair, shown in zip(pairs, data_of(page.read_text(encoding="utf-8"))["pairs"], strict=True):
        task, item = pair["item"].split("/q")
        assert shown["question"] == (f"Is {item} < 9?</script>" if task == "qa" else f"triviaqa {item}?")


@pytest.mark.parametrize(("ask", "digest"), [("Was {} < 9?", "digest"), ("", "digest"), ("", "other")])
def test_different_questions_of_one_id_are_refused(tmp_path, ask, digest):
    """Questions are told apart by their words, recordings without words by what the run's keys say of them."""
    one = run_folder(tmp_path / "one", "one", 0.1, ask="" if not ask else "Is {} < 9?")
    two = run_folder(tmp_path / "two", "two", 0.1, ask=ask)
    for path in (tmp_path / "two" / "run.json", tmp_path / "two" / "qa" / "replies.jsonl"):
        path.write_text(path.read_text().replace("q3 digest", f"q3 {digest}"), encoding="utf-8")
    systems = {"first": one, "second": two}
    if not ask and digest == "digest":
        assert make_sheet(systems, tmp_path / "sheet", items=QUESTIONS)[0].is_file()
        return
    with pytest.raises(ValueError, match=r"one question as qa/q\d of all systems, found .* of first and .* of second"):
        make_sheet(systems, tmp_path / "sheet", items=QUESTIONS)
    assert not (tmp_path / "sheet").exists()


def test_a_control_reads_the_replies_of_its_run_and_no_earlier_ones(tmp_path):
    run = run_folder(tmp_path / "run", "name", 0.1)
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    described |= {"judge": {"name": "a judge"}, "control": "piper/joe"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(described))
    key = described["tasks"][0]["keys"][1]
    of = {"now": (key, "piper/joe"), "voice": (key, "flite/slt"), "model": ("earlier q1 digest1", "piper/joe")}
    lines = [
        {"id": "q1", "key": control_key(reply, "a judge", voice), "audio": f"control/{name}.flac", "error": None}
        for name, (reply, voice) in of.items()
    ]
    write_lines(tmp_path / "run" / "qa" / "control.jsonl", lines)
    found = spoken_replies(run + ":control")
    assert {item: spoken.audio.name for item, spoken in found.items()} == {"qa/q1": "now.flac"}
