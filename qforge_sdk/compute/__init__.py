"""Batches that run: engines that compute, and the runner that lets nothing be lost or done twice."""

from qforge_sdk.compute.engine import Engine, Parameters

__all__ = ["Engine", "Parameters"]
