"""Write the held-out questions in the package from a whole nano corpus: python scripts/embed_heldout.py out/nano."""

import shutil
import sys
from pathlib import Path

from echox.evaluation.sets.heldout import embedded_heldout, write_heldout

if len(sys.argv) != 2:
    sys.exit("usage: python scripts/embed_heldout.py out/nano")
shutil.rmtree(embedded_heldout(), ignore_errors=True)
write_heldout(Path(sys.argv[1]), embedded_heldout())
print(f"{sum(file.stat().st_size for file in embedded_heldout().rglob('*')) / 1e6:.2f} MB in {embedded_heldout()}")
