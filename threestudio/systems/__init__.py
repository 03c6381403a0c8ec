"""Systems: what is optimised, and how one training step goes."""
