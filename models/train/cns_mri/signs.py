"""The midline shift of a true map: what the appliance's figure is compared with.

In: bool arrays [k, j, i] of grid.py: brain, its right half, lateral ventricles. Out: mm (positive: to the left) or None.
Written apart from the appliance's `src/triage/signs`, after the same definitions: the boundary between the halves row by row, the plane through
it in the front 15 %, the back 20 % and the upper 15 % of the brain, the largest deviation over 3 cm^2 at the level of the ventricles, between their front and back.
"""
import warnings

import numpy as np
from scipy import ndimage

from . import grid as g

FRONT, BACK, VERTEX = 0.15, 0.2, 0.15


def boundary(brain, right):
    """(rows [k, j] where both halves are there, position of their boundary in voxels)."""
    n_right, n_left = (brain & right).sum(2), (brain & ~right).sum(2)
    both = (n_right >= 2) & (n_left >= 2)
    last_right = np.where(both, right.shape[2] - 1 - (brain & right)[:, :, ::-1].argmax(2), 0)
    first_left = np.where(both, (brain & ~right).argmax(2), 0)
    both &= np.abs(first_left - last_right) * g.SPACING_MM <= 12
    return both, (last_right + first_left) / 2


def plane(brain, both, at):
    """(a, b, c) of i = a + b j + c k through the attachments of the falx, outliers left out; None with too few rows."""
    k_all, j_all = np.flatnonzero(brain.any((1, 2))), np.flatnonzero(brain.any((0, 2)))
    k, j = np.nonzero(both)
    length, height = j_all[-1] - j_all[0] + 1, k_all[-1] - k_all[0] + 1
    front, back, top = j < j_all[0] + FRONT * length, j >= j_all[-1] + 1 - BACK * length, k >= k_all[-1] + 1 - VERTEX * height
    used = front | back | top
    if front.sum() < 50 or back.sum() < 50:
        return None
    design, target = np.stack([np.ones(k.size), j, k], 1), at[k, j]
    part = used.copy()
    for _ in range(20):
        fit = np.linalg.lstsq(design[part], target[part], rcond=None)[0]
        rest = np.abs(target - design @ fit) / np.sqrt(1 + fit[1] ** 2 + fit[2] ** 2)
        limit = max(2.5 * 1.4826 * np.median(rest[used]), 0.25)
        new = used & (rest <= limit)
        if (new == part).all():
            break
        part = new
    middle = np.zeros_like(both)
    middle[k[~used], j[~used]] = True
    return fit, middle


def midline_shift_mm(brain, right, ventricles):
    if ventricles.sum() * g.VOXEL_ML < 2 or not brain.any():
        return None
    both, at = boundary(brain, right)
    found = plane(brain, both, at)
    if found is None:
        return None
    fit, middle = found
    k, j = np.indices(both.shape)
    distance = np.where(both, (at - (fit[0] + fit[1] * j + fit[2] * k)) / np.sqrt(1 + fit[1] ** 2 + fit[2] ** 2) * g.SPACING_MM, np.nan)
    (k0, k1), (j0, j1) = (np.percentile(axis, [5, 95]).round().astype(int) for axis in np.nonzero(ventricles)[:2])
    level = np.zeros_like(both)
    level[k0:k1 + 1, j0:j1 + 1] = True
    with warnings.catch_warnings():  # far from the boundary there is nothing to take a median of
        warnings.simplefilter("ignore", RuntimeWarning)
        smooth = ndimage.generic_filter(distance, np.nanmedian, 9, mode="constant", cval=np.nan)
    values = np.sort(smooth[level & middle & both])
    values = values[np.isfinite(values)]
    n = int(np.ceil(300 / g.SPACING_MM**2))
    if values.size < 125:
        return None
    right_mm, left_mm = -min(values[n - 1], 0), max(values[-n], 0)
    return float(left_mm if left_mm >= right_mm else -right_mm)
