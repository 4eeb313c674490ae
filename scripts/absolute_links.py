"""The README with absolute links, for a page that has no files beside it (PyPI).

python scripts/absolute_links.py https://github.com/owner/name v0.1.0        prints it

A picture leads to the file itself, any other link to the page that shows the file at that tag. Lines with links to
GitHub's pages beside the files (``../../actions``) are left out. Standard library only: the publish workflow runs it.
"""

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
LINK = re.compile(r"(!?\[[^\[\]]*\]|\])\((?![a-z]+:|#)([^)]+)\)")  # of words, of a picture, around a picture


def absolute_links(text: str, repository: str, tag: str) -> str:
    """`text` with every relative link made absolute."""

    def absolute(link: re.Match[str]) -> str:
        view = "raw" if link[1].startswith("!") else "blob"
        return f"{link[1]}({repository}/{view}/{tag}/{link[2]})"

    lines = [line for line in text.splitlines(keepends=True) if "(../../" not in line]
    return LINK.sub(absolute, "".join(lines))


if __name__ == "__main__":
    print(absolute_links(README.read_text(encoding="utf-8"), *sys.argv[1:3]), end="")
