"""Gaussian splats: scored, pruned, merged, refined and exported without training images."""
