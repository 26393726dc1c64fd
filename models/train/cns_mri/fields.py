"""Small operations on 3D fields used by generate.py: smooth noise, dilation, soft shapes, slice profiles.

In and out: float32 or bool arrays on the grid of grid.py; `rng` is a numpy Generator.
"""
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from . import grid as g

torch.set_num_threads(1)


def enlarge(coarse, shape):
    """Trilinear enlargement of a small random field, smoothed once half way so that no grid pattern shows."""
    t = torch.from_numpy(np.ascontiguousarray(coarse, dtype=np.float32))[None, None]
    t = F.interpolate(t, scale_factor=2, mode="trilinear", align_corners=False)
    t = F.avg_pool3d(t, 3, 1, 1, count_include_pad=False)
    return F.interpolate(t, size=tuple(int(s) for s in shape), mode="trilinear", align_corners=False)[0, 0].numpy()


def noise(rng, shape, length_mm):
    """Zero-mean, unit-variance noise with about this correlation length."""
    if length_mm <= 1.5 * g.SPACING_MM:
        f = rng.standard_normal(shape, dtype=np.float32)
    else:
        f = enlarge(rng.standard_normal([max(2, int(np.ceil(s * g.SPACING_MM / length_mm)) + 1) for s in shape]), shape)
    return (f - f.mean()) / (f.std() + 1e-6)


def dilate(mask, steps=1):
    """Dilation by a cube of 2 * steps + 1 voxels, one axis after the other."""
    for axis in range(3):
        out = mask.copy()
        for step in range(1, steps + 1):
            low, high = [slice(None)] * 3, [slice(None)] * 3
            low[axis], high[axis] = slice(None, -step), slice(step, None)
            out[tuple(low)] |= mask[tuple(high)]
            out[tuple(high)] |= mask[tuple(low)]
        mask = out
    return mask


def erode(mask, steps=1):
    return ~dilate(~mask, steps)


def close(mask, steps=1):
    return erode(dilate(mask, steps), steps)


def distance_mm(mask):
    """Distance of each point inside the mask to its outside."""
    return (ndimage.distance_transform_edt(mask) * g.SPACING_MM).astype(np.float32)


def blob(rng, centre, radius_mm, stretch=1.6, rough=0.4):
    """A noisy ellipsoid: (box as slices, field that is below 1 inside and grows outwards), or None when off the grid."""
    shape = np.array(g.SHAPE_KJI)
    reach = radius_mm * 2.6 / g.SPACING_MM + 2
    low = np.maximum(0, np.floor(centre - reach)).astype(int)
    high = np.minimum(shape, np.ceil(centre + reach) + 1).astype(int)
    if np.any(high - low < 2):
        return None
    offsets = np.meshgrid(*[np.arange(a, b, dtype=np.float32) - c for a, b, c in zip(low, high, centre)], indexing="ij")
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    scale = np.exp(rng.uniform(-np.log(stretch), np.log(stretch), 3))
    scale /= np.prod(scale) ** (1 / 3)
    field = sum((sum(axes[n, m] * offsets[m] for m in range(3)) * g.SPACING_MM / (radius_mm * scale[n])) ** 2 for n in range(3))
    field = np.sqrt(field)
    bumps = noise(rng, field.shape, max(3.0, radius_mm * rng.uniform(0.35, 0.9)))
    return tuple(slice(a, b) for a, b in zip(low, high)), (field + rough * bumps * np.clip(field, 0.2, 1.2)).astype(np.float32)


def soft_inside(field, radius_mm):
    """Membership 0..1 of `field < 1`, with an edge about one voxel wide (partial volume)."""
    return np.clip((1 - field) * radius_mm / g.SPACING_MM + 0.5, 0, 1)


def tubes(rng, length_mm, width):
    """Membership of thin winding tubes: where two smooth noises are both near zero."""
    a, b = noise(rng, g.SHAPE_KJI, length_mm), noise(rng, g.SHAPE_KJI, length_mm)
    return np.clip(1.5 - np.sqrt(a * a + b * b) / width, 0, 1)


def slice_matrix(count, spacing_mm, thickness_mm, phase, nearest):
    """The count x count matrix that acquires slices along one axis of the grid and resamples them back onto it."""
    position = (np.arange(count) + 0.5) * g.SPACING_MM
    centres = np.arange(-1, int(np.ceil(count * g.SPACING_MM / spacing_mm)) + 1) * spacing_mm + (0.5 + phase) * spacing_mm
    gap = np.abs(position[None, :] - centres[:, None])
    acquire = np.clip((thickness_mm + g.SPACING_MM) / 2 - gap, 0, g.SPACING_MM) + 1e-6 * np.exp(-gap)
    acquire /= acquire.sum(1, keepdims=True)
    back = np.clip(1 - np.abs(position[:, None] - centres[None, :]) / spacing_mm, 0, 1)
    if nearest:
        back = (back == back.max(1, keepdims=True)).astype(float)
    back /= back.sum(1, keepdims=True)
    return (back @ acquire).astype(np.float32)


def along(matrix, volume, axis):
    return np.ascontiguousarray(np.moveaxis(np.tensordot(matrix, volume, (1, axis)), 0, axis))
