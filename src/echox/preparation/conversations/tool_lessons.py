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
from echox.data.corpora.nano.world import build_dialogues
from echox.data.corpora.tools.names import NamedTool, other_names, taught_names
from echox.data.corpora.tools.requests import SPLITS, ToolRequest, system_prompts, tool_requests
from echox.data.manifest import Dialogue, Turn, read_dialogues, write_dialogues
from echox.data.tool_templates import calls_text, output_text, tools_text
from echox.tool_calls.tools import Tool

NO_TOOL = "no_tool"
"""Topic of questions that want no tool."""
_ALL_TOOLS, _FEW_TOOLS = 0.4, 3
"""Share of lessons in which all tools are declared; in the others so many at most: they are read sooner."""
_OTHER_NAMES = 0.5
"""Share of the lessons of training in which tools and parameters have other names, as with other clients."""

_AS_HEARD = 0.2
"""Share of the requests of training without capitals and marks."""


@recipe("tool_lessons")
@dataclass
class ToolLessonsRecipe:
    """Recipe of stage "tool_lessons" (it has `run`, not `build`).

    Attributes:
        output: manifest to write; split "heldout" is for figures. Topics: "call/..." and "reply/..." by tool (then
            "/new": a value that training has not), "renamed/..." (names that training has not), "no_tool".
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
                lessons += _lessons(f"{split[0]}{number:04d}", request, _names(split, rng), rng)
                if split != "train":
                    lessons.append(_renamed(f"{split[0]}{number:04d}-n", request, rng))
            wanted = _questions(found, "train" if split == "train" else "heldout", split, rng)
            for number, (question, reply) in enumerate(wanted[: round(self.no_tool * len(requests))]):
                turns = (_system(_some(_names(split, rng), None, rng), rng), question, reply)
                lessons.append(Dialogue(f"o{split[0]}{number:04d}", turns, split, topic=NO_TOOL))
        write_dialogues(self.output, lessons)
        dump_recipe(self, Path(self.output).with_suffix(".yaml"))
        return {split: float(sum(one.split == split for one in lessons)) for split in SPLITS}


def _names(split: str, rng: random.Random) -> dict[str, NamedTool]:
    """The tools as a client declares them."""
    return other_names("known", rng) if split == "train" and rng.random() < _OTHER_NAMES else taught_names()


def _lessons(name: str, request: ToolRequest, names: dict[str, NamedTool], rng: random.Random) -> list[Dialogue]:
    """The whole conversation; for figures as two, so that the call is a last reply too."""
    asked = _asked(request, names, rng)
    whole = (*asked, Turn("user", output_text(request.output)), Turn("assistant", request.reply))
    topic = request.call.name + ("/new" if request.new else "")
    answered = Dialogue(f"{name}-r", whole, request.split, topic=f"reply/{topic}")
    if request.split == "train":
        return [answered]
    return [Dialogue(name, asked, request.split, topic=f"call/{topic}"), answered]


def _renamed(name: str, request: ToolRequest, rng: random.Random) -> Dialogue:
    """The request where the tools have names that no lesson of training has."""
    return Dialogue(
        name, _asked(request, other_names("new", rng), rng), request.split, topic=f"renamed/{request.call.name}"
    )


def _asked(request: ToolRequest, names: dict[str, NamedTool], rng: random.Random) -> tuple[Turn, Turn, Turn]:
    """System turn, request and call."""
    system = _system(_some(names, request.call.name, rng), rng)
    call = names[request.call.name].call(request.call)
    said = request.text
    if request.split == "train" and rng.random() < _AS_HEARD:
        said = said.lower().rstrip(".?")
    return system, Turn("user", said), Turn("assistant", calls_text(request.lead_in, [call]))


def _system(tools: list[Tool], rng: random.Random) -> Turn:
    return Turn("system", tools_text(tools, rng.choice(system_prompts())))


def _some(names: dict[str, NamedTool], needed: str | None, rng: random.Random) -> list[Tool]:
    """All tools, or some with the one that is needed, in random order."""
    count = len(names) if rng.random() < _ALL_TOOLS else rng.randint(1, _FEW_TOOLS)
    order = sorted(rng.sample(list(names), len(names)), key=lambda name: name != needed)[:count]
    return [names[name].tool for name in rng.sample(order, count)]


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
