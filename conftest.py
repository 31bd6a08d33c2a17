"""Doctests of the extra ``flower`` are collected where Flower is installed; everything else about tests is in tests/conftest.py."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("flwr") else ["src/unbatch/flower/*.py"]
