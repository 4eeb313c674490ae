"""Unit words of one segment of a reply, step by step, while its text is still being written.

A `UnitStream` holds the state of one segment; the decoder has none. The caller runs the decoder's backbone on the
stream's next inputs (of several streams in one batch) and passes the chosen output back. A test compares the result
with `UnitDecoder.generate` for the whole segment.

Unit words are checked before they are vocoded (`unit_word_checks.py`): no endless repetition, no impossible length, and
not empty. Unit words that fail are discarded and sampled once more; a second failure is reported with its reason.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from echox.models.t2c.modeling_letters import letters_of, pad_letters
from echox.models.t2c.modeling_prefix import PrefixDecoder
from echox.models.t2c.modeling_unit_decoder import UnitDecoder
from echox.models.t2c.modeling_word_synchronous import WordSynchronousDecoder
from echox.models.t2c.text_words import TextWords
from echox.models.t2c.unit_word_checks import problem_of, repeating, too_few


@dataclass
class Sampling:
    """How outputs are chosen; one for each reply, which so has its own randomness.

    Attributes:
        temperature, top_p: of the first attempt; at temperature 0 the most likely output.
        retry_temperature: of the second attempt; 0: there is none.
        source: of random numbers.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    retry_temperature: float = 1.0
    source: random.Random = field(default_factory=lambda: random.Random(0))


@dataclass(frozen=True)
class UnitStreamOutput:
    """Unit words that are ready for the vocoder.

    Attributes:
        unit_words: in order; empty after a problem.
        word: id of the text word that these complete; None: a part of the segment without a known word.
        problem: the reason why speech of the word, or of the segment, is missing or incomplete.
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
        position: number of inputs that the stream's row of the key-value memory must hold before the next step; the
            row holds more after unit words were discarded, and must then be truncated.
    """

    def __init__(self, decoder: UnitDecoder, sampling: Sampling | None = None) -> None:
        self.decoder = decoder
        self.sampling = sampling or Sampling()
        self.text_finished = False
        self.position = 0
        self._retrying = False

    @abstractmethod
    def push(self, state: Tensor, word: int, text: str) -> None:
        """Add a token: its denoised state (H,), its word's id (-1: not spoken), the text that it adds.

        Raises:
            ValueError: after `finish`, or a word id below an earlier one.
        """

    @abstractmethod
    def finish(self) -> None:
        """Mark the segment's text as complete."""

    def end_word(self) -> None:
        """Mark the last pushed word as complete, so that a word-synchronous decoder need not wait for the next one."""
        return

    def follow(self, before: UnitStream, words: int) -> None:
        """Continue after another segment: read its last words, and their unit words, before the first step.

        For decoders that were trained with context words; the text may have been pushed before.

        Raises:
            ValueError: a form without alignment.
        """
        raise ValueError("echo_context_words: expected 0 for a decoder without alignment to words, found more")

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether the inputs of the next step are known."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether all unit words are generated."""

    @abstractmethod
    def inputs(self) -> Tensor:
        """Input vectors (n, D) of the next step."""

    @property
    def begins_with_prompt(self) -> bool:
        """Whether the next step starts with a prompt, of many inputs."""
        return False

    @property
    @abstractmethod
    def may_end(self) -> bool:
        """Whether the end is an allowed output of this step."""

    @abstractmethod
    def accept(self, output: int) -> list[UnitStreamOutput]:
        """Take the output of the step; returns the unit words that are now ready."""

    @property
    def temperature(self) -> float:
        """For the sampling of this step."""
        return self.sampling.retry_temperature if self._retrying else self.sampling.temperature

    @property
    def top_p(self) -> float:
        """For the sampling of this step."""
        return 1.0 if self._retrying else self.sampling.top_p

    def _retry(self) -> bool:
        """Whether a failure is followed by a second attempt; if so, begin it."""
        again = not self._retrying and self.sampling.retry_temperature > 0
        self._retrying = again
        return again

    def _check_open(self, word: int, newest: int) -> None:
        if self.text_finished:
            raise ValueError("expected no more tokens after finish(); open a new stream for the next segment")
        if 0 <= word < newest:
            raise ValueError(f"word: expected ids in ascending order, found {word} after {newest}")


class WordStream(UnitStream):
    """A segment of a `WordSynchronousDecoder`, which can start while the text is still being written.

    A word is generated as soon as the words of its lookahead are complete, that is, when the word after them has begun
    or the segment has ended.

    Example::

        stream = WordStream(model.echo_decoder)
        for state, word, text in tokens: stream.push(state, word, text)
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
        self._letters: list[Tensor] = []  # (C, D) each
        self._open: list[Tensor] = []  # states (H,) of the last word, which is not complete
        self._open_name = -1
        self._open_texts: list[str] = []
        self._number = 0  # of the current word
        self._current_condition: Tensor | None = None
        self._word_outputs: list[int] = []  # of the current word
        self._word_position = 0
        self._tail: list[list[int]] = []  # unit words of the words before this segment
        self._spoken: list[tuple[Tensor, Tensor, list[int]]] = []  # vectors, letters, unit words of finished words

    def follow(self, before: UnitStream, words: int) -> None:
        """See `UnitStream.follow`."""
        assert isinstance(before, WordStream), "segments of one decoder"
        tail = before._spoken[-words:] if words else []
        self._vectors = [vector for vector, _, _ in tail] + self._vectors
        self._letters = [letters for _, letters, _ in tail] + self._letters
        self._names = [-1] * len(tail) + self._names
        self._characters = [0] * len(tail) + self._characters
        self._tail = [unit_words for _, _, unit_words in tail]
        self._number = len(tail)

    def push(self, state: Tensor, word: int, text: str) -> None:
        """See `UnitStream.push`."""
        self._check_open(word, self._open_name)
        if word < 0:
            return
        if word > self._open_name:
            self._close_word()
            self._open_name = word
        self._open.append(state)
        self._open_texts.append(text)

    def end_word(self) -> None:
        """See `UnitStream.end_word`."""
        self._close_word()

    def finish(self) -> None:
        """See `UnitStream.finish`."""
        self._close_word()
        self.text_finished = True

    @property
    def ready(self) -> bool:
        """Whether the current word and those of its lookahead are known."""
        ahead = 0 if self.text_finished else self.decoder.config.lookahead_words
        return self._number + ahead < len(self._vectors)

    @property
    def finished(self) -> bool:
        """Whether every word is generated."""
        return self.text_finished and self._number >= len(self._vectors)

    @property
    def begins_with_prompt(self) -> bool:
        """At the first step of a word with letters, and of a stream that continues another segment."""
        return self._num_given > 0

    @property
    def _num_given(self) -> int:
        """Inputs of the next step before the last output: those of context words, and letters of the current word."""
        if self._word_outputs:
            return 0
        return (self._tail_length if self.position == 0 else 0) + len(self._letters[self._number])

    @property
    def _tail_length(self) -> int:
        return sum(len(self._letters[number]) + 1 + len(unit_words) for number, unit_words in enumerate(self._tail))

    def inputs(self) -> Tensor:
        """The last output, with the condition of the current word (1, D); before it, at the first step of a word, the
        word's letters, and at the first of all the context words.
        """
        if self._current_condition is None:
            self._current_condition = self._condition(self._number)
        if self._word_outputs:
            return self._steps([self._previous], self._current_condition, first=len(self._word_outputs))
        steps = [self._letters[self._number], self._steps([self._previous], self._current_condition)]
        if self.position == 0:
            end = self.decoder.end_id
            before = [
                (self._letters[number], self._steps([end, *unit_words], self._condition(number)))
                for number, unit_words in enumerate(self._tail)
            ]
            steps = [*(one for word in before for one in word), *steps]
        return torch.cat(steps)

    def _steps(self, previous: list[int], condition: Tensor, first: int = 0) -> Tensor:
        """Inputs (n, D) of neighbouring steps of a word, from the outputs before them."""
        places = torch.arange(first, first + len(previous), device=condition.device)
        return self.decoder.step_inputs(torch.tensor(previous, device=condition.device), condition, places)

    def _condition(self, number: int) -> Tensor:
        """The condition (D,) of every step of a word."""
        config = self.decoder.config
        first = max(0, number - config.lookback_words)
        around = torch.stack(self._vectors[first : number + config.lookahead_words + 1])[None]
        return self.decoder.conditions(around)[0, number - first]

    @property
    def may_end(self) -> bool:
        """With `force_sound`, not as the first output of a word."""
        return bool(self._word_outputs) or not self.decoder.config.force_sound

    def accept(self, output: int) -> list[UnitStreamOutput]:
        """See `UnitStream.accept`: returns a whole word when it ends and passes the checks."""
        given = self._num_given
        if self.position == 0:
            self._word_position = self._tail_length  # where the first word begins again
        self.position += given + 1
        limit = self.decoder.config.max_unit_words_per_word
        if output != self.decoder.end_id and len(self._word_outputs) < limit:
            self._previous = output
            self._word_outputs.append(output)
            problem = problem_of(self._word_outputs, self._characters[self._number])
            if problem is None:
                return []
        elif output != self.decoder.end_id:
            problem = f"not finished after {limit} unit words"
        else:
            problem = too_few(self._word_outputs, self._characters[self._number])
        if problem is not None and self._retry():
            self._restart_word()
            return []
        output_of_word = UnitStreamOutput([] if problem else self._word_outputs, self._names[self._number], problem)
        if problem is None:
            self._spoken.append((self._vectors[self._number], self._letters[self._number], self._word_outputs))
        else:  # discarded unit words must not influence the next word
            self._restart_word()
        self._retrying = False
        self._number += 1
        self._current_condition, self._word_outputs, self._previous = None, [], self.decoder.end_id
        self._word_position = self.position
        return [output_of_word]

    def _restart_word(self) -> None:
        self.position = self._word_position
        self._word_outputs, self._previous = [], self.decoder.end_id

    def _close_word(self) -> None:
        if not self._open:
            return
        states = torch.stack(self._open)[None].to(self.decoder.dtype)
        words = TextWords.of(torch.zeros(1, len(self._open), dtype=torch.long, device=states.device))
        letters, spelling = self._read_letters()
        self._vectors.append(self.decoder.word_vectors(states, words, spelling)[0, 0])
        self._letters.append(letters)
        self._names.append(self._open_name)
        self._characters.append(sum(len(text.strip()) for text in self._open_texts))
        self._open, self._open_texts = [], []

    def _read_letters(self) -> tuple[Tensor, Tensor | None]:
        """Vectors (C, D) of the letters of the word that ends here, and their mean (1, 1, D), if they are read."""
        config = self.decoder.config
        if not self.decoder.reads_letters:
            return self._open[0].new_zeros(0, config.hidden_size, dtype=self.decoder.dtype), None
        letters = letters_of("".join(self._open_texts), config.max_word_letters)
        vectors, spelling = self.decoder.read_letters(pad_letters([[letters]]).to(self._open[0].device))
        return vectors[0, 0, : len(letters)], spelling


class PrefixStream(UnitStream):
    """A segment of a `PrefixDecoder`, which starts when its text is complete and then generates unit word by unit word.

    Unit words that repeat the last ones are held back until a different one follows.
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
        self._places: list[int] = []  # of the unit words, in the outputs
        self._num_emitted = 0  # unit words that were returned
        self._done = False

    def push(self, state: Tensor, word: int, text: str) -> None:
        """See `UnitStream.push`."""
        self._check_open(word, max(self._words, default=-1))
        self._states.append(state)
        self._words.append(word)
        self._all_characters += len(text.strip()) if word >= 0 else 0

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
        """Whether the text is complete and the end was not reached."""
        return self.text_finished and not self._done

    @property
    def finished(self) -> bool:
        """Whether the end was reached, or the stream gave up."""
        return self._done

    @property
    def begins_with_prompt(self) -> bool:
        """At the first step."""
        return self.position == 0

    def inputs(self) -> Tensor:
        """The prompt (n, D), later the last output (1, D)."""
        if self.position < self._prompt_length:
            return self._prompt[self.position :]
        newest = torch.tensor(self._outputs[self.position - self._prompt_length :], device=self._prompt.device)
        return self.decoder.embed_outputs(newest)

    @property
    def may_end(self) -> bool:
        """Always, except in the second attempt of a segment whose first was empty."""
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
        problem = problem_of(self._unit_words, self._all_characters)
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
        ready = self._emit(kept)
        return [*ready, UnitStreamOutput([], None, problem)]

    def _end(self) -> list[UnitStreamOutput]:
        count = len(self._unit_words)
        if count == 0 and self._retry():
            self._rewind(0)
            return []
        self._done = True
        ready = self._emit(count)
        if count == 0:
            ready.append(UnitStreamOutput([], None, "the echo decoder gave no units"))
        else:
            problem = too_few(self._unit_words, self._all_characters)
            ready += [UnitStreamOutput([], None, problem)] if problem else []
        return ready

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
    """Open a stream for a decoder, by its form.

    Raises:
        ValueError: a form without streaming.
    """
    if isinstance(decoder, WordSynchronousDecoder):
        return WordStream(decoder, sampling)
    if isinstance(decoder, PrefixDecoder):
        return PrefixStream(decoder, sampling)
    raise ValueError(f"expected a word-synchronous or a prefix decoder, found {type(decoder).__name__}")
