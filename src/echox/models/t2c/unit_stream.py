"""Speech in the making: the unit words of one segment of a reply, step by step, while its text may still be coming.

A `UnitStream` holds what one segment has said so far; the decoder itself holds nothing. Whoever drives it gives the
decoder's backbone the stream's next inputs (several streams' at once, if there are several) and hands back the output
that was chosen. A test holds what comes out equal to what `UnitDecoder.generate` says for the whole segment at once.

What is said is checked before it may be sounded: no endless repetition, no impossible length, not nothing. What fails
is wound back and sampled once more; what fails again is reported with the reason, never passed over.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from echox.models.t2c.modeling_unit_decoder import PrefixDecoder, UnitDecoder, WordSynchronousDecoder
from echox.models.t2c.text_words import TextWords

MAX_PERIOD = 8
"""Longest repeated pattern that is looked for, in unit words."""
MAX_REPEATS = 8
"""A pattern said so often in a row is a decoder that hangs: real speech (nano's recordings) never does it."""
UNIT_WORDS_BASE, UNIT_WORDS_PER_CHARACTER = 24, 8
"""A text of n characters takes at most ``base + n * per character`` unit words: three times the slowest recordings."""
CHARACTERS_PER_UNIT_WORD = 8
"""... and at least one unit word for so many characters, an eighth of what the fastest recordings need."""


@dataclass
class Sampling:
    """How outputs are chosen; one per reply, so that its randomness is its own.

    Attributes:
        temperature, top_p: of the first try; temperature 0 takes the most likely.
        retry_temperature: of the second try; 0: none is made.
        source: of random numbers.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    retry_temperature: float = 1.0
    source: random.Random = field(default_factory=lambda: random.Random(0))


@dataclass(frozen=True)
class UnitStreamOutput:
    """What may now be sounded.

    Attributes:
        unit_words: in order; empty where nothing could be said.
        word: the text word (its id, as pushed) that this completes; None: a part of the segment, of no known word.
        problem: why speech of the word, or of the segment, is missing or incomplete.
    """

    unit_words: list[int]
    word: int | None = None
    problem: str | None = None


class UnitStream(ABC):
    """One segment: text in by `push` and `finish`, unit words out by `accept`.

    Args:
        decoder: in evaluation mode; its weights must not change meanwhile.
        sampling: how outputs are chosen.

    Attributes:
        position: inputs that the stream's row of the key-value memory should hold before the next step; smaller than
            what it does hold after something was wound back.
    """

    def __init__(self, decoder: UnitDecoder, sampling: Sampling | None = None) -> None:
        self.decoder = decoder
        self.sampling = sampling or Sampling()
        self.text_finished = False
        self.position = 0
        self._retrying = False

    @abstractmethod
    def push(self, state: Tensor, word: int, characters: int) -> None:
        """Add a token: its denoised state (H,), its word's id (-1: not spoken), the characters of text it adds.

        Raises:
            ValueError: after `finish`, or a word id that falls.
        """

    @abstractmethod
    def finish(self) -> None:
        """The segment's text is complete."""

    def end_word(self) -> None:
        """The word that was pushed last is complete: a decoder that says words need not wait for the next one."""
        return

    def follow(self, before: UnitStream, words: int) -> None:
        """Go on where another segment ended: read its last words, and what was said of them, before the first step.

        For decoders that were trained so; the text may have been pushed already.

        Raises:
            ValueError: a form that cannot.
        """
        raise ValueError("echo_context_words: expected 0 for a decoder that does not know its words")

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether a step can be made now."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether all that can be said was said."""

    @abstractmethod
    def inputs(self) -> Tensor:
        """(n, D) of the next step."""

    @property
    def begins_with_prompt(self) -> bool:
        """Whether the next step has many inputs."""
        return False

    @property
    @abstractmethod
    def may_end(self) -> bool:
        """Whether the end is a possible output of this step."""

    @abstractmethod
    def accept(self, output: int) -> list[UnitStreamOutput]:
        """Take the step's output; what may be sounded now."""

    @property
    def temperature(self) -> float:
        """Of this step."""
        return self.sampling.retry_temperature if self._retrying else self.sampling.temperature

    @property
    def top_p(self) -> float:
        """Of this step."""
        return 1.0 if self._retrying else self.sampling.top_p

    def _retry(self) -> bool:
        """Whether what just failed gets its second try."""
        again = not self._retrying and self.sampling.retry_temperature > 0
        self._retrying = again
        return again

    def _check_open(self, word: int, newest: int) -> None:
        if self.text_finished:
            raise ValueError("expected no more tokens after finish(); open a new stream for the next segment")
        if 0 <= word < newest:
            raise ValueError(f"word: expected ids that never fall, found {word} after {newest}")


class WordStream(UnitStream):
    """A segment of a `WordSynchronousDecoder`, which may speak while the text is still being written.

    A word is said as soon as the words it looks ahead to are complete, that is, when the word after them has begun or
    the segment has ended.

    Example::

        stream = WordStream(model.echo_decoder)
        for state, word, text in tokens: stream.push(state, word, len(text))
        stream.finish()
        while stream.ready: ...
    """

    decoder: WordSynchronousDecoder

    def __init__(self, decoder: WordSynchronousDecoder, sampling: Sampling | None = None) -> None:
        super().__init__(decoder, sampling)
        self._previous = decoder.end_id
        self._names: list[int] = []  # ids of the words whose vectors are known
        self._characters: list[int] = []
        self._vectors: list[Tensor] = []  # (D,) each
        self._open: list[Tensor] = []  # states (H,) of the word that is being written
        self._open_name = -1
        self._open_characters = 0
        self._number = 0  # of the word at hand
        self._current_condition: Tensor | None = None
        self._said: list[int] = []  # of the word at hand
        self._word_position = 0
        self._tail: list[list[int]] = []  # what was said of the words before this segment
        self._spoken: list[tuple[Tensor, list[int]]] = []  # words and what was said of them

    def follow(self, before: UnitStream, words: int) -> None:
        """See `UnitStream.follow`."""
        assert isinstance(before, WordStream), "segments of one decoder"
        tail = before._spoken[-words:] if words else []
        self._vectors = [vector for vector, _ in tail] + self._vectors
        self._names = [-1] * len(tail) + self._names
        self._characters = [0] * len(tail) + self._characters
        self._tail = [said for _, said in tail]
        self._number = len(tail)

    def push(self, state: Tensor, word: int, characters: int) -> None:
        """See `UnitStream.push`."""
        self._check_open(word, self._open_name)
        if word < 0:
            return
        if word > self._open_name:
            self._close_word()
            self._open_name = word
        self._open.append(state)
        self._open_characters += characters

    def end_word(self) -> None:
        """See `UnitStream.end_word`."""
        self._close_word()

    def finish(self) -> None:
        """See `UnitStream.finish`."""
        self._close_word()
        self.text_finished = True

    @property
    def ready(self) -> bool:
        """Whether the word at hand, and those it looks ahead to, are known."""
        ahead = 0 if self.text_finished else self.decoder.config.lookahead_words
        return self._number + ahead < len(self._vectors)

    @property
    def finished(self) -> bool:
        """Whether every word was said."""
        return self.text_finished and self._number >= len(self._vectors)

    @property
    def begins_with_prompt(self) -> bool:
        """At the first step, if there is a segment to go on from."""
        return self.position == 0 and bool(self._tail)

    def inputs(self) -> Tensor:
        """(1, D): the previous output, and the word at hand with its neighbours; before it, once, the tail's (n, D)."""
        if self._current_condition is None:
            self._current_condition = self._condition(self._number)
        newest = self.decoder.embed_outputs(self._ids([self._previous])) + self._current_condition
        if not self.begins_with_prompt:
            return newest
        end = self.decoder.end_id
        steps = [
            self.decoder.embed_outputs(self._ids([end, *said])) + self._condition(number)
            for number, said in enumerate(self._tail)
        ]
        return torch.cat([*steps, newest])

    def _condition(self, number: int) -> Tensor:
        """(D,) what every step of a word is told."""
        config = self.decoder.config
        first = max(0, number - config.lookback_words)
        around = torch.stack(self._vectors[first : number + config.lookahead_words + 1])[None]
        return self.decoder.conditions(around)[0, number - first]

    def _ids(self, outputs: list[int]) -> Tensor:
        return torch.tensor(outputs, device=self._vectors[0].device)

    @property
    def may_end(self) -> bool:
        """A word that must sound cannot end before it began."""
        return bool(self._said) or not self.decoder.config.force_sound

    def accept(self, output: int) -> list[UnitStreamOutput]:
        """See `UnitStream.accept`: the whole word once it ends and is as it should be."""
        if self.begins_with_prompt:
            self.position = self._word_position = sum(len(said) + 1 for said in self._tail)
        self.position += 1
        limit = self.decoder.config.max_unit_words_per_word
        if output != self.decoder.end_id and len(self._said) < limit:
            self._previous = output
            self._said.append(output)
            problem = _problem(self._said, self._characters[self._number])
            if problem is None:
                return []
        elif output != self.decoder.end_id:
            problem = f"not finished after {limit} unit words"
        else:
            problem = _too_short(self._said, self._characters[self._number])
        if problem is not None and self._retry():
            self._restart_word()
            return []
        said = UnitStreamOutput([] if problem else self._said, self._names[self._number], problem)
        if problem is None:
            self._spoken.append((self._vectors[self._number], self._said))
        else:  # what was said in vain must not lead the next word astray
            self._restart_word()
        self._retrying = False
        self._number += 1
        self._current_condition, self._said, self._previous = None, [], self.decoder.end_id
        self._word_position = self.position
        return [said]

    def _restart_word(self) -> None:
        self.position = self._word_position
        self._said, self._previous = [], self.decoder.end_id

    def _close_word(self) -> None:
        if not self._open:
            return
        states = torch.stack(self._open)[None].to(self.decoder.dtype)
        words = TextWords.of(torch.zeros(1, len(self._open), dtype=torch.long, device=states.device))
        self._vectors.append(self.decoder.word_vectors(states, words)[0, 0])
        self._names.append(self._open_name)
        self._characters.append(self._open_characters)
        self._open, self._open_characters = [], 0


class PrefixStream(UnitStream):
    """A segment of a `PrefixDecoder`: nothing can be said before its text is complete; then unit word by unit word.

    Unit words that only repeat the last ones are held back until it is clear that the decoder does not hang.
    """

    decoder: PrefixDecoder

    def __init__(self, decoder: PrefixDecoder, sampling: Sampling | None = None) -> None:
        super().__init__(decoder, sampling)
        self._states: list[Tensor] = []
        self._words: list[int] = []
        self._all_characters = 0
        self._prompt = torch.empty(0)  # (P, D) after `finish`
        self._prompt_length = 0
        self._outputs: list[int] = []
        self._unit_words: list[int] = []
        self._places: list[int] = []  # of the unit words among the outputs
        self._num_emitted = 0  # unit words handed over
        self._done = False

    def push(self, state: Tensor, word: int, characters: int) -> None:
        """See `UnitStream.push`."""
        self._check_open(word, max(self._words, default=-1))
        self._states.append(state)
        self._words.append(word)
        self._all_characters += characters if word >= 0 else 0

    def finish(self) -> None:
        """See `UnitStream.finish`."""
        self.text_finished = True
        if not any(word >= 0 for word in self._words):
            self._done = True
            return
        if self.decoder.reads_silent_tokens:
            self._words = [max(word, 0) for word in self._words]
        states = torch.stack(self._states)[None].to(self.decoder.dtype)
        words = torch.tensor(self._words, device=states.device)[None]
        self._prompt = self.decoder.prompt(states, words)[0][0]
        self._prompt_length = len(self._prompt)

    @property
    def ready(self) -> bool:
        """Whether the text is complete and the end was not said yet."""
        return self.text_finished and not self._done

    @property
    def finished(self) -> bool:
        """Whether the end was said, or given up."""
        return self._done

    @property
    def begins_with_prompt(self) -> bool:
        """At the first step."""
        return self.position == 0

    def inputs(self) -> Tensor:
        """(n, D): the prompt, then (1, D): the last output."""
        if self.position < self._prompt_length:
            return self._prompt[self.position :]
        newest = torch.tensor(self._outputs[self.position - self._prompt_length :], device=self._prompt.device)
        return self.decoder.embed_outputs(newest)

    @property
    def may_end(self) -> bool:
        """Always, but in the second try of a segment that was silent in the first."""
        return bool(self._unit_words) or not self._retrying

    def accept(self, output: int) -> list[UnitStreamOutput]:
        """See `UnitStream.accept`."""
        self.position = self._prompt_length + len(self._outputs)
        if output == self.decoder.end_id:
            return self._end()
        self._outputs.append(output)
        unit_word = self.decoder.unit_word_of_output(output)
        if unit_word is not None:
            self._unit_words.append(unit_word)
            self._places.append(len(self._outputs) - 1)
        problem = _problem(self._unit_words, self._all_characters)
        limit = self.decoder.config.max_unit_words
        if problem is None and len(self._outputs) >= limit:
            problem = f"not finished after {limit} unit words"
        if problem is None:
            return self._emit(len(self._unit_words) - repeating(self._unit_words))
        kept = max(self._num_emitted, len(self._unit_words) - repeating(self._unit_words))
        if kept < len(self._unit_words) and self._retry():
            self._rewind(kept)
            return []
        self._done = True
        said = self._emit(kept)
        return [*said, UnitStreamOutput([], None, problem)]

    def _end(self) -> list[UnitStreamOutput]:
        count = len(self._unit_words)
        if count == 0 and self._retry():
            self._rewind(0)
            return []
        self._done = True
        said = self._emit(count)
        if count == 0:
            said.append(UnitStreamOutput([], None, "the echo decoder gave no units"))
        else:
            problem = _too_short(self._unit_words, self._all_characters)
            said += [UnitStreamOutput([], None, problem)] if problem else []
        return said

    def _rewind(self, unit_words: int) -> None:
        outputs = self._places[unit_words] if unit_words < len(self._places) else len(self._outputs)
        del self._outputs[outputs:], self._unit_words[unit_words:], self._places[unit_words:]
        # The last input runs again, for its output.
        self.position = self._prompt_length + len(self._outputs) - 1

    def _emit(self, count: int) -> list[UnitStreamOutput]:
        new = self._unit_words[self._num_emitted : count]
        self._num_emitted = max(self._num_emitted, count)
        return [UnitStreamOutput(new)] if new else []


def open_stream(decoder: UnitDecoder, sampling: Sampling | None = None) -> UnitStream:
    """The stream that belongs to a decoder's form.

    Raises:
        ValueError: a decoder of a form that cannot be streamed.
    """
    if isinstance(decoder, WordSynchronousDecoder):
        return WordStream(decoder, sampling)
    if isinstance(decoder, PrefixDecoder):
        return PrefixStream(decoder, sampling)
    raise ValueError(f"expected a word-synchronous or a prefix decoder, found {type(decoder).__name__}")


def repeating(unit_words: Sequence[int]) -> int:
    """How many unit words at the end only say again what was said just before (0: the end says something new)."""
    longest = 0
    for period in range(1, min(MAX_PERIOD, len(unit_words) // 2) + 1):
        run = 0
        place = len(unit_words) - 1
        while place - period >= 0 and unit_words[place] == unit_words[place - period]:
            run, place = run + 1, place - 1
        if run >= period:
            longest = max(longest, run)
    return longest


def _too_short(unit_words: Sequence[int], characters: int) -> str | None:
    """What is wrong with complete speech of a text of so many characters."""
    if len(unit_words) * CHARACTERS_PER_UNIT_WORD < characters:
        return f"only {len(unit_words)} unit words for {characters} characters"
    return None


def _problem(unit_words: Sequence[int], characters: int) -> str | None:
    """What is wrong with speech so far, of a text of so many characters."""
    limit = UNIT_WORDS_BASE + UNIT_WORDS_PER_CHARACTER * characters
    if len(unit_words) > limit:
        return f"more than {limit} unit words for {characters} characters"
    for period in range(1, MAX_PERIOD + 1):
        span = period * MAX_REPEATS
        if len(unit_words) < span:
            return None
        tail = unit_words[-span:]
        if tail[period:] == tail[:-period]:
            return f"repeats itself: {MAX_REPEATS} times the same {period} unit words"
    return None
