"""Talk to a server with the openai library: the sound of a question in, the sound of the answer out.

echox serve                                               in another terminal
pip install openai
python examples/realtime_client.py question.wav           and the server's address, if it is another one
"""

import asyncio
import base64
import sys
from pathlib import Path

import numpy as np
import openai

from echox.audio import load_audio, save_audio

RATE_HZ = 24000  # of audio/pcm in the Realtime protocol
BLOCK = RATE_HZ // 10  # samples in 100 ms


async def ask(question: str, url: str) -> None:
    """Send a recording as a microphone would; the server notices when the question ends, and answers."""
    waveform = np.concatenate([load_audio(question, RATE_HZ), np.zeros(RATE_HZ, np.float32)])  # then a silence
    client = openai.AsyncOpenAI(base_url=url, api_key="any")
    async with client.realtime.connect(model="nano") as connection:
        await connection.session.update(
            session={"type": "realtime", "audio": {"input": {"transcription": {"model": "nano"}}}}
        )
        for start in range(0, len(waveform), BLOCK):
            block = np.clip(waveform[start : start + BLOCK], -1, 1)  # beyond full scale, numbers would wrap: clicks
            samples = (block * 32767).astype("<i2").tobytes()
            await connection.input_audio_buffer.append(audio=base64.b64encode(samples).decode())
            await asyncio.sleep(0.1)
        answer = b""
        async for event in connection:
            if event.type == "conversation.item.input_audio_transcription.completed":
                print(f"heard  {event.transcript}")
            elif event.type == "response.output_audio.delta":
                answer += base64.b64decode(event.delta)
            elif event.type == "response.output_audio_transcript.done":
                print(f"reply  {event.transcript}")
            elif event.type in ("response.done", "error"):
                break
    save_audio("answer.wav", np.frombuffer(answer, "<i2").astype(np.float32) / 32768, RATE_HZ)
    print(f"sound  answer.wav, {len(answer) / 2 / RATE_HZ:.1f} s")


if Path(sys.argv[1]).resolve() == Path("answer.wav").resolve():
    sys.exit("answer.wav: expected another question, found the file that the answer is written to; rename it")
asyncio.run(ask(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "http://localhost:8000/v1"))
