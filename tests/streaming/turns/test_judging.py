"""The turn head: what it reads, who hears its answer, and that nothing is left of what was only judged."""

import pytest
import torch
from safetensors.torch import save_file

from echox.api import EchoX
from echox.files import write_tensors
from echox.models.turns.turn_head import TurnHead, turn_inputs
from echox.streaming import Finished, Heard, Judged, Scheduler, Session
from echox.streaming.prompt.messages import Audio, Message
from tiny_echox import tiny_echox, tone


@pytest.fixture(scope="module")
def model() -> EchoX:
    return tiny_echox(max_positions=2048, unit_words_per_word=12)


@pytest.fixture
def asked(model, monkeypatch):
    """The inputs that the head was asked about; it answers 0.25."""
    model.engine.clear_encoded()
    found = []

    def head(inputs):
        found.append(inputs)
        return 0.25

    monkeypatch.setattr(model.engine, "turn_head", head)
    return found


def session(model) -> Session:
    return Session(Scheduler(model.engine), model.settings)


def question(model, seed=0):
    return [Message("user", (Audio(tone(0.5, seed=seed), model.sampling_rate),))]


def width(model):
    return model.model.s2t.config.text_config.hidden_size


def test_a_question_is_only_judged(model, asked):
    talk = session(model)
    events = list(talk.fork().judge(question(model)))
    assert [type(event) for event in events] == [Heard, Judged, Finished]
    assert events[1] == Judged(0.25)
    (inputs,) = asked
    assert inputs.shape == (events[0].num_text_tokens, width(model) + 1)
    assert bool((inputs[:, -1] >= 0).all())
    assert not model.engine._encoded
    assert talk.messages == []


def test_a_speculation_is_judged_and_an_ordinary_reply_is_not(model, asked):
    speculation = session(model).speculate(question(model), max_new_tokens=4)
    assert next(event for event in speculation if not isinstance(event, Heard)) == Judged(0.25)
    speculation.cancel()
    ordinary = session(model).submit(question(model), max_new_tokens=4)
    assert not any(isinstance(event, Judged) for event in ordinary)
    assert len(asked) == 1


def test_judged_alone_and_in_a_speculation_it_gets_the_same(model, asked):
    list(session(model).judge(question(model)))
    speculation = session(model).speculate(question(model))
    next(event for event in speculation if isinstance(event, Judged))
    speculation.cancel()
    torch.testing.assert_close(asked[0], asked[1])


def test_questions_that_are_judged_together_do_not_see_each_other(model, asked):
    scheduler = Scheduler(model.engine)
    alone = [list(session(model).judge(question(model, seed))) and asked.pop() for seed in range(3)]
    tasks = [Session(scheduler, model.settings).judge(question(model, seed)) for seed in range(3)]
    for task in tasks:
        list(task)
    torch.testing.assert_close(asked, alone)


def test_a_judgement_that_fails_does_so_alone(model, asked, monkeypatch):
    head, scheduler, heard = model.engine.turn_head, Scheduler(model.engine), []

    def fails_once(inputs):
        if head(inputs) and len(asked) == 1:
            raise RuntimeError("out of memory")
        return 0.25

    monkeypatch.setattr(model.engine, "turn_head", fails_once)
    tasks = [Session(scheduler, model.settings).judge(question(model, n), on_event=heard.append) for n in range(3)]
    while not all(task.done for task in tasks):
        assert scheduler.step()
    assert [type(task.error) for task in tasks] == [RuntimeError, type(None), type(None)]
    assert heard.count(Judged(0.25)) == 2
    assert len(asked) == 3


def test_without_a_head_nothing_is_judged(model):
    assert [type(event) for event in session(model).judge(question(model))] == [Heard, Finished]


def head_of(width, hidden_size=8, reads_states=False):
    torch.manual_seed(0)
    return TurnHead(width, hidden_size, reads_states=reads_states).eval()


def test_inputs_say_what_was_heard_and_when():
    inputs = turn_inputs(torch.arange(6.0).reshape(3, 2), [0.25, 0.5, 4.0])
    assert inputs[:, :2].flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert inputs[:, 2].tolist() == [0.25, 0.25, 1.0]  # longer gaps say no more


def test_of_a_model_whose_inputs_are_no_tokens_nothing_is_said():
    assert turn_inputs(torch.ones(3, 2), [0.1, 0.2]) is None
    assert turn_inputs(torch.ones(0, 2), []) is None


def test_a_head_may_read_the_states_of_what_was_heard(model, asked, monkeypatch):
    list(session(model).judge(question(model)))
    monkeypatch.setattr(model.engine, "turn_states", True)
    list(session(model).judge(question(model)))
    inputs, states = asked
    assert torch.equal(states[:, -1], inputs[:, -1])
    lm = model.model.s2t.language_model
    begin = lm.get_input_embeddings()(torch.tensor([model.engine.tokenizer.bos_token_id]))
    whole = torch.cat([begin, inputs[:, :-1]])[None]
    with torch.no_grad():
        expected = lm.base_model(inputs_embeds=whole).last_hidden_state[0, 1:]
    torch.testing.assert_close(states[:, :-1], expected, rtol=1e-3, atol=1e-4)


def test_of_a_long_question_the_newest_words_are_read(model, monkeypatch):
    embeds, begins_s = torch.randn(200, width(model)), [0.1 * n for n in range(200)]
    monkeypatch.setattr(model.engine, "turn_states", True)
    read = model.engine.turn_inputs(embeds, begins_s)
    assert len(read) == 48
    torch.testing.assert_close(read[:, :-1], model.engine.states_alone(embeds[-48:]))
    assert model.engine.turn_inputs(embeds, begins_s[1:]) is None


def test_what_a_head_says_does_not_depend_on_what_is_judged_beside_it():
    head, short, long = head_of(4), torch.randn(3, 5), torch.randn(9, 5)
    together = head(torch.nn.utils.rnn.pad_sequence([short, long], batch_first=True), torch.tensor([3, 9]))
    alone = [head.probability(one) for one in (short, long)]
    assert torch.sigmoid(together).tolist() == pytest.approx(alone, rel=1e-5)


def test_a_calibrated_head_says_the_same_on_another_scale():
    head, inputs = head_of(4), torch.randn(1, 6, 5)
    before = head(inputs, torch.tensor([6]))
    head.calibrate(torch.tensor(2.0), torch.tensor(-1.0))
    torch.testing.assert_close(head(inputs, torch.tensor([6])), 2 * before - 1)


@pytest.mark.parametrize("reads_states", [False, True])
def test_a_head_is_saved_and_loaded(tmp_path, reads_states):
    head = head_of(3, reads_states=reads_states)
    write_tensors(tmp_path / TurnHead.file, head.state_dict())
    inputs, loaded = torch.randn(5, 4), TurnHead.load(tmp_path, 3)
    assert loaded.probability(inputs) == head.probability(inputs)
    assert loaded.reads_states is reads_states


def test_a_head_of_an_older_version_reads_inputs(tmp_path):
    older = {name: value for name, value in head_of(3).state_dict().items() if name != "of_states"}
    write_tensors(tmp_path / TurnHead.file, older)
    assert TurnHead.load(tmp_path, 3).reads_states is False


def test_a_model_folder_keeps_its_head(model, tmp_path):
    head = head_of(width(model), reads_states=True)
    EchoX(model.model, model.processor, model.settings, turn_head=head).save_pretrained(tmp_path)
    again = EchoX.from_pretrained(tmp_path)
    assert torch.equal(again.turn_head.answer.weight, head.answer.weight)
    assert again.engine.turn_states
    (tmp_path / TurnHead.file).unlink()
    assert EchoX.from_pretrained(tmp_path).turn_head is None


def test_a_head_that_does_not_belong_is_refused(tmp_path):
    assert TurnHead.load(tmp_path, 3) is None
    head = head_of(3)
    write_tensors(tmp_path / TurnHead.file, head.state_dict())
    with pytest.raises(ValueError, match="width 4"):
        TurnHead.load(tmp_path, 4)
    weights = {**head.state_dict(), "answer.bias": torch.tensor([float("nan")])}
    write_tensors(tmp_path / TurnHead.file, weights)
    with pytest.raises(ValueError, match="finite"):
        TurnHead.load(tmp_path, 3)
    for older in ({"weight": torch.ones(9), "bias": torch.zeros(())}, {"reading.bias": torch.tensor(1.0)}):
        save_file(older, tmp_path / TurnHead.file)
        with pytest.raises(ValueError, match="train it again"):
            TurnHead.load(tmp_path, 3)
    (tmp_path / TurnHead.file).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="copy the model folder again"):
        TurnHead.load(tmp_path, 3)
