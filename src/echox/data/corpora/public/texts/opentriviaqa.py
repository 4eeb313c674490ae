"""OpenTriviaQA: 49,000 trivia questions with their right answers, as text; one file per category.

A block of a file is one question::

    #Q What is the capital of France?
    ^ Paris
    A London
    B Paris

Files mix UTF-8, Windows-1252 and both kinds of line ends; a question may have several lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from echox.data.corpora.base import Corpus, CorpusItem, CorpusTurn, Provenance, Row

_QUESTION, _ANSWER = "#Q", "^"
_COMMIT = "dd31530bfbb19f9505b160b89c9df4b1127e3c70"
_SHA256 = {
    "animals": "1c38f40ac5ffd90c17f57ba5573d56c815e4ba7fe2d4dea90277d21ab1f3b699",
    "brain-teasers": "6833260f3feb902548d47f3fceea1a06fc459317f97086a4dec96a41df34b6f0",
    "celebrities": "be17b9579099558e5d466541742acaac4225a201c831a66ac0de1d1bded19063",
    "entertainment": "b0bfcbab721d698df978a192c1f9de2425305ff2c5e4d2ea33e38bd8edb9fad5",
    "for-kids": "758b826f01ba053790e1cd684bd5e24944b75eb127bc408e791965dc994a8b97",
    "general": "22cabfcd29582b16d0ebf21ecc4f0cf5a394b53d8e57b9b0005d0d0bcdba56e7",
    "geography": "aab2381417cb2238b35677a0708113997f3dd644f4ebe61fe13ae75f05e220d8",
    "history": "4a2f08736c53ca86ae2a218c6e931bb81a4e18de02de8117f4bb8ab912772b12",
    "hobbies": "71c369200371181d3848a9f7a442fdc5c3036b51edf7105dbb7940f87d881a38",
    "humanities": "f31ea36da7e292e79bac8b8189390dd00b009cfac2595c8218593932c5ae1e9b",
    "literature": "0875cf53176e83ee1154917d6b46ce184887639df8e4901b74b7edda4255fa16",
    "movies": "723f1a7fe171c830beea7e0bd66b3125b2c3d789f12efa987d2a85db28618b9f",
    "music": "cb6d62ed51e3cf2dbba5e281ceaeb4bb97903e740ba220575117b484dca50dba",
    "newest": "040fa7ae74a5280eabc376a7376ea5aae69d77c971e92f193b8b3e9790f3f74a",
    "people": "5e56740d7260a9d5b4212c8788b794d27445372b5653daa8c3cd5ea1b04a521e",
    "rated": "805325dc7d8c5bf925bcd42af31aabc45d27775528beecd5a8ee7eb327d58288",
    "religion-faith": "9a5aceaf18ad7767364a55b7cd1dd7228ccaa7e1344bd38422722e81afeba2bf",
    "science-technology": "7a68b095da5c58a9f472170950406ebeb545e9bc0f17c8befdf185c558277949",
    "sports": "345990a8ca9dbf3e759e858a9afda00440f3d4ecb9e82a53de71fa5eb19e6b03",
    "television": "fe9778fef5af477bd481ba72e49f9960937741a6b2f0de9303097cc23621edaa",
    "video-games": "ee7b21abfc6d55c93196d431604297aed8cd0b36c00bc87ff6edf62cf1156e26",
    "world": "d5339cb3a13b4ce179a8d6c8e952d3a54c7f1eaf3337b21c1327d67b3079f683",
}


class OpenTriviaQA(Corpus):
    """See the module; a question and its right answer become a dialogue."""

    name = "opentriviaqa"
    provenance = Provenance(
        title="OpenTriviaQA",
        homepage="https://github.com/uberspot/OpenTriviaQA",
        licence="CC BY-SA 4.0",
        urls=tuple(
            f"https://raw.githubusercontent.com/uberspot/OpenTriviaQA/{_COMMIT}/categories/{n}" for n in _SHA256
        ),
        sha256=tuple(_SHA256.values()),
        speech="none: texts",
    )

    def rows(self, folder: Path) -> Iterator[Row]:
        """Blocks of all categories; place "category:line" of the question."""
        for name in _SHA256:
            path = folder / name
            if not path.exists():
                continue
            start, block = 0, list[str]()
            # "#Q" opens a block: an empty line may be part of a question.
            for number, content in enumerate(path.read_bytes().splitlines(), start=1):
                line = _text(content)
                if line.startswith(_QUESTION):
                    if block:
                        yield Row(f"{name}:{start}", block, folder)
                    start, block = number, [line]
                elif block:
                    block.append(line)
            if block:
                yield Row(f"{name}:{start}", block, folder)

    def parse(self, row: Row) -> CorpusItem:
        """Lines of a block."""
        place = next((place for place, line in enumerate(row.value) if line.startswith(_ANSWER)), None)
        if place is None:
            raise ValueError(f"expected a line with '{_ANSWER}' and the answer, found {' / '.join(row.value)[:80]!r}")
        question = " ".join([row.value[0].removeprefix(_QUESTION), *row.value[1:place]]).strip()
        answer = row.value[place].removeprefix(_ANSWER).strip()
        if not question or not answer:
            raise ValueError(f"expected a question and an answer, found {question!r} and {answer!r}")
        return CorpusItem(row.place.replace(":", "-"), (CorpusTurn(question), CorpusTurn(answer, role="assistant")))


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("windows-1252", errors="replace")
