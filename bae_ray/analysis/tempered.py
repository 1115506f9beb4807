"""The lower end of a joint entropy's interval, from the error that there would be at that end.

Nearly equal frequencies have nearly equal surprisals, so their entropy looks far surer than it is: an entropy near the
largest one moves with the square of the frequencies' errors. As in Wilson's interval of a share (1927) the error is
therefore taken at the end itself, along the frequencies' powers, which have the likeliest of the codes of each entropy.

Shapes: K distinct codes.
"""

import math

import numpy as np

LARGEST_POWER = 16.0
POWERS = 500


def lower_end(frequencies: np.ndarray, bits: float, variances: float, further: float) -> float:
    """The smallest entropy in bits, of the frequencies' [K] powers 1 and more, that `bits` is not too far above.

    That is by the root of the variance of the surprisals there, times `variances`, plus `further`, both in units in
    which the interval reaches as far as the root.
    """
    entropy = bits
    for power in np.geomspace(1.0, LARGEST_POWER, POWERS):
        weights = (frequencies / frequencies.max()) ** power
        weights /= weights.sum()
        surprisals = -np.log2(np.maximum(weights, np.finfo(weights.dtype).tiny))
        entropy = float(weights @ surprisals)
        spread = max(float(weights @ surprisals**2) - entropy**2, 0.0)
        if bits - entropy > math.sqrt(variances * spread + further):
            break
    return entropy
