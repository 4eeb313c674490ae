"""Talk to EchoX in a browser (Gradio): ``python app.py`` (all options: ``python app.py --help``)."""

import sys

from echox.cli.main import app

if __name__ == "__main__":
    app(["ui", *sys.argv[1:]], prog_name="echox")
