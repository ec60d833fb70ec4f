"""The process of a program that a model wrote: a folder that `sandbox.py` runs by its path, not one to import."""
