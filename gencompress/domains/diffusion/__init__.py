"""Diffusion pipelines: UNets and transformers of diffusers."""
