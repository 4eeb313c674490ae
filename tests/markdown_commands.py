"""Reads fenced blocks out of Markdown and checks that shell commands are ones this repository answers to."""

import re
import shlex
from pathlib import Path

import typer

from echox.cli.main import app
from paths import ROOT

# Words that open a line and belong to the reader's machine, not to this repository.
FOREIGN = {"git", "cd", "pip", "uv", "source", "apt", "pre-commit"}


def fenced_blocks(markdown: Path, language: str) -> list[str]:
    """The contents of all ```language blocks."""
    return re.findall(rf"^```{language}\n(.*?)^```", markdown.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def command_lines(block: str) -> list[str]:
    """Shell lines of a block: continuations joined, comments and blank lines dropped."""
    return [line for line in block.replace("\\\n", " ").splitlines() if shlex.split(line, comments=True)]


def check_command(line: str) -> None:
    """Raise AssertionError unless the command could run: its program, target, options and files exist."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # environment for the command
        words = words[1:]
    if words[0] == "torchrun":  # its own options end at -m
        words = ["python", *words[words.index("-m") :]]
    program, arguments = words[0], words[1:]
    if program == "echox":
        check_echox(arguments)
    elif program == "make":
        check_make(arguments)
    elif program.startswith("python"):
        check_python(arguments)
    elif "/" in program:
        script = ROOT / program
        assert script.is_file(), f"{line!r}: no such script"
        text = script.read_text(encoding="utf-8")
        assert text.startswith("#!"), f"{line!r}: not a script"
        for option in arguments:
            assert not option.startswith("-") or option in text, f"{line!r}: {program} knows no {option}"
    else:
        assert program in FOREIGN, f"{line!r}: whose command is {program!r}?"


def check_echox(arguments: list[str]) -> None:
    """Parse with the real command line, without running it; old names of commands are refused."""
    command, rest = typer.main.get_command(app), list(arguments)
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        name, *rest = rest
        assert name in command.commands, f"echox {name}: no such command; there are {', '.join(command.commands)}"
        command = command.commands[name]
        assert not command.hidden, f"echox {' '.join(arguments)}: an old name; see src/echox/cli/renamed.py"
    if hasattr(command, "commands") and rest in ([], ["--help"]):
        return
    try:
        command.make_context(command.name, rest)
    except SystemExit as stop:  # --help
        assert stop.code == 0, f"echox {' '.join(arguments)} ends with {stop.code}"
    except Exception as error:
        if type(error).__name__ == "Exit":  # --help, in some versions of click
            return
        raise AssertionError(f"echox {' '.join(arguments)}: {error}") from error
    for word in arguments:
        if word.startswith("recipes/"):
            assert (ROOT / word).exists(), f"echox {' '.join(arguments)}: no such recipe"


def check_make(arguments: list[str]) -> None:
    """The targets exist, and the variables are read."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in arguments:
        if "=" in word:
            assert f"$({word.split('=')[0]})" in makefile or f"export {word.split('=')[0]}" in makefile, word
        else:
            assert re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE), f"make {word}: no such target"


def check_python(arguments: list[str]) -> None:
    """The script exists, or the module can be run."""
    if arguments[:2] == ["-m", "echox"]:
        check_echox(arguments[2:])
    elif arguments[:2] == ["-m", "echox.training.loop"]:  # one process of several
        check_echox(["run", *arguments[2:]])
    elif arguments[:1] == ["-m"]:
        assert arguments[1] in {"pytest", "venv", "pip"}, f"python -m {arguments[1]}"
    else:
        assert (ROOT / arguments[0]).is_file(), f"python {arguments[0]}: no such file"
