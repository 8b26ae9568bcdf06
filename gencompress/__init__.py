"""Compress generative models and 3D scenes into files that the stock tools open."""

from __future__ import annotations

__version__ = "0.1.0"
