"""`EchoX`: load a model, ask it, adapt it, save it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from echox.api.about import About
from echox.api.adapters import has_adapter, load_adapter, merge_adapter, save_adapter
from echox.api.card import CARD_FILE, folder_card
from echox.api.folder_files import HUB_PATTERNS, INDEX_FILE, check_state, remove_optional
from echox.api.loading import TRAINING_RECORD_FILE, WEIGHTS_FILE, find_model, load_folder, training_record
from echox.api.parts import PARTS_FILE, read_parts, without_parts
from echox.api.precision import named_precision
from echox.device import choose_device
from echox.files import JsonObject, folder_name, save_model, write_tensors, write_text
from echox.models.decoding.lean_adapter import CONFIG_FILE, LeanAdapter
from echox.models.decoding.lean_adapter import WEIGHTS_FILE as ADAPTER_WEIGHTS
from echox.models.echox.configuration_echox import EchoXConfig
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.pretrained import REPOSITORY_OPTIONS
from echox.models.quantization.group_int4 import from_group_int4
from echox.models.quantization.int4_linear import int4_kernel
from echox.models.quantization.low_bits import INT4, LOW_BITS, quantise_on_cpu
from echox.models.quantization.stored import to_stored
from echox.models.turns.conversation_adapters import ADAPTER_FOLDERS, load_adapters
from echox.models.turns.talk_head import TalkHead
from echox.models.turns.turn_head import TurnHead
from echox.streaming.engine import Engine
from echox.streaming.events import AudioChunk, Event, Reply, ReplyBuilder, SpeechFailed, TextDelta
from echox.streaming.prompt.messages import Question
from echox.streaming.reply_text.settings import GenerationSettings
from echox.streaming.reply_text.trigger import Trigger
from echox.streaming.scheduler import Scheduler
from echox.streaming.session import Session
from echox.streaming.task import ReplyEvents

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from transformers.utils.quantization_config import QuantizationConfigMixin

OFFICIAL_SETTINGS = GenerationSettings(temperature=0.2, top_p=0.9)
"""Sampling settings of the official scripts."""


class EchoX:
    """A speech-to-speech model ready to talk.

    Example::

        model = EchoX.from_pretrained("nano")
        reply = model.generate("question.wav")
        print(reply.heard, reply.text, len(reply.waveform) / reply.sampling_rate)
        for event in model.stream("question.wav"):
            print(event.text if isinstance(event, TextDelta) else f"<{len(event.waveform)} samples>")

    Args:
        model: with a vocoder.
        processor: with a unit language.
        settings: how replies are written and spoken; None: the defaults.
        training_record: recipe, commit, seed and metrics of the model's training.
        about: what pages show of the model before the first question; None: nothing.
        turn_head: judges whether a question is complete; None: nothing does.
        adapters: of the language model, by kind of turn (`models.echox.conversation_adapters`); None: none.
        talk_head: tells talk from questions of knowledge; None: all is talk.

    Raises:
        ValueError: parts that do not belong together.
    """

    def __init__(
        self,
        model: EchoXForConditionalGeneration,
        processor: EchoXProcessor,
        settings: GenerationSettings | None = None,
        training_record: JsonObject | None = None,
        about: About | None = None,
        turn_head: TurnHead | None = None,
        adapters: Mapping[str, LeanAdapter] | None = None,
        talk_head: TalkHead | None = None,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.settings = settings or GenerationSettings()
        self.training_record = training_record
        self.about = about or About()
        self.turn_head, self.talk_head, self.adapters = turn_head, talk_head, dict(adapters or {})
        self._start()

    def _start(self, compile: bool = False) -> None:
        """Make a new engine and scheduler: needed after every change of the weights."""
        trigger = trigger_of(self.model.config)
        judge = None if self.turn_head is None else self.turn_head.probability
        of_states = self.turn_head is not None and self.turn_head.reads_states
        tell_talk = None if self.talk_head is None else self.talk_head.probability
        self.engine = Engine(self.model, self.processor, trigger, compile, judge, self.adapters, tell_talk, of_states)
        self.scheduler = Scheduler(self.engine)

    def compile(self) -> EchoX:
        """Compile the steps that write text, for a GPU, where they become one graph; the first then takes a minute.

        Open sessions do not change; new ones are compiled.

        Raises:
            ValueError: a language model that is no plain Llama (another kind, quantised, or with an adapter).
        """
        self._start(compile=True)
        return self

    def split_language_model(self) -> EchoX:
        """Split the language model over the processes that torchrun started, for one that no single GPU holds.

        Every process must then make the same calls, with the same seed, and has the same reply; each loads the whole
        model first. There is no server of several processes (docs/bigger-models.md says why).

        Raises:
            ValueError: no torchrun, or a language model that cannot be split so.
        """
        from echox.api.processes import mesh_of_processes
        from echox.models.tensor_parallel import split_language_model

        split_language_model(self.model.s2t.language_model, mesh_of_processes(self.engine.device))
        self._start()
        return self

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path | None = None,
        device: str = "auto",
        dtype: torch.dtype | str | None = None,
        adapter: str | Path | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
        **options: Any,
    ) -> EchoX:
        """Load a model folder: weights, processor, chat template, unit language, vocoder, settings.

        Args:
            folder_or_id: a folder, a hub id (``owner/name``), or None or "nano" for the embedded model.
            device: "auto" (a GPU if there is one), "cpu", "cuda" ...
            dtype: of the weights in memory, also by name ("float16"); None: float32 on CPU (weights stored in 4 bits:
                as they are, without an adapter), and on a GPU the folder's own. Folders may store float16 to be small.
                ``torch.int8`` and ``torch.int4`` on a CPU: the language model computes with weights in 8 or 4 bits, the
                rest in float32.
            adapter: folder or hub id of a PEFT adapter of the language model; `merge_adapter` makes it permanent.
            quantization_config: of transformers, for its language model: ``BitsAndBytesConfig(load_in_4bit=True)``,
                ``TorchAoConfig`` ...; needs their libraries and hardware.
            **options: of a hub id, as in transformers: ``revision``, ``token``, ``cache_dir``, ``local_files_only``,
                ``force_download``. For the official release only: ``audio_tower``, ``vocoder``, ``peft``,
                ``device_map``; see `models/conversion/load.py`.

        Raises:
            ValueError: no such model, a part of it is missing or damaged, or a setting is not possible on this machine.
        """
        from echox.models.conversion.official import is_official

        chosen: torch.dtype | None = named_precision(dtype, None)["dtype"] if isinstance(dtype, str) else dtype
        repository = {name: options.pop(name) for name in REPOSITORY_OPTIONS if name in options}
        folder = find_model(folder_or_id, **repository)
        place = choose_device(device)
        in_memory = torch.float32 if chosen in LOW_BITS or (chosen is None and place.type == "cpu") else chosen
        if is_official(folder):
            from echox.models.conversion.load import load_official

            if quantization_config is not None:
                raise ValueError(
                    f"quantization_config: expected a folder of ours, found the official {folder}; convert it first: "
                    "echox convert SRC DST"
                )
            model, processor = load_official(folder, dtype=in_memory, device=place, **options)
            settings, record = OFFICIAL_SETTINGS, None
        elif options:
            raise ValueError(f"{', '.join(options)}: expected only with the official release, found {folder}")
        else:
            # Weights that were published in 4 bits are computed with as they are, where the CPU can. An adapter is put
            # on floats, before anything is rounded.
            in_int4 = place.type == "cpu" and adapter is None and (chosen == INT4 or (chosen is None and int4_kernel()))
            model, processor = load_folder(folder, place, in_memory, quantization_config, in_int4)
            settings, record = GenerationSettings.load(folder), training_record(folder)
        if model.vocoder is not None:
            model.vocoder.float()  # small, and rounding is audible
        if adapter is not None:
            load_adapter(model, adapter)
        if chosen in LOW_BITS:
            quantise_on_cpu(model.s2t.language_model, place, chosen)
        language_model = model.s2t.language_model
        width = int(language_model.config.get_text_config().hidden_size)
        turn_head, talk_head = TurnHead.load(folder, width), TalkHead.load(folder, width)
        adapters = load_adapters(folder, language_model)
        return cls(model, processor, settings, record, About.load(folder), turn_head, adapters, talk_head)

    def save_pretrained(
        self,
        folder: str | Path,
        dtype: torch.dtype | None = None,
        card: Mapping[str, object] | None = None,
        parts: str | Path | None = None,
    ) -> None:
        """Write everything into one folder, with a model card; `from_pretrained` reads it back.

        What another model left in the folder (heads, adapters, parts, a training record) is removed.

        Args:
            folder: created if it does not exist.
            dtype: of the stored weights: float16 halves the size, int8 (matrices, a scale per row; those that are in
                4 bits stay so) halves it again; None: as in memory.
            card: additions to the metadata of the card (license, language, base_model ...); ``name`` is its title.
            parts: a ``parts.json`` (`api/parts.py`): weights that those parts hold are left out, and the
                file is copied; None: all weights are written.

        Raises:
            OSError: the folder cannot be written.
            ValueError: the model carries an adapter that is not merged, or has other layers than its configuration
                says; the folder is one of an adapter; or a part is missing, or was trained.
        """
        if has_adapter(self.model):
            raise ValueError(
                "expected a model without an adapter, found one: call merge_adapter() first, or save_adapter(folder)"
            )
        folder = Path(folder)
        if (folder / CONFIG_FILE).is_file():
            raise ValueError(
                f"{folder}: expected a folder for a model, found one of an adapter ({CONFIG_FILE}), which would be put "
                "on whatever is loaded from it; name another folder"
            )
        state, published = self.model.state_dict(), None
        check_state(self.model, state)
        if parts is not None:
            published = Path(parts).read_text(encoding="utf-8")  # perhaps that of this folder
            state = without_parts(from_group_int4(state), read_parts(Path(parts).parent), self.model.config)
        state = to_stored(state, dtype)
        matrices = {kind: adapter.tensors() for kind, adapter in self.adapters.items()}  # perhaps files of this folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX_FILE).unlink(missing_ok=True)
        try:
            save_model(self.model, folder, state)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(f"{folder}: could not write the weights ({error}); free some space, try again") from error
        if (folder / INDEX_FILE).is_file():
            (folder / WEIGHTS_FILE).unlink(missing_ok=True)
        remove_optional(folder)
        if published is not None:
            write_text(folder / PARTS_FILE, published)
        self.processor.save_pretrained(folder)
        self.settings.save(folder)
        self.about.save(folder)
        self._save_additions(folder, matrices)
        if self.training_record is not None:
            write_text(folder / TRAINING_RECORD_FILE, json.dumps(self.training_record, indent=2) + "\n")
        head = dict(card or {})
        name = str(head.pop("name", folder_name(folder)))
        write_text(folder / CARD_FILE, folder_card(name, self.training_record, folder, head))

    def _save_additions(self, folder: Path, matrices: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Heads, and adapters with their matrices by kind."""
        for head in (self.turn_head, self.talk_head):
            if head is not None:
                write_tensors(folder / head.file, head.state_dict())
        for kind, adapter in self.adapters.items():
            place = folder / ADAPTER_FOLDERS[kind]
            place.mkdir(exist_ok=True)
            write_tensors(place / ADAPTER_WEIGHTS, matrices[kind], metadata={"format": "pt"})
            write_text(place / CONFIG_FILE, json.dumps(adapter.config(), indent=2) + "\n")

    def push_to_hub(
        self,
        repo_id: str,
        dtype: torch.dtype | None = None,
        card: Mapping[str, object] | None = None,
        private: bool | None = None,
        api: HfApi | None = None,
    ) -> str:
        """Save the model and upload the folder; returns the address of the commit.

        What another model left in the repository goes, as in `save_pretrained`; other files stay.

        Args:
            repo_id: ``owner/name``; created if it does not exist.
            dtype: see `save_pretrained`.
            card: see `save_pretrained`.
            private: of a new repository; None: the default of the account.
            api: ``huggingface_hub.HfApi`` with its own token or endpoint; None: with the saved login.

        Raises:
            ValueError: as `save_pretrained`.
            huggingface_hub.errors.HfHubHTTPError: the hub refuses.
        """
        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype, {"name": repo_id, **(card or {})})
            api = api or HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message="EchoX model", delete_patterns=list(HUB_PATTERNS)
            )
            return str(commit)

    def save_adapter(self, folder: str | Path) -> None:
        """Write the language model's adapter alone, in the format of peft; see `api/adapters.py`."""
        save_adapter(self.model, folder)

    def merge_adapter(self) -> None:
        """Add the adapter to the weights permanently."""
        merge_adapter(self.model)
        self._start()

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the model's input, Hz; replies have their own."""
        return self.engine.input_sampling_rate

    def session(self, system: str | None = None, **settings: object) -> Session:
        """Start a conversation of several turns; `settings` apply to all its replies.

        Raises:
            ValueError: unknown settings, or values out of range.
        """
        return Session(self.scheduler, self.settings.replaced(settings), system)

    def generate(self, question: Question, *, sampling_rate: int | None = None, **settings: object) -> Reply:
        """Answer a question, and return the whole reply.

        Args:
            question: audio (path, bytes, binary file, samples (S,)) or messages.
            sampling_rate: rate of bare samples; None: `sampling_rate` of the model.
            **settings: `GenerationSettings` of this reply.

        Raises:
            ValueError: a question that cannot be decoded or read, or unknown settings.
        """
        return self.session().reply(question, sampling_rate=sampling_rate, **settings)

    def stream(self, question: Question, *, sampling_rate: int | None = None, **settings: object) -> ReplyStream:
        """Answer a question piece by piece; arguments and errors as `generate`."""
        session = self.session()
        events = session.stream(question, sampling_rate=sampling_rate, **settings)
        return ReplyStream(events, session.output_sampling_rate)

    def speak_text(self, text: str, **settings: object) -> ReplyEvents:
        """Speak a given text in the model's voice: its text embeddings replace the denoised states of a reply.

        Returns:
            Iterator of the events of `Session.stream`.

        Raises:
            ValueError: nothing to say, or unknown settings.
        """
        return ReplyEvents(self.session().speak(text, on_event=None, **settings))


class ReplyStream(Iterator["TextDelta | AudioChunk"]):
    """A reply while it is made: iterate over `TextDelta` and `AudioChunk`; its attributes hold the rest.

    Closing it (or leaving its ``with`` block) cancels the reply.

    Args:
        events: of a session. sampling_rate: of the spoken reply, Hz.
    """

    def __init__(self, events: Iterator[Event], sampling_rate: int) -> None:
        self._events = events
        self._builder = ReplyBuilder(sampling_rate)

    def __iter__(self) -> ReplyStream:
        return self

    def __next__(self) -> TextDelta | AudioChunk:
        while True:
            event = next(self._events)
            self._builder.add(event)
            if isinstance(event, TextDelta | AudioChunk):
                return event

    @property
    def heard(self) -> str:
        """Transcript of the question, known before the first piece."""
        return self._builder.heard

    @property
    def failures(self) -> tuple[SpeechFailed, ...]:
        """Segments that could not be spoken, so far."""
        return tuple(self._builder.failures)

    def reply(self) -> Reply:
        """The reply so far; with ``timings`` once the stream has ended."""
        return self._builder.build()

    def close(self) -> None:
        """Cancel the reply."""
        close = getattr(self._events, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> ReplyStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def trigger_of(config: EchoXConfig) -> Trigger:
    """The trigger of a model configuration."""
    extra = config.compatible.extra_segment_tokens
    return Trigger(
        min_tokens=int(config.trigger_min_tokens) + extra,
        max_tokens=int(config.trigger_max_tokens) + extra,
        lookahead_tokens=int(config.trigger_lookahead_tokens),
        threshold=float(config.trigger_threshold),
    )
