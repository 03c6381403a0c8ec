"""The embedded world of blocks: scenes, captions, training commands and the judge.

Importing it is cheap; the training commands are `python -m custom.threestudio-blocks.<name>`.
"""
