"""StyleGAN2 written out in numpy, sample by sample and in float64: the formulas, and nothing clever.

Tensors are a state dict as numpy arrays; pictures are [C, H, W].
"""

from __future__ import annotations

import numpy as np

EPS = 1e-8


def convolve(x, w):
    """Cross-correlation of `x` [I, H, W] with `w` [O, I, k, k], zeros around, same size."""
    k = w.shape[-1]
    height, width = x.shape[1:]
    padded = np.pad(x, ((0, 0), (k // 2,) * 2, (k // 2,) * 2))
    out = np.zeros((len(w), height, width))
    for row in range(height):
        for column in range(width):
            out[:, row, column] = (w * padded[None, :, row : row + k, column : column + k]).sum((1, 2, 3))
    return out


def zeros_between(x):
    """[C, H, W] -> [C, 2 H, 2 W], every pixel followed by a zero."""
    out = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2]))
    out[:, ::2, ::2] = x
    return out


def filtered(x, before, after, gain):
    """`x` with zeros `before` and `after` each side, under the filter [1, 3, 3, 1] in both directions."""
    taps = np.array([1.0, 3, 3, 1]) / 8
    padded = np.pad(x, ((0, 0), (before, after), (before, after)))
    height, width = padded.shape[1] - 3, padded.shape[2] - 3
    out = np.zeros((len(x), height, width))
    for row in range(height):
        for column in range(width):
            window = padded[:, row : row + 4, column : column + 4]
            out[:, row, column] = gain * np.einsum("cij,i,j->c", window, taps, taps)
    return out


def scattered(x, w):
    """Every pixel of `x` [I, H, W] puts its copy of the kernel `w` [O, I, 3, 3] at twice its place: [O, 2H+1, 2W+1]."""
    height, width = x.shape[1:]
    out = np.zeros((len(w), 2 * height + 1, 2 * width + 1))
    for row in range(height):
        for column in range(width):
            out[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += np.einsum("oikl,i->okl", w, x[:, row, column])
    return out


def linear(t, name, x, lr_mult=1.0):
    weight = t[f"{name}.weight"]
    return weight @ x * lr_mult / np.sqrt(weight.shape[1]) + t[f"{name}.bias"] * lr_mult


def lrelu(x):
    return np.where(x > 0, x, 0.2 * x) * np.sqrt(2)


def clamped(x, clamp):
    return x if clamp is None else np.clip(x, -clamp, clamp)


def modulated(t, name, x, w, demodulate=True, upsample=False):
    weight = t[f"{name}.weight"][0] * linear(t, f"{name}.modulation", w)[None, :, None, None]
    if demodulate:
        weight = weight / np.sqrt((weight**2).sum((1, 2, 3), keepdims=True) + EPS)
    else:
        weight = weight / np.sqrt(weight[0].size)
    return filtered(scattered(x, weight), 1, 1, 4) if upsample else convolve(x, weight)


def styled(t, name, x, w, noise, upsample=False, clamp=None):
    y = modulated(t, f"{name}.conv", x, w, upsample=upsample)
    y = y + t[f"{name}.noise.weight"] * noise
    return clamped(lrelu(y + t[f"{name}.activate.bias"][:, None, None]), clamp)


def to_rgb(t, name, x, w, picture=None, clamp=None):
    y = clamped(modulated(t, f"{name}.conv", x, w, demodulate=False) + t[f"{name}.bias"][0], clamp)
    return y if picture is None else y + filtered(zeros_between(picture), 2, 1, 4)


def mapping(t, z, n_mlp, lr_mlp=0.01):
    x = z / np.sqrt((z**2).mean() + EPS)
    for i in range(n_mlp):
        x = lrelu(linear(t, f"style.{i + 1}", x, lr_mlp))
    return x


def synthesis(t, w, noise, clamp=None):
    """One picture of w+ [latents, dim]; noise per layer, [H, W] or 0."""
    x = styled(t, "conv1", t["input.input"][0], w[0], noise[0], clamp=clamp)
    picture = to_rgb(t, "to_rgb1", x, w[1], clamp=clamp)
    for i in range((len(w) - 2) // 2):
        x = styled(t, f"convs.{2 * i}", x, w[2 * i + 1], noise[2 * i + 1], upsample=True, clamp=clamp)
        x = styled(t, f"convs.{2 * i + 1}", x, w[2 * i + 2], noise[2 * i + 2], clamp=clamp)
        picture = to_rgb(t, f"to_rgbs.{i}", x, w[2 * i + 3], picture, clamp)
    return picture


def own_noise(t, layers):
    return [t[f"noises.noise_{i}"][0, 0] for i in range(layers)]


def plain(t, name, x, downsample=False, activate=True):
    """A convolution of the discriminator; `name` is its place in the state dict."""
    at = 1 if downsample else 0
    weight = t[f"{name}.{at}.weight"]
    weight = weight / np.sqrt(weight[0].size)
    k = weight.shape[-1]
    if downsample:
        before = (k + 1) // 2  # what is left of the margin of k // 2 and of the filter
        x = filtered(x, before, before, 1)
        y = convolve(x, weight)
        y = y[:, k // 2 : y.shape[1] - k // 2 : 2, k // 2 : y.shape[2] - k // 2 : 2]
    else:
        y = convolve(x, weight)
    return lrelu(y + t[f"{name}.{at + 1}.bias"][:, None, None]) if activate else y


def features(t, x, blocks):
    x = plain(t, "convs.0", x)
    for i in range(1, blocks + 1):
        deep = plain(t, f"convs.{i}.conv2", plain(t, f"convs.{i}.conv1", x), downsample=True)
        x = (deep + plain(t, f"convs.{i}.skip", x, downsample=True, activate=False)) / np.sqrt(2)
    return x


def discriminate(t, pictures, blocks):
    """Logits [N] of pictures [N, 3, H, W]."""
    found = [features(t, x, blocks) for x in pictures]
    size = min(len(found), 4)
    groups = len(found) // size
    logits = []
    for i, x in enumerate(found):
        same = np.stack(found[i % groups :: groups])
        extra = np.full((1, *x.shape[1:]), np.sqrt(same.var(0) + EPS).mean())
        x = plain(t, "final_conv", np.concatenate([x, extra])).reshape(-1)
        logits.append(linear(t, "final_linear.1", lrelu(linear(t, "final_linear.0", x)))[0])
    return np.array(logits)


def arrays(module):
    """The state dict in float64."""
    return {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
