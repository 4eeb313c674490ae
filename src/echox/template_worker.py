"""Renders chat templates of others: a script that `templates` runs as a process, which imports jinja2 only.

It reads a line of JSON (template, variables) and writes a line (text or error). Jinja's sandbox keeps a template from
files and modules, but not from endless loops or texts; the limits of the process do.

Source: the environment of chat templates, https://huggingface.co/docs/transformers/chat_templating_writing
"""

import datetime
import functools
import json
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARS = 4 * 2**20  # of a rendered conversation
_MEMORY_BYTES = 512 * 2**20


class Generation(Extension):
    """``{% generation %}``, which marks replies for training; here its body is written unchanged."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """The body of the block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_unchanged"), [], [], body).set_lineno(line)

    def _unchanged(self, caller: Callable[[], str]) -> str:
        return caller()


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.lru_cache(4)
def compiled(template: str) -> Template:
    """A template of jinja2, with the functions that chat templates may use."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(template)


def answer(line: str, longest_s: float) -> dict[str, str]:
    """Render one request; return the text, or the kind of error that the template raised."""
    request = json.loads(line)
    if hasattr(signal, "setitimer"):  # ends this process also when its parent is gone
        signal.setitimer(signal.ITIMER_REAL, longest_s)
    try:
        text = compiled(request["template"]).render(**request["variables"])
    except MemoryError:
        return {"error": "it takes too much memory"}
    except RecursionError:
        return {"error": "it calls itself without end"}
    except Exception as error:  # noqa: BLE001 - a template may raise anything; this process has no other work
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
    return {"text": text} if len(text) <= MAX_CHARS else {"error": f"it writes more than {MAX_CHARS} characters"}


def main() -> None:
    """Answer until standard input ends."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        sys.stderr.write("template worker: no limits of memory on this system\n")
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(line, float(sys.argv[1]))), flush=True)


if __name__ == "__main__":
    main()
