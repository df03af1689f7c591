"""Bundles: the directory, its proof, and where bundles are kept."""
