"""How far two computations of the same numbers may lie apart: by type and by how many terms are added up.

The same product in another shape (a batch, a padded row, one step at a time) is added up in another order, and every
CPU, thread count and library has its own. The error of a sum of n terms grows like its unit roundoff times sqrt(n), and
once more for every layer that follows. A fixed 1e-5 holds on the machine where it was written.

Source: Higham, Accuracy and Stability of Numerical Algorithms, section 4.2 (statistical error of summation).
"""

from __future__ import annotations

import numpy as np
import torch

_SPREAD = 8.0
"""Standard deviations of the rounding error: thousands of numbers are compared at once."""


def rounding_bound(expected: torch.Tensor, eps: float, terms: int = 256, layers: int = 8) -> float:
    """Absolute bound of rounding errors.

    Args:
        expected: one of the two results; its largest magnitude sets the scale.
        eps: unit roundoff of the computation.
        terms: numbers added up in one product: the widest layer.
        layers: products one after the other.
    """
    scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
    return _SPREAD * eps * (terms * layers) ** 0.5 * max(scale, 1.0)


def assert_equal_up_to_rounding(
    found: torch.Tensor | np.ndarray | list[float],
    expected: torch.Tensor | np.ndarray | list[float],
    terms: int = 256,
    layers: int = 8,
    msg: str | None = None,
) -> None:
    """Assert that two results of the same computation are equal but for the order of their sums.

    The computation is taken to be in the coarser of both types, and in float32 at best.
    """
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    eps = max(torch.finfo(kind).eps for kind in (found.dtype, expected.dtype, torch.float32))
    bound = rounding_bound(expected, eps, terms, layers)
    torch.testing.assert_close(found, expected, atol=bound, rtol=0.0, check_dtype=False, msg=msg)
