"""The cascade of the ready parts that mini stands on: recogniser, language model, voice; no part was trained here.

Moonshine by ONNX runtime (in 8 bits, as its package has it: half the cost of our own tower) writes what was said,
SmolLM2 in 4 bits by llama.cpp (package ``cyllama``) answers, a Piper voice speaks each sentence as soon as it is
written. Greedy; the prompt's beginning stays in memory between questions, so the system turn is run once. It imports no
torch, so the memory of its process is that of a program made of these parts alone:

python benchmarks/ready_cascade.py --moonshine FOLDER --gguf FILE question.wav ...
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from echox.audio import load_audio
from echox.data.engines.piper import Piper, open_voice
from echox.evaluation.judges.moonshine import MoonshineASR
from echox.process_memory import peak_resident_bytes

RATE_HZ = 16000
VOICE = "en_US-joe-medium"
SYSTEM = "Answer in one short sentence."
MAX_NEW_TOKENS = 64
_CONTEXT_TOKENS = 1024
_SENTENCE = re.compile(r".*?[.?!][\"')]*(?=\s)", re.DOTALL)


def cpu_s() -> float:
    """Seconds of processor time of this process, its threads, and the programs that it has run."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


@dataclass
class Answer:
    """A spoken answer, with the times at which things happened, in seconds from the end of the question.

    Attributes:
        heard: the transcript of the question. text: the reply.
        arrivals_s, durations_s: of each piece of its speech.
        heard_s, first_text_s: when the transcript and the first token were there; None: there was none.
        total_s: of everything. ttfa_cpu_s, total_cpu_s: processor time until the first piece, and of everything.
    """

    heard: str = ""
    text: str = ""
    arrivals_s: list[float] = field(default_factory=list)
    durations_s: list[float] = field(default_factory=list)
    heard_s: float | None = None
    first_text_s: float | None = None
    ttfa_cpu_s: float = 0.0
    total_s: float = 0.0
    total_cpu_s: float = 0.0


class LlamaCpp:
    """A chat model in a GGUF file, by llama.cpp.

    Args:
        path: of the file.
        threads: of the processor.

    Raises:
        ValueError: cyllama is not installed.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        try:
            from cyllama.llama import llama_cpp as cpp
        except ImportError as error:
            raise ValueError(
                "expected llama.cpp, found none; pip install --no-deps --target FOLDER cyllama==0.2.18, and "
                "PYTHONPATH=FOLDER"
            ) from error
        cpp.disable_logging()
        self._cpp = cpp
        settings = cpp.LlamaContextParams()
        settings.n_ctx, settings.n_threads, settings.n_threads_batch = _CONTEXT_TOKENS, threads, threads
        self._model = cpp.LlamaModel(str(path), cpp.LlamaModelParams())
        self._context = cpp.LlamaContext(self._model, settings)
        self._vocabulary = self._model.get_vocab()
        self._sampler = cpp.LlamaSampler(cpp.LlamaSamplerChainParams())
        self._sampler.add_greedy()
        self._held: list[int] = []

    def write(self, system: str, question: str, max_new_tokens: int) -> Iterator[str]:
        """The reply so far, after each token."""
        turns = [("system", system), ("user", question)] if system else [("user", question)]
        messages = [self._cpp.LlamaChatMessage(role=role, content=said) for role, said in turns]
        prompt = self._model.chat_apply_template(self._model.get_default_chat_template(), messages, True)
        tokens = list(self._vocabulary.tokenize(prompt, add_special=False, parse_special=True))
        self._run(tokens)
        written: list[int] = []
        for _ in range(max_new_tokens):
            token = self._sampler.sample(self._context, -1)
            if self._vocabulary.is_eog(token):
                return
            written.append(token)
            yield self._vocabulary.detokenize(written)
            self._decode([token])

    def _run(self, tokens: list[int]) -> None:
        """Run a prompt; what it begins with in common with the text in memory is not run again."""
        pairs = zip(self._held, tokens[:-1], strict=False)
        shared = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
        shared = min(len(self._held), len(tokens) - 1) if shared is None else shared
        self._context.memory_seq_rm(0, shared, -1)
        self._held = self._held[:shared]
        self._decode(tokens[shared:])

    def _decode(self, tokens: list[int]) -> None:
        batch = self._cpp.LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=1)
        for number, token in enumerate(tokens):
            batch.add(token, len(self._held) + number, [0], number == len(tokens) - 1)
        self._context.decode(batch)
        self._held += tokens


class ReadyCascade:
    """Recogniser, language model and voice, one after the other; each sentence is spoken when it is written.

    Args:
        moonshine: folder of its files. gguf: file of the language model.
        voice: of Piper.
        threads: of each part.
        system: system prompt.
        max_new_tokens: of a reply.

    Raises:
        ValueError: a part is not installed.
    """

    def __init__(
        self,
        moonshine: Path,
        gguf: Path,
        voice: str = VOICE,
        threads: int = 1,
        system: str = SYSTEM,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        self._recogniser = MoonshineASR(moonshine, threads)
        self._writer = LlamaCpp(gguf, threads)
        self._voice, self._speaker = open_voice(voice, threads), Piper(threads)
        self._system, self._max_new_tokens = system, max_new_tokens

    def answer(self, waveform: np.ndarray) -> Answer:
        """Answer a question (samples,) at 16 kHz."""
        answer, began_s, began_cpu_s = Answer(), time.perf_counter(), cpu_s()

        def speak(sentence: str) -> None:
            if not any(letter.isalnum() for letter in sentence):
                return
            _, speech, _ = self._speaker.speak_sentence(sentence, self._voice)
            if not answer.arrivals_s:
                answer.ttfa_cpu_s = cpu_s() - began_cpu_s
            answer.arrivals_s.append(time.perf_counter() - began_s)
            answer.durations_s.append(len(speech) / self._voice.sampling_rate)

        answer.heard = self._recogniser.transcribe([waveform], RATE_HZ)[0]
        answer.heard_s = time.perf_counter() - began_s
        spoken = 0
        for text in self._writer.write(self._system, answer.heard, self._max_new_tokens):
            if answer.first_text_s is None:
                answer.first_text_s = time.perf_counter() - began_s
            answer.text = text
            if (sentence := _SENTENCE.match(text, spoken)) is not None:
                spoken = sentence.end()
                speak(sentence.group().strip())
        speak(answer.text[spoken:].strip())
        answer.total_s, answer.total_cpu_s = time.perf_counter() - began_s, cpu_s() - began_cpu_s
        return answer


def main() -> None:
    """Answer some recordings, and print the peak memory of this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moonshine", type=Path, required=True, help="folder of its ONNX-runtime files")
    parser.add_argument("--gguf", type=Path, required=True, help="file of the language model")
    parser.add_argument("--voice", default=VOICE, help=f"of Piper (default: {VOICE})")
    parser.add_argument("--system", default=SYSTEM, help="system prompt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("questions", nargs="+", type=Path, help="audio files")
    options = parser.parse_args()
    cascade = ReadyCascade(options.moonshine, options.gguf, options.voice, options.threads, options.system)
    for path in options.questions:
        answer = cascade.answer(load_audio(path, RATE_HZ))
        print(f"{answer.heard} -> {answer.text}")
    peak = peak_resident_bytes()
    figures: dict[str, Any] = {"peak_mb": None if peak is None else round(peak / 1e6, 1)}
    print(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
