"""Tiny models with random weights whose chat templates know tools, as Llama 3 and Qwen write them."""

from __future__ import annotations

import json

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from echox.api import EchoX
from echox.data.templates.chat_templates import FAMILIES
from echox.models.text.tokenization_text import train_text_tokenizer
from echox.tool_calls.tools import Tool, ToolUse
from tiny_echox import TEXTS, tiny_echox

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = (Tool("get_weather", "The weather of a city.", json.dumps(WEATHER)), Tool("stop", "Ends the call."))
REQUIRED = ToolUse(TOOLS, required=True)
MARKS = {
    "llama": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"],
    "qwen": ["<|im_start|>", "<|im_end|>"],
}


def family_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the marks and the template of a family."""
    tokenizer = train_text_tokenizer([*TEXTS, '{"name": "get_weather", "arguments": {"city": "Rome"}}'], vocab_size=340)
    tokenizer.add_tokens(
        [AddedToken(mark, special=True, normalized=False) for mark in MARKS[name]], special_tokens=True
    )
    if name == "qwen":
        tokenizer.add_tokens(
            [AddedToken(one, special=False, normalized=False) for one in ("<tool_call>", "</tool_call>")]
        )
    family = next(one for one in FAMILIES if one.known_by == MARKS[name][0])
    tokenizer.chat_template, tokenizer.eos_token = family.template("<|audio|>"), family.end
    return tokenizer


def tool_model(name: str) -> EchoX:
    """A model of a family; it reads and writes long prompts, as its tokens are short."""
    model = tiny_echox(tokenizer=family_tokenizer(name), max_positions=8192, unit_words_per_word=6)
    model.settings = model.settings.replaced({"max_new_tokens": 400, "temperature": 0.7})
    return model


def fits_weather(arguments: str) -> bool:
    """Whether arguments fit the schema of get_weather."""
    found = json.loads(arguments)
    return found.keys() == {"city", "days"} and found["city"] in ("Rome", "Oslo") and found["days"] in range(10)
