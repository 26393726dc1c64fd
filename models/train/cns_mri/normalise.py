"""The normalisation of one channel: the reference for the appliance, method "foreground-z/1" of the manifest.

In: `values`, one channel resampled to the grid (any affine intensity scale), and `background`, True where the grid point lies
outside the acquired field of view or in filled background (see `filled_background`). Out: float32 z of the same shape.
All statistics are over the grid's points, in float64; percentiles interpolate linearly between order statistics (numpy's default):
position (n - 1) * p / 100 in the sorted values.
"""
import numpy as np

BACKGROUND_MODE_FRACTION = 0.2
FOREGROUND_FRACTION, FOREGROUND_PERCENTILE = 0.12, 98.0
CLIP_PERCENTILES, CLIP_Z = (0.5, 99.5), (-4.0, 6.0)
BACKGROUND_VALUE, MISSING_CHANNEL_VALUE = -2.0, 0.0
FOREGROUND_VOXELS_MIN = 500  # fewer (13.5 ml): the channel counts as missing


def filled_background(acquired):
    """On the acquired volume, before resampling: True where the value is the single most frequent one, if that one fills
    more than BACKGROUND_MODE_FRACTION of the volume (skull-stripped or zero-filled data); else all False.
    The mask is resampled with the intensities' own weights; a grid point is background where the mask's weight is over one half."""
    values, counts = np.unique(acquired, return_counts=True)
    if counts.max() > BACKGROUND_MODE_FRACTION * acquired.size:
        return acquired == values[counts.argmax()]
    return np.zeros(acquired.shape, bool)


def normalise(values, background):
    inside = values[~background].astype(np.float64)
    if inside.size >= FOREGROUND_VOXELS_MIN:
        low = inside.min()
        span = np.percentile(inside, FOREGROUND_PERCENTILE) - low
        foreground = inside[inside - low > FOREGROUND_FRACTION * span]
    if inside.size < FOREGROUND_VOXELS_MIN or foreground.size < FOREGROUND_VOXELS_MIN:
        return np.full(values.shape, MISSING_CHANNEL_VALUE, np.float32)
    bottom, top = np.percentile(foreground, CLIP_PERCENTILES)
    clipped = np.clip(foreground, bottom, top)
    mean, sd = clipped.mean(), clipped.std()
    z = (np.clip(values.astype(np.float64), bottom, top) - mean) / max(sd, 1e-9)
    z = np.clip(z, *CLIP_Z).astype(np.float32)
    z[background] = BACKGROUND_VALUE
    return z
