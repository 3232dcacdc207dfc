"""Experiments too long for a chapter: run once, stored in data/results/, plotted there."""
