"""Train one stage on your own data: the language model, on questions and answers of your own.

python examples/train_stage.py                            examples/shop.jsonl, less than a minute
python examples/train_stage.py my.jsonl training.steps=2600 model.hidden_size=256 model.intermediate_size=768

A line of the file is {"question": ..., "answer": ...}, with "split": "heldout" where it shall measure and not teach.
The other stages are trained in the same way, each by its recipe: docs/own-data.md has all of them.
"""

import json
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from echox.data.manifest import Dialogue, Turn, write_dialogues
from echox.training.loop import run_recipe

here = Path(__file__).parent
rows = Path(sys.argv[1]) if len(sys.argv) > 1 else here / "shop.jsonl"
small = ["model.hidden_size=96", "model.intermediate_size=192", "training.steps=120", "training.threads=1"]

dialogues = []
for number, line in enumerate(rows.read_text(encoding="utf-8").splitlines()):
    row = json.loads(line)
    turns = (Turn("user", row["question"]), Turn("assistant", row["answer"]))
    dialogues.append(Dialogue(str(number), turns, split=row.get("split", "train")))
write_dialogues("out/example/dialogues.jsonl", dialogues)

metrics = run_recipe(
    here.parent / "recipes/own/lm.yaml",
    ["data.dialogues=out/example/dialogues.jsonl", "training.output_dir=out/example/lm", *small, *sys.argv[2:]],
)
print(f"exact replies to questions that were not trained: {metrics['exact_heldout']:.0%}")

tokenizer = AutoTokenizer.from_pretrained("out/example/lm")
model = AutoModelForCausalLM.from_pretrained("out/example/lm")
question = [{"role": "user", "content": dialogues[0].turns[0].text}]
prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
written = model.generate(**prompt, max_new_tokens=50)[0, prompt["input_ids"].shape[1] :]
print(f"{question[0]['content']}  {tokenizer.decode(written, skip_special_tokens=True)}")
