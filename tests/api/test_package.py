"""Stage "package": one complete folder, which answers as the models of the stages do."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from echox.api import EchoX
from echox.config import load_recipe
from echox.data.templates.tool_templates import taught_template
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.turns.turn_head import TurnHead
from echox.tool_calls.tools import Tool, ToolUse
from echox.training.networks.lora import LoRASettings, add_lora, save_lora
from echox.training.stages.dialogue.continued import load_s2t
from echox.training.stages.hearing.heads import write_head
from tiny_echox import tiny_echox

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def parts(tmp_path):
    """Outputs of stages: the echo stage's without a vocoder, the vocoder's, and a record."""
    model = tiny_echox()
    model.model.vocoder.save_pretrained(tmp_path / "vocoder")
    with_vocoder = model.model.config.vocoder_config
    model.model.config.vocoder_config = None
    state = {name: value for name, value in model.model.state_dict().items() if not name.startswith("vocoder.")}
    model.model.save_pretrained(tmp_path / "echo", state_dict=state)
    model.model.config.vocoder_config = with_vocoder
    model.processor.save_pretrained(tmp_path / "echo")
    (tmp_path / "echo" / "training_record.json").write_text(json.dumps({"stage": "echo", "steps": 7}), encoding="utf-8")
    return model, tmp_path


def recipe_in(folder: Path, **changes: object):
    path = folder / "package.yaml"
    echo, vocoder = folder / "echo", folder / "vocoder"
    path.write_text(
        f"stage: package\nparts: {{echo: {echo}, vocoder: {vocoder}, records: [{echo}]}}\n"
        f"output_dir: {folder / 'package'}\n",
        encoding="utf-8",
    )
    return load_recipe(path, [f"{name}={value}" for name, value in changes.items()])


def test_all_files_of_a_package_have_the_same_readers(parts):
    _, folder = parts
    recipe_in(folder).run()
    modes = {path.name: path.stat().st_mode for path in (folder / "package").iterdir()}
    assert len(set(modes.values())) == 1, modes


def test_the_package_answers_as_the_model_does(parts):
    model, folder = parts
    size = recipe_in(folder, **{"generation.max_new_tokens": 20}).run()
    packaged = EchoX.from_pretrained(folder / "package", device="cpu")
    # What half precision leaves of all that is stored, under a new engine.
    model.model.load_state_dict({name: value.half() for name, value in model.model.state_dict().items()})
    halved = EchoX(model.model, model.processor, packaged.settings)
    expected = halved.generate(QUESTION, temperature=0.0, max_new_tokens=20)
    reply = packaged.generate(QUESTION)
    assert reply.text == expected.text
    assert len(reply.waveform) == len(expected.waveform) > 0
    assert packaged.settings.max_new_tokens == 20
    assert size["parameters"] == sum(value.numel() for value in packaged.model.parameters())
    files = list((folder / "package").iterdir())
    assert size["megabytes"] == pytest.approx(sum(file.stat().st_size for file in files) / 1e6, abs=1e-3)
    names = {file.name for file in files}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "preprocessor_config.json",
        "unit_language.json",
        "generation_config.json",
        "training_record.json",
        "recipe.yaml",
    } <= names
    assert packaged.training_record["stages"] == [{"stage": "echo", "steps": 7}]
    assert packaged.training_record["environment"]["commit"]
    assert not list(folder.glob(".package*"))
    assert "\n# package\n" in (folder / "package" / "README.md").read_text(encoding="utf-8")


def test_the_system_prompt_is_the_recipe_s(parts):
    _, folder = parts
    recipe_in(folder, system_prompt="Be brief.").run()
    assert EchoX.from_pretrained(folder / "package", device="cpu").model.config.system_prompt == "Be brief."


def test_a_package_made_of_a_package_keeps_its_turn_head(parts):
    model, folder = parts
    recipe_in(folder).run()
    assert EchoX.from_pretrained(folder / "package", device="cpu").turn_head is None
    head = TurnHead(model.model.s2t.config.hidden_size)
    for steps in (1, 2):  # the second one replaces the first
        write_head(head, folder / "package", {"stage": "turn_head", "steps": steps, "metrics": {"auc": 0.5}})
    recipe_in(folder, **{"parts.echo": folder / "package", "output_dir": folder / "again"}).run()
    again = EchoX.from_pretrained(folder / "again", device="cpu")
    assert torch.equal(again.turn_head.answer.weight, head.answer.weight)
    assert again.training_record["stages"] == [{"stage": "echo", "steps": 7}]
    assert again.training_record["heads"] == {"turn_head": {"stage": "turn_head", "steps": 2, "metrics": {"auc": 0.5}}}
    assert "| `turn_head` |  |  | 2 |  |  | auc 0.5 |" in (folder / "again" / "README.md").read_text(encoding="utf-8")


def test_what_tools_taught_is_kept_beside_the_weights(parts):
    """Of a stage "instruct": the weights stay those of the model, the template comes with the adapter."""
    model, folder = parts
    taught = load_s2t(folder / "echo")
    for value in add_lora(taught.language_model, LoRASettings(r=4, alpha=12)):
        torch.nn.init.normal_(value, std=0.2)
    (folder / "tools").mkdir()
    save_lora(taught, LoRASettings(r=4, alpha=12), folder / "tools")
    template = taught_template(model.processor.tokenizer.chat_template, "<|audio|>")
    processor = EchoXProcessor.from_pretrained(folder / "echo")
    processor.tokenizer.chat_template = processor.chat_template = template
    processor.save_pretrained(folder / "tools")

    recipe_in(folder, **{"parts.tool_adapter": str(folder / "tools")}).run()
    recipe_in(folder, output_dir=str(folder / "plain")).run()
    weights = [(folder / name / "model.safetensors").read_bytes() for name in ("package", "plain")]
    assert weights[0] == weights[1]
    packaged, plain = (EchoX.from_pretrained(folder / name, device="cpu") for name in ("package", "plain"))
    assert packaged.engine.call_grammars is not None
    assert plain.engine.call_grammars is None
    assert packaged.adapters["tools"].scale == 3.0
    assert packaged.generate(QUESTION, max_new_tokens=8).text == plain.generate(QUESTION, max_new_tokens=8).text
    tools = [Tool("get_time", "The time.")]
    found, without = (said_with_tools(one, tools) for one in (packaged, EchoX(packaged.model, packaged.processor)))
    assert found != without, "the adapter is used"

    both = {"parts.s2t": str(folder / "echo"), "parts.tool_adapter": str(folder / "tools")}
    with pytest.raises(ValueError, match="expected s2t or adapters, found both"):
        recipe_in(folder, **both).run()

    again = recipe_in(folder, **{"parts.echo": str(folder / "package"), "parts.vocoder": "null"})
    again.output_dir = str(folder / "again")
    again.run()
    assert list(EchoX.from_pretrained(folder / "again", device="cpu").adapters) == ["tools"]

    # The same to talk by: it is used where no tools are declared, and what is there stays.
    again.parts.talk_adapter, again.parts.records = str(folder / "tools"), []
    again.run()
    both_kinds = EchoX.from_pretrained(folder / "again", device="cpu")
    assert list(both_kinds.adapters) == ["talk", "tools"]
    assert both_kinds.generate(QUESTION, max_new_tokens=8).text != plain.generate(QUESTION, max_new_tokens=8).text
    assert said_with_tools(both_kinds, tools) == found


def said_with_tools(model: EchoX, tools: list[Tool]) -> str:
    session = model.session(speak=False, max_new_tokens=12)
    session.tools = ToolUse(tuple(tools))
    return session.reply(QUESTION).text


def test_the_trigger_can_be_chosen(parts):
    _, folder = parts
    chosen = "{min_tokens: 4, max_tokens: 9, lookahead_tokens: 1, threshold: 0.4}"
    recipe_in(folder, trigger=chosen).run()
    packaged = EchoX.from_pretrained(folder / "package", device="cpu")
    assert packaged.engine.trigger.min_tokens == 4
    assert packaged.engine.trigger.threshold == 0.4


def test_a_full_disk_leaves_nothing_half_written(parts, monkeypatch):
    _, folder = parts

    def no_space(self, target: Path, **_: object) -> None:
        (target / "model.safetensors").write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(EchoXForConditionalGeneration, "save_pretrained", no_space)
    with pytest.raises(OSError, match="could not write the weights .*No space left"):
        recipe_in(folder).run()
    assert not list(folder.glob("*package/"))


def test_a_refused_package_leaves_the_old_one(parts):
    _, folder = parts
    recipe_in(folder).run()
    weights = (folder / "package" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"at most 0.01 MB, found .*language_model"):
        recipe_in(folder, max_megabytes=0.01).run()
    assert (folder / "package" / "model.safetensors").read_bytes() == weights
    assert not list(folder.glob(".package*"))


def test_missing_parts_are_named(parts):
    model, folder = parts
    with pytest.raises(ValueError, match=r"parts\.vocoder"):
        recipe_in(folder, **{"parts.vocoder": "null"}).run()
    with pytest.raises(ValueError, match="run the stage"):
        recipe_in(folder, **{"parts.records": f"[{folder / 'nowhere'}]"}).run()
    with pytest.raises(ValueError, match="dtype"):
        recipe_in(folder, dtype="int4").run()
    state = {name: value for name, value in model.model.state_dict().items() if "denoising" not in name}
    model.model.save_pretrained(folder / "echo", state_dict=state)
    with pytest.raises(ValueError, match=r"denoising_adapter"):
        recipe_in(folder).run()


def test_weights_beyond_half_precision_are_refused(parts):
    _, folder = parts
    model = EchoXForConditionalGeneration.from_pretrained(folder / "echo")
    with torch.no_grad():
        model.denoising_adapter.up_proj.bias[0] = 1e6
    model.save_pretrained(folder / "echo")
    with pytest.raises(ValueError, match="up_proj"):
        recipe_in(folder).run()
