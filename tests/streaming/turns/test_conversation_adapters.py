"""Conversation adapters: each kind of conversation has its own, or is what it was, whoever shares its round."""

import json
import warnings

import pytest
import torch

from echox import EchoX
from echox.api.loading import best_embedded
from echox.data.corpora.tools.requests import taught_tools
from echox.models.decoding.lean_adapter import LeanAdapter
from echox.models.turns.conversation_adapters import ADAPTER_FOLDERS
from echox.serving.protocol.limits import Limits
from echox.serving.service.service import Service
from echox.tool_calls.tools import Tool, ToolUse
from tool_models import TOOLS, tool_model

pytest.importorskip("llguidance")
QUESTION = {"role": "user", "content": "How is the weather?"}
MAY_CALL, NONE = ToolUse(TOOLS), ToolUse()


def adapter_of(model: EchoX, seed: int = 0, std: float = 0.2) -> LeanAdapter:
    """A random one."""
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for name, module in model.model.s2t.language_model.named_modules():
        if isinstance(module, torch.nn.Linear) and "layers." in name:
            weights[f"{name}.lora_A.weight"] = torch.randn(4, module.in_features, generator=random) * std
            weights[f"{name}.lora_B.weight"] = torch.randn(module.out_features, 4, generator=random) * std
    return LeanAdapter.of(weights, 1.0)


def with_adapter(*kinds: str) -> EchoX:
    """For these kinds of conversation, each another one."""
    plain = tool_model("qwen")
    adapters = {kind: adapter_of(plain, seed) for seed, kind in enumerate(kinds or ("tools",))}
    return EchoX(plain.model, plain.processor, plain.settings, adapters=adapters)


@pytest.fixture(scope="module")
def plain() -> EchoX:
    return tool_model("qwen")


@pytest.fixture(scope="module")
def model() -> EchoX:
    return with_adapter()


def said(model: EchoX, use: ToolUse, *questions: object, **settings: object) -> list[tuple[str, object]]:
    session = model.session(seed=5, max_new_tokens=24, speak=False, **settings)
    session.tools = use
    replies = [session.reply(question) for question in questions or (QUESTION,)]
    return [(reply.text, reply.calls) for reply in replies]


def test_conversations_without_tools_are_what_they_were(plain, model):
    for system in (None, "You are brief."):
        assert said(model, NONE, QUESTION, QUESTION, system=system) == said(
            plain, NONE, QUESTION, QUESTION, system=system
        )
    assert said(model, ToolUse(TOOLS, allowed=frozenset())) == said(plain, ToolUse(TOOLS, allowed=frozenset()))


def test_conversations_with_tools_have_it(plain, model):
    assert said(model, MAY_CALL) != said(plain, MAY_CALL)


def test_speech_without_tools_is_what_it_was_bit_for_bit(plain, model):
    found, want = (one.session(seed=1, max_new_tokens=8).reply(QUESTION).waveform for one in (model, plain))
    assert len(found)
    assert (found == want).all()


def test_each_kind_of_conversation_has_its_own(plain, model):
    both = with_adapter("tools", "talk")
    assert said(both, MAY_CALL) == said(model, MAY_CALL)
    assert said(both, NONE) == said(with_adapter("other", "talk"), NONE) != said(plain, NONE)


@pytest.mark.parametrize("kinds", [("tools",), ("talk",), ("tools", "talk")])
def test_several_at_once_are_what_each_is_alone(kinds):
    model = with_adapter(*kinds)
    uses = [NONE, MAY_CALL, NONE, MAY_CALL]

    def submitted(use, number):
        session = model.session(seed=number, max_new_tokens=24, speak=False)
        session.tools = use
        return session.submit(QUESTION)

    alone = [list(submitted(use, number))[-1].text for number, use in enumerate(uses)]
    together = [list(task)[-1].text for task in [submitted(use, number) for number, use in enumerate(uses)]]
    assert together == alone


@pytest.mark.parametrize("kinds", [("tools",), ("talk",), ("tools", "talk")])
@pytest.mark.parametrize(("first", "then"), [(MAY_CALL, NONE), (NONE, MAY_CALL)])
def test_tools_that_come_or_go_leave_nothing_in_the_memory(first, then, kinds):
    """The second reply is that of a conversation whose memory is empty."""
    kept, fresh = (
        with_adapter(*kinds).session(seed=2, max_new_tokens=16, speak=False, system="Be brief.") for _ in range(2)
    )
    for session in (kept, fresh):
        session.tools = first
        session.reply(QUESTION)
        session.tools = then
    fresh._context.drop_memory()
    assert kept.reply(QUESTION).text == fresh.reply(QUESTION).text


def test_a_shared_system_turn_is_that_of_its_tools(plain):
    model = with_adapter()
    for use in (MAY_CALL, NONE, MAY_CALL, NONE):
        assert said(model, use, system="Be brief.") == said(with_adapter(), use, system="Be brief.")


def test_it_is_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert (tmp_path / ADAPTER_FOLDERS["tools"] / "adapter_config.json").is_file()
    loaded = EchoX.from_pretrained(tmp_path, device="cpu")
    stored = LeanAdapter.load(tmp_path / ADAPTER_FOLDERS["tools"])  # in half precision
    same = EchoX(model.model, model.processor, model.settings, adapters={"tools": stored})
    assert said(loaded, MAY_CALL) == said(same, MAY_CALL)
    with pytest.raises(ValueError, match="finite"):
        damaged = {name: torch.full(tuple(shape), torch.nan) for name, shape in stored.shapes.items()}
        Service(
            EchoX(model.model, model.processor, adapters={"tools": LeanAdapter.of(damaged, 1.0)}), "echox", Limits()
        )
    (tmp_path / ADAPTER_FOLDERS["tools"] / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=ADAPTER_FOLDERS["tools"]):
        EchoX.from_pretrained(tmp_path, device="cpu")


def test_a_model_without_it_leaves_none_in_its_folder(model, plain, tmp_path):
    model.save_pretrained(tmp_path)
    plain.save_pretrained(tmp_path)
    assert EchoX.from_pretrained(tmp_path, device="cpu").adapters == {}
    assert not (tmp_path / ADAPTER_FOLDERS["tools"]).exists()


def test_a_language_model_that_cannot_have_it_says_so(monkeypatch):
    monkeypatch.setattr("echox.streaming.engine.is_plain", lambda decoder: False)
    with pytest.warns(UserWarning, match="adapters \\(tools\\) are left out"):
        model = with_adapter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert said(model, MAY_CALL) == said(tool_model("qwen"), MAY_CALL)


@pytest.mark.skipif(best_embedded() != "mini", reason="needs the two packages of mini (requirements/mini.txt)")
def test_mini_calls_a_tool_of_two_clients_and_says_what_came_of_it():
    """In words and under names that it was taught, and that it was not."""
    mini = EchoX.from_pretrained("mini", device="cpu")
    timer = next(tool for tool in taught_tools() if tool.name == "set_timer")
    other = Tool("start_clock", "Starts a countdown.", timer.parameters.replace("minutes", "number_of_minutes"))
    for tool in (timer, other):
        session = mini.session()
        session.tools = ToolUse((tool,))
        (call,) = session.reply({"role": "user", "content": "Please set a timer for ten minutes."}).calls
        assert (call.name, list(json.loads(call.arguments).values())) == (tool.name, [10])
        reply = session.reply({"role": "tool", "content": '{"state": "started"}'})
        assert "timer" in reply.text.lower()
        assert "ten" in reply.text.lower() or "10" in reply.text
        assert reply.duration_s > 1
