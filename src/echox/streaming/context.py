"""What the model reads of a conversation: its messages, what was heard in their audio, and its memory of them.

A session owns one context; the scheduler encodes, lays out and runs what is in it. Nothing here knows either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from echox.models.decoding.row_cache import SavedRow
from echox.streaming.engine import Engine, HeardAudio
from echox.streaming.events import HeardWord
from echox.streaming.messages import Audio, Message, join_system

KEPT_CONTEXT = 0.75
"""Part of the room that is filled again when old turns are dropped, so that not every turn drops some."""

_CHARACTERS_PER_POSITION = 8
"""A conversation with more characters than this for each position is laid out from its newest turns backwards."""


class LayoutCancelled(Exception):
    """Nobody wants the prompt any more."""


@dataclass(frozen=True)
class Layout:
    """The prompt of a turn.

    Attributes:
        keys: names of its positions. dropped: how many of the oldest messages had to go.
        room: most tokens that a reply can have after it; None: no bound.
    """

    keys: list[Any]
    dropped: int = 0
    room: int | None = None


class Context:
    """The messages of a conversation as the model reads and remembers them.

    Args:
        engine: the model.
        system: system prompt; None: none.

    Attributes:
        messages: the conversation so far.
    """

    def __init__(self, engine: Engine, system: str | None = None) -> None:
        self.engine, self.system = engine, system
        self.messages: list[Message] = []
        self._heard: dict[Audio, HeardAudio] = {}
        self._saved: SavedRow | None = None
        self._keys: list[Any] = []  # names of the positions that the memory holds

    # ------------------------------------------------------------------------------------------ what is heard

    def unheard(self, new: Sequence[Message]) -> list[Audio]:
        """Audios of the conversation and of a new turn that were not encoded yet."""
        return [audio for one in [*self.messages, *new] for audio in one.audios if audio not in self._heard]

    def hear(self, found: dict[Audio, HeardAudio]) -> None:
        """Take what was heard in them.

        Raises:
            ValueError: no word was heard in one of them, though it holds speech.
        """
        for audio, heard in found.items():
            if not heard.text:
                raise ValueError(
                    "expected words, found none: the model's speech encoder wrote only blanks for "
                    f"{audio.duration_s:.1f} s of audio that hold a voice. If it does so for clear speech, it is "
                    "undertrained (see wer or ctc_wer in its training log): train it longer, or load another model"
                )
        self._heard.update(found)

    def transcript(self, message: Message) -> str:
        """What was heard in a message."""
        return " ".join(self._heard[audio].text for audio in message.audios)

    def heard_words(self, message: Message) -> tuple[HeardWord, ...]:
        """The words of `transcript`, with their times."""
        words: list[HeardWord] = []
        before_s = 0.0
        for audio in message.audios:
            found = self._heard[audio].words
            words += [HeardWord(word.text, before_s + word.start_s, before_s + word.end_s) for word in found]
            before_s += audio.duration_s
        return tuple(words)

    # ------------------------------------------------------------------------------------------ what is read

    def lay_out(
        self, new: Sequence[Message], max_new_tokens: int, cancelled: Callable[[], bool] = lambda: False
    ) -> Layout:
        """Positions of the prompt. The oldest turns are dropped where they leave no room for a reply.

        Args:
            new: the messages of this turn, which are not in the conversation yet.
            max_new_tokens: how long the reply may be.
            cancelled: whether nobody wants it any more; asked before each pass over the text.

        Raises:
            ValueError: the newest turn alone is too long, or text holds special tokens.
            LayoutCancelled: it was cancelled.
        """
        limit = self.engine.max_positions
        if limit is None:
            return Layout(self._positions([*self.messages, *new], cancelled))
        self._check_length(new, limit)
        # Room for the reply, or at least for a fair part of one.
        room = limit - min(max_new_tokens, limit // 4)
        system = [message for message in self.messages[:1] if message.role == "system"]  # never dropped
        turns = self.messages[len(system) :]
        dropped, keys = self._fit(system, turns, new, room, cancelled)
        if len(keys) >= limit:
            raise ValueError(
                f"the question is too long: expected fewer than {limit} positions, found {len(keys)}; ask in shorter "
                "turns"
            )
        if dropped:
            self.messages = [*system, *turns[dropped:]]
            self.keep_heard(new)
        return Layout(keys, dropped, limit - len(keys))

    def _check_length(self, new: Sequence[Message], limit: int) -> None:
        """Refuse at once what cannot fit: to count the tokens of a megabyte takes seconds, in which nobody is served.

        Raises:
            ValueError: more characters than the longest tokens could hold.
        """
        texts = [self.system or "", *(part for message in new for part in message.parts if isinstance(part, str))]
        characters, most = sum(map(len, texts)), limit * self.engine.longest_token
        if characters > most:
            raise ValueError(
                f"the question is too long: expected at most {most} characters, more than {limit} positions can hold, "
                f"found {characters}; ask in shorter turns"
            )

    def _fit(
        self,
        system: list[Message],
        turns: list[Message],
        new: Sequence[Message],
        room: int,
        cancelled: Callable[[], bool],
    ) -> tuple[int, list[Any]]:
        """How many of the oldest messages to drop, and the positions of the rest.

        Nothing is dropped where everything fits into the room. The number is found by bisection: a conversation is
        laid out O(log n) times, and one that is far too long never as a whole.
        """
        starts = [0, *(n for n, one in enumerate(turns) if n and one.role == "user")]
        if turns:
            starts.append(len(turns))
        last = len(starts) - 1

        def laid_out(index: int) -> list[Any]:
            return self._positions([*system, *turns[starts[index] :], *new], cancelled)

        over = 0
        characters = sum(len(part) for one in turns for part in one.parts if isinstance(part, str))
        if characters > _CHARACTERS_PER_POSITION * room:
            over = max(0, last - 1)
        keys = laid_out(over)
        while over and len(keys) <= room:
            over = max(0, 2 * over - last)  # twice as many turns
            keys = laid_out(over)
        if len(keys) <= room or not turns:
            return 0, keys
        fits, found = last, None
        while fits - over > 1:
            middle = (over + fits) // 2
            keys = laid_out(middle)
            if len(keys) <= KEPT_CONTEXT * room:
                fits, found = middle, keys
            else:
                over = middle
        return starts[fits], laid_out(last) if found is None else found

    def _positions(self, messages: Sequence[Message], cancelled: Callable[[], bool]) -> list[Any]:
        if cancelled():
            raise LayoutCancelled
        return self.engine.lay_out(join_system(self.system, messages), self._heard)

    def keep_heard(self, new: Sequence[Message] = ()) -> None:
        """Forget audios that are no longer in the conversation."""
        audios = [audio for message in [*self.messages, *new] for audio in message.audios]
        self._heard = {audio: self._heard[audio] for audio in audios if audio in self._heard}

    # ------------------------------------------------------------------------------------------ what is remembered

    def resume(self, keys: list[Any]) -> tuple[SavedRow | None, list[Any]]:
        """What the memory holds of the wanted positions, and which are still to be run."""
        shared = 0
        # The last position always runs: its state is what is asked for.
        while shared < min(len(self._keys), len(keys) - 1) and self._keys[shared] == keys[shared]:
            shared += 1
        saved, self._keys = self._saved, keys[:shared]
        if saved is not None and saved.length > shared:
            saved = dataclasses.replace(saved, layers=[layer[:, :, :shared] for layer in saved.layers], length=shared)
        self._saved = None  # it is the scheduler's now
        return saved, keys[shared:]

    def embed(self, keys: Sequence[Any]) -> Tensor:
        """(n, H) inputs of positions."""
        return self.engine.embed(keys, {heard.key: heard for heard in self._heard.values()})

    def note(self, keys: Sequence[Any]) -> None:
        """These positions were run."""
        self._keys.extend(keys)

    def remember(self, saved: SavedRow) -> None:
        """Keep the memory for the next turn."""
        self._saved = saved

    def forget(self) -> None:
        """What the memory held is lost, or unknown: the next turn runs the whole conversation."""
        self._saved, self._keys = None, []
