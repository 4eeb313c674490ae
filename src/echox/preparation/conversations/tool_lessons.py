"""Stage "tool_lessons": typed lessons from which stage "instruct" teaches a finished model to call tools.

Each lesson is a conversation whose system turn declares some of the tools: a request, the reply that calls a tool, its
output, and the answer; or a question that wants no tool, and its reply. They are written out as the model's template
with tools will write them (`data.tool_templates.taught_template`), so to training they are texts.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from echox.config import dump_recipe, recipe
from echox.data.corpora.nano import build_dialogues
from echox.data.corpora.tool_requests import SPLITS, ToolRequest, system_prompts, taught_tools, tool_requests
from echox.data.manifest import Dialogue, Turn, read_dialogues, write_dialogues
from echox.data.tool_templates import calls_text, output_text, tools_text
from echox.tool_calls.tools import Tool

NO_TOOL = "no_tool"
"""Topic of questions that want no tool."""
_ALL_TOOLS, _FEW_TOOLS = 0.25, 3
"""Share of lessons in which all tools are declared; in the others so many at most: they are read sooner."""

_AS_HEARD = 0.2
"""Share of the requests of training without capitals and marks."""


@recipe("tool_lessons")
@dataclass
class ToolLessonsRecipe:
    """Recipe of stage "tool_lessons" (it has `run`, not `build`).

    Attributes:
        output: manifest to write; split "heldout" is for figures.
        others: manifests of dialogues with the model's own replies (stage "replies"), whose first question wants no
            tool; empty: the nano corpus.
        per_wording: requests of each wording for training, with other values; a quarter of them for other splits.
        no_tool: questions that want no tool, as a share of the requests.
        seed: decides values, tools and questions.
    """

    stage: str
    output: str
    others: list[str] = field(default_factory=list)
    per_wording: int = 12
    no_tool: float = 0.5
    seed: int = 0

    def run(self) -> dict[str, float]:
        """Writes the manifest; returns how many dialogues each split has.

        Raises:
            ValueError: a manifest cannot be read, or holds no question.
        """
        rng = random.Random(f"tool lessons {self.seed}")
        found = [dialogue for path in self.others for dialogue in read_dialogues(path)] or build_dialogues(self.seed)
        lessons: list[Dialogue] = []
        for split in SPLITS:
            count = self.per_wording if split == "train" else max(1, self.per_wording // 4)
            requests = tool_requests(split, count, self.seed)
            for number, request in enumerate(requests):
                lessons += _lessons(f"{split[0]}{number:04d}", request, rng)
            wanted = _questions(found, "train" if split == "train" else "heldout", split, rng)
            for number, (question, reply) in enumerate(wanted[: round(self.no_tool * len(requests))]):
                turns = (_system(rng.choice(system_prompts()), _some(taught_tools(), None, rng)), question, reply)
                lessons.append(Dialogue(f"o{split[0]}{number:04d}", turns, split, topic=NO_TOOL))
        write_dialogues(self.output, lessons)
        dump_recipe(self, Path(self.output).with_suffix(".yaml"))
        return {split: float(sum(one.split == split for one in lessons)) for split in SPLITS}


def _lessons(name: str, request: ToolRequest, rng: random.Random) -> list[Dialogue]:
    """The whole conversation; for figures as two, so that the call is a last reply too."""
    system = _system(rng.choice(system_prompts()), _some(taught_tools(), request.call.name, rng))
    call = Turn("assistant", calls_text(request.lead_in, [request.call]))
    said = request.text
    if request.split == "train" and rng.random() < _AS_HEARD:
        said = said.lower().rstrip(".?")
    asked = (system, Turn("user", said), call)
    whole = (*asked, Turn("user", output_text(request.output)), Turn("assistant", request.reply))
    topic = request.call.name + ("/new" if request.new else "")
    answered = Dialogue(f"{name}-r", whole, request.split, topic=f"reply/{topic}")
    if request.split == "train":
        return [answered]
    return [Dialogue(name, asked, request.split, topic=f"call/{topic}"), answered]


def _system(text: str, tools: list[Tool]) -> Turn:
    return Turn("system", tools_text(tools, text))


def _some(tools: tuple[Tool, ...], needed: str | None, rng: random.Random) -> list[Tool]:
    """All tools, or some with the one that is needed, in random order."""
    count = len(tools) if rng.random() < _ALL_TOOLS else rng.randint(1, _FEW_TOOLS)
    order = sorted(rng.sample(tools, len(tools)), key=lambda tool: tool.name != needed)[:count]
    return rng.sample(order, count)


def _questions(dialogues: list[Dialogue], split: str, place: str, rng: random.Random) -> list[tuple[Turn, Turn]]:
    """First questions with their replies, of one split, in random order; each place takes other held-out ones."""
    found: list[tuple[Turn, Turn]] = []
    for dialogue in dialogues:
        turns = [turn for turn in dialogue.turns if turn.role != "system"]
        if dialogue.split == split and len(turns) > 1 and not (dialogue.topic or "").startswith("times"):
            found.append((Turn("user", turns[0].text), Turn("assistant", turns[1].text)))
    if not found:
        raise ValueError(f"others: expected dialogues of split {split} with a question and its reply, found none")
    shuffled = rng.sample(found, len(found))
    return shuffled if split == "train" else shuffled[SPLITS.index(place) - 1 :: 2]
