#!/usr/bin/env python3
"""Pack one SynthSeg label map into `head.rle`, the anatomy of the demonstration studies.

    pack_head.py LABELS.nii.gz head.rle        (needs numpy and nibabel)

Out: 16 bytes header (magic "SSHD", then nx ny nz spacing in 0.1 mm as u16 little endian, 4 bytes zero), then runs of
(tissue u8, count u8) in C order k, j, i with i to the patient's left, j to posterior, k to superior. See NOTICE for origin and licence.
"""
import struct
import sys

import nibabel as nib
import numpy as np

# Tissues of src/synth/anatomy.rs <- SynthSeg / FreeSurfer labels.
TISSUES = {
    1: [2, 41, 25, 57, 28, 60, 85],  # white matter, ventral diencephalon, chiasm
    2: [3, 42, 17, 18, 53, 54],  # cortex, hippocampus, amygdala
    3: [4, 5, 14, 15, 43, 44, 72],  # ventricles
    4: [24],  # other CSF
    5: [7, 46],  # cerebellar white matter
    6: [8, 47],  # cerebellar cortex
    7: [10, 49],  # thalamus
    8: [11, 12, 26, 50, 51, 58],  # striatum
    9: [13, 52],  # pallidum
    10: [16],  # brain stem
    11: [136, 137, 163, 164],  # choroid plexus
    12: [515, 516],  # bone
    13: [511],  # skin and scalp fat
    14: [506, 508],  # eyes
    15: [509],  # mucosa
    16: [502, 507, 512, 514, 530, 30, 62],  # other soft tissue
}
SPACING_MM = 1.5

image = nib.as_closest_canonical(nib.load(sys.argv[1]))
labels = np.asarray(image.dataobj).astype(int)
lut = np.zeros(1024, np.uint8)
for tissue, members in TISSUES.items():
    lut[members] = tissue
unknown = sorted(set(np.unique(labels)) - {0} - {m for v in TISSUES.values() for m in v})
print("labels that become soft tissue:", unknown)
lut[unknown] = 16
tissue = lut[labels][::-1, ::-1, :]  # RAS+ to LPS+
step = SPACING_MM / np.linalg.norm(image.affine[:3, 0])
index = [np.round(np.arange(0, n - 0.5, step)).astype(int).clip(0, n - 1) for n in tissue.shape]
tissue = tissue[np.ix_(*index)]
filled = np.argwhere(tissue > 0)
low, high = filled.min(0), filled.max(0) + 1
tissue = tissue[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
flat = np.ascontiguousarray(tissue.transpose(2, 1, 0)).ravel()
out = bytearray(struct.pack("<4s4H4x", b"SSHD", *tissue.shape, round(SPACING_MM * 10)))
start = 0
change = np.flatnonzero(np.diff(flat)) + 1
for end in list(change) + [flat.size]:
    count = end - start
    while count > 0:
        run = min(count, 255)
        out += bytes((int(flat[start]), run))
        count -= run
    start = end
open(sys.argv[2], "wb").write(out)
print(tissue.shape, len(out), "bytes")
