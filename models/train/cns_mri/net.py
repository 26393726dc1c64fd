"""The float network: a plain 3D U-Net that becomes integers without surprises (facts/inference.md).

In: [n, 2, k, j, i] normalised T1 post-contrast and FLAIR. Out: [n, 6, k, j, i] logits: enhancing lesion, any abnormality, brain,
the right half of the brain, lateral ventricles, structures that normally enhance.
Only 3x3x3 and 1x1x1 convolutions, each with batch norm and ReLU, stride-2 convolutions down, nearest up-sampling, concatenated skips.
"""
import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = (8, 16, 32, 64)
OUTPUTS = ("enhancing_lesion", "abnormality", "brain", "right_hemisphere", "ventricle", "normal_enhancement")


def block(inputs, outputs, size=3, stride=1):
    return nn.Sequential(nn.Conv3d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True))


class Net(nn.Module):
    def __init__(self, widths=WIDTHS):
        super().__init__()
        a, b, c, d = widths
        self.enc0 = nn.Sequential(block(2, a), block(a, a))
        self.enc1 = nn.Sequential(block(a, b, stride=2), block(b, b))
        self.enc2 = nn.Sequential(block(b, c, stride=2), block(c, c))
        self.enc3 = nn.Sequential(block(c, d, stride=2), block(d, d), block(d, d))
        self.up2, self.dec2 = block(d, c, 1), nn.Sequential(block(2 * c, c), block(c, c))
        self.up1, self.dec1 = block(c, b, 1), nn.Sequential(block(2 * b, b), block(b, b))
        self.up0, self.dec0 = block(b, a, 1), nn.Sequential(block(2 * a, a))
        self.out = nn.Conv3d(a, len(OUTPUTS), 1)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([-4.0, -3.0, -1.0, 0.0, -3.0, -3.0]))

    def forward(self, x):
        s0 = self.enc0(x)
        s1 = self.enc1(s0)
        s2 = self.enc2(s1)
        y = self.enc3(s2)
        y = self.dec2(torch.cat([F.interpolate(self.up2(y), scale_factor=2.0), s2], 1))
        y = self.dec1(torch.cat([F.interpolate(self.up1(y), scale_factor=2.0), s1], 1))
        y = self.dec0(torch.cat([F.interpolate(self.up0(y), scale_factor=2.0), s0], 1))
        return self.out(y)
