"""Stage "tool_lessons": typed lessons from which stage "instruct" teaches a finished model to call tools.

Each lesson is a conversation of one or several exchanges whose system turn declares tools, six that are taught well or
some of seventy others: requests, the reply that calls a tool, its output (an error too), the answer; requests whose
tool is not declared; and questions and small talk that want no tool, in between. They are written out as the model's
template with tools will write them (`data.tool_templates.taught_template`), so to training they are texts.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from echox.config import dump_recipe, recipe
from echox.data.corpora.nano.world import build_dialogues
from echox.data.corpora.talk.conversations import conversations
from echox.data.corpora.tools.names import NamedTool, other_names, taught_names
from echox.data.corpora.tools.others import other_requests, other_tools
from echox.data.corpora.tools.requests import ToolRequest, failed, system_prompts, tool_requests
from echox.data.manifest import Dialogue, Turn, read_dialogues, write_dialogues
from echox.data.splits import SPLITS, held_out_share
from echox.data.templates.tool_templates import calls_text, output_text, tools_text
from echox.preparation.conversations.heard_requests import HearingConfig, heard_requests
from echox.preparation.conversations.own_replies import first_exchanges
from echox.tool_calls.tools import Tool

NO_TOOL = "no_tool"
"""Topic of questions that want no tool."""
SMALL_TALK = "small_talk"
"""Topic of what else wants no tool."""
_ALL_TOOLS, _FEW_TOOLS = 0.75, 4
"""Share of lessons in which all tools are declared; in the others so many at most: they are read sooner."""
_OTHER_NAMES = 0.5
"""Share of the lessons of training in which tools and parameters have other names, as with other clients."""
_FAILS = 0.1
"""Share of the calls whose tool returns an error."""
_UNDECLARED = 0.3
"""Of the requests of a lesson that declares few tools, and not theirs: the share that is asked all the same."""
_OTHER_TOOLS, _OTHER_EXCHANGES = (1, 5), (3, 2, 1)
"""Of a lesson with tools of other clients: how many it declares, and how often it has one exchange, two, three."""
_AS_HEARD = 0.1
"""Share of the requests of training without capitals and marks."""
_REPLY_WORDS = 22
"""Questions with longer replies are left out where shorter ones suffice: they are most of a lesson's cost."""
_BEFORE = 4
"""Exchanges before the request of a late call, in lessons for figures, at most."""


@recipe("tool_lessons")
@dataclass
class ToolLessonsRecipe:
    """Recipe of stage "tool_lessons" (it has `run`, not `build`).

    Attributes:
        output: manifest to write. Split "train" has conversations, of topic "talk". In the others ("heldout" is for
            figures) the last turn is what counts, by topic: "call/..." and "reply/..." by tool (then "/new": a value
            that training has not), "error/..." (how an error is answered), "renamed/..." (names that training has
            not), "late/..." (a call late in a conversation), "late_renamed/...", "heard/..." (as a model hears it),
            "undeclared/...", "no_tool", "late_no_tool", "small_talk", "late_small_talk" (which have other right
            replies too), "foreign/..." (a tool that training has not).
        others: manifests of dialogues with the model's own replies (stage "replies"), whose first question wants no
            tool; empty: the nano corpus.
        per_wording: requests of each wording for training, with other values; of the other splits a twentieth.
        other_tools: likewise, of each wording for tools of other clients (`data.corpora.tools.others`); 0: none.
        exchanges: weights of lessons of one exchange, of two, and so on.
        no_tool: share of the exchanges that want no tool.
        talk: of these, the share that is small talk (`data.corpora.talk`); the others are questions.
        hearing: who speaks some of the requests, and who hears them; null: all are as they are written.
        seed: decides values, tools and questions.
    """

    stage: str
    output: str
    others: list[str] = field(default_factory=list)
    per_wording: int = 12
    other_tools: int = 3
    exchanges: list[float] = field(default_factory=lambda: [2, 2, 2, 2, 2, 1])
    no_tool: float = 0.35
    talk: float = 0.5
    hearing: HearingConfig | None = None
    seed: int = 0

    def run(self) -> dict[str, float]:
        """Writes the manifest; returns how many dialogues each split has.

        Raises:
            ValueError: a manifest cannot be read, or holds no question; no such model or voice.
        """
        rng = random.Random(f"tool lessons {self.seed}")
        found = [dialogue for path in self.others for dialogue in read_dialogues(path)] or build_dialogues(self.seed)
        lessons: list[Dialogue] = []
        for split in SPLITS:
            train = split == "train"
            count = self.per_wording if train else max(1, self.per_wording // 20)
            requests = tool_requests(split, count, self.seed)
            spoken = self._spoken(requests, rng)
            questions, small_talk = _Questions(found, split, rng), _SmallTalk(split, self.seed)
            others = other_requests(split, self.other_tools if train else min(1, self.other_tools), self.seed)
            if train:
                no_tool = _NoTool(questions, small_talk, self.talk, rng)
                lessons += self._conversations(requests, spoken, no_tool, rng)
                lessons += self._with_other_tools(others, no_tool, rng)
            else:
                lessons += _for_figures(requests, list(spoken.values()), questions, small_talk, rng)
                lessons += _foreign(others, rng)
        write_dialogues(self.output, lessons)
        dump_recipe(self, Path(self.output).with_suffix(".yaml"))
        return {split: float(sum(one.split == split for one in lessons)) for split in SPLITS}

    def _spoken(self, requests: list[ToolRequest], rng: random.Random) -> dict[ToolRequest, ToolRequest]:
        if self.hearing is None:
            return {}
        output = Path(self.output)
        return heard_requests(requests, self.hearing, output.with_name(f".{output.stem}_heard_journal.jsonl"), rng)

    def _conversations(
        self,
        requests: list[ToolRequest],
        spoken: dict[ToolRequest, ToolRequest],
        no_tool: _NoTool,
        rng: random.Random,
    ) -> list[Dialogue]:
        """Lessons of training: all requests, in random order."""
        left = [spoken.get(one) or _varied(one, rng) for one in rng.sample(requests, len(requests))]
        lessons: list[Dialogue] = []
        while left:
            talk = _Talk(_names("train", rng), rng)
            said = no_tool.conversation()
            (more,) = rng.choices(range(len(self.exchanges)), self.exchanges)
            for _ in range(1 + more):
                if rng.random() < self.no_tool or not left:
                    talk.add(*next(said))
                else:
                    talk.ask(left.pop())
            lessons.append(talk.dialogue(f"t{len(lessons):04d}", "train", "talk"))
        return lessons

    def _with_other_tools(self, requests: list[ToolRequest], no_tool: _NoTool, rng: random.Random) -> list[Dialogue]:
        """Lessons with tools of other clients: all requests, in random order."""
        left = rng.sample(requests, len(requests))
        lessons: list[Dialogue] = []
        while left:
            first, tools = left[-1].call.name, other_tools("train", rng)
            beside = rng.sample([name for name in tools if name != first], rng.randint(*_OTHER_TOOLS) - 1)
            talk = _Talk({name: tools[name] for name in (first, *beside)}, rng, first)
            said = no_tool.conversation()
            (more,) = rng.choices(range(len(_OTHER_EXCHANGES)), _OTHER_EXCHANGES)
            for _ in range(1 + more):
                fitting = [one for one in left[-100:] if one.call.name in talk.names]
                if rng.random() < self.no_tool or not fitting:
                    talk.add(*next(said))
                else:
                    left.remove(fitting[-1])
                    talk.ask(_varied(fitting[-1], rng))
            lessons.append(talk.dialogue(f"o{len(lessons):04d}", "train", "talk"))
        return lessons


class _Questions:
    """First questions with their replies, of one split, in random order and again; each other split has its own."""

    def __init__(self, dialogues: list[Dialogue], split: str, rng: random.Random) -> None:
        found = [
            (Turn("user", question), Turn("assistant", reply))
            for dialogue, question, reply in first_exchanges(dialogues, split)
            if not (dialogue.topic or "").startswith("times")
        ]
        if not found:
            raise ValueError(f"others: expected dialogues for split {split} with a question and its reply, found none")
        if split != "train":
            found = held_out_share(found, split) or found
        short = [one for one in found if len((one[1].text or "").split()) <= _REPLY_WORDS] or found
        self._all = rng.sample(short, len(short))
        self._given = 0

    def next(self) -> tuple[Turn, Turn]:
        """The next question and its reply."""
        self._given += 1
        return self._all[(self._given - 1) % len(self._all)]


class _SmallTalk:
    """Small talk of one split beside tools."""

    def __init__(self, split: str, seed: int) -> None:
        self._conversations = conversations(split, sys.maxsize, [], seed, beside_tools=True)

    def conversation(self) -> Iterator[tuple[Turn, Turn]]:
        """What is said in a conversation that nobody held yet, and the replies; then in the next ones."""
        for one in itertools.chain.from_iterable(self._conversations):
            yield Turn("user", one.said), Turn("assistant", one.reply)


class _NoTool:
    """Questions and small talk, mixed.

    Args:
        questions, small_talk: of which they are.
        talk: share of small talk.
        rng: mixes.
    """

    def __init__(self, questions: _Questions, small_talk: _SmallTalk, talk: float, rng: random.Random) -> None:
        self._questions, self._small_talk, self._talk, self._rng = questions, small_talk, talk, rng

    def conversation(self) -> Iterator[tuple[Turn, Turn]]:
        """Without end, for one conversation."""
        said = self._small_talk.conversation()
        while True:
            yield next(said) if self._rng.random() < self._talk else self._questions.next()


class _Talk:
    """A conversation that grows.

    Args:
        names: the tools as the client declares them.
        rng: decides which of them it declares, the system prompt, and which calls fail.
        needed: a tool that is declared for sure, by the name that it is taught with.
    """

    def __init__(self, names: dict[str, NamedTool], rng: random.Random, needed: str | None = None) -> None:
        self.names, self.rng = names, rng
        count = len(names) if rng.random() < _ALL_TOOLS else rng.randint(1, min(_FEW_TOOLS, len(names)))
        order = sorted(rng.sample(list(names), len(names)), key=lambda name: name != needed)[:count]
        self.declared = rng.sample(order, count)
        self.refused: set[str] = set()
        self.turns: list[Turn] = []

    def add(self, *turns: Turn) -> None:
        """Turns as they are."""
        self.turns += turns

    def ask(self, request: ToolRequest) -> None:
        """A request, the call, its output, the answer; or, if its tool is not declared, perhaps only words."""
        name = request.call.name
        if name not in self.declared:
            if name in self.refused or self.rng.random() < _UNDECLARED:
                self.refused.add(name)
                self.add(Turn("user", request.text), Turn("assistant", request.without))
                return
            self.declared.append(name)
        self.call(request)
        self.answer(failed(request, self.rng) if self.rng.random() < _FAILS else request)

    def call(self, request: ToolRequest) -> None:
        """A request and the call."""
        call = self.names[request.call.name].call(request.call)
        self.add(Turn("user", request.text), Turn("assistant", calls_text(request.lead_in, [call])))

    def answer(self, request: ToolRequest) -> None:
        """The output and what is said then."""
        self.add(Turn("user", output_text(request.output)), Turn("assistant", request.reply))

    def dialogue(self, name: str, split: str, topic: str) -> Dialogue:
        """The conversation so far."""
        tools: list[Tool] = [self.names[name].tool for name in self.declared]
        system = Turn("system", tools_text(tools, self.rng.choice(system_prompts())))
        return Dialogue(name, (system, *self.turns), split, topic=topic)


def _for_figures(
    requests: list[ToolRequest],
    spoken: list[ToolRequest],
    questions: _Questions,
    small_talk: _SmallTalk,
    rng: random.Random,
) -> list[Dialogue]:
    """Lessons whose last reply counts."""
    split = requests[0].split
    lessons: list[Dialogue] = []

    def add(talk: _Talk, topic: str) -> None:
        lessons.append(talk.dialogue(f"{split[0]}{len(lessons):04d}", split, topic))

    def before(talk: _Talk, asked: ToolRequest | None = None) -> _Talk:
        """With exchanges, none of which is the one that counts."""
        others = [one for one in requests if one != asked]
        for _ in range(rng.randint(2, _BEFORE)):
            if rng.random() < 0.3:  # as often as in a conversation that is about tools
                talk.add(*questions.next())
            else:
                talk.ask(rng.choice(others))
        return talk

    for number, request in enumerate(requests):
        tool = request.call.name
        kinds = {
            "call": _Talk(_names(split, rng), rng, tool),
            "renamed": _Talk(other_names("new", rng), rng, tool),
            "late": before(_Talk(_names(split, rng), rng, tool), request),
            "late_renamed": before(_Talk(other_names("new", rng), rng, tool), request),
        }
        for kind, talk in kinds.items():
            talk.call(request)
            add(talk, f"{kind}/{tool}" + ("/new" if request.new else ""))
        if number % 2 == 0:
            kind = "error" if number % 4 else "reply"
            talk = _Talk(_names(split, rng), rng, tool)
            talk.call(request)
            talk.answer(failed(request, rng) if kind == "error" else request)
            add(talk, f"{kind}/{tool}")
            talk = _Talk({name: one for name, one in _names(split, rng).items() if name != tool}, rng)
            talk.add(Turn("user", request.text), Turn("assistant", request.without))
            add(talk, f"undeclared/{tool}")
        if number % 3 == 0:
            for kind, talk in (
                (NO_TOOL, _Talk(_names(split, rng), rng)),
                (f"late_{NO_TOOL}", before(_Talk(_names(split, rng), rng))),
            ):
                talk.add(*questions.next())
                add(talk, kind)
    for request in spoken:
        talk = _Talk(_names(split, rng), rng, request.call.name)
        talk.call(request)
        add(talk, f"heard/{request.call.name}")
    for _ in range(len(requests) // 3):
        for kind, talk in (
            (SMALL_TALK, _Talk(_names(split, rng), rng)),
            (f"late_{SMALL_TALK}", before(_Talk(_names(split, rng), rng))),
        ):
            talk.add(*next(small_talk.conversation()))
            add(talk, kind)
    return lessons


def _foreign(requests: list[ToolRequest], rng: random.Random) -> list[Dialogue]:
    """Lessons whose last reply, which counts, calls a tool that training has not."""
    lessons: list[Dialogue] = []
    for number, request in enumerate(requests):
        tools = other_tools(request.split, rng)
        talk = _Talk(tools, rng, request.call.name)
        talk.call(request)
        name = f"{request.split[0]}o{number:03d}"
        lessons.append(talk.dialogue(name, request.split, f"foreign/{request.call.name}"))
    return lessons


def _names(split: str, rng: random.Random) -> dict[str, NamedTool]:
    """The tools as a client declares them."""
    return other_names("known", rng) if split == "train" and rng.random() < _OTHER_NAMES else taught_names()


def _varied(request: ToolRequest, rng: random.Random) -> ToolRequest:
    """A written request of training, as people write in haste."""
    return replace(request, text=request.text.lower().rstrip(".?")) if rng.random() < _AS_HEARD else request
