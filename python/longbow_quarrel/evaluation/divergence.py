"""How far one engine's predictions are from another's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel.evaluation.perplexity import log_sum_exp


def kl_divergence(p: NDArray[np.float32], q: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(p || q) in nats of each row of two sets of logits, [n_rows, vocab_size] each.

    Never negative but for rounding, some 1e-7.
    """
    log_p = p - log_sum_exp(p)[:, None]
    log_q = q - log_sum_exp(q)[:, None]
    divergence: NDArray[np.float64] = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return divergence
