"""One GAN node, one OS process."""
