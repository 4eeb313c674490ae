"""Messages to token ids: chat templates of this package run in this process, those of others in a separate one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from echox.data.chat_templates import own_templates
from echox.models.echox.tokenization_text import render_chat
from echox.templates import TemplateWorker, template_variables


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: with a chat template.
        audio_token: the placeholder that it writes for an audio.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, audio_token: str) -> None:
        self._tokenizer, self._own = tokenizer, own_templates(audio_token)
        self._worker = TemplateWorker()

    def token_ids(self, messages: Sequence[Mapping[str, object]], repeat_bos: bool = False) -> list[int]:
        """A conversation, to the point where the reply begins.

        Args:
            messages: in the form that chat templates read.
            repeat_bos: a variable of templates: the bos token precedes every piece of the prompt.

        Raises:
            ValueError: the template has a fault, takes too long, or too much memory.
        """
        template = self._tokenizer.get_chat_template()
        if template in self._own:  # trusted: no need to wait for another process
            text = render_chat(self._tokenizer, messages, add_generation_prompt=True, repeat_bos=repeat_bos)
        else:
            variables = template_variables(self._tokenizer, messages, add_generation_prompt=True, repeat_bos=repeat_bos)
            text = self._worker.render(template, variables)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
