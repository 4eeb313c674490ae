"""Ask a question and keep the answer.

python examples/ask.py                                    a typed question
python examples/ask.py question.wav                       a spoken one: any audio file
"""

import sys
from pathlib import Path

from echox import EchoX
from echox.audio import save_audio

question = sys.argv[1] if len(sys.argv) > 1 else {"role": "user", "content": "What is the capital of France?"}

if Path(sys.argv[-1]).resolve() == Path("answer.wav").resolve():
    sys.exit("answer.wav: expected another question, found the file that the answer is written to; rename it")

model = EchoX.from_pretrained("nano")
reply = model.generate(question)

if reply.heard:
    print(f"heard  {reply.heard}")
print(f"reply  {reply.text}")
save_audio("answer.wav", reply.waveform, reply.sampling_rate)
print(f"sound  answer.wav, {reply.duration_s:.1f} s; the first of it was there after {reply.timings['ttfa_s']:.2f} s")
