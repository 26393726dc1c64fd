"""Synthetic T1 post-contrast + FLAIR heads with lesions, made from label maps alone.

    python -m cns_mri.generate --set train|val --count N [--first-seed S] [--work DIR]

In: WORK/labels (maps 1-18 for `train`, 19-20 for `val`). Out: WORK/<set>/SEED.npz-like pairs: SEED_x.npy, float16 [2, k, j, i],
normalised as the appliance does, and SEED_y.npy, uint8 with the bits of grid.py.
A sample depends on its seed and the maps only, so the work can be stopped, resumed and shared out. About 1.5 CPU s each.

Order of painting: place the head, classes -> intensities, normal enhancement, things that never enhance, enhancing lesions,
then what scanner and preprocessing do (slices, bias, noise, stripping, field of view), then the normalisation.
"""
import argparse
import os
import time

import numpy as np
from scipy import ndimage

from . import grid as g
from .fields import along, blob, close, dilate, distance_mm, enlarge, erode, noise, slice_matrix, soft_inside, tubes
from .labels import load
from .normalise import normalise

SHAPE = np.array(g.SHAPE_KJI)
MAPS = {"train": (1, 18), "val": (19, 20)}
SEED_BASE = {"train": 0, "val": 900_000}


class Head:
    """One warped label map on the grid: the class at each point, samples around it, and masks made from it."""

    def __init__(self, rng, maps, stripped):
        m = maps[rng.integers(len(maps))]
        self.map = m["labels"]
        a, b, c = np.deg2rad(rng.uniform(-18, 18, 3))
        turn_k = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        turn_j = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
        turn_i = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
        self.linear = turn_k @ turn_j @ turn_i @ np.diag(rng.uniform(0.88, 1.12, 3)) + rng.uniform(-0.05, 0.05, (3, 3))
        self.mirrored = rng.random() < 0.5
        if self.mirrored:
            self.linear[:, 2] *= -1
        self.centre = m["brain" if stripped else "head"]
        self.position = np.stack(np.meshgrid(
            *[(np.arange(s, dtype=np.float32) - (s - 1) / 2) * g.SPACING_MM for s in SHAPE], indexing="ij"))
        shift = rng.uniform(-15, 15, 3).astype(np.float32)
        bend = np.stack([enlarge(rng.standard_normal((5, 6, 5)), SHAPE) for _ in range(3)]) * rng.uniform(0.5, 5.0)
        flat = (self.position + shift[:, None, None, None]).reshape(3, -1)
        self.source = (self.linear.astype(np.float32) @ flat).reshape(self.position.shape) + bend
        self.source += np.asarray(self.centre, np.float32)[:, None, None, None]
        self.push = None
        self.refresh()

    def pick(self, offset=(0.0, 0.0, 0.0)):
        """Class and flags at each grid point moved by `offset` (mm on the grid); 0 off the map."""
        s = self.source if self.push is None else self.source + self.push
        o = (self.linear @ np.asarray(offset)).astype(np.float32)
        size = self.map.shape
        index = [(s[n] + (o[n] + np.float32(0.5))).astype(np.int32) for n in range(3)]
        flat = (np.clip(index[0], 0, size[0] - 1) * size[1] + np.clip(index[1], 0, size[1] - 1)) * size[2]
        flat += np.clip(index[2], 0, size[2] - 1)
        label = self.map.ravel()[flat]
        for n in range(3):
            label[(index[n] <= 0) | (index[n] >= size[n])] = 0
        return label

    def add_mass_effect(self, lesions, rng):
        """Large lesions displace the tissue around them."""
        for _, centre, radius in lesions:
            if radius > 7 and rng.random() < 0.7:
                q = self.position - ((centre - (SHAPE - 1) / 2) * g.SPACING_MM).astype(np.float32)[:, None, None, None]
                reach = np.exp(-(q * q).sum(0) / (2 * (1.3 * radius) ** 2)) * rng.uniform(0.1, 0.5)
                moved = -np.tensordot(self.linear.astype(np.float32), q * reach, 1)
                self.push = moved if self.push is None else self.push + moved
        if self.push is not None:
            self.refresh()

    def refresh(self):
        flagged = self.pick()
        lab = self.label = flagged & g.CLASS_MASK
        self.right, self.lateral = ((flagged & g.RIGHT) > 0) != self.mirrored, (flagged & g.LATERAL) > 0
        self.csf = lab == g.CSF
        self.tissue = (lab > 0) & (lab < g.CORD) & ~self.csf
        self.ventricle = np.isin(lab, [g.VENTRICLE, g.CHOROID])
        core = close(self.tissue, g.steps(9))
        self.brain = core & (self.tissue | self.csf | np.isin(lab, [g.ARTERY, g.VEIN]))
        self.inside = close(core | (self.csf & dilate(core, g.steps(6))), g.steps(3))  # the intracranial space
        self.depth = distance_mm(self.inside)

    def average(self, *tables):
        """Each table's mean over eight points of every voxel: partial volume."""
        q = g.SPACING_MM / 4
        around = [self.pick((k, j, i)) & g.CLASS_MASK for k in (-q, q) for j in (-q, q) for i in (-q, q)]
        return [sum(table[label] for label in around) / len(around) for table in tables]


def choose_contrast(rng, post):
    """Intensity tables (T1, FLAIR) per class, relative to white matter = 1, and the values used by later steps."""
    u = rng.uniform
    t, f = np.zeros(g.CLASSES, np.float32), np.zeros(g.CLASSES, np.float32)
    gm, flair_gm = u(0.6, 0.97), u(0.98, 1.4)
    if rng.random() < 0.1:
        gm = u(0.95, 1.1)
    csf = u(0.12, 0.5) * gm
    t[[g.WM, g.CORTEX, g.VENTRICLE, g.CSF]] = 1, gm, csf, csf * u(0.9, 1.5)
    t[g.CBL_WM], t[g.CBL_CORTEX] = u(0.92, 1.03), gm * u(0.92, 1.06)
    for label, white in ((g.THALAMUS, 0.55), (g.CAUDATE, 0.2), (g.PUTAMEN, 0.35), (g.PALLIDUM, 0.8), (g.HIPPOCAMPUS, 0.1),
                         (g.ACCUMBENS, 0.2), (g.VENTRAL_DC, 0.7), (g.BRAINSTEM, 0.75), (g.CORD, 0.8), (g.OPTIC_NERVE, 0.5)):
        t[label] = gm + (1 - gm) * np.clip(white + rng.normal(0, 0.15), 0, 1.1)
    f[g.WM], f[g.CORTEX], f[g.VENTRICLE] = 1, flair_gm, u(0.08, 0.45)
    f[g.CSF] = f[g.VENTRICLE] * u(0.9, 2.0)
    f[g.CBL_WM], f[g.CBL_CORTEX] = u(0.92, 1.1), flair_gm * u(0.9, 1.02)
    for label in (g.THALAMUS, g.CAUDATE, g.PUTAMEN, g.HIPPOCAMPUS, g.ACCUMBENS, g.VENTRAL_DC, g.CORD, g.OPTIC_NERVE):
        f[label] = 1 + (flair_gm - 1) * u(0.2, 1.1)
    f[g.PALLIDUM], f[g.BRAINSTEM] = u(0.75, 1.05), u(0.9, 1.15)
    if rng.random() < 0.15:  # any contrast at all
        t[1:17], f[1:17] = u(0.3, 1.1, 16), u(0.3, 1.3, 16)
        t[g.WM] = max(t[g.WM], 0.6)
        t[g.VENTRICLE], f[g.VENTRICLE] = u(0.1, 0.5), u(0.05, 0.6)
        t[g.CSF], f[g.CSF] = t[g.VENTRICLE] * u(0.8, 1.3), f[g.VENTRICLE] * u(0.8, 1.5)
    brightest = float(max(t[g.WM], t[g.CORTEX]))
    blood = brightest * u(1.05, 2.3) if post else t[g.CSF] * u(0.8, 2.5)
    fat = float(np.exp(u(np.log(0.35), np.log(3.2))))  # fat-saturated .. spin echo near a surface coil
    t[g.CHOROID] = brightest * u(0.8, 2.0) if post else gm * u(0.7, 1.0)
    f[g.CHOROID] = u(0.5, 1.5)
    t[g.VEIN] = blood * u(0.85, 1.1) if rng.random() < 0.9 else t[g.CSF]
    t[g.ARTERY] = blood * u(0.7, 1.2) if rng.random() < 0.8 else t[g.CSF]
    f[g.VEIN], f[g.ARTERY] = u(0.1, 1.1), u(0.05, 0.6)
    t[g.EYE], f[g.EYE] = u(0.1, 0.45), u(0.05, 0.5)
    t[g.SOFT], f[g.SOFT] = u(0.35, 0.9), u(0.3, 0.9)  # muscle
    t[g.EYE_MUSCLE], f[g.EYE_MUSCLE] = (u(0.7, 1.9) if post else u(0.5, 0.9)), u(0.4, 1.1)
    t[g.MUCOSA], f[g.MUCOSA] = (u(0.8, 2.2) if post else u(0.4, 1.0)), u(0.5, 1.8)
    t[g.SKIN], f[g.SKIN] = u(0.3, 1.5), u(0.2, 1.2)
    t[g.BONE], f[g.BONE] = u(0.02, 0.3), u(0.02, 0.3)
    t[g.MARROW], f[g.MARROW] = max(0.1, fat * u(0.2, 0.9)), fat * u(0.1, 0.7)
    return t, f, {"gm": gm, "csf": float(t[g.VENTRICLE]), "flair_csf": float(f[g.VENTRICLE]), "brightest": brightest,
                  "blood": float(blood), "fat": fat, "flair_fat": fat * u(0.3, 1.0)}


def blend(image, weight, value, box=Ellipsis):
    image[box] += weight * (value - image[box])


def paint_fat(rng, head, t1, flair, tone):
    """Orbit fat, subcutaneous fat and a mosaic of fat and muscle elsewhere."""
    soft = head.label == g.SOFT
    depth = distance_mm(head.label > 0)
    fat = soft & (noise(rng, g.SHAPE_KJI, rng.uniform(8, 25)) > rng.uniform(-0.3, 1.0))
    eye = head.label == g.EYE
    if eye.any():
        fat |= soft & (distance_mm(~eye) < rng.uniform(14, 24))
    if rng.random() < 0.85:
        fat |= np.isin(head.label, [g.SOFT, g.SKIN]) & (depth < rng.uniform(4, 11)) & (depth > rng.uniform(0, 4))
    weight = ndimage.gaussian_filter(fat.astype(np.float32), 0.6) * (soft | (head.label == g.SKIN))
    texture = 1 + rng.uniform(0, 0.15) * noise(rng, g.SHAPE_KJI, 12)
    blend(t1, weight, tone["fat"] * texture)
    blend(flair, weight, tone["flair_fat"] * texture)


def paint_normal_enhancement(rng, head, t1, flair, tone):
    """Vessels, sinuses, dura, falx, tentorium, pituitary, pineal: everything that is bright and no lesion."""
    u, lab, bright, blood = rng.uniform, head.label, tone["brightest"], tone["blood"]
    outer = head.csf | ((lab == g.CORTEX) & (head.depth < 12))
    if rng.random() < 0.92:
        w = tubes(rng, u(14, 26), u(0.08, 0.20)) * outer
        blend(t1, w, blood * u(0.75, 1.0))
        blend(flair, w, u(0.1, 0.8))
        w = tubes(rng, u(10, 18), u(0.05, 0.13)) * (head.csf | (head.tissue & (rng.random() < 0.4)))
        blend(t1, w, np.maximum(t1, bright * u(0.95, 1.5)))
    if rng.random() < 0.6:  # sinuses wider than their label
        w = ndimage.gaussian_filter(dilate(lab == g.VEIN).astype(np.float32), 0.7) * ~head.tissue * head.inside
        blend(t1, w, blood * u(0.85, 1.05))
        blend(flair, w, u(0.1, 0.8))

    def gland(centre, radius, chance, low, high):
        b = blob(rng, centre, radius, 1.8, 0.3) if rng.random() < chance else None
        if b is not None:
            w = soft_inside(b[1], radius) * ~np.isin(lab[b[0]], [g.WM, g.CORTEX, g.BRAINSTEM, g.THALAMUS, g.CBL_CORTEX])
            blend(t1, w, blood * u(low, high), b[0])
            blend(flair, w, u(0.4, 1.2), b[0])

    ventral = np.argwhere(lab == g.VENTRAL_DC)
    if len(ventral) > 30:
        c = ventral.mean(0)
        near = np.sqrt((((np.indices(lab.shape).astype(np.float32).T - (c + g.voxels(-18, -9, 0))).T) ** 2).sum(0)) * g.SPACING_MM
        w = (near < u(22, 38)) * head.csf * tubes(rng, u(9, 14), u(0.2, 0.4))  # circle of Willis, basilar
        blend(t1, w, blood * u(0.8, 1.1))
        gland(c + g.voxels(-21 + rng.normal(0, 4.5), -12 + rng.normal(0, 3), rng.normal(0, 1.5)), u(3.5, 8), 0.75, 0.75, 1.05)
        for side in (-1, 1):  # cavernous sinus
            gland(c + g.voxels(-21 + rng.normal(0, 3), -10.5 + rng.normal(0, 3), side * u(9, 16.5)), u(3, 6), 0.6, 0.7, 1.05)
    thalamus = np.argwhere(lab == g.THALAMUS)
    if len(thalamus) > 60:
        c = thalamus.mean(0)
        c[1] = np.percentile(thalamus[:, 1], 97)
        gland(c + g.voxels(u(-3, 3), u(0, 4.5), 0), u(2, 4.5), 0.6, 0.6, 1.0)  # pineal
        gland(c + g.voxels(u(0, 6), u(3, 12), 0), u(2, 4.5), 0.7, 0.8, 1.05)  # vein of Galen
    if rng.random() < 0.92:
        patchy = noise(rng, g.SHAPE_KJI, u(15, 50)) > u(-1.0, 1.3)
        edge = dilate(head.inside) & ~erode(head.inside)
        blend(t1, (edge & patchy & ~head.tissue).astype(np.float32) * u(0.3, 1), bright * u(0.7, 1.5))
        sheet = np.abs(head.source[2] - head.centre[2])
        if rng.random() < 0.6:  # falx
            w = np.clip(u(0.8, 1.6) - sheet / 2.0, 0, 1) * head.csf * (noise(rng, g.SHAPE_KJI, 20) > u(-0.8, 1))
            blend(t1, w, bright * u(0.6, 1.3))
        cerebellum = np.isin(lab, [g.CBL_WM, g.CBL_CORTEX])
        if rng.random() < 0.7:  # tentorium
            w = dilate(cerebellum) & dilate(np.isin(lab, [g.WM, g.CORTEX]), g.steps(3)) & head.csf & (noise(rng, g.SHAPE_KJI, 25) > u(-0.5, 1))
            blend(t1, w.astype(np.float32), bright * u(0.7, 1.4))
        w = dilate(cerebellum, g.steps(6)) & ~head.tissue & head.inside & (head.depth < u(3, 9)) & (noise(rng, g.SHAPE_KJI, 25) > u(-0.3, 1.2))
        blend(t1, w.astype(np.float32), blood * u(0.8, 1.05))  # transverse, sigmoid, torcula
        blend(flair, w.astype(np.float32), u(0.1, 0.8))


def place(rng, head, to_ventricle):
    """Where a lesion sits: (kind of place, centre)."""
    lab = head.label
    for _ in range(8):
        kind = rng.choice(["periventricular", "white", "cortex", "deep", "posterior fossa", "meninges"],
                          p=[0.28, 0.27, 0.19, 0.1, 0.1, 0.06])
        where = {"periventricular": lambda: (lab == g.WM) & (to_ventricle < 8), "white": lambda: lab == g.WM,
                 "cortex": lambda: lab == g.CORTEX, "meninges": lambda: head.csf & head.inside & (head.depth < 12),
                 "deep": lambda: np.isin(lab, [g.THALAMUS, g.CAUDATE, g.PUTAMEN, g.PALLIDUM, g.HIPPOCAMPUS, g.VENTRAL_DC]),
                 "posterior fossa": lambda: np.isin(lab, [g.CBL_WM, g.CBL_CORTEX, g.BRAINSTEM])}[kind]()
        found = np.flatnonzero(where)
        if found.size > 50:
            return kind, np.array(np.unravel_index(found[rng.integers(found.size)], lab.shape), float)
    return "white", SHAPE / 2.0


def paint_never_enhancing(rng, head, t1, flair, tone, to_ventricle):
    """Multiple sclerosis and small-vessel spots, caps, bulky FLAIR lesions and oedema, cavities. Returns where they are."""
    u, white = rng.uniform, head.label == g.WM
    abnormal = np.zeros(g.SHAPE_KJI, np.float32)
    high = u(1.25, 2.3)

    def mark(weight, box=Ellipsis):
        abnormal[box] = np.maximum(abnormal[box], weight)

    if rng.random() < 0.5:
        candidates = np.flatnonzero(white & (to_ventricle < u(6, 30)))
        for _ in range(int(rng.integers(1, 26)) if candidates.size > 50 else 0):
            centre = np.array(np.unravel_index(candidates[rng.integers(candidates.size)], white.shape), float)
            radius = np.exp(u(np.log(1.5), np.log(8)))
            b = blob(rng, centre, radius, 2.2, 0.35)
            if b is not None:
                w = soft_inside(b[1], radius) * (white | (head.label == g.THALAMUS))[b[0]]
                blend(flair, w, high * u(0.85, 1.1), b[0])
                t1[b[0]] *= 1 - w * u(0, 0.4)
                mark(w, b[0])
        if rng.random() < 0.5:  # periventricular caps
            w = (white & (to_ventricle < u(2.5, 6))).astype(np.float32)
            blend(flair, w, high * u(0.7, 1))
            mark(w)
    for _ in range(int(rng.random() < 0.33) + int(rng.random() < 0.06)):  # bulky, never enhancing
        _, centre = place(rng, head, to_ventricle)
        radius = u(7, 28)
        b = blob(rng, centre, radius, 1.8, 0.45)
        if b is not None:
            w = soft_inside(b[1], radius) * head.tissue[b[0]]
            if rng.random() < 0.5:
                w *= white[b[0]]  # vasogenic oedema keeps to white matter
            blend(flair, w, high * u(0.8, 1.1) * (1 + u(0, 0.1) * noise(rng, w.shape, 10)), b[0])
            t1[b[0]] *= 1 - w * u(0.02, 0.45)
            mark(w, b[0])
    if rng.random() < 0.15:  # cavity with a gliotic rim
        _, centre = place(rng, head, to_ventricle)
        radius = u(4, 20)
        b = blob(rng, centre, radius, 1.7, 0.35)
        if b is not None:
            box, d = b
            w = soft_inside(d, radius) * head.tissue[box]
            rim = ((d >= 1) & (d < u(1.1, 1.5)) & head.tissue[box]).astype(np.float32)
            blend(flair, rim, high * u(0.7, 1), box)
            blend(t1, w, tone["csf"] * u(0.9, 1.5), box)
            blend(flair, w, tone["flair_csf"] * u(0.9, 2.5), box)
            mark(np.maximum(w, rim), box)
    return abnormal


def paint_bright_before_contrast(rng, head, t1, flair, tone, to_ventricle):
    """Blood of some days, fat or melanin: bright on T1 although no contrast agent was given."""
    u = rng.uniform
    for _ in range(int(rng.integers(1, 4))):
        _, centre = place(rng, head, to_ventricle)
        radius = np.exp(u(np.log(2.5), np.log(18)))
        b = blob(rng, centre, radius, 1.8, 0.4)
        if b is not None:
            w = soft_inside(b[1], radius) * head.inside[b[0]]
            blend(t1, w, tone["brightest"] * u(1.1, 2.0), b[0])
            blend(flair, w, u(0.3, 2.0), b[0])


def paint_lesion(rng, head, t1, flair, tone, lesion, enhancing, abnormal):
    """One enhancing lesion: solid, ring or patchy, with oedema. Adds its membership to `enhancing` and `abnormal`."""
    u = rng.uniform
    kind, centre, radius = lesion
    b = blob(rng, centre, radius, u(1.1, 2.0), u(0.15, 0.5))
    if b is None:
        return
    box, d = b
    tissue, white, csf = head.tissue[box], np.isin(head.label[box], [g.WM, g.CBL_WM]), (head.csf & head.inside)[box]
    allowed = tissue | (csf if kind == "meninges" or rng.random() < 0.5 else False)
    whole = soft_inside(d, radius) * allowed
    if whole.max() < 0.5:
        return
    form = rng.choice(["solid", "ring", "patchy"], p=[0.42, 0.43, 0.15]) if radius > 5 else "solid"
    bright = whole
    if form == "ring":
        inner = 1 - min(0.75, float(np.exp(u(np.log(1.5), np.log(7.0)))) / radius)  # walls thinner than a voxel are real
        core = np.clip((inner - d - 0.25 * noise(rng, d.shape, max(4, radius * 0.6))) * radius / g.SPACING_MM + 0.5, 0, 1)
        bright = whole * (1 - core)
        if rng.random() < 0.45:  # a broken rim
            bright = bright * (noise(rng, d.shape, max(4, radius * u(0.5, 1.2))) > u(-1.2, 0.0))
    elif form == "patchy":
        bright = whole * (noise(rng, d.shape, max(4, radius * u(0.3, 0.8))) > u(-0.7, 0.4))
    core = whole - bright
    level = tone["brightest"] * (u(1.15, 2.2) if rng.random() < 0.85 else u(1.05, 1.25))
    uneven = 1 + u(0, 0.12) * noise(rng, d.shape, max(3, radius * 0.5))
    reach = u(1.15, 2.5) if rng.random() < 0.85 else 1.0
    swollen = d + 0.5 * noise(rng, d.shape, max(6, radius * 0.8))
    oedema = ((swollen < reach) & white | (tissue & (swollen < 1 + (reach - 1) * 0.3))) * (1 - whole)
    blend(flair, oedema, u(1.2, 2.1) * uneven, box)
    t1[box] *= 1 - oedema * u(0.02, 0.35)
    flair_level = u(0.85, 1.9)
    blend(flair, whole, flair_level * uneven, box)
    if form == "ring":
        blend(flair, core, u(0.4, 2.0), box)
    blend(t1, core, tone["csf"] + (tone["gm"] - tone["csf"]) * u(0.1, 1), box)
    blend(t1, bright, level * uneven, box)
    enhancing[box] = np.maximum(enhancing[box] * (1 - core), bright)
    abnormal[box] = np.maximum(abnormal[box], np.maximum(whole, oedema))


def brain_keep(rng, head, lesion):
    """The mask that a skull-stripping tool leaves."""
    margin = rng.uniform(0, 7)
    keep = head.tissue | head.ventricle | (head.brain & (head.depth > margin)) | (lesion & head.inside)
    keep |= close(keep, g.steps(3))
    if rng.random() < 0.3:
        keep = dilate(keep)
    if rng.random() < 0.1:
        keep = erode(keep)
    return ndimage.binary_fill_holes(keep)


def scan(rng, image, head, white_level, keep, shared_axis):
    """Acquire one channel: slices, bias, noise, gamma, field of view. Returns (stored values, background mask, covered mask, slice mm)."""
    u, thickness = rng.uniform, g.SPACING_MM
    image = ndimage.gaussian_filter(image, u(0.15, 0.7))
    if rng.random() < 0.65:
        axis = shared_axis if rng.random() < 0.6 else int(rng.choice(3, p=[0.7, 0.15, 0.15]))
        thickness = u(2.5, 7.0)
        m = slice_matrix(SHAPE[axis], thickness * (u(1, 1.25) if rng.random() < 0.4 else 1), thickness, u(0, 1), rng.random() < 0.15)
        image = along(m, image, axis)
    image = image * np.exp(u(0, 0.28) * noise(rng, g.SHAPE_KJI, u(60, 160)))
    if rng.random() < 0.2:  # surface coil: bright near the outside
        image = image * (1 + u(0.1, 0.8) * np.exp(-distance_mm(head.label > 0) / u(10, 30)))
    sd = u(0.005, 0.09) * white_level
    real, imaginary = rng.standard_normal((2, *g.SHAPE_KJI), dtype=np.float32) * sd
    image = np.sqrt((np.clip(image, 0, None) + real) ** 2 + imaginary**2)
    if rng.random() < 0.3:
        image = ndimage.gaussian_filter(image, u(0.2, 0.7))
    if rng.random() < 0.4:
        top = np.percentile(image, 99.5)
        image = top * np.clip(image / top, 0, 3) ** u(0.75, 1.35)
    if rng.random() < 0.12:  # the head moved: ghosts along the phase encoding
        axis, share = int(rng.choice(3)), u(0.02, 0.12)
        image = image * (1 - share) + share * np.roll(image, int(SHAPE[axis] * u(0.2, 0.5)), axis)
    covered = np.ones(g.SHAPE_KJI, bool)
    if rng.random() < 0.6:
        covered[:int(rng.integers(0, g.steps(66 if rng.random() < 0.85 else 102)))] = False
    if rng.random() < 0.08:
        covered[SHAPE[0] - int(rng.integers(1, g.steps(66))):] = False
    if rng.random() < 0.15:
        edge = int(rng.integers(1, g.steps(36)))
        covered[:, :, :edge] = covered[:, :, SHAPE[2] - edge:] = False
    background = ~covered
    if keep is not None:
        background = background | ~keep
    elif rng.random() < 0.45:  # zero-filled air, some of it eating into dark parts of the head
        background = background | (ndimage.gaussian_filter(image, 0.9) < u(0.03, 0.14) * np.percentile(image, 98))
    return image, background, covered, thickness


def main_radius_mm(rng):
    """Half the diameter of a study's main lesion: as many small ones as large ones."""
    return float(np.exp(rng.uniform(np.log(2.5), np.log(26))))


def head_images(rng, maps, force=None, radius_mm=main_radius_mm):
    """One head before normalisation: (per channel stored values, background mask and slice thickness, covered mask of the T1, bits).
    `force`: (after contrast agent?, with enhancing lesions?); `radius_mm` draws the radius of the main lesion."""
    post = rng.random() < 0.87
    positive = post and rng.random() < 0.62
    if force is not None:
        post, positive = force
    stripped = rng.random() < 0.45
    head = Head(rng, maps, stripped)
    to_ventricle = distance_mm(~head.ventricle)
    lesions = []
    for n in range(int(rng.choice([1, 2, 3, 4, 6], p=[0.5, 0.2, 0.15, 0.1, 0.05])) if positive else 0):
        kind, centre = place(rng, head, to_ventricle)
        radius = radius_mm(rng) if n == 0 else float(np.exp(rng.uniform(np.log(2.0), np.log(12))))
        lesions.append((kind, centre, radius))
    head.add_mass_effect(lesions, rng)
    to_ventricle = distance_mm(~head.ventricle)
    t_table, f_table, tone = choose_contrast(rng, post)
    t1, flair = head.average(t_table, f_table)
    grain, texture = rng.uniform(0, 0.06), rng.uniform(0, 0.05)
    for image in (t1, flair):
        image *= 1 + grain * noise(rng, g.SHAPE_KJI, rng.uniform(4, 20)) + texture * noise(rng, g.SHAPE_KJI, 1)
    paint_fat(rng, head, t1, flair, tone)
    normal = np.zeros(g.SHAPE_KJI, bool)
    if post:
        paint_normal_enhancement(rng, head, t1, flair, tone)
        normal = (t1 > 1.08 * tone["brightest"]) & dilate(head.inside, g.steps(3)) & ~np.isin(head.label, [g.SOFT, g.SKIN, g.BONE, g.MARROW])
    elif rng.random() < 0.3:
        paint_bright_before_contrast(rng, head, t1, flair, tone, to_ventricle)
    abnormal = paint_never_enhancing(rng, head, t1, flair, tone, to_ventricle)
    enhancing = np.zeros(g.SHAPE_KJI, np.float32)
    for lesion in lesions:
        paint_lesion(rng, head, t1, flair, tone, lesion, enhancing, abnormal)
    lesion, brain = enhancing > 0.5, head.brain | (enhancing > 0.5)

    keep = brain_keep(rng, head, lesion | (abnormal > 0.5)) if stripped else None
    removed = np.zeros(g.SHAPE_KJI, bool)
    if rng.random() < 0.03:  # failed stripping: the brain is gone, the rest stays
        keep = ~dilate(head.inside, int(rng.integers(0, 4))) & dilate(head.label > 0)
        removed = ~keep
    elif not stripped and rng.random() < 0.2:  # defaced: a half-space in front and below is zero
        k, j, _ = np.indices(g.SHAPE_KJI)
        middle = np.argwhere(head.tissue).mean(0) if head.tissue.any() else SHAPE / 2
        slope = rng.uniform(0.4, 1.6)
        cut = ((middle[0] - k) * slope + (middle[1] - j) > rng.uniform(66, 96) / g.SPACING_MM) & ~dilate(head.inside)
        keep = ~cut
    shared_axis = int(rng.choice(3, p=[0.75, 0.15, 0.1]))
    out, seen = [], None
    for channel, image in enumerate((t1, flair)):
        white = float(t_table[g.WM] if channel == 0 else f_table[g.WM])
        if channel == 1 and rng.random() < 0.4:
            image = ndimage.shift(image, rng.uniform(-1, 1, 3), order=1, mode="nearest")
        stored, background, covered, slice_mm = scan(rng, image, head, white, keep, shared_axis)
        seen = covered if seen is None else seen
        out.append((stored, background, slice_mm))
    covered = seen
    seen = seen & ~removed
    truth = ((lesion, g.ENHANCING), (abnormal > 0.5, g.ABNORMAL), (brain, g.BRAIN), (brain & head.right, g.RIGHT_HALF),
             (head.lateral & ~lesion, g.VENTRICLES), (normal & ~lesion & (keep if stripped else True), g.NORMAL_ENHANCEMENT))
    bits = sum((mask & seen).astype(np.uint8) * np.uint8(bit) for mask, bit in truth)
    return out, covered, bits | np.uint8(g.POST if post else 0)


def head_sample(rng, maps, force=None):
    """One head: (two normalised channels, bits)."""
    images, _, bits = head_images(rng, maps, force)
    return np.stack([normalise(stored, background) for stored, background, _ in images]), bits


def not_a_head(rng):
    """Phantoms and other body parts: nothing to find and no brain."""
    body = blob(rng, SHAPE / 2 + rng.normal(0, 3, 3), rng.uniform(40, 95), 1.6, rng.uniform(0, 0.3))
    mask = np.zeros(g.SHAPE_KJI, bool)
    mask[body[0]] = body[1] < 1
    classes = np.digitize(noise(rng, g.SHAPE_KJI, rng.uniform(12, 60)), np.sort(rng.normal(0, 1, int(rng.integers(0, 6)))))
    out = []
    for _ in range(2):
        image = rng.uniform(0.1, 2, 8).astype(np.float32)[classes] * mask
        image = ndimage.gaussian_filter(image, rng.uniform(0.3, 1)) + np.abs(rng.normal(0, rng.uniform(0.005, 0.08), g.SHAPE_KJI))
        out.append(normalise(image.astype(np.float32), ~mask if rng.random() < 0.4 else np.zeros_like(mask)))
    return np.stack(out), np.zeros(g.SHAPE_KJI, np.uint8)


def sample(seed, maps, kind="train"):
    rng = np.random.default_rng([20261123, seed])
    if kind == "train" and rng.random() < 0.03:
        return not_a_head(rng)
    return head_sample(rng, maps)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--set", choices=MAPS, required=True)
    p.add_argument("--count", type=int, required=True)
    p.add_argument("--first-seed", type=int, default=0)
    p.add_argument("--work")
    args = p.parse_args()
    work = g.work_folder(args.work)
    out = os.path.join(work, args.set)
    os.makedirs(out, exist_ok=True)
    maps = load(work, *MAPS[args.set])
    cpu, made = time.process_time(), 0
    for n in range(args.first_seed, args.first_seed + args.count):
        seed = SEED_BASE[args.set] + n
        target = os.path.join(out, f"{seed:06d}_y.npy")
        if os.path.exists(target):
            continue
        x, y = sample(seed, maps, args.set)
        np.save(target.replace("_y", "_x"), x.astype(np.float16))
        np.save(target + ".part.npy", y)
        os.replace(target + ".part.npy", target)  # the pair is complete once its y file is there
        made += 1
        if made % 20 == 0:
            print(made, "made, CPU s per sample %.2f" % ((time.process_time() - cpu) / made), flush=True)


if __name__ == "__main__":
    main()
