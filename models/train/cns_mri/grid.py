"""The grid that every volume is brought to, and the names of the anatomical classes.

Arrays are indexed [k, j, i] with k towards superior, j towards posterior, i towards left (DICOM LPS), 2 mm isotropic.
"""
import os

import numpy as np

SPACING_MM = 2.0
SHAPE_KJI = (96, 120, 96)
VOXEL_ML = SPACING_MM**3 / 1000.0
TOP_TO_CENTRE_MM = 90.0  # the grid's centre lies this far below the highest foreground voxel
UPPER_MM = 150.0  # the in-plane centre is that of the foreground's box in this upper part

# Anatomical classes after merging left and right; the numbers index the intensity tables of generate.py.
WM, CORTEX, VENTRICLE, CSF, CBL_WM, CBL_CORTEX, THALAMUS, CAUDATE = 1, 2, 3, 4, 5, 6, 7, 8
PUTAMEN, PALLIDUM, HIPPOCAMPUS, BRAINSTEM, ACCUMBENS, VENTRAL_DC, CHOROID, CORD = 9, 10, 11, 12, 13, 14, 15, 16
ARTERY, VEIN, EYE, SOFT, EYE_MUSCLE, MUCOSA, SKIN, BONE, MARROW, OPTIC_NERVE = 20, 21, 22, 23, 24, 25, 26, 27, 28, 29
CLASSES = 30
# Flags beside the class in a label map: the class is `label & CLASS_MASK`.
CLASS_MASK, LATERAL, RIGHT = 31, 64, 128  # lateral ventricle; the patient's right half

# Bits of a sample's truth.
ENHANCING, ABNORMAL, BRAIN, POST, RIGHT_HALF, VENTRICLES, NORMAL_ENHANCEMENT = 1, 2, 4, 8, 16, 32, 64

# What the appliance may assess; anything else is indeterminate. Goes into the manifest as [domain].
DOMAIN = {
    "brain_ml_min": 800.0, "brain_ml_max": 2200.0, "brain_mean_height_mm_min": 48.0, "slice_spacing_mm_max": 7.0, "body_part": "brain",
    "source": "true masks of 230 whole synthetic heads: brain 868-1931 ml (median 1318), mean height (ml / area of the brain's box "
              "from above) 47.0 mm at least, 48.5 mm at 1 %; limits set around that range; slice spacing from the training range "
              "(slices 2.5-7 mm)"}


def steps(mm):
    """How many voxels come nearest to this length; at least one."""
    return max(1, round(mm / SPACING_MM))


def voxels(*mm):
    """A length along k, j, i in voxels."""
    return np.array(mm) / SPACING_MM


def work_folder(option=None):
    """The scratch folder: the option, else $CNS_MRI_WORK, else models/train/work (ignored by git)."""
    default = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "work")
    path = option or os.environ.get("CNS_MRI_WORK") or default
    os.makedirs(path, exist_ok=True)
    return path
