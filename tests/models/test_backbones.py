"""Language models beyond Llama: prepared for speech, through stages I to III, and speaking in the streaming engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    SmolLM3Config,
    WhisperConfig,
    WhisperModel,
)

from echox import EchoX
from echox.audio import save_audio
from echox.config import TrainingConfig, to_dict
from echox.data.manifest import Dialogue, Turn, write_dialogues, write_unit_utterances
from echox.data.templates.chat_templates import hearing_template
from echox.models.decoding.row_cache import DecoderRows
from echox.models.text.tokenization_text import AUDIO
from echox.models.vocoder.configuration_vocoder import LightVocoderConfig
from echox.models.vocoder.modeling_light_vocoder import LightVocoder
from echox.streaming.reply_text.trigger import Trigger
from echox.training.loop import run_recipe, train
from echox.training.networks.lora import LoRASettings
from echox.training.stages.hearing.s2t import S2TData, S2TModel, S2TRecipe
from echox.training.stages.speaking.echo import EchoData, EchoModel, EchoRecipe, EchoTargets, EchoWeights
from echox.training.stages.speaking.t2c import T2CData, T2CModel, T2CRecipe
from tiny_echox import tone
from tiny_speaker import NUM_UNITS, REPLIES, unit_language, unit_utterances

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}

# What published templates do to us, in small: text only, a date; thoughts that come and go; strict roles and parts.
LLAMA = (
    "{{- bos_token }}{%- for message in messages %}{%- if loop.first %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>' }}{%- endif %}"
    "{{- '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
QWEN = (
    "{%- for message in messages %}{%- if message.role == 'assistant' and loop.last %}"
    "{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + message.content + '<|im_end|>\n' }}{%- else %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and not "
    "enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{%- for message in messages -%}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('roles must alternate') }}{%- endif -%}{{ '<start_of_turn>' + ('model' if message['role'] == "
    "'assistant' else message['role']) + '\n' }}{%- if message['content'] is string -%}{{ message['content'] | trim }}"
    "{%- else -%}{%- for item in message['content'] -%}{%- if item['type'] == 'text' -%}{{ item['text'] | trim }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}{{ '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)


@dataclass(frozen=True)
class Family:
    """A family in small: its markers, how it begins, its own template, its architecture."""

    markers: tuple[str, ...]
    bos: str | None
    eos: str
    template: str
    config: type
    extra: dict


FAMILIES = {
    "llama": Family(
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        "<|end_of_text|>",
        LLAMA,
        LlamaConfig,
        {},
    ),
    "qwen3": Family(
        ("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        None,
        "<|im_end|>",
        QWEN,
        Qwen3Config,
        {"tie_word_embeddings": True},
    ),
    "gemma3": Family(
        ("<start_of_turn>", "<end_of_turn>"),
        "<bos>",
        "<eos>",
        GEMMA,
        Gemma3TextConfig,
        {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "smollm3": Family(
        ("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        None,
        "<|im_end|>",
        QWEN,
        SmolLM3Config,
        {"no_rope_layers": [1, 0], "no_rope_layer_interval": 2},
    ),
}


def family_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    special = [token for token in ("<pad>", family.bos, family.eos, *family.markers) if token]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=list(dict.fromkeys(special)),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(list(REPLIES) * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token=family.bos,
        eos_token=family.eos,
        chat_template=family.template,
    )


def write_language_model(name: str, folder: Path, spare_rows: int = 20) -> None:
    family = FAMILIES[name]
    tokenizer = family_tokenizer(family)
    torch.manual_seed(0)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = family.config(vocab_size=len(tokenizer) + spare_rows, **SIZES, **ids, **family.extra)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def made_ready(name: str, folder: Path) -> Path:
    """What stage "language_model" makes of it."""
    write_language_model(name, folder / "published")
    recipe = folder / "language_model.yaml"
    recipe.write_text("stage: language_model\nmodel: ???\noutput_dir: ???\n")
    run_recipe(recipe, [f"model={folder / 'published'}", f"output_dir={folder / 'lm'}"])
    return folder / "lm"


@pytest.mark.parametrize("name", list(FAMILIES))
def test_template_hears_appends_and_ends_replies(name, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(made_ready(name, tmp_path))
    assert tokenizer.eos_token == {"llama": "<|eot_id|>", "gemma3": "<end_of_turn>"}.get(name, "<|im_end|>")
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Now?"}]},
        {"role": "assistant", "content": REPLIES[1]},
        {"role": "user", "content": [{"type": "audio"}]},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.count("Be kind.") == 1
    assert text.startswith(FAMILIES[name].bos or "<|im_start|>")
    assert f"{REPLIES[1]}{tokenizer.eos_token}" in text
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids.count(tokenizer.convert_tokens_to_ids(AUDIO)) == 2
    earlier = tokenizer.apply_chat_template(messages[:2], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids[: len(earlier)] == earlier
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_an_unknown_family_keeps_its_template_with_audio_as_text():
    tokenizer = family_tokenizer(FAMILIES["llama"])
    tokenizer.eos_token = "</s>"
    tokenizer.add_tokens([AUDIO], special_tokens=True)
    own = (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}"
        "{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
    )
    unknown = Family(("[INST]", "[/INST]"), "<s>", "</s>", own, LlamaConfig, {})
    tokenizer = family_tokenizer(unknown)
    tokenizer.add_tokens([AUDIO], special_tokens=True)
    template = hearing_template(tokenizer, AUDIO)
    asked = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "So?"}]}]
    text = tokenizer.apply_chat_template(asked, chat_template=template, tokenize=False)
    assert text == f"<s>[INST] {AUDIO}So? [/INST]"
    tokenizer.chat_template = own.replace("+ eos_token", "")
    with pytest.raises(ValueError, match="a reply is not written as it is"):
        hearing_template(tokenizer, AUDIO)


def write_speech(folder: Path) -> None:
    """Two spoken dialogues, units of the replies, a tiny Whisper and a vocoder."""
    dialogues = []
    for number in range(2):
        save_audio(folder / f"{number}.wav", tone(0.5, seed=number), 16000)
        turns = (Turn("user", text="Tell me.", audio=f"{number}.wav"), Turn("assistant", text=REPLIES[number]))
        dialogues.append(Dialogue(f"d{number}", turns, split="train"))
    write_dialogues(folder / "dialogues.jsonl", dialogues)
    write_unit_utterances(folder / "units.jsonl", unit_utterances())
    unit_language().save_pretrained(folder / "unit_language")
    torch.manual_seed(0)
    WhisperModel(
        WhisperConfig(
            num_mel_bins=80,
            d_model=16,
            encoder_layers=1,
            encoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=24,
            max_source_positions=100,
            vocab_size=60,
            pad_token_id=0,
            decoder_start_token_id=1,
        )
    ).save_pretrained(folder / "whisper")
    sizes = dict.fromkeys(("unit_hidden_size", "unit_intermediate_size", "hidden_size", "intermediate_size"), 8)
    LightVocoder(LightVocoderConfig(num_units=NUM_UNITS, num_mel_bins=20, fft_size=512, **sizes)).save_pretrained(
        folder / "vocoder"
    )


def settings(folder: Path, **rates: float) -> TrainingConfig:
    return TrainingConfig(
        output_dir=str(folder),
        steps=2,
        batch_size=2,
        learning_rates=rates,
        warmup_steps=1,
        precision="fp32",
        tensorboard=False,
        threads=1,
    )


def run_stage(recipe: S2TRecipe | T2CRecipe | EchoRecipe) -> dict[str, float]:
    return train(recipe.build(), recipe.training, to_dict(recipe))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "llama"])
def test_a_backbone_goes_through_all_stages_and_speaks(name, tmp_path):
    lm, dialogues = str(made_ready(name, tmp_path)), str(tmp_path / "dialogues.jsonl")
    write_speech(tmp_path)
    run_stage(
        S2TRecipe(
            "s2t",
            S2TData([dialogues], text_turns=0.0),
            S2TModel(str(tmp_path / "whisper"), lm),
            settings(tmp_path / "s2t", adapters=1e-3, lora=1e-3),
            LoRASettings(r=2, alpha=4),
        )
    )
    run_stage(
        T2CRecipe(
            "t2c",
            T2CData(str(tmp_path / "units.jsonl"), str(tmp_path / "unit_language"), lm),
            T2CModel(
                hidden_size=32, num_hidden_layers=1, intermediate_size=48, options={"max_unit_words_per_word": 120}
            ),
            settings(tmp_path / "t2c", decoder=1e-3),
        )
    )
    run_stage(
        EchoRecipe(
            "echo",
            EchoData(speech=[dialogues], audio_fraction=1.0),
            EchoModel(s2t=str(tmp_path / "s2t"), t2c=str(tmp_path / "t2c"), vocoder=str(tmp_path / "vocoder")),
            Trigger(min_tokens=3, max_tokens=6, lookahead_tokens=1, threshold=-0.5),
            settings(tmp_path / "echo", echo_decoder=1e-3, denoising_adapter=1e-3, lora=1e-4),
            EchoWeights(),
            EchoTargets(),
        )
    )
    model = EchoX.from_pretrained(tmp_path / "echo", device="cpu")
    assert isinstance(model.scheduler.engine.new_memory(1), DecoderRows)
    # What a random model writes is no English, whose rules would only report it.
    session = model.session(max_new_tokens=12, echo_temperature=1.0, temperature=1.0, seed=1, spoken_language="und")
    first, second = (session.reply(str(tmp_path / f"{number}.wav")) for number in range(2))
    for reply in (first, second):
        assert reply.text
        assert len(reply.waveform)
    assert len(session.messages) == 4


def test_weights_that_are_trained_are_float32(tmp_path):
    """A LoRA on weights in half precision: small steps would be lost to rounding."""
    write_language_model("qwen3", tmp_path / "published")
    ready = tmp_path / "language_model.yaml"
    ready.write_text("stage: language_model\nmodel: ???\noutput_dir: ???\ndtype: bfloat16\n")
    run_recipe(ready, [f"model={tmp_path / 'published'}", f"output_dir={tmp_path / 'lm'}"])
    write_speech(tmp_path)
    rates = settings(tmp_path / "s2t", adapters=1e-3, lora=1e-3)
    parts = S2TModel(str(tmp_path / "whisper"), str(tmp_path / "lm"))
    recipe = S2TRecipe("s2t", S2TData([str(tmp_path / "dialogues.jsonl")]), parts, rates, LoRASettings(r=2, alpha=4))
    stage = recipe.build()
    assert stage.model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert {value.dtype for group in stage.parameter_groups().values() for value in group} == {torch.float32}
