"""Chat templates that never end, grow without end, or try to open files; and good ones, rendered exactly."""

import time

import pytest

from echox import EchoX
from echox.data.templates.chat_templates import FAMILIES, own_templates
from echox.models.conversion.load import OFFICIAL_CHAT_TEMPLATE
from echox.models.text.tokenization_text import CHAT_TEMPLATE
from echox.templates import TemplateWorker, template_variables

HOSTILE = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "one long power": "{{ 9 ** (9 ** 9) }}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a long range": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "a long text": "{{ 'x' * 10 ** 10 }}",
    "a text of megabytes": "{{ 'x' * 10 ** 7 }}",
    "a padded text": "{{ '%1000000000d' % 1 }}",
    "a centred text": "{{ 'x'.center(10 ** 9) }}",
    "doubling": "{% set n = namespace(x='x') %}{% for i in range(64) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "its own class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "its globals": "{{ raise_exception.__globals__['json'] }}",
    "changing the messages": "{{ messages.append(1) }}",
    "an error of its own": "{{ raise_exception('no') }}",
    "a file": "{% include '/etc/hostname' %}",
    "no template": "{% for",
    "deep nesting": "{{ " + "(" * 5000 + ")" * 5000 + " }}",
}


@pytest.fixture(scope="module")
def model():
    return EchoX.from_pretrained("nano", device="cpu")


@pytest.fixture(scope="module")
def worker():
    with TemplateWorker(longest_s=1.5) as worker:
        yield worker


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_in_our_words(worker, name):
    began = time.monotonic()
    with pytest.raises(ValueError, match="^chat template: expected"):
        worker.render(HOSTILE[name], {"messages": [{"role": "user", "content": "x"}]})
    assert time.monotonic() - began < 60
    assert worker.render("{{ messages[0] }}", {"messages": ["well"]}) == "well"  # and the next one is served


def test_a_hostile_template_of_a_model_is_refused_where_it_is_used(model, monkeypatch):
    engine = model.scheduler.engine
    monkeypatch.setattr(engine.chat_template, "_worker", TemplateWorker(longest_s=1.0))
    for name, words in (("loops in loops", "ends within"), ("its own class", "SecurityError")):
        monkeypatch.setattr(engine.tokenizer, "chat_template", HOSTILE[name])
        with pytest.raises(ValueError, match=words):
            model.generate({"role": "user", "content": "Hello."}, speak=False)
    for template in ("<|audio|>" * 2, "{{ '<|audio|>' }}"):
        monkeypatch.setattr(engine.tokenizer, "chat_template", template)
        with pytest.raises(ValueError, match="expected one placeholder for each of 0 audios"):
            model.generate({"role": "user", "content": "Hello."}, speak=False)


def test_what_a_worker_is_not_given(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "x")
    with TemplateWorker() as worker:
        worker.render("x", {})
        with open(f"/proc/{worker._process.pid}/environ", "rb") as file:  # noqa: PTH123
            assert b"SECRET" not in file.read()
        process = worker._process
    assert process.poll() is not None


CONVERSATION = [
    {"role": "system", "content": "Be brief: äöü 日本 \u2028 <>&'\""},
    {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": "A cow."},
    {"role": "user", "content": "And?"},
]
OTHERS = [
    "{%- if tools %}{{ tools }}{% endif -%}\n  {% for m in messages %}\n{{ m | tojson }}{{ eos_token }}\n{% endfor %}",
    "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}{{ bos_token }}",
    "{% for m in messages %}{% generation %}{{ m['role'] }}{% endgeneration %}{% endfor %}{{ strftime_now('%Y') }}",
]
FLAT = [{**message, "content": "x"} for message in CONVERSATION]


@pytest.mark.parametrize(
    "template", [CHAT_TEMPLATE, OFFICIAL_CHAT_TEMPLATE, *(one.template("<|audio|>") for one in FAMILIES), *OTHERS]
)
def test_the_worker_writes_what_transformers_writes(model, worker, template):
    tokenizer = model.scheduler.engine.tokenizer
    for messages in (CONVERSATION, CONVERSATION[1:2], FLAT):
        for ask in (True, False):
            expected = tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=ask
            )
            found = worker.render(template, template_variables(tokenizer, messages, add_generation_prompt=ask))
            assert found == expected


def test_the_embedded_model_needs_no_worker(model):
    engine = model.scheduler.engine
    assert engine.tokenizer.chat_template in own_templates("<|audio|>")
    model.generate({"role": "user", "content": "Hello."}, speak=False, max_new_tokens=2)
    assert engine.chat_template._worker._process is None


def test_a_foreign_template_says_the_same(model, monkeypatch):
    engine = model.scheduler.engine
    before = model.generate({"role": "user", "content": "What does a cow say?"}, speak=False).text
    monkeypatch.setattr(engine.tokenizer, "chat_template", CHAT_TEMPLATE + "{# changed #}")
    assert model.generate({"role": "user", "content": "What does a cow say?"}, speak=False).text == before
    assert engine.chat_template._worker._process is not None
    engine.chat_template._worker.close()
