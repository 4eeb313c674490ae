"""The changelog section of one version: ``python scripts/release_notes.py 0.1.0``.

Fails if a file disagrees about the version, so that no release is made from a forgotten one. Standard library only:
the publish workflow runs it before anything is installed.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def release_notes(version: str, root: Path = ROOT) -> str:
    """Text below the heading of `version` in CHANGELOG.md.

    Raises:
        ValueError: pyproject.toml or CITATION.cff has another version, or the changelog has no text for it.
    """
    for name, pattern in (("pyproject.toml", r'^version = "(.*)"$'), ("CITATION.cff", r"^version: (.*)$")):
        (found,) = re.findall(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        if found != version:
            raise ValueError(f"{name}: expected version {version}, found {found}; set it, commit, and tag that commit")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    if section is None or not section[1].strip():
        raise ValueError(
            f"CHANGELOG.md: expected a section '## [{version}] - YYYY-MM-DD' with text, found none; move what is under "
            "Unreleased there"
        )
    return section[1].strip() + "\n"


if __name__ == "__main__":
    try:
        print(release_notes(*sys.argv[1:2]), end="")
    except ValueError as error:
        sys.exit(f"release: {error}")
