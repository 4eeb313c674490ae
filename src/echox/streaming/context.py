"""A conversation as the model reads it: its messages, their encoded audio, and the language model's memory of them.

A session owns one context; the scheduler encodes and runs what is in it. The context knows neither of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from echox.errors import NotHeard
from echox.models.decoding.row_cache import SavedRow
from echox.models.turns.conversation_adapters import kind_of
from echox.streaming.engine import EncodedAudio, Engine, Position
from echox.streaming.events import Heard, HeardWord
from echox.streaming.prompt.messages import Audio, Message, UnreadableMessage, join_system, system_text
from echox.streaming.prompt.system_turns import SystemTurn
from echox.tool_calls.tools import Tool

KEPT_CONTEXT = 0.75
"""Share of the room that is filled when old turns are dropped, so that the next turns do not have to drop any."""

_CHARACTERS_PER_POSITION = 8
"""A conversation with more characters per position than this is laid out from its newest turns backwards."""


class LayoutCancelled(Exception):
    """The reply was cancelled while its prompt was laid out."""


@dataclass(frozen=True)
class Layout:
    """The prompt of a turn.

    Attributes:
        positions: what the language model reads. dropped: number of the oldest messages that had to be left out.
        room: most tokens that a reply can have after it; None: no bound.
    """

    positions: list[Position]
    dropped: int = 0
    room: int | None = None


def _too_long(new: Sequence[Message], question: int, opening: int, most: int, expected: str) -> ValueError:
    """The error of a prompt that is too long without any history.

    Args:
        new: the messages of this turn.
        question: their length.
        opening: length of what every prompt begins with, the system prompt and the tools.
        most: longest prompt.
        expected: what was expected and found, for users.
    """
    if question > most // 4 and opening < most:
        return UnreadableMessage(f"the question is too long: {expected}; ask in shorter turns", new[-1])
    return ValueError(f"the system prompt and tools are too long: {expected}; shorten them")


class Context:
    """The messages of a conversation as the model reads and remembers them.

    Args:
        engine: the model.
        system: system prompt; None: that of the model (``EchoXConfig.system_prompt``), if it has one.

    Attributes:
        messages: the conversation so far.
        tools: that the model reads of.
    """

    def __init__(self, engine: Engine, system: str | None = None) -> None:
        self.engine, self.system = engine, system
        self.tools: tuple[Tool, ...] = ()
        self.messages: list[Message] = []
        self._encoded: dict[str, EncodedAudio] = {}  # by digest
        self._saved: SavedRow | None = None
        self._remembered: list[Position] = []  # the positions that the memory holds
        self._remembered_adapter: str | None = None  # that they were run with
        self._system_turn = SystemTurn()  # that the newest prompt begins with

    def fork(self) -> Context:
        """A copy that goes on from here: what happens to it does not change this one. The memory is shared."""
        copied = Context(self.engine, self.system)
        copied.tools, copied.messages = self.tools, list(self.messages)
        copied._encoded, copied._system_turn = dict(self._encoded), self._system_turn
        copied._saved, copied._remembered = self._saved, list(self._remembered)
        copied._remembered_adapter = self._remembered_adapter
        return copied

    # ------------------------------------------------------------------------------------------ encoded audio

    def not_encoded(self, new: Sequence[Message]) -> list[Audio]:
        """Audios of the conversation and of a new turn that are not encoded yet."""
        audios = [audio for one in [*self.messages, *new] for audio in one.audios]
        return [audio for audio in audios if audio.digest not in self._encoded]

    def add_encoded(self, found: dict[Audio, EncodedAudio]) -> None:
        """Add encoded audios.

        Raises:
            NotHeard: the transcripts of some are empty, though they hold speech.
        """
        unheard = [audio for audio, encoded in found.items() if not encoded.text]
        if unheard:
            raise NotHeard(
                "expected words, found none: the model's speech encoder wrote only blanks for "
                f"{unheard[0].duration_s:.1f} s of audio that hold a voice. If it does so for clear speech, it is "
                "undertrained (see wer or ctc_wer in its training log): train it longer, or load another model",
                (audio.digest for audio in unheard),
            )
        self._encoded.update((audio.digest, encoded) for audio, encoded in found.items())

    def heard(self, message: Message) -> Heard:
        """What was heard in a message's audios, one after the other."""
        found = [self._encoded[audio.digest] for audio in message.audios]
        words: list[HeardWord] = []
        before_s = 0.0
        for audio, encoded in zip(message.audios, found, strict=True):
            words += [HeardWord(word.text, before_s + word.start_s, before_s + word.end_s) for word in encoded.words]
            before_s += audio.duration_s
        return Heard(
            " ".join(encoded.text for encoded in found),
            tuple(words),
            sum(len(encoded.embeds) for encoded in found),
            sum(encoded.num_text_tokens for encoded in found),
        )

    def turn_inputs(self, message: Message) -> Tensor | None:
        """What a turn head reads of the last audio of a message; None: nothing. See `echox.models.turns.turn_head`."""
        if not message.audios:
            return None
        encoded = self._encoded[message.audios[-1].digest]
        return self.engine.turn_inputs(encoded.embeds, encoded.begins_s)

    # ------------------------------------------------------------------------------------------ prompt

    @property
    def _opening(self) -> str | None:
        """The system prompt: this conversation's own, or else the model's."""
        return self.engine.model.config.system_prompt if self.system is None else self.system

    def lay_out(
        self, new: Sequence[Message], max_new_tokens: int, cancelled: Callable[[], bool] = lambda: False
    ) -> Layout:
        """Positions of the prompt. The oldest turns are dropped if they leave no room for a reply.

        Args:
            new: the messages of this turn, which are not in the conversation yet.
            max_new_tokens: most tokens of the reply.
            cancelled: whether the reply was cancelled; called before each pass over the text.

        Raises:
            UnreadableMessage: the newest turn alone is too long, or text holds special tokens.
            ValueError: the system prompt and the tools are too long, or a tool holds special tokens.
            LayoutCancelled: it was cancelled.
        """
        limit = self.engine.max_positions
        if limit is not None:
            self._check_length(new, limit)
        text = system_text(join_system(self._opening, [*self.messages, *new]))
        self._system_turn = SystemTurn(text, self.tools, self._adapter_for(new))
        if limit is None:
            return Layout(self._positions([*self.messages, *new], cancelled))
        # Room for the reply, or at least for a quarter of all positions.
        room = limit - min(max_new_tokens, limit // 4)
        system = [message for message in self.messages[:1] if message.role == "system"]  # never dropped
        turns = self.messages[len(system) :]
        dropped, positions = self._fit(system, turns, new, room, cancelled)
        if len(positions) >= limit:
            opening = len(self._positions([*system, Message("user", ("a",))], cancelled))
            expected = f"expected fewer than {limit} positions, found {len(positions)}"
            raise _too_long(new, len(positions) - opening, opening, limit, expected)
        if dropped:
            self.messages = [*system, *turns[dropped:]]
            self.drop_unused_audio(new)
        return Layout(positions, dropped, limit - len(positions))

    def _check_length(self, new: Sequence[Message], limit: int) -> None:
        """Refuse text that cannot fit before its tokens are counted: for a megabyte that takes seconds.

        Raises:
            ValueError: more characters than the longest tokens could hold.
        """
        opening = len(self._opening or "") + sum(tool.num_chars for tool in self.tools)
        question = sum(len(part) for message in new for part in message.parts if isinstance(part, str))
        most = limit * self.engine.longest_token
        if opening + question > most:
            expected = (
                f"expected at most {most} characters, more than {limit} positions can hold, found {opening + question}"
            )
            raise _too_long(new, question, opening, most, expected)

    def _fit(
        self,
        system: list[Message],
        turns: list[Message],
        new: Sequence[Message],
        room: int,
        cancelled: Callable[[], bool],
    ) -> tuple[int, list[Position]]:
        """The number of the oldest messages to drop, and the positions of the rest.

        Nothing is dropped if everything fits into the room. The number is found by bisection: a conversation is laid
        out O(log n) times, and one that is far too long never as a whole.
        """
        starts = [0, *(n for n, one in enumerate(turns) if n and one.role == "user")]
        if turns:
            starts.append(len(turns))
        last = len(starts) - 1

        def laid_out(index: int) -> list[Position]:
            return self._positions([*system, *turns[starts[index] :], *new], cancelled)

        over = 0
        characters = sum(len(part) for one in turns for part in one.parts if isinstance(part, str))
        if characters > _CHARACTERS_PER_POSITION * room:
            over = max(0, last - 1)
        positions = laid_out(over)
        while over and len(positions) <= room:
            over = max(0, 2 * over - last)  # twice as many turns
            positions = laid_out(over)
        if len(positions) <= room or not turns:
            return 0, positions
        fits, found = last, None
        while fits - over > 1:
            middle = (over + fits) // 2
            positions = laid_out(middle)
            if len(positions) <= KEPT_CONTEXT * room:
                fits, found = middle, positions
            else:
                over = middle
        return starts[fits], laid_out(last) if found is None else found

    def _positions(self, messages: Sequence[Message], cancelled: Callable[[], bool]) -> list[Position]:
        if cancelled():
            raise LayoutCancelled
        return self.engine.lay_out(join_system(self._opening, messages), self._encoded, self.tools)

    def drop_unused_audio(self, new: Sequence[Message] = ()) -> None:
        """Drop encoded audios that are no longer in the conversation."""
        digests = [audio.digest for message in [*self.messages, *new] for audio in message.audios]
        self._encoded = {digest: self._encoded[digest] for digest in digests if digest in self._encoded}

    # ------------------------------------------------------------------------------------------ memory

    @property
    def adapter(self) -> str | None:
        """The conversation adapter that the language model has in the turn that was laid out; None: none."""
        return self._system_turn.adapter

    def _adapter_for(self, new: Sequence[Message]) -> str | None:
        """The conversation adapter that the language model has in a turn; None: it has none for this kind."""
        kind = kind_of(tools=bool(self.tools))
        if kind not in self.engine.adapters:
            return None
        return kind if self.tools or self._is_talk(new) else None

    def _is_talk(self, new: Sequence[Message]) -> bool:
        """Whether the newest words of the user are talk."""
        messages = [*self.messages, *new]
        place = next((n for n in range(len(messages) - 1, -1, -1) if messages[n].role == "user"), None)
        if place is None:
            return True
        reply = messages[place - 1] if place and messages[place - 1].role == "assistant" else None
        replied = " ".join(part for part in reply.parts if isinstance(part, str)) if reply else ""
        said = messages[place].parts
        return self.engine.is_talk(
            replied, [part if isinstance(part, str) else self._encoded[part.digest].embeds for part in said]
        )

    def take_memory(self, positions: list[Position]) -> tuple[SavedRow | None, list[Position]]:
        """Hand over the memory of the first wanted positions, and the positions that are still to be run."""
        if self._remembered_adapter != self.adapter:
            self.drop_memory()
            self._remembered_adapter = self.adapter
        if not self._remembered:
            self._saved, self._remembered = self.engine.system_turns.recall(self._system_turn, positions)
        shared = 0
        # The last position always runs: its state predicts the first token.
        while shared < min(len(self._remembered), len(positions) - 1) and self._remembered[shared] == positions[shared]:
            shared += 1
        saved, self._remembered = self._saved, positions[:shared]
        if saved is not None and saved.length > shared:
            saved = dataclasses.replace(saved, layers=[layer[:, :, :shared] for layer in saved.layers], length=shared)
        self._saved = None  # the batch has it now
        return saved, positions[shared:]

    def embed(self, positions: Sequence[Position]) -> Tensor:
        """(n, H) inputs of positions."""
        return self.engine.embed(positions, self._encoded)

    def mark_run(self, positions: Sequence[Position]) -> None:
        """Note that these positions were run."""
        self._remembered.extend(positions)

    def share_system_turn(self, save: Callable[[], SavedRow]) -> None:
        """After a prompt was run: keep the memory of its system turn for other conversations, if there is none yet.

        Args:
            save: copies the memory of this conversation.
        """
        if self.engine.system_turns.awaited(self._system_turn, self._remembered):
            self.engine.system_turns.keep(self._system_turn, save())

    def keep_memory(self, saved: SavedRow) -> None:
        """Keep the memory for the next turn."""
        self._saved = saved

    def share_kept_system_turn(self) -> None:
        """As `share_system_turn`, from the memory that was kept, if there is one."""
        if (saved := self._saved) is not None:
            self.share_system_turn(lambda: saved)

    def drop_memory(self) -> None:
        """The memory is lost, or its content unknown: the next turn runs the whole conversation."""
        self._saved, self._remembered = None, []
