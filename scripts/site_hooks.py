"""What the documentation site (mkdocs.yml) adds to docs/: pages of the root, all commands, links that leave docs/.

The same Markdown is read on GitHub, where a link may lead to any file. On the site, a link to one of `ROOT_PAGES` leads
to its page; one to another file leads to the repository if its address is known (REPOSITORY_URL), else only its words
stay. A link to a file that is not there stops the build, as everywhere in strict mode.

Source: events of MkDocs, https://www.mkdocs.org/dev-guide/plugins/#events.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer import Context
from typer.cli import get_docs_for_click
from typer.core import TyperGroup
from typer.main import get_command

from echox.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
ROOT_PAGES = {
    "README.md": "index.md",
    "examples/README.md": "examples.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "SECURITY.md": "security.md",
}
"""File of the repository -> page of the site."""

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
BADGES = re.compile(r"^(\[!\[.*\)\n)+", re.MULTILINE)  # pictures from elsewhere
ROLE = re.compile(r":(?:class|func|mod|meth|attr|data):(?=<code>)")
SOUND = re.compile(r'<a href="([^"]+\.(?:mp3|wav))">(.*?)</a>')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root and the commands; docs/README.md, the order of pages on GitHub, gives way to `nav`."""
    files.remove(files.src_uris["README.md"])
    for name, page in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8") + (_scripts() if page == "examples.md" else "")
        files.append(File.generated(config, page, content=text))
    group = visible(get_command(app))
    commands = get_docs_for_click(obj=group, ctx=Context(group), name="echox")
    files.append(File.generated(config, "reference/commands.md", content=commands))
    return files


def visible(group: TyperGroup) -> TyperGroup:
    """The group without the commands that ``--help`` hides, in its subgroups too."""
    group.commands = {name: command for name, command in group.commands.items() if not command.hidden}
    for command in group.commands.values():
        if isinstance(command, TyperGroup):
            visible(command)
    return group


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of one page, which are those of its source in the repository."""
    source = {page_name: name for name, page_name in ROOT_PAGES.items()}.get(page.file.src_uri)
    folder = (ROOT / source if source else Path(config.docs_dir) / page.file.src_uri).parent
    markdown = BADGES.sub("", markdown)
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)  # code is left as it is
    here = Path(page.file.src_uri).parent
    for index in range(0, len(parts), 2):
        parts[index] = LINK.sub(lambda link: _link(link, folder, here, config), parts[index])
    return "".join(parts)


def on_page_content(html: str, **_: object) -> str:
    """A link to a sound file becomes a player; marks of reStructuredText in docstrings go."""
    html = SOUND.sub(r'<audio controls preload="metadata" src="\1" title="\2"></audio>', html)
    return ROLE.sub("", html).replace("::</p>", ":</p>")


def _scripts() -> str:
    """The examples themselves: on the site there is no folder to look into."""
    scripts = sorted((ROOT / "examples").glob("*.py"))
    return "".join(f"\n## {path.name}\n\n```python\n{path.read_text(encoding='utf-8')}```\n" for path in scripts)


def _link(link: re.Match[str], folder: Path, here: Path, config: MkDocsConfig) -> str:
    """One link, from a file in `folder`, as it must be on a page in `here` (relative to docs/)."""
    image, words, target, anchor = link[1], link[2], link[3], link[4] or ""
    if "://" in target or target.startswith("mailto:"):
        return link[0]
    path = (folder / target).resolve()
    if not path.exists():
        raise PluginError(f"{folder}: expected a file that exists, found a link to {target}")
    docs = Path(config.docs_dir).resolve()
    if path == docs or path == docs / "README.md":
        path = ROOT / "README.md"
    if path.is_relative_to(docs) and path.is_file():
        inside = path.relative_to(docs).as_posix()
    else:
        name = path.relative_to(ROOT).as_posix()
        if name not in ROOT_PAGES:
            return f"[{words}]({config.repo_url.rstrip('/')}/tree/main/{name}{anchor})" if config.repo_url else words
        inside = ROOT_PAGES[name]
    return f"{image}[{words}]({os.path.relpath(inside, here)}{anchor})"
