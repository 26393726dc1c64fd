"""Merge the SynthSeg training label maps into the classes of grid.py, in LPS [k, j, i] order at 1 mm.

    python -m cns_mri.labels --anatomy ANATOMY/synthseg [--work DIR]

In: training_seg_NN.nii.gz (1 mm, FreeSurfer labels plus the extra-cerebral ones of the SimNIBS head atlas: 502 artery, 506 eye,
507 other soft tissue, 508 eye muscle, 509 mucosa, 511 skin, 512 cord, 514 vein, 515/516 cortical and cancellous bone, 530 optic
nerve; the names were checked by eye: 514 lies along the sagittal, straight and transverse sinuses).
Out: WORK/labels/NN.npz with `labels` (uint8: class, and the flags of grid.py for side and lateral ventricle) and the centres `head` and `brain` (k, j, i in voxels) that the grid is placed on.
"""
import argparse
import glob
import os

import nibabel
import numpy as np
from scipy import ndimage

from . import grid as g

MERGE = {
    g.WM: [2, 41, 25, 57], g.CORTEX: [3, 42], g.VENTRICLE: [4, 5, 14, 15, 43, 44, 72], g.CSF: [24],
    g.CBL_WM: [7, 46], g.CBL_CORTEX: [8, 47], g.THALAMUS: [10, 49], g.CAUDATE: [11, 50], g.PUTAMEN: [12, 51],
    g.PALLIDUM: [13, 52], g.HIPPOCAMPUS: [17, 18, 53, 54], g.BRAINSTEM: [16], g.ACCUMBENS: [26, 58],
    g.VENTRAL_DC: [28, 60, 85], g.CHOROID: [136, 137, 163, 164], g.CORD: [512], g.ARTERY: [502, 30, 62], g.VEIN: [514],
    g.EYE: [506], g.SOFT: [507], g.EYE_MUSCLE: [508], g.MUCOSA: [509], g.SKIN: [511], g.BONE: [515], g.MARROW: [516],
    g.OPTIC_NERVE: [530],
}
LATERAL = [4, 5, 43, 44, 136, 137, 163, 164]
LEFT = [2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28]
RIGHT = [41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60]


def grid_centre(mask):
    """Where the appliance would centre its grid on this foreground (1 mm voxels): see grid.py."""
    top = int(np.flatnonzero(mask.any((1, 2))).max())
    upper = mask[max(0, top - int(g.UPPER_MM)):top + 1]
    j, i = np.flatnonzero(upper.any((0, 2))), np.flatnonzero(upper.any((0, 1)))
    return np.array([top - g.TOP_TO_CENTRE_MM, (j[0] + j[-1]) / 2, (i[0] + i[-1]) / 2])


def merge(path):
    image = nibabel.as_closest_canonical(nibabel.load(path))
    table = np.zeros(600, np.uint8)
    for merged, originals in MERGE.items():
        table[originals] = merged
    original = np.ascontiguousarray(np.asarray(image.dataobj).astype(int)[::-1, ::-1].transpose(2, 1, 0))  # RAS xyz -> LPS kji
    labels = table[original]
    parts, _ = ndimage.label(labels > 0)  # specks outside the head
    labels[parts != np.bincount(parts.ravel())[1:].argmax() + 1] = 0
    brain = (labels > 0) & (labels < g.CORD) & (labels != g.CSF)
    head, centre = grid_centre(labels > 0), grid_centre(brain)
    side = np.isin(original, LEFT).astype(np.uint8) + 2 * np.isin(original, RIGHT).astype(np.uint8)
    near = ndimage.distance_transform_edt(side == 0, return_distances=False, return_indices=True)
    labels |= np.where(side[tuple(near)] == 2, g.RIGHT, 0).astype(np.uint8)  # what has no side takes that of its neighbour
    labels |= np.where(np.isin(original, LATERAL), g.LATERAL, 0).astype(np.uint8)
    return labels, head, centre


def load(work, first, last):
    """The merged maps with numbers first..last, in order."""
    maps = []
    for number in range(first, last + 1):
        with np.load(os.path.join(work, "labels", f"{number:02d}.npz")) as z:
            maps.append({"labels": z["labels"], "head": z["head"], "brain": z["brain"]})
    return maps


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--anatomy", required=True, help="folder with training_seg_NN.nii.gz")
    p.add_argument("--work")
    args = p.parse_args()
    out = os.path.join(g.work_folder(args.work), "labels")
    os.makedirs(out, exist_ok=True)
    for path in sorted(glob.glob(os.path.join(args.anatomy, "training_seg_*.nii.gz"))):
        number = os.path.basename(path)[len("training_seg_"):][:2]
        labels, head, brain = merge(path)
        np.savez_compressed(os.path.join(out, f"{number}.npz"), labels=labels, head=head, brain=brain)
        print(number, labels.shape, "right half %.3f" % (labels[(labels & g.CLASS_MASK) == g.WM] >= g.RIGHT).mean(), "head", head, "brain", brain, flush=True)


if __name__ == "__main__":
    main()
