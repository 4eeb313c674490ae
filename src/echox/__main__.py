"""``python -m echox``: the command line."""

from echox.cli.main import main

if __name__ == "__main__":
    main()
