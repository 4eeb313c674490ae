"""``about.json`` of a model folder: read, kept, refused with other content, and true of nano."""

import json

import httpx
import pytest

from echox.api import EchoX
from echox.api.about import ABOUT_FILE, About
from echox.api.loading import find_model
from echox.serving.access.security import AccessPolicy
from serving_help import nano, running
from tiny_echox import tiny_echox

ANSWERS = {
    "Tell me what you know about Brazil.": "Brazil is a country in South America. Its capital is Brasilia. It is known "
    "for football and the rain forest.",
    "What is the capital of France?": "The capital of France is Paris.",
    "What does a cow say?": "A cow says moo.",
}


def test_what_nano_offers_works():
    about = About.load(find_model("nano"))
    assert about.knows
    assert {
        example: nano().generate([{"role": "user", "content": example}]).text for example in about.examples
    } == ANSWERS


def test_it_travels_with_the_folder(tmp_path):
    model = tiny_echox()
    model.about = About("Only tests.", ["Is this a test?"])
    model.save_pretrained(tmp_path)
    assert EchoX.from_pretrained(tmp_path, device="cpu").about == model.about


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "{", '{"knows": 3}', '{"examples": "one"}', '{"examples": [1]}', '{"other": ""}', "[" * 100_000),
        json.dumps({"knows": "x" * 999}),
        json.dumps({"examples": ["x"] * 99}),
    ],
)
def test_another_content_is_refused_by_name(text, tmp_path):
    (tmp_path / ABOUT_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{ABOUT_FILE}: .*; mend the file, or remove it"):
        About.load(tmp_path)


def test_a_folder_without_it_says_nothing(tmp_path):
    assert About.load(tmp_path) == About()


def test_the_page_gets_it_before_any_key_is_shown():
    with running(nano(), policy=AccessPolicy("secret")) as server:
        found = httpx.get(f"{server.url}/about.json").json()
    assert found == {
        "model": "nano",
        "webrtc": False,
        "tools": False,
        "judges_turns": True,
        "knows": nano().about.knows,
        "examples": list(ANSWERS),
    }
