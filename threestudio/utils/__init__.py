"""Helpers of the runtime.

Nothing is imported here: `utils.errors` and `utils.logging` work without torch.
"""
