"""Phones as units: those that the engine says, timed as its speech is; texts that nobody speaks have them too."""

import itertools
import json
import shutil
from collections import Counter

import pytest

from echox.audio import save_audio
from echox.config import load_recipe
from echox.data.engines.engine import Voice
from echox.data.engines.piper import VOICES_FOLDER, open_voice
from echox.data.engines.word_ends import PAUSE
from echox.data.manifest import (
    Dialogue,
    Turn,
    Utterance,
    read_unit_utterances,
    read_utterances,
    write_dialogues,
    write_unit_utterances,
    write_utterances,
)
from echox.data.scoring import normalize_words
from echox.data.synthesis import create_pronouncer, create_synthesizer
from echox.preparation.conversations.phone_units import WORD_BEGINS, PhoneUnitsRecipe, whole_frames
from echox.units.inventory import read_num_units, write_phone_units
from tiny_voice import write_tiny_voice

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")

TEXTS = ("The dog ran, and the cat ran too.", "Is it a dog? No! A cat.", "Bad days end, of the old kind.")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    open_voice.cache_clear()
    monkeypatch.setenv(VOICES_FOLDER, str(write_tiny_voice(tmp_path)))
    return Voice("piper", "tiny")


@needs_espeak
@pytest.mark.parametrize("text", TEXTS)
def test_pronunciation_of_piper_is_its_speech(tiny, text):
    pronouncer, speech = create_pronouncer("piper"), create_synthesizer("piper").synthesize(text, tiny)
    timed = pronouncer.pronunciations(["A cat.", text], tiny, timed=True)[1]
    assert timed.ends_s == pytest.approx(sorted(timed.ends_s))
    assert timed.ends_s[-1] == pytest.approx(len(speech.waveform) / speech.sampling_rate, abs=1e-5)
    untimed = pronouncer.pronunciations([text], tiny, timed=False)[0]
    assert (untimed.phones, untimed.word_of_phone, untimed.ends_s) == (timed.phones, timed.word_of_phone, None)
    ends = [max(itertools.compress(timed.ends_s, of)) for of in _members(timed.word_of_phone)]
    assert ends == pytest.approx(speech.word_ends_s, abs=1e-5)


def _members(word_of_phone):
    return [[word == number for word in word_of_phone] for number in range(max(word_of_phone) + 1)]


@needs_espeak
def test_stress_and_length_are_part_of_a_phone(tiny):
    phones = create_pronouncer("piper").pronunciations(["A dog, hello."], tiny, timed=False)[0].phones
    assert phones == ("ɐ", "d", "ˈɑː", "ɡ", PAUSE, "h", "ə", "l", "ˈo", "ʊ", PAUSE)


@needs_flite
def test_pronunciation_of_flite_is_its_speech():
    voice, text = Voice("flite", "kal"), "The red dog, not the cat."
    said, speech = create_pronouncer("flite").pronunciations([text], voice, True)[0], create_synthesizer("flite")
    assert tuple(zip(said.phones, said.ends_s, strict=True)) == speech.synthesize(text, voice).phones
    assert said.word_of_phone[0] == 0
    assert said.word_of_phone[-1] == len(text.split()) - 1


@pytest.mark.parametrize("engine", ["espeak-ng", "nobody"])
def test_an_engine_without_phones_is_refused(engine):
    with pytest.raises(ValueError, match="engine: expected"):
        create_pronouncer(engine)


def test_frames_follow_the_time_and_none_is_empty():
    ends_s = [0.001, 0.002, 0.003, 0.1, 0.35, 0.351, 1.0]
    frames = whole_frames(ends_s)
    assert min(frames) == 1
    assert sum(frames) == 50
    assert all(abs(total / 50 - end) <= 0.06 for total, end in zip(itertools.accumulate(frames), ends_s, strict=True))


@pytest.fixture
def spoken(tmp_path, tiny):
    rows = []
    for number, text in enumerate(TEXTS):
        speech = create_synthesizer("piper").synthesize(text, tiny)
        save_audio(tmp_path / f"{number}.wav", speech.waveform, speech.sampling_rate)
        length_s = len(speech.waveform) / speech.sampling_rate
        split = "test" if number == 2 else "train"
        rows.append(Utterance(str(number), f"{number}.wav", text, tiny.speaker, length_s, split, speech.word_ends_s))
    write_utterances(tmp_path / "speech.jsonl", rows)
    turns = [Turn("user", "Has the dog 2 ends?"), Turn("assistant", TEXTS[2]), Turn("user", "What, sheep?")]
    write_dialogues(tmp_path / "texts.jsonl", [Dialogue("d", tuple(turns))])
    words = ("The dog ran.", "A red dog", "the red cat", "Bad days end, of the old kind.", "a red, old hat")
    write_dialogues(
        tmp_path / "words.jsonl", [Dialogue(f"w{n}", (Turn("user", text),)) for n, text in enumerate(words)]
    )
    return tmp_path


def run(folder, **values):
    more = [f"{name}={value}" for name, value in ({"name_count": 0} | values).items()]
    recipe = load_recipe(
        "recipes/mini/phone_units.yaml",
        [
            f"speech={folder}/speech.jsonl",
            f"texts=[{folder}/texts.jsonl]",
            f"word_texts=[{folder}/words.jsonl]",
            f"output_dir={folder}/units",
            *more,
        ],
    )
    return recipe.run()


@needs_espeak
def test_spoken_and_unspoken_texts_become_units(spoken):
    figures = run(spoken)
    rows = read_unit_utterances(spoken / "units" / "replies.jsonl")
    phones = json.loads((spoken / "units" / "phone_units.json").read_text("utf-8"))["phones"]
    assert [row.text for row in rows] == list(TEXTS)
    assert rows[2].split == "test"
    assert read_num_units(spoken / "units") == len(phones) == figures["units"]
    assert phones[0] == PAUSE
    for row in rows:
        assert all(a != b for a, b in itertools.pairwise(row.units))
        begins = [phones[unit].startswith(WORD_BEGINS) for unit in row.units]
        assert begins == [word not in row.word_of_unit[:place] for place, word in enumerate(row.word_of_unit)]
        assert set(row.word_of_unit) == set(range(len(row.text.split())))
    texts = read_unit_utterances(spoken / "units" / "texts.jsonl")
    kept = {row.text for row in texts}
    assert TEXTS[2] not in kept  # a held-out reply teaches nobody
    assert all(row.split == "train" and row.durations_frames == () for row in texts)
    # Numbers are spoken as words; of the dictionary, "ran", "red", "cat" and "old", "hat" are new, but not the reply.
    assert figures["texts"] + figures["left_out"] == 2 + 4
    assert not any(map(str.isdigit, "".join(kept)))


@needs_espeak
def test_a_second_run_does_not_ask_the_voice_again(spoken, monkeypatch):
    run(spoken)
    before = (spoken / "units" / "replies.jsonl").read_bytes()
    monkeypatch.setattr("echox.data.engines.piper.PiperVoice.durations_s", None)
    run(spoken)
    assert (spoken / "units" / "replies.jsonl").read_bytes() == before


@needs_espeak
def test_speech_at_another_tempo_is_refused(spoken):
    path = spoken / "speech.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows[1]["duration_s"] += 0.5
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.raises(ValueError, match=r"1: expected .* s of speech, found .*; was it spoken at another tempo"):
        run(spoken)


@needs_espeak
def test_two_voices_are_refused(spoken):
    path = spoken / "speech.jsonl"
    path.write_text(path.read_text("utf-8").replace("piper/tiny", "piper/other", 1), "utf-8")
    with pytest.raises(ValueError, match="expected one voice"):
        run(spoken)


@needs_espeak
def test_t2c_learns_from_unspoken_texts_too(spoken, tmp_path):
    """Their rows have no durations, which only the vocoder needs."""
    run(spoken)
    rows = read_unit_utterances(spoken / "units" / "texts.jsonl")
    write_unit_utterances(tmp_path / "again.jsonl", rows)
    assert read_unit_utterances(tmp_path / "again.jsonl") == rows


def test_names_are_said_in_as_many_texts_as_asked_for(tmp_path):
    """Words that are never written in lower case are; of them, only what is missing is added, each time differently."""
    names = ["Madrid", "Mozart", "Waterloo", "Lisbon", "Darwin", "Bizet", "Oslo"]
    texts = ["Madrid is large.", "Madrid again.", "Is Madrid large?", "the Mozart sonata", "Each oslo is each oslo"]
    write_dialogues(tmp_path / "texts.jsonl", [])
    write_dialogues(
        tmp_path / "words.jsonl",
        [Dialogue(f"w{n}", (Turn("user", text),)) for n, text in enumerate([*texts, ", ".join(names)])],
    )
    recipe = PhoneUnitsRecipe("phone_units", "speech.jsonl", "units", [str(tmp_path / "texts.jsonl")], name_count=4)
    recipe.word_texts, recipe.word_count = [str(tmp_path / "words.jsonl")], 9
    chosen, lists = recipe._unspoken(set())
    assert len(chosen) == len(texts) + 1
    said = Counter(word for text in (*chosen, *lists) for word in set(normalize_words(text)))
    assert {said[name.lower()] for name in names[:-1]} == {4}
    assert not any(word in " ".join(lists) for word in ("Oslo", "Each", "Is"))
    assert len(set(lists)) == len(lists)
    assert all(len(normalize_words(text)) <= 4 for text in lists)
    assert recipe._unspoken(set()) == (chosen, lists)


@pytest.mark.parametrize(("language", "said"), [("en", "five Euro."), ("de", "5 Euro.")])
def test_texts_are_said_in_their_language(tmp_path, language, said):
    write_dialogues(tmp_path / "texts.jsonl", [Dialogue("t", (Turn("assistant", "5 Euro."),))])
    settings = {"name_count": 1, "spoken_language": language}
    recipe = PhoneUnitsRecipe("phone_units", "speech.jsonl", "units", [str(tmp_path / "texts.jsonl")], **settings)
    recipe.word_texts = [str(tmp_path / "texts.jsonl")]
    assert recipe._unspoken(set())[0] == [said]


@needs_espeak
def test_lists_of_names_stand_in_a_file_of_their_own(spoken):
    run(spoken)
    assert not read_unit_utterances(spoken / "units" / "names.jsonl")
    turns = [Turn("user", "Bad, red Dan and red Ed")]
    write_dialogues(spoken / "words.jsonl", [Dialogue("w", tuple(turns))])
    run(spoken, name_count=3, output_dir=f"{spoken}/named")
    texts = read_unit_utterances(spoken / "named" / "texts.jsonl")
    names = read_unit_utterances(spoken / "named" / "names.jsonl")
    lists = [row for row in texts if set(normalize_words(row.text)) <= {"dan", "ed", "bad"}]
    assert names == [*[row for row in texts if row not in lists][:1], *lists]
    assert len(lists) > 1


@needs_espeak
def test_phones_keep_the_numbers_of_another_run(spoken):
    """Fewer replies have fewer phones: without it, the numbers after a missing one would move."""
    run(spoken)
    names = json.loads((spoken / "units" / "phone_units.json").read_text("utf-8"))["phones"]
    units = {row.text: row.units for row in read_unit_utterances(spoken / "units" / "replies.jsonl")}
    rows = read_utterances(spoken / "speech.jsonl")[1:]
    write_utterances(spoken / "speech.jsonl", rows)
    figures = run(spoken, output_dir=f"{spoken}/fewer", numbers_of=f"{spoken}/units")
    assert figures["units"] == len(names)
    again = {row.text: row.units for row in read_unit_utterances(spoken / "fewer" / "replies.jsonl")}
    assert again == {row.text: units[row.text] for row in rows}
    assert run(spoken, output_dir=f"{spoken}/new")["units"] < len(names)
    assert json.loads((spoken / "fewer" / "training_record.json").read_text("utf-8"))["details"] == {"phones": names}


@needs_espeak
def test_speech_with_a_phone_without_a_number_can_be_left_out(spoken):
    """A large corpus has phones that a small one never met."""
    run(spoken)
    first = read_utterances(spoken / "speech.jsonl")[0]
    rows = {row.id: row for row in read_unit_utterances(spoken / "units" / "replies.jsonl")}
    names = json.loads((spoken / "units" / "phone_units.json").read_text("utf-8"))["phones"]
    (spoken / "small").mkdir()
    write_phone_units(spoken / "small", [names[unit] for unit in sorted({0, *rows[first.id].units})])
    figures = run(spoken, output_dir=f"{spoken}/kept", numbers_of=f"{spoken}/small", keep_going=True)
    kept = {row.id for row in read_unit_utterances(spoken / "kept" / "replies.jsonl")}
    assert first.id in kept
    assert kept < rows.keys()
    assert figures["left_out"] >= len(rows) - len(kept)


@needs_espeak
def test_a_phone_without_a_number_is_refused(spoken):
    (spoken / "other").mkdir()
    write_phone_units(spoken / "other", [PAUSE, "a"])
    with pytest.raises(ValueError, match="expected all phones of .* found none of .* leave out numbers_of"):
        run(spoken, numbers_of=f"{spoken}/other")
    assert not (spoken / "units" / "replies.jsonl").exists()


def test_numbers_that_cannot_be_read_are_refused_before_anything_is_pronounced(spoken):
    with pytest.raises(ValueError, match="phone_units"):
        run(spoken, numbers_of=f"{spoken}/nowhere")
    assert not (spoken / "units" / ".pronunciations.jsonl").exists()
