"""Records of an evaluation survive a kill at any byte."""

from dataclasses import dataclass

import pytest

from echox.evaluation.scoring.records import read_lines, recorded


@dataclass
class Question:
    id: str


QUESTIONS = [Question("one"), Question("two")]


@pytest.mark.parametrize("missing_bytes", range(1, 12))
def test_a_record_that_a_kill_has_cut_is_made_again(tmp_path, missing_bytes):
    path, made = tmp_path / "items.jsonl", []

    def make(item: Question) -> dict:
        made.append(item.id)
        return {"text": "für süß"}

    whole = list(recorded(QUESTIONS, path, "model", make))
    path.write_bytes(path.read_bytes()[:-missing_bytes])
    assert list(recorded(QUESTIONS, path, "model", make)) == whole == read_lines(path)
    assert made in (["one", "two"], ["one", "two", "two"])


def test_a_whole_line_that_is_no_record_is_refused(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text('{"id": }\n{"id": "two"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"items\.jsonl:1: expected one JSON object"):
        read_lines(path)
