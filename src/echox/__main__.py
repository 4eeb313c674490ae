"""``python -m echox``: the command line of the package."""

from echox.cli.main import main

if __name__ == "__main__":
    main()
