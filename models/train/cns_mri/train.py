"""Train the float network on the generated heads: one process, seeded by step, resumable.

    python -m cns_mri.train --steps 6000 [--work DIR] [--name run] [--start ../cns-mri/model.onnx] [--threads 1]

In: WORK/train (re-read while it grows, so training may start before generation is done). Out: WORK/NAME.pt (network, moving average,
optimiser, step, CPU seconds), replaced atomically every few minutes; calling it again resumes. WORK/NAME.ema_STEP.pt are keepsakes.
Step n draws its patches from seed n: with a full cache two runs see the same data.
With --start a run that has no checkpoint yet begins from the weights of an integer network written by quantise.py, at half the learning
rate and without the part that shows large lesions alone: so a later version continues from the committed one. The checkpoint keeps what it
started from (SHA-256), so resuming needs no --start. The same weights again need the same --threads.
Fails loudly (exit 1) when the lesion output collapses to "nothing".
"""
import argparse
import copy
import glob
import hashlib
import os
import sys
import time

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional as F

from . import grid as g
from .net import Net
from .normalise import BACKGROUND_VALUE, CLIP_Z, MISSING_CHANNEL_VALUE

PATCH = 48  # voxels: 144 mm
BATCH = 2
LEARNING_RATE, WARM_UP, EMA = 1.2e-3, 60, 0.995
LARGE_VOXELS = 40  # the first part of the run shows lesions of at least 1 ml
HEAD_WEIGHTS = (1.0, 0.3, 0.3)


class Cache:
    """The generated samples, mapped from disk: which have lesions, and where."""

    def __init__(self, folder):
        self.folder, self.seen, self.lesion, self.quiet = folder, set(), [], []
        self.refresh()

    def refresh(self):
        for path in sorted(glob.glob(os.path.join(self.folder, "*_y.npy"))):
            if path not in self.seen:
                self.seen.add(path)
                y = np.load(path)
                where = np.flatnonzero(y & 1)
                item = (np.load(path.replace("_y", "_x"), mmap_mode="r"), y, where)
                (self.lesion if where.size > 1 else self.quiet).append(item)
        self.large = [s for s in self.lesion if s[2].size >= LARGE_VOXELS]


def patch(rng, cache, fraction):
    """One augmented patch: (image [2, p, p, p], targets [3, p, p, p], weights)."""
    if rng.random() < 0.55:
        pool = cache.large if fraction < 0.4 and rng.random() < 0.85 else cache.lesion
        image, bits, where = pool[rng.integers(len(pool))]
        aim = where if rng.random() < 0.85 else None
    else:
        image, bits, _ = cache.quiet[rng.integers(len(cache.quiet))]
        other = np.flatnonzero(bits & 2) if rng.random() < 0.35 else np.zeros(0, int)
        aim = other if other.size else None  # look at what never enhances
    shape = np.array(bits.shape)
    if aim is not None:
        centre = np.array(np.unravel_index(aim[rng.integers(aim.size)], bits.shape)) + rng.integers(-PATCH // 3, PATCH // 3 + 1, 3)
    else:
        centre = shape // 2 + (rng.uniform(-0.5, 0.5, 3) * (shape - PATCH * 0.6)).astype(int)
    low = np.clip(centre - PATCH // 2, 0, shape - PATCH)
    box = tuple(slice(a, a + PATCH) for a in low)
    x, bits = np.asarray(image[(slice(None), *box)], np.float32), bits[box]
    if rng.random() < 0.5:
        x, bits = x[..., ::-1], bits[..., ::-1]
    background = x == BACKGROUND_VALUE
    x = x * rng.uniform(0.8, 1.25, (2, 1, 1, 1)).astype(np.float32) + rng.uniform(-0.25, 0.25, (2, 1, 1, 1)).astype(np.float32)
    if rng.random() < 0.3:
        x = x + rng.standard_normal(x.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.2))
    x = np.where(background, BACKGROUND_VALUE, np.clip(x, *CLIP_Z)).astype(np.float32)
    alone = rng.random() < 0.5
    if alone:
        x[1] = MISSING_CHANNEL_VALUE
    y = np.stack([bits & 1, (bits >> 1) & 1, (bits >> 2) & 1]).astype(np.float32)
    # Outside the brain an error costs less (detections are masked there); without FLAIR the abnormality is half guessed.
    near = F.max_pool3d(torch.from_numpy(y[2:3]), 5, 1, 2)[0].numpy()
    w = np.ones_like(y)
    w[0] = np.where(near > 0, 1.0, 0.3)
    w[1] *= 0.3 if alone else 1.0
    return np.ascontiguousarray(x), y, w


def loss_of(logits, y, w):
    """Weighted cross entropy plus soft Dice over the batch, per output."""
    positive = torch.tensor([6.0, 2.0, 1.0]).view(1, 3, 1, 1, 1)
    bce = (F.binary_cross_entropy_with_logits(logits, y, pos_weight=positive, reduction="none") * w).mean((0, 2, 3, 4))
    p = torch.sigmoid(logits)
    overlap = (p * y * w).sum((0, 2, 3, 4))
    dice = 1 - (2 * overlap + 4) / ((p * w).sum((0, 2, 3, 4)) + (y * w).sum((0, 2, 3, 4)) + 4)
    return ((5 * bce + dice) * torch.tensor(HEAD_WEIGHTS)).sum(), dice.detach()


def start_from(net, path, images):
    """Puts the weights of an integer network into `net`. Its batch norms are folded away, so each is set anew to the mean and variance
    that its convolution shows on `images` [n, 2, p, p, p]: the function is the same, and training can go on."""
    model = onnx.load(path)
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    found = [n for n in model.graph.node if n.op_type == "QLinearConv"]
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv3d)]
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    if len(found) != len(convs):
        sys.exit(f"{path} has {len(found)} convolutions and the network {len(convs)}: it is of another shape")
    by_name = {}
    for node in found:
        i = [constants.get(n) for n in node.input]
        by_name[node.output[0]] = (i[3].astype(np.float32) * i[4], i[8].astype(np.float32) * (i[1] * i[4]))
    for name, part in net.named_children():
        blocks = [part] if isinstance(part, torch.nn.Conv3d) or isinstance(part[0], torch.nn.Conv3d) else list(part)
        for n, block in enumerate(blocks):
            conv = block if isinstance(block, torch.nn.Conv3d) else block[0]
            weight, bias = by_name[{"out": "y"}.get(name, name if name.startswith("up") else f"{name}_{n}")]
            conv.weight.data.copy_(torch.from_numpy(weight))
            if conv.bias is not None:
                conv.bias.data.copy_(torch.from_numpy(bias))
            else:
                block[1].weight.data.fill_(float(np.sqrt(1 + block[1].eps)))
                block[1].bias.data.copy_(torch.from_numpy(bias))
    seen = {}
    hooks = [m.register_forward_hook(lambda m, i, o: seen.__setitem__(m, (i[0].mean((0, 2, 3, 4)), i[0].var((0, 2, 3, 4))))) for m in norms]
    with torch.no_grad():
        net.eval()(images)
    for hook in hooks:
        hook.remove()
    for norm, (mean, variance) in seen.items():
        variance = variance.clamp_min(1e-4)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.data.copy_(torch.sqrt(variance + norm.eps))
        norm.bias.data.add_(mean)


def save(path, state):
    torch.save(state, path + ".part")
    os.replace(path + ".part", path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, required=True)
    p.add_argument("--work")
    p.add_argument("--name", default="run")
    p.add_argument("--start")
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    work = g.work_folder(args.work)
    path = os.path.join(work, args.name + ".pt")
    torch.manual_seed(0)
    net = Net().to(memory_format=torch.channels_last_3d)
    cache = Cache(os.path.join(work, "train"))
    started = None
    if args.start and not os.path.exists(path):
        with open(args.start, "rb") as f:
            started = hashlib.sha256(f.read()).hexdigest()
        rng = np.random.default_rng([7, 1 << 30])
        images = torch.from_numpy(np.stack([patch(rng, cache, 1.0)[0] for _ in range(16)]))
        start_from(net, args.start, images.to(memory_format=torch.channels_last_3d))
    average = copy.deepcopy(net).eval()
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    step, cpu_before = 0, 0.0
    if os.path.exists(path):
        state = torch.load(path, weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["ema"])
        optimiser.load_state_dict(state["optimiser"])
        step, cpu_before, started = state["step"], state["cpu_s"], state["start"]
        print("resumed at step", step, flush=True)
    peak = LEARNING_RATE * (0.5 if started else 1)
    history, awake, saved, t0 = [], [], time.time(), time.time()

    def checkpoint():
        save(path, {"net": net.state_dict(), "ema": average.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "start": started,
                    "cpu_s": cpu_before + time.process_time()})

    while step < args.steps:
        fraction = step / args.steps
        rate = float(peak * min(1, (step + 1) / WARM_UP) * (0.49 * (1 + np.cos(np.pi * fraction)) + 0.02))
        for group in optimiser.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng([7, step])
        x, y, w = (torch.from_numpy(np.stack(a)) for a in zip(*[patch(rng, cache, 1.0 if started else fraction) for _ in range(BATCH)]))
        net.train()
        logits = net(x.to(memory_format=torch.channels_last_3d))
        loss, dice = loss_of(logits, y, w)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        step += 1
        keep = min(EMA, step / (step + 10))
        with torch.no_grad():
            for e, v in zip(average.state_dict().values(), net.state_dict().values()):
                e.mul_(keep).add_(v, alpha=1 - keep) if e.dtype.is_floating_point else e.copy_(v)
        history.append([loss.item(), *dice.tolist()])
        awake += [float((torch.sigmoid(l[0]) > 0.5).any()) for l, t in zip(logits.detach(), y) if t[0].any()]
        if step % 50 == 0:
            cache.refresh()
            h = np.mean(history[-100:], 0)
            found = np.mean(awake[-100:])
            print(f"{step} wall {time.time() - t0:.0f} cpu {cpu_before + time.process_time():.0f} lr {rate:.5f} loss {h[0]:.3f} "
                  f"dice loss {h[1]:.3f} {h[2]:.3f} {h[3]:.3f} awake {found:.2f} samples {len(cache.lesion)}+{len(cache.quiet)}", flush=True)
            if step >= 500 and found < 0.3:
                checkpoint()
                sys.exit("collapsed: the lesion output is silent on %.0f %% of lesion patches" % (100 * (1 - found)))
        if time.time() - saved > 150:
            saved = time.time()
            checkpoint()
        if step % 1000 == 0:
            save(path.replace(".pt", f".ema_{step}.pt"), average.state_dict())
    checkpoint()


if __name__ == "__main__":
    main()
