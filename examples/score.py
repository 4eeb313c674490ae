"""Score a model on questions of your own: what it writes, and what a judge hears it say.

python examples/score.py                                  nano, on examples/questions.jsonl
python examples/score.py path/to/model my.jsonl

A line of the file is {"id": ..., "question": ..., "answers": [...]}; with "audio": "q1.wav" the question is spoken.
The judge is the embedded one, which knows nano's words only: docs/evaluation.md names others, and more test sets.
"""

import sys
from pathlib import Path

from echox import EchoX
from echox.evaluation.judges.asr import embedded_judge, open_judge
from echox.evaluation.run import run_tasks
from echox.evaluation.sets.heldout import embedded_heldout
from echox.evaluation.sets.tasks import open_tasks
from echox.evaluation.subjects.local import LocalSubject

name = sys.argv[1] if len(sys.argv) > 1 else "nano"
items = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent / "questions.jsonl"

judge = open_judge(embedded_judge(), embedded_heldout() / "phones.json")
subject = LocalSubject(EchoX.from_pretrained(name), name)
summary = run_tasks(open_tasks("qa", items), subject, judge, Path("out/example/score"))

scores = summary["tasks"]["qa"]
written, heard = (scores[side]["acc_strict"] for side in ("s2t", "s2s"))
print(f"right as written  {written['mean']:.0%} of {written['count']}")
print(f"right as heard    {heard['mean']:.0%} of {heard['count']}")
print("reply by reply    out/example/score/qa/items.jsonl; all figures: out/example/score/summary.md")
