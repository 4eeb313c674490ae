"""From messages to token ids: with the package's own templates in this process, with others in one of their own."""

from __future__ import annotations

from typing import Any

from echox.data.chat_templates import own_templates
from echox.templates import TemplateWorker, template_variables


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: with a chat template.
        audio_token: the placeholder that it writes.
    """

    def __init__(self, tokenizer: Any, audio_token: str) -> None:
        self._tokenizer, self._own = tokenizer, own_templates(audio_token)
        self._worker = TemplateWorker()

    def token_ids(self, messages: list[dict[str, Any]], **options: Any) -> list[int]:
        """A conversation, to the point where the reply begins.

        Args:
            messages: as templates read them.
            **options: variables of the template.

        Raises:
            ValueError: the template has a fault, takes too long, or too much memory.
        """
        template = self._tokenizer.get_chat_template()
        if template in self._own:  # no program of strangers: no need to wait for another process
            ids: list[int] = self._tokenizer.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=True, **options
            )["input_ids"]
            return ids
        variables = template_variables(self._tokenizer, messages, add_generation_prompt=True, **options)
        text = self._worker.render(template, variables)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
