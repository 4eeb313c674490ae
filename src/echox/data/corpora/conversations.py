"""The format ``conversations`` of several corpora: a list of turns with role, text and audio file.

``{"from"|"role": ..., "value"|"content"|"text": ..., "audio"|"wavpath"|"speech": ...}``; audio is a path, or absent.
"""

from __future__ import annotations

from pathlib import Path

from echox.data.corpora.base import CorpusTurn, existing

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def turns(value: object, folder: Path, speakers: dict[str, str]) -> tuple[CorpusTurn, ...]:
    """The turns of a conversation.

    Args:
        value: The list.
        folder: Audio paths are relative to it.
        speakers: Role to name of the voice.

    Raises:
        ValueError: not such a list, an unknown role, a turn without text, or audio that is not there.
    """
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError(f"conversations: expected a list of at least 2 turns, found {str(value)[:60]!r}")
    found = []
    for index, turn in enumerate(value):
        if not isinstance(turn, dict):
            raise ValueError(f"conversations[{index}]: expected an object, found {type(turn).__name__}")
        who = turn.get("from", turn.get("role"))
        text = next((turn[key] for key in ("value", "content", "text") if turn.get(key)), None)
        audio = next((turn[key] for key in ("audio", "wavpath", "speech") if turn.get(key)), None)
        if who not in ROLES:
            raise ValueError(f"conversations[{index}].from: expected one of {', '.join(ROLES)}, found {who!r}")
        if not isinstance(text, str) or not text.replace("<|audio|>", "").strip():
            raise ValueError(f"conversations[{index}]: expected the turn's text, found {str(text)[:40]!r}")
        role = ROLES[who]
        path = None if audio is None else existing(folder / str(audio))
        found.append(CorpusTurn(text.replace("<|audio|>", " "), path, role, speakers.get(role, "unknown")))
    if found[-1].role != "assistant":
        raise ValueError(f"conversations: expected the last turn to be the assistant's, found the {found[-1].role}'s")
    return tuple(found)
