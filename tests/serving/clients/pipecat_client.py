"""A stock pipecat pipeline with one declared tool holds one spoken turn; run by its own Python, it prints JSON.

python tests/serving/clients/pipecat_client.py ws://localhost:8000/v1/realtime question.wav [required]
With "required" the tool is called, and its result is answered aloud.
"""

import asyncio
import json
import sys
import wave

from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    LLMFullResponseEndFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.workers.runner import WorkerRunner

CHUNK_S = 0.02
LONGEST_S = 250
SETTLE_S = 4


class Listener(FrameProcessor):
    """Collects what the service says."""

    def __init__(self):
        super().__init__()
        self.sound, self.text, self.rate, self.ended = b"", [], 0, asyncio.Event()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.sound, self.rate = self.sound + frame.audio, frame.sample_rate
        elif isinstance(frame, TTSTextFrame):
            self.text.append(frame.text)
        elif isinstance(frame, LLMFullResponseEndFrame) and self.sound:
            self.ended.set()
        await self.push_frame(frame, direction)


async def talk(url, path, choice=None):
    weather = FunctionSchema("get_weather", "The weather of a place.", {"place": {"type": "string"}}, ["place"])
    tools = ToolsSchema(standard_tools=[weather])
    transcription = events.InputAudioTranscription()
    audio = events.AudioConfiguration(input=events.AudioInput(transcription=transcription))
    llm = OpenAIRealtimeLLMService(
        api_key="any",
        base_url=url,
        settings=OpenAIRealtimeLLMService.Settings(
            session_properties=events.SessionProperties(
                audio=audio, instructions="You are brief.", tools=tools, tool_choice=choice
            )
        ),
    )
    calls = []

    async def get_weather(params):
        calls.append(dict(params.arguments))
        answered = events.SessionProperties(tool_choice="none")  # the answer is said
        await llm.send_client_event(events.SessionUpdateEvent(session=answered))
        await params.result_callback({"weather": "sunny"})

    llm.register_function("get_weather", get_weather)
    context = LLMContext(tools=tools)
    pair, listener = LLMContextAggregatorPair(context), Listener()
    pipeline = Pipeline([pair.user(), llm, listener, pair.assistant()])
    task = PipelineWorker(pipeline, params=PipelineParams(audio_in_sample_rate=24000, audio_out_sample_rate=24000))
    errors = []

    @task.event_handler("on_pipeline_error")
    async def on_pipeline_error(_, frame: ErrorFrame):
        errors.append(frame.error)
        listener.ended.set()

    async def speak():
        with wave.open(path) as file:
            rate, data = file.getframerate(), file.readframes(file.getnframes())
        step = int(rate * CHUNK_S) * 2
        data = bytes(rate) + data + bytes(4 * rate)
        await asyncio.sleep(1.0)
        for start in range(0, len(data), step):
            await task.queue_frame(InputAudioRawFrame(data[start : start + step], rate, 1))
            await asyncio.sleep(CHUNK_S)
        await asyncio.wait_for(listener.ended.wait(), LONGEST_S)
        await asyncio.sleep(SETTLE_S)  # what the service may still ask for, or the server say, comes now
        await task.stop_when_done()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(task)
    await asyncio.wait_for(asyncio.gather(runner.run(), speak()), LONGEST_S + 30)
    messages = [message for message in context.get_messages() if isinstance(message, dict)]
    heard = [message["content"] for message in messages if message["role"] == "user"]
    seconds = len(listener.sound) / 2 / listener.rate if listener.rate else 0.0
    text = "".join(listener.text)
    return {"errors": errors, "heard": heard, "text": text, "seconds": seconds, "calls": calls}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(talk(*sys.argv[1:]))))
