"""The Gradio page: questions by voice, file or text; replies as streamed text and speech. It works without a network.

Gradio streams speech as AAC with one ``ffmpeg`` process per reply, and searches it on PATH only. If the system has
none, the one in the wheel of imageio-ffmpeg is put there.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from echox.api.loading import bundled_questions
from echox.errors import QueueFull, one_line
from echox.streaming.events import AudioChunk, ContextDropped, Finished, Heard, SpeechFailed, TextDelta

if TYPE_CHECKING:
    import gradio
    from starlette.types import ASGIApp, Receive, Scope, Send

    from echox.api import EchoX
    from echox.serving.protocol.options import NewReplySettings
    from echox.streaming.session import Session

_FIRST_CHUNK_S = 1.0  # the player starts with its first segment, and stutters if that is very short
_KEPT_S = 1800  # uploads and replies on the disk; all are removed when the page ends
_MAX_VISITS = 64  # conversations kept, each with its key-value memory; the one idle longest is removed first
_CSS = """
.gradio-container { width: 100%; max-width: 60rem !important; margin: 0 auto !important; }
#figures { opacity: .75; font-size: .9em; font-variant-numeric: tabular-nums; min-height: 1.6em; }
"""


class ChatMessage(TypedDict):
    """A message of Gradio's chat; the path of a file is shown as a player."""

    role: str
    content: str | dict[str, str]


@dataclass
class Visit:
    """The conversation of one visitor. It stays on the server: a history sent back by a visitor could name any file.

    Attributes:
        session: session of the model.
        chat: the messages that the page shows.
    """

    session: Session
    chat: list[ChatMessage] = field(default_factory=list)


def build_page(model: EchoX, name: str = "nano") -> gradio.Blocks:
    """Build the page for one model. Every visitor gets a separate session.

    Args:
        model: the model that answers.
        name: name of the model on the page.

    Raises:
        ValueError: Gradio is not installed.
    """
    gr = _gradio()
    defaults = model.settings
    use_private_upload_folder()
    with gr.Blocks(title="EchoX", analytics_enabled=False, delete_cache=(_KEPT_S // 6, _KEPT_S)) as page:
        visit = gr.State(None, time_to_live=_KEPT_S)
        gr.Markdown(f"# EchoX\nSpeak, type, or drop a recording; it answers aloud. Model: {name}. {model.about.knows}")
        chat = gr.Chatbot(label="Conversation", height=340, buttons=["copy_all"], placeholder="Ask something.")
        speech = gr.Audio(
            label="Reply", streaming=True, autoplay=True, interactive=False, elem_id="speech", buttons=["download"]
        )
        figures = gr.Markdown("", elem_id="figures")
        with gr.Row(equal_height=True):
            audio = gr.Audio(
                label="Your question, spoken",
                sources=["microphone", "upload"],
                type="filepath",
                elem_id="question",
                buttons=[],
                scale=2,
            )
            with gr.Column(scale=3):
                text = gr.Textbox(label="Or typed", placeholder="Ask something", lines=1, max_lines=1, elem_id="text")
                with gr.Row():
                    send = gr.Button("Send", variant="primary", min_width=80)
                    stop = gr.Button("Stop", min_width=80)
                    clear = gr.Button("Start over", min_width=80)
        gr.Examples(
            [[str(path), ""] for path in bundled_questions()] + [[None, question] for question in model.about.examples],
            [audio, text],
            label="Examples",
        )
        with gr.Accordion("Settings", open=False):
            system = gr.Textbox(label="System prompt", placeholder="Takes effect with the next conversation", lines=1)
            with gr.Row():
                temperature = gr.Slider(0, 1.5, defaults.temperature, step=0.05, label="Temperature", info="0: greedy")
                top_p = gr.Slider(0.05, 1, defaults.top_p, step=0.05, label="Top-p")
                echo_temperature = gr.Slider(
                    0, 1.5, defaults.echo_temperature, step=0.05, label="Temperature of the voice"
                )
            with gr.Row():
                max_new_tokens = gr.Slider(1, 2048, defaults.max_new_tokens, step=1, label="Longest reply (tokens)")
                seed = gr.Number(defaults.seed, label="Seed", precision=0, minimum=0)
                speak = gr.Checkbox(defaults.speak, label="Speak the reply")
        settings = [temperature, top_p, echo_temperature, max_new_tokens, seed, speak]
        reply = gr.on(
            [send.click, text.submit],
            functools.partial(answer, model),
            [audio, text, visit, system, *settings],
            [chat, speech, figures, visit, audio, text],
            show_progress="hidden",
        )
        stop.click(lambda: (gr.update(value=None), "stopped"), None, [speech, figures], cancels=[reply], queue=False)
        clear.click(
            lambda: ([], gr.update(value=None), "", None), None, [chat, speech, figures, visit], cancels=[reply]
        )
    # Gradio would remove the copies of the examples after the time that uploads are kept.
    chat.keep_in_cache.update(*page.temp_file_sets)
    return page


def answer(
    model: EchoX,
    audio: str | None,
    text: str,
    visit: Visit | None,
    system: str,
    temperature: float,
    top_p: float,
    echo_temperature: float,
    max_new_tokens: int,
    seed: int,
    speak: bool,
) -> Iterator[tuple[object, ...]]:
    """Answer one turn: yields updates of chat, speech, figures, visit and the two inputs, as Gradio needs them.

    Errors (no question, no speech in the recording) are shown and do not change the conversation. Gradio closes the
    iterator on Stop or when the tab is closed; this cancels the reply.

    Raises:
        gradio.Error: an error that the page shows.
    """
    gr = _gradio()
    unchanged = gr.skip()
    text = (text or "").strip()
    content = [{"type": "audio", "audio": audio}] if audio else []
    content += [{"type": "text", "text": text}] if text else []
    if not content:
        raise gr.Error("Ask something first: record it, choose a file, or type.", duration=5)
    if len(content) > 1:
        raise gr.Error(
            "There are a recording and a text. Remove the recording (its ×) or empty the text, then send again.",
            duration=10,
        )
    try:
        visit = visit or Visit(model.session(system=(system or "").strip() or None))
        settings: NewReplySettings = {
            "temperature": float(temperature),
            "top_p": float(top_p),
            "echo_temperature": float(echo_temperature),
            "max_new_tokens": int(max_new_tokens),
            "seed": int(seed or 0),
            "speak": bool(speak),
        }
        stream = visit.session.stream({"role": "user", "content": content}, **settings)
    except (ValueError, QueueFull) as error:
        raise gr.Error(one_line(error), duration=10) from error
    questions: list[ChatMessage] = [{"role": "user", "content": {"path": audio}}] if audio else []
    questions += [{"role": "user", "content": text}] if text else []
    visit.chat = chat = [*visit.chat, *questions]
    yield chat, unchanged, "…", visit, None, ""
    written, notes, waiting, opened = "", [], [], False
    try:
        for event in stream:
            sound = None
            if isinstance(event, Heard):
                chat = [*chat, {"role": "user", "content": f"*{event.text or 'nothing was understood'}*"}]
            elif isinstance(event, TextDelta):
                written += event.text
            elif isinstance(event, AudioChunk):
                waiting.append(event.waveform)
                if opened or sum(map(len, waiting)) >= _FIRST_CHUNK_S * event.sampling_rate:
                    sound, waiting, opened = _pcm16(waiting, event.sampling_rate), [], True
            elif isinstance(event, SpeechFailed):
                notes.append(f"not fully spoken: “{event.text.strip()}”")
            elif isinstance(event, ContextDropped):
                notes.append(f"the oldest {event.messages} messages no longer fit and were forgotten")
            elif isinstance(event, Finished):
                notes.insert(0, _figures(event))
                sound = _pcm16(waiting, visit.session.output_sampling_rate) if waiting else None
            visit.chat = [*chat, {"role": "assistant", "content": written}] if written else chat
            yield visit.chat, unchanged if sound is None else sound, " · ".join(notes), visit, unchanged, unchanged
    except ValueError as error:
        raise gr.Error(one_line(error), duration=10) from error
    finally:
        stream.close()


def use_private_upload_folder() -> str:
    """Let Gradio keep uploads in a folder of this process, which is removed when the process ends.

    Returns:
        The folder. If the variable GRADIO_TEMP_DIR names one, that is used and not removed.
    """
    named = os.environ.get("GRADIO_TEMP_DIR")
    if named:
        return named
    folder = tempfile.mkdtemp(prefix="echox-page-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = folder  # Gradio reads the folder from this variable only
    return folder


def files_of_page(page: gradio.Blocks) -> set[str]:
    """Files that are part of the page, the recordings of its examples: Gradio copied them when it was built."""
    return set().union(*(block.keep_in_cache for block in page.blocks.values()))


def remove_old_files(folder: str, now_s: float, kept_s: float = _KEPT_S, keep: Collection[str] = frozenset()) -> None:
    """Remove files older than `kept_s`, also uploads that were never sent (Gradio does not remove these).

    Args:
        folder: of the uploads.
        now_s: the time, in seconds since 1970.
        kept_s: greatest age, in seconds.
        keep: paths that stay; a copied example is as old as its original.
    """
    for path in Path(folder).rglob("*"):
        try:
            if str(path) not in keep and path.is_file() and now_s - path.stat().st_mtime > kept_s:
                path.unlink()
        except FileNotFoundError:  # Gradio has removed it meanwhile
            continue


class _RemoveOldFiles:
    """ASGI middleware that removes old files from time to time, while the page is used."""

    def __init__(self, app: ASGIApp, folder: str, keep: Collection[str]) -> None:
        self._app, self._folder, self._keep, self._next_s = app, folder, keep, 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if time.monotonic() > self._next_s:
            self._next_s = time.monotonic() + _KEPT_S / 6
            await asyncio.to_thread(remove_old_files, self._folder, time.time(), _KEPT_S, self._keep)
        await self._app(scope, receive, send)


def launch(
    page: gradio.Blocks,
    host: str | None = None,
    port: int | None = None,
    auth: tuple[str, str] | None = None,
    block: bool = True,
) -> str:
    """Serve the page.

    Args:
        page: result of `build_page`.
        host: address to listen at; None: GRADIO_SERVER_NAME, as on Spaces, or else this machine only.
        port: port to listen at; None: the first free one from 7860 on.
        auth: user and password that every visitor must enter.
        block: return only after Ctrl-C; False: at once (``page.close()`` ends it).

    Returns:
        The address of the page.

    Raises:
        ValueError: there is no ffmpeg.
        OSError: the port is in use.
    """
    gr = _gradio()
    # Not before the page is built: with ffmpeg on PATH, Gradio needs ffprobe too, for every file of the page.
    provide_ffmpeg()
    from starlette.middleware import Middleware

    from echox.serving.access.client_secrets import ClientSecrets
    from echox.serving.access.security import AccessMiddleware, AccessPolicy, is_loopback

    listen_host = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    policy = AccessPolicy(any_host=not is_loopback(listen_host))
    middleware = [
        Middleware(AccessMiddleware, policy=policy, on_refusal=lambda code: None, secrets=ClientSecrets(time.time)),
        Middleware(_RemoveOldFiles, folder=use_private_upload_folder(), keep=files_of_page(page)),
    ]
    _, address, _ = page.queue(default_concurrency_limit=8, max_size=32).launch(
        server_name=host,
        server_port=port,
        auth=auth,
        share=False,
        max_file_size="25mb",
        state_session_capacity=_MAX_VISITS,
        app_kwargs={"middleware": middleware},
        theme=offline_theme(gr),
        css=_CSS,
        footer_links=[],
        ssr_mode=False,
        allowed_paths=[str(bundled_questions()[0].parent)],
        prevent_thread_lock=not block,
    )
    return str(address)


def offline_theme(gr: ModuleType) -> gradio.themes.Default:
    """Gradio's default theme with the fonts of the system; its own fonts would be downloaded."""
    return gr.themes.Default(
        primary_hue="teal",
        neutral_hue="stone",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_600")


def provide_ffmpeg() -> str:
    """Make sure that ``ffmpeg`` is on PATH: the one of the system, or else that of imageio-ffmpeg.

    Returns:
        Its path.

    Raises:
        ValueError: there is none.
    """
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        binary = Path(get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            "expected ffmpeg, which Gradio needs to stream speech, found none; pip install imageio-ffmpeg"
        ) from error
    folder = Path(tempfile.mkdtemp(prefix="echox-ffmpeg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    link = folder / f"ffmpeg{binary.suffix if os.name == 'nt' else ''}"
    try:
        link.symlink_to(binary)
    except OSError:  # Windows without the permission to make links
        shutil.copy2(binary, link)
    os.environ["PATH"] = os.pathsep.join([str(folder), os.environ.get("PATH", "")])
    return str(link)


def _figures(finished: Finished) -> str:
    timings = finished.timings
    facts = [] if timings.ttfa_s is None else [f"first audio {timings.ttfa_s:.2f} s"]
    facts += [] if timings.rtf is None else [f"rtf {timings.rtf:.2f}"]
    facts += ["cut at its greatest length"] if finished.stopped == "length" else []
    return " · ".join(facts)


def _pcm16(waveforms: list[np.ndarray], sampling_rate: int) -> tuple[int, np.ndarray]:
    """Convert float32 pieces to the form that Gradio uses: (rate, int16 (S,))."""
    samples = np.concatenate(waveforms)
    return sampling_rate, np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def _gradio() -> ModuleType:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when Gradio is imported
    try:
        import gradio
    except ImportError as error:
        raise ValueError("expected Gradio, found none; pip install 'echox[ui]'") from error
    return gradio
