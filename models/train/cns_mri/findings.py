"""From logits to findings and a study score: the reference for what the appliance does with the network's output.

In: logits [3, k, j, i] and an operating point (the manifest's keys). Out: components, largest score first.
"""
import numpy as np
from scipy import ndimage

from . import grid as g


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float32)))


def brain_mask(logits, point):
    """Predicted brain: its largest 6-connected part, dilated by brain_margin_voxels steps (6-neighbourhood)."""
    mask = sigmoid(logits[2]) >= point["brain_threshold"]
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    mask = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    return ndimage.binary_dilation(mask, iterations=point["brain_margin_voxels"]) if point["brain_margin_voxels"] else mask


def brain_ml(logits, point):
    """Volume of the predicted brain, before the dilation."""
    return float(brain_mask(logits, {**point, "brain_margin_voxels": 0}).sum() * g.VOXEL_ML)


def brain_mean_height_mm(logits, point):
    """Volume of the predicted brain over the area of its box seen from above: low when its lower part is missing."""
    mask = brain_mask(logits, {**point, "brain_margin_voxels": 0})
    if not mask.any():
        return 0.0
    j, i = np.flatnonzero(mask.any((0, 2))), np.flatnonzero(mask.any((0, 1)))
    return float(mask.sum() * g.SPACING_MM / ((j[-1] - j[0] + 1) * (i[-1] - i[0] + 1)))


def components(logits, point):
    """26-connected components of sigmoid(enhancing) >= voxel_threshold inside the brain mask, of at least component_ml_min.
    Each: {"ml", "score" (mean of sigmoid), "mask"}."""
    p = sigmoid(logits[0])
    parts, count = ndimage.label((p >= point["voxel_threshold"]) & brain_mask(logits, point), np.ones((3, 3, 3)))
    found = []
    for n, box in enumerate(ndimage.find_objects(parts), 1):
        inside = parts[box] == n
        ml = float(inside.sum() * g.VOXEL_ML)
        if ml >= point["component_ml_min"]:
            mask = np.zeros(p.shape, bool)
            mask[box] = inside
            found.append({"ml": ml, "score": float(p[box][inside].mean()), "mask": mask})
    return sorted(found, key=lambda c: -c["score"])
