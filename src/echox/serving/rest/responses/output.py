"""The output of a response, item by item as it comes: a message, then calls of tools; and the events that say so.

Source: OpenAI Responses API, streaming events.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from echox.serving.protocol.conversation import Content, ConversationItem, tool_call_text
from echox.serving.protocol.events import new_id
from echox.serving.protocol.json_input import JsonObject
from echox.tool_calls.tools import ToolCallDelta

StreamedEvent: TypeAlias = tuple[str, JsonObject]
"""The type of an event after ``response.``, and its fields but for type and number."""


class ResponseOutput:
    """The items of one response. Each method gives the events that belong to what it adds."""

    def __init__(self) -> None:
        self._items: list[JsonObject] = []
        self._text = ""  # of the message, which comes first if there is one
        self._num_calls = 0
        self._open = False  # the last item has not ended

    def items(self) -> list[JsonObject]:
        """The items so far, as the response object has them."""
        return [dict(item) for item in self._items]

    def add_text(self, text: str) -> Iterator[StreamedEvent]:
        """The next piece of the message."""
        yield from self._begin_message()
        self._text += text
        yield "output_text.delta", {**self._inside(), "delta": text, "logprobs": []}

    def add_call(self, delta: ToolCallDelta) -> Iterator[StreamedEvent]:
        """The next piece of a call."""
        if delta.index == self._num_calls:
            yield from self._end_item("completed")
            self._num_calls += 1
            call = {"type": "function_call", "call_id": new_id("call"), "name": delta.name, "arguments": ""}
            yield self._begin({"id": new_id("fc"), "status": "in_progress", **call})
        item = self._items[-1]
        if delta.arguments:
            item["arguments"] = f"{item['arguments']}{delta.arguments}"
            yield "function_call_arguments.delta", {**self._place(), "item_id": item["id"], "delta": delta.arguments}
        if delta.done:
            yield from self._end_item("completed")

    def end(self, status: str) -> Iterator[StreamedEvent]:
        """The reply has ended.

        Args:
            status: "completed" or "incomplete"; what has ended before is complete in both cases.
        """
        if not self._items:
            yield from self._begin_message()
        yield from self._end_item(status)

    def said(self) -> list[ConversationItem]:
        """The items for a conversation that goes on, under the same ids; half a call is not for the model."""
        found = []
        for item in self._items:
            if item["type"] == "message":
                found.append(ConversationItem(str(item["id"]), "assistant", [Content("output_text", self._text)]))
            elif item["status"] == "completed":
                call_id, name, arguments = (str(item[one]) for one in ("call_id", "name", "arguments"))
                content = [Content("output_text", tool_call_text(name, arguments))]
                found.append(
                    ConversationItem(
                        str(item["id"]),
                        "assistant",
                        content,
                        call={"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments},
                    )
                )
        return found

    # ------------------------------------------------------------------------------------------ items

    def _begin(self, item: JsonObject) -> StreamedEvent:
        self._items.append(item)
        self._open = True
        return "output_item.added", {**self._place(), "item": dict(item)}

    def _begin_message(self) -> Iterator[StreamedEvent]:
        if not self._items:
            head = {"id": new_id("msg"), "type": "message", "status": "in_progress", "role": "assistant"}
            yield self._begin({**head, "content": []})
            yield "content_part.added", {**self._inside(), "part": self._part()}

    def _end_item(self, status: str) -> Iterator[StreamedEvent]:
        if not self._open:
            return
        item, self._open = self._items[-1], False
        item["status"] = status
        if item["type"] == "message":
            item["content"] = [self._part()]
            yield "output_text.done", {**self._inside(), "text": self._text, "logprobs": []}
            yield "content_part.done", {**self._inside(), "part": self._part()}
        elif status == "completed":
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield "function_call_arguments.done", {**self._place(), "item_id": item["id"], **done}
        yield "output_item.done", {**self._place(), "item": dict(item)}

    def _place(self) -> JsonObject:
        return {"output_index": len(self._items) - 1}

    def _inside(self) -> JsonObject:
        return {**self._place(), "item_id": self._items[-1]["id"], "content_index": 0}

    def _part(self) -> JsonObject:
        return text_part(self._text)


def text_part(text: str) -> JsonObject:
    """Text of a reply, as the Responses API has it."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
