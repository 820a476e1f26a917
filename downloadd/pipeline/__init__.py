"""Fetch, verify, pack, upload: one job, over ports, as a generator of steps."""

from downloadd.pipeline.budget import DiskBudget, FetchSlots, MemoryBudget
from downloadd.pipeline.checkpoint import upload_of
from downloadd.pipeline.fetched import FetchPolicy, FetchServices
from downloadd.pipeline.run import JobRun, RunServices, Step
from downloadd.pipeline.spool import Spool

__all__ = [
    "DiskBudget",
    "FetchPolicy",
    "FetchServices",
    "FetchSlots",
    "JobRun",
    "MemoryBudget",
    "RunServices",
    "Spool",
    "Step",
    "upload_of",
]
