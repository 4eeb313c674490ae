"""Answer a spoken question aloud: ``python demo.py [AUDIO]`` (all options: ``python demo.py --help``)."""

import sys

from echox.cli.main import app

if __name__ == "__main__":
    app(["demo", *sys.argv[1:]], prog_name="echox")
