"""Stock LiveKit Agents: a spoken turn, a tool that it calls, the spoken answer; run by its own Python, it prints JSON.

python tests/serving/clients/livekit_client.py http://localhost:8000/v1 question.wav [interrupt]
The session has a microphone and a loudspeaker of its own instead of a room. With "interrupt" there are no tools: the
question is said again over the answer. As nothing echoes, LiveKit's warm-up for echo cancellation is off: in the first
3 s of the first answer it would send silence instead of the microphone.
"""

import asyncio
import json
import sys
import time
import wave

from livekit import rtc
from livekit.agents import Agent, AgentSession, function_tool
from livekit.agents.voice import io
from livekit.plugins import openai

RATE = 24000
CHUNK = RATE // 50
LONGEST_S = 120


class Microphone(io.AudioInput):
    """Says what is put into it, in real time, and silence in between."""

    def __init__(self):
        super().__init__(label="microphone")
        self.pending, self.due_s = b"", None

    def say(self, data):
        self.pending += data

    async def __anext__(self):
        self.due_s = max(time.monotonic() - 1, self.due_s + CHUNK / RATE) if self.due_s else time.monotonic()
        await asyncio.sleep(max(0.0, self.due_s - time.monotonic()))
        piece, self.pending = self.pending[: 2 * CHUNK], self.pending[2 * CHUNK :]
        return rtc.AudioFrame(piece.ljust(2 * CHUNK, b"\0"), RATE, 1, CHUNK)


class Loudspeaker(io.AudioOutput):
    """Plays in real time; knows how much was heard of what was interrupted."""

    def __init__(self):
        super().__init__(label="loudspeaker", capabilities=io.AudioOutputCapabilities(pause=False), sample_rate=RATE)
        self.heard_s, self.began_s, self.segment_s, self.playing = 0.0, 0.0, 0.0, None

    async def capture_frame(self, frame):
        await super().capture_frame(frame)
        if not self.segment_s:
            self.began_s = time.monotonic()
            self.on_playback_started(created_at=time.time())
        self.segment_s += frame.duration

    def flush(self):
        super().flush()
        if self.segment_s and self.playing is None:
            self.playing = asyncio.create_task(self.play())

    async def play(self):
        await asyncio.sleep(max(0.0, self.began_s + self.segment_s - time.monotonic()))
        self.finish(self.segment_s, interrupted=False)

    def clear_buffer(self):
        if self.segment_s:
            if self.playing:
                self.playing.cancel()
            self.finish(min(self.segment_s, time.monotonic() - self.began_s), interrupted=True)

    def finish(self, position_s, interrupted):
        self.heard_s += position_s
        self.segment_s, self.playing = 0.0, None
        self.on_playback_finished(playback_position=position_s, interrupted=interrupted)


async def until(test, what):
    began_s = time.monotonic()
    while not test():
        if time.monotonic() - began_s > LONGEST_S:
            raise TimeoutError(f"waited in vain for {what}")
        await asyncio.sleep(0.05)


async def talk(url, path, interrupt=""):
    calls, errors = [], []

    @function_tool
    async def get_weather(city: str) -> str:
        """The weather in a city."""
        calls.append(city)
        session.current_agent.realtime_llm_session.update_options(tool_choice="none")  # the answer is said
        return "It is sunny."

    choice = None if interrupt else "required"
    model = openai.realtime.RealtimeModel(base_url=url, api_key="any", tool_choice=choice, voice="echo")
    session = AgentSession(llm=model, aec_warmup_duration=None)
    session.on("error", lambda event: errors.append(str(event.error)))
    microphone, loudspeaker = Microphone(), Loudspeaker()
    session.input.audio, session.output.audio = microphone, loudspeaker
    await session.start(Agent(instructions="You are brief.", tools=[] if interrupt else [get_weather]), record=False)
    with wave.open(path) as file:
        question = file.readframes(file.getnframes())
    await asyncio.sleep(1.0)

    def replies():
        return [one for one in session.history.items if one.type == "message" and one.role == "assistant"]

    microphone.say(question)
    if interrupt:
        await until(lambda: loudspeaker.segment_s and time.monotonic() - loudspeaker.began_s > 1.0, "the first reply")
        microphone.say(question)
        await until(lambda: any(one.interrupted for one in replies()), "the interruption")
        await until(lambda: len(replies()) == 2, "the second reply")
    else:
        await until(lambda: calls and loudspeaker.heard_s and replies(), "the call, and its spoken answer")
    items = [
        {"role": one.role, "text": one.text_content, "interrupted": one.interrupted}
        if one.type == "message"
        else {"role": one.type, "text": getattr(one, "arguments", None) or getattr(one, "output", "")}
        for one in session.history.items
        if one.type in ("message", "function_call", "function_call_output")
    ]
    await session.aclose()
    return {"calls": calls, "errors": errors, "items": items, "heard_s": loudspeaker.heard_s}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(talk(*sys.argv[1:]))))
