"""From logits to findings and a study score: the reference for what the appliance does with the network's output.

In: logits [6, k, j, i] and an operating point (the manifest's keys). Out: components, largest score first.
"""
import numpy as np
from scipy import ndimage

from . import grid as g

ENHANCING, ABNORMAL, BRAIN, RIGHT, VENTRICLE, NORMAL = range(6)  # the network's outputs
NORMAL_REACH_VOXELS = 3  # normal enhancement counts inside the brain grown by so many 6-neighbour steps
CORNERS = np.ones((3, 3, 3))
RULE_Z, RULE_Z_ALONE = 1.2, 2.0


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float32)))


def brain(logits, point):
    """The predicted brain: its largest 6-connected part."""
    mask = sigmoid(logits[BRAIN]) >= point["brain_threshold"]
    parts, count = ndimage.label(mask)
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1 if count else mask


def grown(mask, voxels):
    return ndimage.binary_dilation(mask, iterations=voxels) if voxels else mask


def brain_ml(mask):
    """Volume of the predicted brain."""
    return float(mask.sum() * g.VOXEL_ML)


def brain_mean_height_mm(mask):
    """Volume of the predicted brain over the area of its box seen from above: low when its lower part is missing."""
    if not mask.any():
        return 0.0
    j, i = np.flatnonzero(mask.any((0, 2))), np.flatnonzero(mask.any((0, 1)))
    return float(mask.sum() * g.SPACING_MM / ((j[-1] - j[0] + 1) * (i[-1] - i[0] + 1)))


def normal_enhancement_ml(logits, mask, threshold=0.5):
    """Volume of what normally enhances, in and around the brain: near zero when no contrast agent was given."""
    return float(((sigmoid(logits[NORMAL]) >= threshold) & grown(mask, NORMAL_REACH_VOXELS)).sum() * g.VOXEL_ML)


def noise_z(channel, mask):
    """Noise of a normalised channel inside the brain: robust spread of each voxel's difference from the mean of its six neighbours."""
    inner = ndimage.binary_erosion(mask)
    if not inner.any():
        return 0.0
    around = sum(np.roll(channel, step, axis) for axis in range(3) for step in (-1, 1)) / 6
    return float(1.4826 * np.median(np.abs(channel - around)[inner]) / np.sqrt(7 / 6))


def components(logits, point, mask):
    """26-connected components of sigmoid(enhancing) >= voxel_threshold inside the grown brain `mask`, of at least component_ml_min.
    Each: {"ml", "score" (mean of sigmoid), "box", "inside" (in the box)}."""
    p = sigmoid(logits[ENHANCING])
    parts, _ = ndimage.label((p >= point["voxel_threshold"]) & grown(mask, point["brain_margin_voxels"]), CORNERS)
    found = []
    for n, box in enumerate(ndimage.find_objects(parts), 1):
        inside = parts[box] == n
        ml = float(inside.sum() * g.VOXEL_ML)
        if ml >= point["component_ml_min"]:
            found.append({"ml": ml, "score": float(p[box][inside].mean()), "box": box, "inside": inside})
    return sorted(found, key=lambda c: -c["score"])


def touches(component, truth):
    return bool((component["inside"] & truth[component["box"]]).any())


def rule(x, mask, mode):
    """Components of the rule without learning inside the brain `mask`: T1 post z > 1.2 and FLAIR z > 1.2, opened; with the T1 alone z > 2."""
    z = [(c - c[mask].mean()) / (c[mask].std() + 1e-6) for c in x]
    bright = (z[0] > RULE_Z) & (z[1] > RULE_Z) if mode == "both" else z[0] > RULE_Z_ALONE
    parts, _ = ndimage.label(ndimage.binary_opening(bright & ndimage.binary_erosion(mask)), CORNERS)
    return [{"box": box, "inside": parts[box] == n, "ml": float((parts[box] == n).sum() * g.VOXEL_ML), "score": 1.0}
            for n, box in enumerate(ndimage.find_objects(parts), 1)]


def judge(found, lesions):
    """(the score at which each lesion is found, 0 when it is not; false components as [ml, score]); one voxel beside is a hit."""
    near = [ndimage.binary_dilation(m, CORNERS) for m in lesions]
    best = [max((c["score"] for c in found if touches(c, m)), default=0.0) for m in near]
    return best, [[round(c["ml"], 3), round(c["score"], 4)] for c in found if not any(touches(c, m) for m in near)]


def painted(found, shape=g.SHAPE_KJI):
    """One mask of several components."""
    mask = np.zeros(shape, bool)
    for c in found:
        mask[c["box"]] |= c["inside"]
    return mask
