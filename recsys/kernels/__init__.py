"""Loops over arrays, compiled to machine code: what a request pays that NumPy is slow at."""
