"""Train the float network on the generated heads: seeded by step, resumable, on one or more processes or on a GPU.

    python -m cns_mri.train --steps 6000 [--work DIR] [--name run] [--start ../cns-mri/model.onnx] [--processes 2]

In: WORK/train (re-read while it grows, so training may start before generation is done). Out: WORK/NAME.pt (network, moving average,
optimiser, step, CPU seconds), replaced atomically every few minutes; calling it again resumes. WORK/NAME.ema_STEP.pt are keepsakes.
Process r of step n draws its patches from seed (n, r): with a full cache two runs see the same data. The processes exchange gradients each
step (gloo over loopback), so that all hold the same network; with CUDA there is one process with a larger batch.
With --start a run that has no checkpoint yet begins from the weights of an integer network written by quantise.py, at half the learning
rate and without the part that shows large lesions alone: so a later version continues from the committed one. The checkpoint keeps what it
started from (SHA-256), so resuming needs no --start. The same weights again need the same --processes.
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
from scipy import ndimage
from torch.nn import functional as F

from . import grid as g
from .net import Net
from .normalise import BACKGROUND_VALUE, CLIP_Z, MISSING_CHANNEL_VALUE

PATCHES = ((48, 48, 48), (24, 48, 96))  # voxels: a cube of 96 mm; a slab from ear to ear, which shows what is right and left
WIDE_SHARE = 0.4  # of the steps
BATCH, CUDA_BATCH = 2, 32  # patches a process and step
LEARNING_RATE, WARM_UP, EMA = 1.2e-3, 60, 0.995
LARGE_VOXELS = 125  # the first part of the run shows lesions of at least 1 ml
SIZE_ML, SIZE_WEIGHTS = 2.0, (1.0, 3.0)
CORNERS = np.ones((3, 3, 3))
HEAD_WEIGHTS = (1.0, 0.25, 0.25, 0.3, 0.15, 0.15)
POSITIVE_WEIGHTS = (6.0, 2.0, 1.0, 1.0, 2.0, 2.0)


def lesions(bits):
    """The flat indices of each lesion of at least two voxels."""
    parts, count = ndimage.label(bits & g.ENHANCING, CORNERS)
    flat = np.flatnonzero(parts)
    owner = parts.ravel()[flat]
    return [flat[owner == n] for n in range(1, count + 1) if (owner == n).sum() > 1]


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
                where = lesions(y)
                item = (np.load(path.replace("_y", "_x"), mmap_mode="r"), y, where)
                (self.lesion if where else self.quiet).append(item)
        self.large = [s for s in self.lesion if sum(map(len, s[2])) >= LARGE_VOXELS]


def patch(rng, cache, fraction, size=PATCHES[0]):
    """One augmented patch: (image [2, *size], targets [6, *size], weights)."""
    if rng.random() < 0.55:
        pool = cache.large if fraction < 0.4 and rng.random() < 0.85 else cache.lesion
        image, bits, where = pool[rng.integers(len(pool))]
        aim = where[rng.integers(len(where))] if rng.random() < 0.85 else None  # each lesion as often as another, whatever its size
    else:
        image, bits, _ = cache.quiet[rng.integers(len(cache.quiet))]
        look = rng.random()  # at what never enhances, at what enhances and is no lesion, or anywhere
        other = np.flatnonzero(bits & (g.ABNORMAL if look < 0.35 else g.NORMAL_ENHANCEMENT)) if look < 0.65 else np.zeros(0, int)
        aim = other if other.size else None
    shape, size = np.array(bits.shape), np.array(size)
    if aim is not None:
        centre = np.array(np.unravel_index(aim[rng.integers(aim.size)], bits.shape)) + rng.integers(-size // 3, size // 3 + 1)
    else:
        centre = shape // 2 + (rng.uniform(-0.5, 0.5, 3) * (shape - size * 0.6)).astype(int)
    low = np.clip(centre - size // 2, 0, shape - size)
    box = tuple(slice(a, a + s) for a, s in zip(low, size))
    x, bits = np.asarray(image[(slice(None), *box)], np.float32), bits[box]
    half = bits & g.RIGHT_HALF
    if rng.random() < 0.5:
        x, bits = x[..., ::-1], bits[..., ::-1]
        half = (bits & g.BRAIN > 0) & (bits & g.RIGHT_HALF == 0)  # right becomes left
    background = x == BACKGROUND_VALUE
    x = x * rng.uniform(0.8, 1.25, (2, 1, 1, 1)).astype(np.float32) + rng.uniform(-0.25, 0.25, (2, 1, 1, 1)).astype(np.float32)
    if rng.random() < 0.3:
        x = x + rng.standard_normal(x.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.2))
    x = np.where(background, BACKGROUND_VALUE, np.clip(x, *CLIP_Z)).astype(np.float32)
    alone = rng.random() < 0.5
    if alone:
        x[1] = MISSING_CHANNEL_VALUE
    y = np.stack([bits & g.ENHANCING, bits & g.ABNORMAL, bits & g.BRAIN, half, bits & g.VENTRICLES, bits & g.NORMAL_ENHANCEMENT])
    y = (y > 0).astype(np.float32)
    # Outside the brain an error costs less (detections are masked there); without FLAIR the abnormality is half guessed.
    near = F.max_pool3d(torch.from_numpy(y[2:3]), 5, 1, 2)[0].numpy()
    w = np.ones_like(y)
    w[0] = np.where(near > 0, 1.0, 0.3)
    w[0] *= size_weight(y[0] > 0)
    w[1] *= 0.3 if alone else 1.0
    w[3] = y[2]  # outside the brain there is no half
    return np.ascontiguousarray(x), y, w


def size_weight(lesion):
    """Per voxel: small lesions weigh more, so that a lesion counts rather than its volume."""
    parts, _ = ndimage.label(lesion, CORNERS)
    size = np.bincount(parts.ravel()) * g.VOXEL_ML
    weight = np.clip((SIZE_ML / np.maximum(size, 1e-3)) ** (1 / 3), *SIZE_WEIGHTS)
    weight[0] = 1
    return weight[parts].astype(np.float32)


def loss_of(logits, y, w):
    """Weighted cross entropy plus soft Dice over the batch, per output."""
    positive = torch.tensor(POSITIVE_WEIGHTS, device=y.device).view(1, -1, 1, 1, 1)
    bce = (F.binary_cross_entropy_with_logits(logits, y, pos_weight=positive, reduction="none") * w).mean((0, 2, 3, 4))
    p = torch.sigmoid(logits)
    overlap = (p * y * w).sum((0, 2, 3, 4))
    dice = 1 - (2 * overlap + 4) / ((p * w).sum((0, 2, 3, 4)) + (y * w).sum((0, 2, 3, 4)) + 4)
    return ((5 * bce + dice) * torch.tensor(HEAD_WEIGHTS, device=y.device)).sum(), dice.detach()


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
            conv.weight.data[:len(weight)] = torch.from_numpy(weight)  # the last one may have got further outputs
            if conv.bias is not None:
                conv.bias.data[:len(bias)] = torch.from_numpy(bias)
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


def share_out(net, numbers, processes):
    """Gradients, batch-norm statistics and `numbers` become their means over the processes."""
    if processes == 1:
        return numbers
    parts = [p.grad for p in net.parameters()] + [b for b in net.buffers() if b.dtype.is_floating_point] + [numbers]
    flat = torch.cat([p.reshape(-1) for p in parts])
    torch.distributed.all_reduce(flat)
    flat /= processes
    at = 0
    for part in parts:
        part.copy_(flat[at:at + part.numel()].view_as(part))
        at += part.numel()
    return numbers


def run(rank, args):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    if args.processes > 1:
        torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{args.port}", rank=rank, world_size=args.processes)
    work = g.work_folder(args.work)
    path = os.path.join(work, args.name + ".pt")
    batch = CUDA_BATCH if device == "cuda" else BATCH
    torch.manual_seed(0)
    net = Net().to(device, memory_format=torch.channels_last_3d)
    cache = Cache(os.path.join(work, "train"))
    started = None
    if args.start and not os.path.exists(path):
        with open(args.start, "rb") as f:
            started = hashlib.sha256(f.read()).hexdigest()
        rng = np.random.default_rng([7, 1 << 30])
        images = torch.from_numpy(np.stack([patch(rng, cache, 1.0)[0] for _ in range(16)]))
        start_from(net, args.start, images.to(device, memory_format=torch.channels_last_3d))
    average = copy.deepcopy(net).eval()
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    step, cpu_before = 0, 0.0
    if os.path.exists(path):
        state = torch.load(path, weights_only=True, map_location=device)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["ema"])
        optimiser.load_state_dict(state["optimiser"])
        step, cpu_before, started = state["step"], state["cpu_s"], state["start"]
        if rank == 0:
            print("resumed at step", step, flush=True)
    peak = LEARNING_RATE * (0.8 if started else 1)
    history, saved, t0 = [], time.time(), time.time()

    def checkpoint():
        if rank == 0:
            save(path, {"net": net.state_dict(), "ema": average.state_dict(), "optimiser": optimiser.state_dict(), "step": step,
                        "start": started, "patches_per_step": batch * args.processes,
                        "cpu_s": cpu_before + args.processes * time.process_time()})

    while step < args.steps:
        fraction = step / args.steps
        rate = float(peak * min(1, (step + 1) / WARM_UP) * (0.49 * (1 + np.cos(np.pi * fraction)) + 0.02))
        for group in optimiser.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng([7, step, rank])
        size = PATCHES[int(np.random.default_rng([7, step]).random() < WIDE_SHARE)]  # the same in all processes
        patches = [patch(rng, cache, 1.0 if started else fraction, size) for _ in range(batch)]
        x, y, w = (torch.from_numpy(np.stack(a)).to(device) for a in zip(*patches))
        net.train()
        logits = net(x.to(memory_format=torch.channels_last_3d))
        loss, dice = loss_of(logits, y, w)
        optimiser.zero_grad()
        loss.backward()
        seen = [float((torch.sigmoid(l[0]) > 0.5).any()) for l, t in zip(logits.detach(), y) if t[0].any()]
        numbers = torch.tensor([loss.item(), *dice.tolist(), float(np.mean(seen)) if seen else 1.0])
        with torch.no_grad():
            numbers = share_out(net, numbers, args.processes)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        step += 1
        keep = min(EMA, step / (step + 10))
        with torch.no_grad():
            for e, v in zip(average.state_dict().values(), net.state_dict().values()):
                e.mul_(keep).add_(v, alpha=1 - keep) if e.dtype.is_floating_point else e.copy_(v)
        history.append(numbers.tolist())
        if step % 50 == 0:
            cache.refresh()
            h = np.mean(history[-100:], 0)
            if rank == 0:
                print(f"{step} wall {time.time() - t0:.0f} cpu {cpu_before + args.processes * time.process_time():.0f} lr {rate:.5f} loss {h[0]:.3f} "
                      f"dice loss {' '.join('%.3f' % v for v in h[1:-1])} awake {h[-1]:.2f} samples {len(cache.lesion)}+{len(cache.quiet)}", flush=True)
            if step >= 500 and h[-1] < 0.3:
                checkpoint()
                sys.exit("collapsed: the lesion output is silent on %.0f %% of lesion patches" % (100 * (1 - h[-1])))
        if time.time() - saved > 150:
            saved = time.time()
            checkpoint()
        if step % 1000 == 0 and rank == 0:
            save(path.replace(".pt", f".ema_{step}.pt"), average.state_dict())
    checkpoint()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, required=True)
    p.add_argument("--work")
    p.add_argument("--name", default="run")
    p.add_argument("--start")
    p.add_argument("--processes", type=int, default=1)
    p.add_argument("--port", type=int, default=29655)
    args = p.parse_args()
    if args.processes == 1 or torch.cuda.is_available():
        args.processes = 1
        run(0, args)
    else:
        torch.multiprocessing.spawn(run, (args,), nprocs=args.processes)


if __name__ == "__main__":
    main()
