"""Where things are that tests read."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
RECIPES = ROOT / "recipes"
GOLDEN = ROOT.parent / "shared" / "golden"
SHARED_DATA = ROOT.parent / "shared" / "data"
