"""Which of "valid" and "invalid" a reply says: negations in every form, clauses, answers that are taken back."""

import itertools

import pytest

from echox.evaluation.scoring.choices import named_answers

OTHER = {"valid": "invalid", "invalid": "valid"}
NEGATED = [
    "is not {}",
    "isn't {}",
    "isn\N{RIGHT SINGLE QUOTATION MARK}t {}",
    "isnt {}",
    "is never {}",
    "cannot be considered {}",
    "can't be {}",
    "can not be called {}",
    "could not be judged to be {}",
    "doesn't appear to be {}",
    "does not seem {}",
    "fails to be {}",
    "failed to be {}",
    "is far from {}",
    "is no longer {}",
    "is by no means {}",
    "is in no way {}",
    "is neither sound nor {}",
    "is hardly {}",
    "is not, strictly speaking, {}",
]
STATED = ["is {}", "seems {}", "must be considered {}", "is not only sound but {}", "is, in fact, {}", "is clearly {}"]
ADVERBS = ["", "deductively ", "logically or deductively ", "necessarily "]
AROUND = [
    "The argument {}.",
    "the argument {}",
    "All A are B, but no B is C. Therefore the argument {}, given the stated premises.",
    "It does not follow, so the argument {}.",
    "The premises do not hold, and the argument {}.",
    "I cannot see why not: the argument {}.",
    "No, the argument {}.",
    "At first I would not say so; the answer is: it {}.",
]


@pytest.mark.parametrize("around", AROUND)
def test_a_negation_turns_the_word_of_its_clause_round_and_no_other(around):
    for form, adverb, word in itertools.product(NEGATED + STATED, ADVERBS, OTHER):
        reply = around.format(form.format(adverb + word))
        expected = OTHER[word] if form in NEGATED else word
        assert named_answers(reply, "valid") == {expected}, reply


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("It is non-valid.", {"invalid"}),
        ("It is in valid.", {"invalid"}),
        ("That is not a valid argument.", {"invalid"}),
        ("It has no deductively valid form.", {"invalid"}),
        ("It is invalid rather than valid.", {"invalid"}),
        ("It is not valid, it is invalid.", {"invalid"}),
        ("Not valid, invalid.", {"invalid"}),
        ("I do not think that the argument is valid.", {"invalid"}),
        ("It is false that the argument is valid.", {"invalid"}),
        ("It cannot be said not to be valid.", {"valid"}),
        ("It is not invalid.", {"valid"}),
        ("It is neither valid nor invalid.", {"valid", "invalid"}),
        ("I cannot say whether it is valid.", set()),
        ("I do not know if the argument is deductively valid or invalid.", set()),
        ("If all A are B, then the argument is valid.", {"valid"}),
    ],
)
def test_what_is_said_of_validity(reply, named):
    assert named_answers(reply, "invalid") == named


@pytest.mark.parametrize(("first", "last"), [("valid", "invalid"), ("invalid", "valid")])
def test_the_last_conclusion_counts(first, last):
    taken_back = f"So the answer is {first}. Wait, one A is no B. The answer is {last}."
    assert named_answers(taken_back, "valid") == {last}
    assert named_answers(f"{taken_back} I hope that this answer is of use.", "valid") == {last}
    assert named_answers(f"The answer is {first}. Answer: not {first}", "valid") == {last}


@pytest.mark.parametrize(("first", "last"), [("Yes", "No"), ("18", "19")])
def test_the_last_conclusion_counts_of_other_answers(first, last):
    assert named_answers(f"The answer is {first}. No wait: the answer is {last}.", first) == {last.lower()}
