"""Puts the cost meters into every Python process that has this folder on its path."""

from bench.cost_meters import install

install()
