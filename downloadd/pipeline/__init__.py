"""Fetch, verify, pack, upload: one job, over ports, as a generator of steps."""

from downloadd.pipeline.budget import DiskBudget, FetchSlots, MemoryBudget
from downloadd.pipeline.checkpoint import upload_of
from downloadd.pipeline.flight import Flight
from downloadd.pipeline.run import JobRun
from downloadd.pipeline.services import FetchPolicy, FetchServices, RunServices
from downloadd.pipeline.snapshot import Step
from downloadd.pipeline.spool import Spool

__all__ = [
    "DiskBudget",
    "FetchPolicy",
    "FetchServices",
    "FetchSlots",
    "Flight",
    "JobRun",
    "MemoryBudget",
    "RunServices",
    "Spool",
    "Step",
    "upload_of",
]
