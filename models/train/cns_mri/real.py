"""Read acquired volumes (NIfTI, NRRD, a folder of DICOM) and bring them to the grid, as the appliance does; for evaluation only.

In: files. Out: `Volume`s, and with `to_grid` the normalised network input [2, k, j, i]. No file read here may ever train a model.
"""
import dataclasses
import glob
import os

import numpy as np
from scipy import ndimage

from . import grid as g
from .normalise import FOREGROUND_FRACTION, FOREGROUND_PERCENTILE, MISSING_CHANNEL_VALUE, filled_background, normalise

ANTI_ALIAS_SIGMA_MM = 0.67  # Gaussian along an acquired axis that is finer than the grid (a 2 mm box has sd 0.58 mm)


@dataclasses.dataclass
class Volume:
    data: np.ndarray  # float32, any axis order
    affine: np.ndarray  # voxel index -> LPS mm


def read(path):
    if os.path.isdir(path):
        import pydicom
        slices = [pydicom.dcmread(f) for f in glob.glob(os.path.join(path, "*"))
                  if not os.path.basename(f).startswith(("LICENSE", "README"))]
        first = slices[0]
        row, column = np.array(first.ImageOrientationPatient[:3], float), np.array(first.ImageOrientationPatient[3:], float)
        normal = np.cross(row, column)
        slices.sort(key=lambda s: float(np.dot(normal, s.ImagePositionPatient)))
        data = np.stack([s.pixel_array for s in slices]).astype(np.float32)
        affine = np.eye(4)
        steps = (np.array(slices[-1].ImagePositionPatient, float) - np.array(slices[0].ImagePositionPatient, float)) / (len(slices) - 1)
        affine[:3, 0], affine[:3, 1], affine[:3, 2] = steps, column * first.PixelSpacing[0], row * first.PixelSpacing[1]
        affine[:3, 3] = slices[0].ImagePositionPatient
        return Volume(data, affine)
    if path.endswith(".nrrd"):
        import nrrd
        data, header = nrrd.read(path)
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = np.asarray(header["space directions"], float).T, header["space origin"]
        return Volume(data.astype(np.float32), affine)  # left-posterior-superior
    import nibabel
    image = nibabel.load(path)
    data = np.asanyarray(image.dataobj).astype(np.float32)
    return Volume(data[..., 0] if data.ndim == 4 else data, np.diag([-1.0, -1, 1, 1]) @ image.affine)


def thick(volume, world_axis, slice_mm):
    """The volume as slices of this thickness along the acquired axis nearest to an LPS axis (0 left, 1 posterior, 2 superior)."""
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    axis = int(np.abs(volume.affine[world_axis, :3] / spacing).argmax())
    factor = max(1, int(round(slice_mm / spacing[axis])))
    count = volume.data.shape[axis] // factor
    data = np.moveaxis(volume.data, axis, 0)[:count * factor]
    data = np.moveaxis(data.reshape(count, factor, *data.shape[1:]).mean(1), 0, axis)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, axis] * (factor - 1) / 2
    affine[:3, axis] *= factor
    return Volume(data, affine)


def grid_centre(volume):
    """LPS mm of the grid's centre: the foreground's box in the upper 150 mm, 90 mm below its top."""
    inside = ~filled_background(volume.data)
    values = volume.data[inside]
    low = values.min()
    where = inside & (volume.data - low > FOREGROUND_FRACTION * (np.percentile(values, FOREGROUND_PERCENTILE) - low))
    where = ndimage.binary_opening(where)
    points = np.argwhere(where)[::7] @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    top = np.percentile(points[:, 2], 99.9)
    points = points[points[:, 2] > top - g.UPPER_MM]
    box = np.percentile(points[:, :2], [0.3, 99.7], axis=0).mean(0)
    return np.array([box[0], box[1], top - g.TOP_TO_CENTRE_MM])


def resample(volume, data, centre, order=1, outside=np.nan):
    """Values at the grid points [k, j, i]; `outside` off the acquired field of view."""
    size = np.array(g.SHAPE_KJI)
    to_world = np.zeros((3, 3))  # grid (k, j, i) -> LPS (x, y, z)
    to_world[2, 0] = to_world[1, 1] = to_world[0, 2] = g.SPACING_MM
    inverse = np.linalg.inv(volume.affine[:3, :3])
    matrix = inverse @ to_world
    offset = inverse @ (centre - to_world @ ((size - 1) / 2) - volume.affine[:3, 3])
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    sigma = [ANTI_ALIAS_SIGMA_MM / s if s < g.SPACING_MM / 1.5 else 0 for s in spacing]
    smooth = ndimage.gaussian_filter(data.astype(np.float32), sigma)
    index = [(np.arange(n, dtype=np.float32)) for n in size]
    points = np.stack(np.meshgrid(*index, indexing="ij")).reshape(3, -1)
    at = matrix @ points + offset[:, None]
    values = ndimage.map_coordinates(smooth, at, order=order, mode="nearest")
    off = ((at < -0.5) | (at > np.array(data.shape)[:, None] - 0.5)).any(0)
    values[off] = outside
    return values.reshape(g.SHAPE_KJI)


def channel(volume, centre):
    values = resample(volume, volume.data, centre)
    filled = resample(volume, filled_background(volume.data), centre, outside=1.0)
    background = np.isnan(values) | (filled > 0.5)
    return normalise(np.nan_to_num(values), background)


def to_grid(t1, flair=None):
    """(network input [2, k, j, i], grid centre in LPS mm)."""
    centre = grid_centre(t1)
    missing = np.full(g.SHAPE_KJI, MISSING_CHANNEL_VALUE, np.float32)
    return np.stack([channel(t1, centre), missing if flair is None else channel(flair, centre)]), centre


def cases(data):
    """The visible real cases under DATA: (name, T1 volume or None, FLAIR or None, label volume or None, kind).
    kind: tumour, quiet (no enhancing tumour known), no-brain."""
    brain = os.path.join(data, "brain")
    for n in (1, 2, 4, 5):
        d = os.path.join(brain, "brats2013", f"brats_2013_pat000{n}_1")
        label = read(os.path.join(d, "OTMultiClass.nii.gz"))
        label.data = (label.data == 4).astype(np.float32)
        yield (f"brats{n}", read(os.path.join(d, "T1c_subtrMeanDivStd.nii.gz")),
               read(os.path.join(d, "Flair_subtrMeanDivStd.nii.gz")), label, "tumour")
    d = os.path.join(brain, "pyradiomics_brain1")
    label = read(os.path.join(d, "brain1_label.nrrd"))
    label.data = (label.data > 0).astype(np.float32)
    yield "brain1", read(os.path.join(d, "brain1_image.nrrd")), None, label, "tumour"
    for n in ("01", "12"):
        d = os.path.join(brain, "ms_native", "patient" + n)
        yield f"ms{n}", read(os.path.join(d, "study1_T1W.nii.gz")), read(os.path.join(d, "study1_FLAIR.nii.gz")), None, "quiet"
    flair = read(os.path.join(brain, "py_synthsr", "FLAIR.nii.gz"))
    yield "synthsr-flair-as-t1", flair, flair, None, "quiet"  # the wrong contrast on purpose: it has no T1
    d = os.path.join(brain, "failed_skull_strip")
    yield "failed-strip", read(os.path.join(d, "t1c.nii.gz")), read(os.path.join(d, "t2f.nii.gz")), None, "no-brain"
    yield "philips-t1", read(os.path.join(data, "dicom", "philips_mprage")), None, None, "quiet"
