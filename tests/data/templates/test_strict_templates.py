"""Published templates that refuse conversations which sessions have: they get such as they take."""

import pytest

from echox.data.templates.chat_templates import hearing_template
from echox.models.text.tokenization_text import AUDIO, CHAT_TEMPLATE, train_text_tokenizer
from echox.templates import TemplateWorker, template_variables
from tiny_echox import TEXTS, tiny_echox

WRITE = (
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% elif message['role'] == 'system' %}{{ SYSTEM }}{% endif %}{% endfor %}"
)
REFUSED = "raise_exception('Only user and assistant roles are supported!')"
ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
SYSTEM_FIRST = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ '<<' + messages[0]['content'] + '>>' }}"
    "{% set messages = messages[1:] %}{% endif %}{% for message in messages %}"
)
BEGIN = "{{ bos_token }}{% for message in messages %}"
PARTS = WRITE.replace(
    "message['content'] +",
    "(message['content'] if message['content'] is string else message['content'] | map(attribute='text', "
    "default='<|audio|>') | join) +",
)
TEMPLATES = {
    "Mistral v0.1": BEGIN + ALTERNATE + WRITE.replace("SYSTEM", REFUSED),
    "no system": BEGIN + WRITE.replace("SYSTEM", REFUSED),
    "system dropped": BEGIN + WRITE.replace("SYSTEM", "''"),
    "alternating": SYSTEM_FIRST + ALTERNATE + WRITE.replace("SYSTEM", REFUSED),
    "alternating, with audio": SYSTEM_FIRST + ALTERNATE + PARTS.replace("SYSTEM", REFUSED),
    "no system, with audio": BEGIN + PARTS.replace("SYSTEM", REFUSED),
    "Mistral v0.1, with audio": BEGIN + ALTERNATE + PARTS.replace("SYSTEM", REFUSED),
}
SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "assistant", "content": "Hello."}
ASKED = {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Now?"}]}
TYPED = {"role": "user", "content": "Please."}
CONVERSATIONS = {
    "question": [ASKED],
    "system": [SYSTEM, ASKED],
    "system, greeting": [SYSTEM, HELLO, ASKED],
    "system alone": [SYSTEM],
    "greeting": [HELLO, ASKED],
    "two questions": [TYPED, ASKED, TYPED],
    "two replies": [ASKED, HELLO, HELLO, TYPED],
    "all": [SYSTEM, HELLO, HELLO, ASKED, TYPED, HELLO, TYPED],
}


@pytest.fixture(scope="module")
def worker():
    with TemplateWorker() as worker:
        yield worker


@pytest.fixture(scope="module", params=TEMPLATES)
def template(request):
    tokenizer = train_text_tokenizer(TEXTS, vocab_size=340)
    tokenizer.chat_template = TEMPLATES[request.param]
    tokenizer.chat_template = hearing_template(tokenizer, AUDIO)
    return tokenizer


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_conversation_is_written_whole_and_in_order(template, worker, name):
    messages = CONVERSATIONS[name]
    written = worker.render(template.chat_template, template_variables(template, messages, add_generation_prompt=True))
    place = 0
    for message in messages:
        parts = message["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        for text in [AUDIO if part["type"] == "audio" else part["text"] for part in parts]:
            assert text in written[place:], (text, written)
            place = written.index(text, place) + len(text)
    for said, kept in (("Be brief.", "system"), (AUDIO, "question")):
        assert written.count(said) <= 1, kept


def test_the_form_of_a_template_that_takes_it_stays(worker):
    tokenizer = train_text_tokenizer(TEXTS, vocab_size=340)
    assert hearing_template(tokenizer, AUDIO) == CHAT_TEMPLATE
    tokenizer.chat_template = TEMPLATES["alternating"]
    written = worker.render(hearing_template(tokenizer, AUDIO), template_variables(tokenizer, [SYSTEM, TYPED]))
    assert written == f"{tokenizer.bos_token}<<Be brief.>>[INST] Please. [/INST]"


def test_a_session_with_such_a_template_is_answered(template):
    model = tiny_echox(tokenizer=template)
    session = model.session(system="Be brief.", speak=False, max_new_tokens=3)
    for _ in range(2):
        list(session.speak("Hello."))
    for _ in range(2):
        session.reply({"role": "user", "content": "And now?"})
    assert [message.role for message in session.messages] == ["assistant"] * 2 + ["user", "assistant"] * 2
