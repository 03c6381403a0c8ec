"""Doubles and references that several test modules share."""
