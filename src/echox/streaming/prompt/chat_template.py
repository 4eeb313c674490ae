"""Messages to token ids: chat templates of this package run in this process, those of others in a separate one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from echox.data.templates.chat_templates import own_templates
from echox.data.templates.tool_templates import taught_templates, tool_template
from echox.models.text.control_tokens import ControlTokens
from echox.models.text.tokenization_text import render_chat
from echox.streaming.prompt.messages import Message
from echox.templates import TemplateWorker, template_variables
from echox.tool_calls.tools import Tool


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: with a chat template.
        audio_token: the placeholder that it writes for an audio.

    Attributes:
        control_tokens: of the tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, audio_token: str) -> None:
        self._tokenizer, self._audio_token = tokenizer, audio_token
        self.control_tokens = ControlTokens(tokenizer)
        self._own = own_templates(audio_token) | frozenset(taught_templates(audio_token).values())
        self._worker = TemplateWorker()

    def token_ids(self, messages: Sequence[Message], repeat_bos: bool = False, tools: Sequence[Tool] = ()) -> list[int]:
        """A conversation, to the point where the reply begins. What messages say is text, also ``<|im_end|>``.

        Args:
            messages: of the conversation.
            repeat_bos: a variable of templates: the bos token precedes every piece of the prompt.
            tools: that the model reads of.

        Raises:
            ValueError: the template has a fault, takes too long, or too much memory; or a message is written like a
                special token, and the tokenizer cannot read it otherwise.
        """
        written = [message.for_template(self.control_tokens.marked) for message in messages]
        return self.control_tokens.prompt_ids(self.text(written, tools, repeat_bos=repeat_bos))

    def text(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Tool] = (),
        begins_reply: bool = True,
        repeat_bos: bool = False,
    ) -> str:
        """A conversation as text; ``begins_reply``: to the point where the reply begins.

        Raises:
            ValueError: the template has a fault, takes too long, or too much memory.
        """
        template = self._tokenizer.get_chat_template()
        variables: dict[str, object] = {"repeat_bos": repeat_bos}
        own = template in self._own
        if tools or any(one["role"] == "tool" or one.get("tool_calls") for one in messages):
            variables["tools"] = [tool.for_template() for tool in tools] or None
            template = tool_template(template, self._audio_token, self._tokenizer.get_added_vocab()) or template
        if own:  # trusted: no need to wait for another process
            try:
                return render_chat(self._tokenizer, messages, begins_reply, chat_template=template, **variables)
            except TemplateError as error:
                raise ValueError(f"chat template: expected a conversation that it can write, found: {error}") from error
        variables["add_generation_prompt"] = begins_reply
        return self._worker.render(template, template_variables(self._tokenizer, messages, **variables))
