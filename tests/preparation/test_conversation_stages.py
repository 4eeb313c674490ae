"""Questions chosen, answered and spoken: test sets stay out, replies are whole, nothing is done twice."""

import ast
import random
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import echox
from echox.audio import load_audio
from echox.config import load_recipe
from echox.data.corpora.everyday import everyday_requests, invented_topics, with_follow_ups
from echox.data.manifest import Dialogue, Turn, audio_path, read_dialogues, read_utterances, write_dialogues
from echox.models.text.tokenization_text import train_text_tokenizer
from echox.preparation.conversations import replies as replies_stage
from echox.preparation.conversations.questions import (
    InventedQuestionsRecipe,
    QuestionsRecipe,
    Source,
    invented_question,
    stands_alone,
)
from echox.preparation.conversations.replies import RepliesRecipe, can_be_spoken
from echox.preparation.conversations.speech import SpokenQuestionsRecipe, SpokenRepliesRecipe
from echox.preparation.conversations.writer import ChatWriter, repeats_itself, sentences, whole_sentences
from echox.verbalization import spoken_language
from paths import RECIPES

SYSTEM = "Answer in one short sentence."


def question(name: str, *texts: str, split: str = "train") -> Dialogue:
    return Dialogue(name, tuple(Turn("user", text) for text in texts), split)


@pytest.fixture
def language_model(tmp_path):
    """A chat model of random weights."""
    torch.manual_seed(0)
    tokenizer = train_text_tokenizer(["What is the capital of France? The capital of France is Paris."], vocab_size=300)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, initializer_range=0.5))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


class Answers:
    """A language model with prepared replies, which counts what it is asked."""

    asked: list[list[dict[str, object]]] = []
    replies = {
        "Who?": "Dr. Lee did it. He was 42. And more",
        "Why?": "Because",
        "How?": "It is so and so and it is so and so and it is.",
        "When?": "In 1999.\n- or later",
        "Where?": "It is ☺.",
        "More?": "He paid $5.",
    }

    def __init__(self, *settings: object) -> None:
        self.settings = settings

    def write(self, conversations, max_new_tokens, sampling_seed=None):
        Answers.asked += conversations
        return [self.replies[str(messages[-1]["content"])] for messages in conversations]


@pytest.fixture
def answers(monkeypatch):
    monkeypatch.setattr(replies_stage, "ChatWriter", Answers)
    monkeypatch.setattr(Answers, "asked", [])
    return Answers


def test_sentences_end_where_a_reader_stops():
    assert sentences('Dr. Lee met J. Smith at 3.5 miles. "Why?" he asked. Yes!') == [
        "Dr. Lee met J. Smith at 3.5 miles.",
        '"Why?" he asked.',
        "Yes!",
    ]
    assert sentences("one") == ["one"]
    assert sentences("Да. Это „Она“. И всё. 5 km. und so") == ["Да.", "Это „Она“.", "И всё.", "5 km. und so"]


def test_replies_are_cut_to_whole_sentences():
    assert whole_sentences("It is red. It is blue. It is", 2, 28) == "It is red. It is blue."
    assert whole_sentences("It is red. It is a very long one indeed.", 2, 5) == "It is red."
    assert whole_sentences("It is re", 2, 28) is None
    assert whole_sentences("It is red.\n1. Yes.", 2, 28) is None
    for said in ('He said "no."', "He said “no.”", "Il a dit « non. »"):
        assert whole_sentences(said, 2, 28) == said


def test_a_reply_that_repeats_itself_is_noticed():
    assert repeats_itself("the law of the law of the law of the law")
    assert not repeats_itself("the capital of France is the city of Paris")


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("What is the capital of France?", True),
        ("Which of these is red?", False),
        ("This star won in 1923.", False),
        ("What is ___ called?", False),
        ("It is late. What now is it?", False),
        ("Why?", False),
    ],
)
def test_questions_that_can_be_asked_aloud(text, good):
    assert stands_alone(text) == good


def test_an_invented_question_is_found_in_what_the_model_wrote():
    assert invented_question('"What is a garden for?" That is one.') == "What is a garden for?"
    assert invented_question("Question: What is a garden for?") is None
    assert invented_question("I like gardens.") is None


def test_questions_of_test_sets_are_left_out(tmp_path):
    rows = [
        question("a", "who wrote the book of the long winter"),
        question("b", "what is the capital of France?"),
        question("c", "What is the capital of France ?"),
        question("d", "Who painted the big red house on the hill?", split="test"),
        question("e", "who painted the big red house on the hills?"),
        question("f", "one two three four five six seven"),
    ]
    write_dialogues(tmp_path / "in.jsonl", rows)
    (tmp_path / "test.tsv").write_text(
        "question\tanswer\nWho wrote the book of the long winter?\tme\n", encoding="utf-8"
    )
    source = Source(10, dialogues=str(tmp_path / "in.jsonl"), prefix="x-")
    settings = {"output": str(tmp_path / "out.jsonl"), "exclude": [str(tmp_path / "test.tsv")], "max_words": 9}
    figures = QuestionsRecipe("questions", [source], follow_ups=0.0, **settings).run()
    assert sorted(one.id for one in read_dialogues(tmp_path / "out.jsonl")) in (["x-b", "x-f"], ["x-c", "x-f"])
    assert figures["excluded"] == 2
    write_dialogues(tmp_path / "test.jsonl", rows[1:2])
    settings["exclude"] = [str(tmp_path / "test.jsonl"), str(tmp_path / "test.tsv")]
    QuestionsRecipe("questions", [source], follow_ups=0.0, **settings).run()
    assert [one.turns[0].text for one in read_dialogues(tmp_path / "out.jsonl")] == [
        "One two three four five six seven"
    ]


def test_a_test_set_without_questions_is_refused(tmp_path):
    (tmp_path / "test.csv").write_text("text\nWho?\n", encoding="utf-8")
    recipe = QuestionsRecipe("questions", [Source(1, corpus="everyday")], str(tmp_path / "o.jsonl"))
    recipe.exclude = [str(tmp_path / "test.csv")]
    with pytest.raises(ValueError, match="expected a column 'question' or 'turns', found text"):
        recipe.run()
    with pytest.raises(ValueError, match="none or both"):
        Source(1)


def test_the_same_questions_in_any_order_of_runs(tmp_path):
    sources = [Source(20, corpus="everyday"), Source(20, corpus="nano", prefix="nano-")]
    for name in ("a", "b"):
        QuestionsRecipe("questions", sources, str(tmp_path / f"{name}.jsonl"), follow_ups=0.5).run()
    found = read_dialogues(tmp_path / "a.jsonl")
    assert found == read_dialogues(tmp_path / "b.jsonl")
    assert {one.id.split("-")[0] for one in found} == {"everyday", "nano"}
    assert any(len(one.turns) > 1 for one in found)
    assert all(turn.role == "user" for one in found for turn in one.turns)


def test_everyday_requests_are_many_and_different():
    texts = [one.turns[0].text for one in everyday_requests()]
    assert len(set(texts)) == len(texts) > 500
    assert not any("{" in text for text in texts)
    assert len(invented_topics()) > 40
    followed = with_follow_ups(everyday_requests(), 0.5, random.Random(0))
    assert 0.4 < sum(len(one.turns) > 1 for one in followed) / len(followed) < 0.6


def replies_recipe(tmp_path, **settings) -> RepliesRecipe:
    paths = {"language_model": "none", "output": str(tmp_path / "dialogues.jsonl")}
    return RepliesRecipe("replies", [str(tmp_path / "q.jsonl")], system=SYSTEM, **paths, **settings)


def test_replies_are_the_models_whole_sentences(tmp_path, answers):
    write_dialogues(
        tmp_path / "q.jsonl", [question(name, f"{name}?") for name in ("Who", "Why", "How", "When", "Where")]
    )
    figures = replies_recipe(tmp_path).run()
    (kept,) = read_dialogues(tmp_path / "dialogues.jsonl")
    assert [turn.role for turn in kept.turns] == ["system", "user", "assistant"]
    assert kept.turns[0].text == SYSTEM
    assert kept.turns[2].written == "Dr. Lee did it. He was 42."
    assert kept.turns[2].text == "Doctor Lee did it. He was forty two."
    dropped = {name: count for name, count in figures.items() if name.startswith("dropped")}
    assert dropped == {"dropped: no whole sentence": 2, "dropped: repeats itself": 1, "dropped: cannot be spoken": 1}


@pytest.mark.parametrize(
    ("language", "text", "kept"),
    [
        ("de", "Das kostet 5 Euro, „sagt man“ – oder ‚nicht‘ …", True),
        ("fr", "Il a dit : « Ça coûte 5 € ».", True),
        ("es", "¿Cuánto cuesta? ¡Son 5 euros!", True),
        ("ru", "Это стоит 5 рублей — «дёшево».", True),
        ("el", "Κοστίζει 5 ευρώ.", True),
        ("ar", "كم السعر؟ خمسة، لا أكثر.", True),
        ("hi", "इसकी कीमत 5 रुपये है।", True),
        ("ko", "가격은 5유로입니다.", True),
        ("en", "It’s 5 – “not more” …", True),
        ("en", "Здесь.", False),
        ("de", "Schön ☺.", False),
        ("de", "Es ist **schön**.", False),
        ("de", "x_1 = {3}", False),
    ],
)
def test_letters_of_any_script_can_be_spoken_by_their_language(language, text, kept):
    assert can_be_spoken(text, spoken_language(language)) == kept


def test_replies_of_another_language_have_no_english_words(tmp_path, answers, monkeypatch):
    german = "Das kostet 5 Euro. Ähnlich ist es bei „Dr. Lee“."
    monkeypatch.setattr(Answers, "replies", {"Was?": german})
    write_dialogues(tmp_path / "q.jsonl", [question("a", "Was?")])
    replies_recipe(tmp_path, spoken_language="de").run()
    (kept,) = read_dialogues(tmp_path / "dialogues.jsonl")
    assert (kept.turns[2].text, kept.turns[2].written) == (german, None)
    with pytest.raises(ValueError, match="ISO 639"):
        replies_recipe(tmp_path, spoken_language="German").run()


def test_every_stage_that_says_figures_names_the_language():
    """`normalize_for_speech` reads English if nobody says otherwise; only the English corpus leaves it open."""
    package = Path(echox.__file__).parent
    calls = [
        (path.relative_to(package).as_posix(), len(node.args) + len(node.keywords))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "normalize_for_speech"
    ]
    assert {path for path, given in calls if given < 2} == {"data/corpora/nano/world.py"}
    assert len(calls) > 4


def test_every_turn_is_answered_in_its_conversation(tmp_path, answers):
    write_dialogues(tmp_path / "q.jsonl", [question("a", "Who?", "More?"), question("b", "Who?", "Why?")])
    replies_recipe(tmp_path).run()
    (kept,) = read_dialogues(tmp_path / "dialogues.jsonl")
    assert [turn.role for turn in kept.turns] == ["system", "user", "assistant", "user", "assistant"]
    assert kept.turns[4].text == "He paid five dollars."
    # What the model reads is what was written, not what is spoken.
    assert [message["content"] for message in answers.asked[1]] == [
        SYSTEM,
        "Who?",
        "Dr. Lee did it. He was 42.",
        "More?",
    ]


def test_a_corpus_is_answered_anew_and_its_recordings_stay(tmp_path, answers):
    (tmp_path / "corpus").mkdir()
    turns = (Turn("user", "Who?", "wav/a.wav", 1.0, "somebody"), Turn("assistant", "Another."), Turn("user", "More?"))
    dialogues = [Dialogue("a", turns), Dialogue("b", turns[:1], split="test")]
    write_dialogues(tmp_path / "corpus" / "q.jsonl", dialogues)
    recipe = replies_recipe(tmp_path)
    recipe.questions = [str(tmp_path / "corpus" / "q.jsonl")]
    recipe.run()
    (kept,) = read_dialogues(tmp_path / "dialogues.jsonl")
    assert [turn.text for turn in kept.turns[2::2]] == ["Doctor Lee did it. He was forty two.", "He paid five dollars."]
    first = kept.turns[1]
    assert (first.audio, first.duration_s, first.speaker) == ("corpus/wav/a.wav", 1.0, "somebody")
    write_dialogues(tmp_path / "corpus" / "q.jsonl", [Dialogue("a", (Turn("user", audio="a.wav"),))])
    with pytest.raises(ValueError, match="found only audio"):
        recipe.run()


def test_replies_are_not_written_twice(tmp_path, answers):
    write_dialogues(tmp_path / "q.jsonl", [question(str(number), "Who?", "More?") for number in range(3)])
    replies_recipe(tmp_path, limit=2).run()
    assert len(read_dialogues(tmp_path / "dialogues.jsonl")) == 2
    assert len(answers.asked) == 2  # the same conversation is answered once
    replies_recipe(tmp_path, max_repetitions=2).run()
    assert len(answers.asked) == 2
    assert len(read_dialogues(tmp_path / "dialogues.jsonl")) == 2  # the third says the same again
    replies_recipe(tmp_path, max_new_tokens=20).run()
    assert len(answers.asked) == 4


def test_a_batch_writes_what_each_conversation_gets_alone(language_model):
    writer = ChatWriter(language_model, "float32", 3, "cpu")
    texts = ["What is it?", "What is the capital of France?", "Paris?", "It?", "Is it the capital of what?"]
    messages = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}] for text in texts]
    together = writer.write(messages, max_new_tokens=8)
    assert together == [writer.write([one], max_new_tokens=8)[0] for one in messages]
    assert len(set(together)) > 1


def test_invented_questions_are_drawn_once(tmp_path, language_model, monkeypatch):
    recipe = InventedQuestionsRecipe(
        "invented_questions",
        str(language_model),
        str(tmp_path / "invented.jsonl"),
        per_topic=2,
        batch_size=3,
        max_topics=2,
    )
    assert recipe.run()["drawn"] == 4
    monkeypatch.setattr("echox.preparation.conversations.questions.ChatWriter", None)
    assert recipe.run()["drawn"] == 4


class Drawn:
    """A language model whose texts depend on the prompts beside each, which counts its batches."""

    batches = 0

    def __init__(self, *_: object) -> None: ...

    def write(self, conversations, max_new_tokens, sampling_seed=None):
        Drawn.batches += 1
        prompts = [messages[-1]["content"] for messages in conversations]
        return [f"What is it about {prompt[-9:]} {len(prompts)} {sampling_seed}?" for prompt in prompts]


@pytest.mark.parametrize("first", [{"max_topics": 1}, {"per_topic": 5}, {"batch_size": 7}, {"prompt": "{topic}!"}, {}])
def test_a_trial_changes_nothing_of_the_full_run(first, tmp_path, monkeypatch):
    monkeypatch.setattr("echox.preparation.conversations.questions.ChatWriter", Drawn)

    def drawn(folder, **settings):
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / "invented.jsonl"
        settings = {"per_topic": 2, "batch_size": 8} | settings
        figures = InventedQuestionsRecipe("invented_questions", "none", str(path), **settings).run()
        return figures, path.read_text(encoding="utf-8")

    full = drawn("full")
    drawn("trial", **first)
    assert drawn("trial") == full
    assert full[0]["drawn"] == 2 * len(invented_topics())


def test_a_model_that_is_written_again_draws_and_answers_again(tmp_path, monkeypatch, answers):
    monkeypatch.setattr("echox.preparation.conversations.questions.ChatWriter", Drawn)
    model = tmp_path / "lm" / "model.safetensors"
    model.parent.mkdir()
    write_dialogues(tmp_path / "q.jsonl", [question("a", "Who?")])
    invented = InventedQuestionsRecipe("invented_questions", str(model.parent), str(tmp_path / "i.jsonl"), max_topics=1)
    replied = replies_recipe(tmp_path)
    replied.language_model = str(model.parent)
    monkeypatch.setattr(Drawn, "batches", 0)
    for times in (1, 2):
        model.write_bytes(bytes(times))
        for _ in range(2):
            invented.run()
            replied.run()
            assert (Drawn.batches, len(answers.asked)) == (times, times)


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_replies_are_spoken_once_each(tmp_path):
    def dialogue(name: str, text: str) -> Dialogue:
        turns = (
            Turn("system", SYSTEM),
            Turn("user", "Who?"),
            Turn("assistant", text, written="2" if text == "Two." else None),
        )
        return Dialogue(name, turns, "heldout" if name == "c" else "train")

    write_dialogues(
        tmp_path / "d.jsonl", [dialogue("a", "It is one."), dialogue("b", "It is one."), dialogue("c", "Two.")]
    )
    output = tmp_path / "speech" / "replies.jsonl"
    recipe = SpokenRepliesRecipe("spoken_replies", str(tmp_path / "d.jsonl"), str(output), "flite/slt", workers=1)
    assert recipe.run()["utterances"] == 2
    first, second = read_utterances(output)
    assert (first.id, first.text, first.split, first.written) == ("a.2", "It is one.", "train", None)
    assert (second.id, second.split, second.written) == ("c.2", "heldout", "2")
    assert len(first.word_ends_s) == 3
    assert len(load_audio(audio_path(output, first.audio), 16_000)) / 16_000 == pytest.approx(
        first.duration_s, abs=0.01
    )
    recipe.hours = 2.0 / 3600
    assert recipe.run()["utterances"] == 1


def test_recipes_of_mini_agree():
    questions, replies = (load_recipe(RECIPES / "mini" / f"{name}.yaml") for name in ("questions", "replies"))
    invented, spoken = (
        load_recipe(RECIPES / "mini" / f"{name}.yaml") for name in ("invented_questions", "spoken_replies")
    )
    assert replies.questions == [questions.output, invented.output]
    assert spoken.dialogues == replies.output
    assert replies.system == SYSTEM


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_questions_are_spoken_by_voices_and_some_voices_only_in_evaluation(tmp_path):
    dialogues = [
        Dialogue(
            f"d{number}",
            (
                Turn("system", SYSTEM),
                Turn("user", f"Who is number {number}?"),
                Turn("assistant", "Me."),
                Turn("user", "Why?"),
                Turn("assistant", "Because."),
            ),
            "heldout" if number > 2 else "train",
        )
        for number in range(5)
    ]
    write_dialogues(tmp_path / "d.jsonl", dialogues)
    output = tmp_path / "speech" / "questions.jsonl"
    voices = {"voices": {"flite/slt": 1.0}, "new_voices": {"flite/kal": 1.0}}
    recipe = SpokenQuestionsRecipe("spoken_questions", str(tmp_path / "d.jsonl"), str(output), **voices, workers=1)
    figures = recipe.run()
    assert (figures["dialogues"], figures["recordings"]) == (5, 10)
    spoken = read_dialogues(output)
    assert [one.split for one in spoken] == ["train"] * 3 + ["heldout_seen_voices", "heldout_new_voices"]
    assert [one.turns[1].speaker for one in spoken] == ["flite/slt"] * 4 + ["flite/kal"]
    assert all(one.heard_turns == (1, 3) for one in spoken)
    assert [turn.text for turn in spoken[0].turns] == [turn.text for turn in dialogues[0].turns]
    turn = spoken[0].turns[1]
    waveform = load_audio(audio_path(output, turn.audio), 16_000)
    assert len(waveform) / 16_000 == pytest.approx(turn.duration_s, abs=0.01)
    utterances = read_utterances(output.with_name("questions_utterances.jsonl"))
    assert len(utterances) == 10
    assert utterances[0].split == "train"
    assert len(utterances[0].word_ends_s) == 4
    before = (output.parent / "questions" / "d0.1.wav").stat().st_mtime_ns
    recipe.hours = 6.0 / 3600
    assert 0 < recipe.run()["dialogues"] < 5  # fewer for training, all that are held out
    assert (output.parent / "questions" / "d0.1.wav").stat().st_mtime_ns == before


def test_a_voice_is_for_training_or_for_evaluation():
    with pytest.raises(ValueError, match="flite/slt"):
        SpokenQuestionsRecipe("spoken_questions", "d", "o", {"flite/slt": 1.0}, {"flite/slt": 1.0})
