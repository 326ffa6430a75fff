"""Unpaired deraining methods, one a file: the forward graph and the losses of one training step."""
