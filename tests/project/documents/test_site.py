"""The documentation site: its hooks. `make docs` builds all of it, and every link on it must lead somewhere."""

import sys

import pytest

from markdown_commands import ROOT

pytest.importorskip("mkdocs", reason="needs the extra docs")
sys.path.insert(0, str(ROOT / "scripts"))

import site_hooks
from mkdocs.config import load_config
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, get_files
from mkdocs.structure.pages import Page


@pytest.fixture
def config(monkeypatch):
    monkeypatch.delenv("REPOSITORY_URL", raising=False)
    return load_config(str(ROOT / "mkdocs.yml"))


def rewritten(markdown, source, config):
    page = Page(None, File(source, config.docs_dir, config.site_dir, config.use_directory_urls), config)
    return site_hooks.on_page_markdown(markdown, page, config, Files([]))


@pytest.mark.parametrize(
    ("source", "link", "expected"),
    [
        ("python.md", "[a](streaming.md#policies)", "[a](streaming.md#policies)"),
        ("python.md", "[a](../README.md)", "[a](index.md)"),
        ("python.md", "[a](README.md)", "[a](index.md)"),
        ("data_cards/mls.md", "[a](../data.md)", "[a](../data.md)"),
        ("data_cards/mls.md", "[a](../../CHANGELOG.md#x)", "[a](../changelog.md#x)"),
        ("index.md", "[a](docs/python.md)", "[a](python.md)"),
        ("examples.md", "[a](../docs/python.md)", "[a](python.md)"),
        ("python.md", "[a](../examples/README.md)", "[a](examples.md)"),
        ("index.md", "![a](docs/images/gap.png)", "![a](images/gap.png)"),
        ("index.md", "[a](https://example.org/x.md)", "[a](https://example.org/x.md)"),
        ("index.md", "a\n[![x](https://a.org)](b)\n[![x](../../c)](d.md)\nb", "a\nb"),
        ("index.md", "```text\n[a](absent.md)\n```\n", "```text\n[a](absent.md)\n```\n"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(source, link, expected, config):
    assert rewritten(link, source, config) == expected


def test_links_to_code_lead_to_the_repository_if_its_address_is_known(config):
    assert rewritten("[the script](../runs/nano.sh)", "python.md", config) == "the script"
    config.repo_url = "https://example.org/echox/"
    expected = "[the script](https://example.org/echox/tree/main/runs/nano.sh)"
    assert rewritten("[the script](../runs/nano.sh)", "python.md", config) == expected


@pytest.mark.parametrize(("source", "target"), [("python.md", "absent.md"), ("index.md", "docs/absent.md")])
def test_a_link_that_leads_nowhere_stops_the_build(source, target, config):
    with pytest.raises(PluginError, match=f"expected a file that exists, found a link to {target}"):
        rewritten(f"[a]({target})", source, config)


def test_a_link_to_sound_becomes_a_player(config):
    html = site_hooks.on_page_content('<p><a href="audio/reply.mp3">Hear it</a> <a href="x.html">x</a></p>')
    assert '<audio controls preload="metadata" src="audio/reply.mp3"' in html
    assert '<a href="x.html">x</a>' in html


def test_marks_of_docstrings_do_not_show():
    html = site_hooks.on_page_content("<p>See :class:<code>EchoX</code>::</p>")
    assert html == "<p>See <code>EchoX</code>:</p>"


def test_pages_of_the_root_and_all_commands_are_on_the_site(config):
    config = config.plugins.on_config(config)
    files = config.plugins.on_files(get_files(config), config=config)
    assert set(site_hooks.ROOT_PAGES.values()) <= files.src_uris.keys()
    assert "README.md" not in files.src_uris
    commands = files.src_uris["reference/commands.md"].content_string
    assert "`echox reply`" in commands
    assert "`echox eval run`" in commands


def test_every_page_is_in_the_navigation(config):
    def pages(entry):
        children = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
        return {entry} if isinstance(entry, str) else set().union(*map(pages, children))

    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert written - {"README.md"} <= pages(config.nav)
