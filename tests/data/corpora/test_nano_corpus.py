"""The nano corpus: facts are asked in many ways, held-out phrasings are not in training, plans cover every word."""

import random
from collections import Counter, defaultdict

import pytest

from echox.config import load_recipe
from echox.data.corpora.nano import speech, world
from echox.data.corpora.nano.world import build_dialogues, load_facts, reply_sentences, spoken_words


@pytest.fixture(scope="module")
def dialogues():
    return build_dialogues(seed=0)


def questions(dialogues, split):
    return {turn.text for d in dialogues if d.split == split for turn in d.turns if turn.role == "user"}


@pytest.mark.slow
def test_every_fact_has_many_phrasings_and_one_reply():
    facts = load_facts()
    assert len({fact.topic for fact in facts}) >= 15
    for fact in facts:
        assert len(set(fact.train)) >= 8, fact
        assert len(set(fact.heldout)) >= 2, fact
        assert fact.answer.lower() in fact.reply.lower()
        assert fact.reply[-1] in ".?"
        assert not any(char.isdigit() or char in "-{}" for text in (fact.reply, *fact.train) for char in text)


def test_topics_do_not_drown_each_other():
    topics = Counter(fact.topic for fact in load_facts())
    assert topics["times"] < 0.15 * sum(topics.values())
    assert topics["capital"] >= 60


def test_a_question_has_one_answer(dialogues):
    replies = defaultdict(set)
    for dialogue in dialogues:
        if len(dialogue.turns) == 2:
            replies[dialogue.turns[0].text.lower()].add(dialogue.turns[1].text)
    assert {question: texts for question, texts in replies.items() if len(texts) > 1} == {}


def test_heldout_phrasings_never_occur_in_training_but_their_words_do(dialogues):
    train, heldout = questions(dialogues, "train"), questions(dialogues, "heldout")
    assert heldout
    assert not {text.lower() for text in train} & {text.lower() for text in heldout}
    known = {word.lower() for word in spoken_words(sorted(train))}
    assert {word.lower() for word in spoken_words(sorted(heldout))} <= known


def test_dialogues_depend_on_the_seed_alone(dialogues):
    assert build_dialogues(seed=0) == dialogues
    assert build_dialogues(seed=1) != dialogues
    assert len({dialogue.id for dialogue in dialogues}) == len(dialogues)


def test_vocabulary_is_small(dialogues):
    assert len(spoken_words(reply_sentences(dialogues))) <= 1200
    assert len(spoken_words(sorted(questions(dialogues, "train")))) <= 1500


def test_articles_names_and_numbers():
    replies = {fact.reply for fact in load_facts()}
    assert "An elephant has four legs." in replies
    assert "The opposite of true is false." in replies
    assert "The Netherlands is in Europe." in replies
    assert "Yes is spelled Y, E, S." in replies
    assert "Seven times six is forty two." in replies
    assert world.number_words(342) == "three hundred forty two"


def test_carriers_keep_names_and_punctuation():
    rng = random.Random(0)
    wrapped = {world.with_carrier("France, what is its capital?", rng) for _ in range(60)}
    assert all("France" in text and text.endswith("?") for text in wrapped)
    assert "Hey Echo, what is a key?" in {world.with_carrier("What is a key?", rng) for _ in range(200)}
    assert all(text[0].isupper() for text in wrapped)


def test_questions_plan_covers_facts_words_and_voices(dialogues):
    sentences = reply_sentences(dialogues)
    lines = speech.plan_questions(dialogues, sentences, speech.Sizes(), random.Random(0))
    again = speech.plan_questions(dialogues, sentences, speech.Sizes(), random.Random(0))
    assert lines == again
    assert len({line.id for line in lines}) == len(lines)
    train = [line for line in lines if line.split == "train"]
    asked = Counter(line.dialogue.turns[1].text for line in train if line.dialogue)
    assert set(asked) == {fact.reply for fact in load_facts()}
    assert min(asked.values()) >= 5
    seen = {line.voice.speaker for line in train}
    new = {line.voice.speaker for line in lines if line.split == "heldout_new_voices"}
    assert new
    assert not seen & new
    assert sum(line.voice.engine == "flite" for line in train) / len(train) == pytest.approx(0.5, abs=0.05)
    heldout = [line for line in lines if line.split == "heldout_seen_voices"]
    assert len(heldout) == 400
    assert len({line.dialogue.topic for line in heldout}) == len({fact.topic for fact in load_facts()})
    salads = " ".join(line.text for line in train if line.id.startswith("qs-")).split()
    counts = Counter(word.lower() for word in salads)
    assert min(counts[word.lower()] for word in spoken_words(sentences)) >= 3


def test_replies_plan_puts_each_word_in_many_contexts(dialogues):
    sentences = reply_sentences(dialogues)
    lines = speech.plan_replies(dialogues, sentences, speech.Sizes(), random.Random(0))
    train = [line.text for line in lines if line.split == "train"]
    heldout = [line.text for line in lines if line.split == "heldout"]
    assert set(sentences) <= set(train)
    assert len(heldout) == len(set(heldout)) == 150
    assert not set(heldout) & set(train)
    assert {line.voice for line in lines} == {speech.REPLY_VOICE}
    contexts = Counter(word.strip(".,?!").lower() for text in train for word in text.split())
    assert min(contexts[word.lower()] for word in spoken_words(sentences)) >= 30


def test_recipe_loads():
    recipe = load_recipe("recipes/nano/corpus.yaml", ["smoke=true", "output_dir=somewhere"])
    assert recipe.smoke
    assert recipe.output_dir == "somewhere"
    assert recipe.questions_hours == 9.0
