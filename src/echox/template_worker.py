"""The process in which a foreign chat template is rendered; run as a script by `templates`, it imports jinja2 only.

A line of JSON comes in (template, variables), a line goes out (text or error). Jinja's sandbox keeps a template from
files and modules, but not from loops without end or texts without end; the process's own limits do.

Source: the environment of chat templates, https://huggingface.co/docs/transformers/chat_templating_writing
"""

import datetime
import functools
import json
import signal
import sys

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARS = 4 * 2**20  # of a rendered conversation
_MEMORY_BYTES = 512 * 2**20


class Generation(Extension):
    """``{% generation %}``, which marks replies for training; here its body is written as it is."""

    tags = {"generation"}

    def parse(self, parser):  # type: ignore[no-untyped-def]
        """The body of the block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_as_it_is"), [], [], body).set_lineno(line)

    def _as_it_is(self, caller):  # type: ignore[no-untyped-def]
        return caller()


def _raise(message):  # type: ignore[no-untyped-def]
    raise TemplateError(message)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):  # type: ignore[no-untyped-def]
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.lru_cache(4)
def compiled(template: str):  # type: ignore[no-untyped-def]
    """A template of jinja2, with what chat templates may use."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(template)


def answer(line: str, longest_s: float) -> dict:
    """Render one request; whatever goes wrong in the template is told by its kind."""
    request = json.loads(line)
    if hasattr(signal, "setitimer"):  # kills this process even if nobody is there any more to do it
        signal.setitimer(signal.ITIMER_REAL, longest_s)
    try:
        text = compiled(request["template"]).render(**request["variables"])
    except MemoryError:
        return {"error": "it takes too much memory"}
    except RecursionError:
        return {"error": "it calls itself without end"}
    except Exception as error:  # noqa: BLE001 - a template may raise anything; its own process ends here
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
