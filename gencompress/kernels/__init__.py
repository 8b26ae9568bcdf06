"""Rasterizers on CPU and CUDA behind one signature."""
