"""StyleGAN2 in pure torch: generator and discriminator, conversion of checkpoints, removal of channels."""
