"""The name of every key and channel in Redis (SPEC §9), and of nothing else."""

from __future__ import annotations

import re


class Keys:
    """Names under one prefix.

    The prefix carries a hash tag (the part in braces), so that on a cluster
    every key lies in one slot and a script may touch several.
    """

    def __init__(self, prefix: str = "{downloadd}:") -> None:
        if not prefix or "%" in prefix or any(char.isspace() for char in prefix):
            raise ValueError("A Redis key prefix is not empty and holds neither % nor white space.")
        self.prefix = prefix
        #: Sorted set of waiting jobs: priority, then turn of the user, then order of arrival.
        self.queue = f"{prefix}queue"
        #: Sorted set of jobs under way: when the lease ends, on the server's clock.
        self.active = f"{prefix}active"
        #: Hash: whose turn it is in the queue, by priority and user.
        self.turns = f"{prefix}turns"
        #: String: a process has let a job make room for another's, not long ago.
        self.sharing = f"{prefix}sharing"
        #: Counter that orders the queue.
        self.sequence = f"{prefix}sequence"
        #: String: the name of this installation, which its archives' keys begin with.
        self.installation = f"{prefix}installation"
        #: Sorted set of stored archives, each its job's id and its key: when its time is over.
        self.archives = f"{prefix}archives"
        #: Channel on which processes hear ``wake``, ``cancel <job>`` and ``webhook``.
        self.control = f"{prefix}control"
        #: String that is written to see whether writes are taken.
        self.health = f"{prefix}health"
        #: Sorted set of jobs whose end is to be told: when the next try is due, or the
        #: lease of the one under way ends, on the server's clock.
        self.webhooks = f"{prefix}webhooks"
        #: Hash: what all transfers and jobs have taken.
        self.pace = f"{prefix}pace"
        #: Hash: host and port to what its transfers have taken.
        self.pace_hosts = f"{prefix}pace:hosts"
        #: Sorted set of those hosts: when each was measured last, on the server's clock.
        self.pace_recent = f"{prefix}pace:recent"
        #: Begins the keys under which it is counted what callers have had.
        self.limits = f"{prefix}limits"
        #: Hash: a process to how many jobs it works on at once, when it said so, its last write.
        self.processes = f"{prefix}processes"

    def job(self, job_id: str) -> str:
        """Hash: what is small and changes, and what was asked for."""
        return f"{self.prefix}job:{job_id}"

    def files(self, job_id: str) -> str:
        """Hash: index of a file to how it ended."""
        return f"{self.prefix}job:{job_id}:files"

    def events(self, job_id: str) -> str:
        """Stream of the job's events; also the channel on which they are published."""
        return f"{self.prefix}job:{job_id}:events"

    def checkpoint(self, job_id: str) -> str:
        """String: what the next worker needs to go on."""
        return f"{self.prefix}job:{job_id}:checkpoint"

    def headers(self, job_id: str) -> str:
        """String: request headers of the sources, which may be secrets."""
        return f"{self.prefix}job:{job_id}:headers"

    def deliveries(self, job_id: str) -> str:
        """Hash: what the job's ends are to tell, and how the tries went."""
        return f"{self.prefix}job:{job_id}:deliveries"

    def user_jobs(self, user: str) -> str:
        """Sorted set of a user's jobs by the time they were made."""
        return f"{self.prefix}user:{user}:jobs"

    @property
    def all_jobs(self) -> str:
        """The same of everybody's jobs; no user's name is empty, so it is none of theirs."""
        return self.user_jobs("")

    @property
    def every_user_jobs(self) -> str:
        """Pattern, as SCAN takes it, of the names that ``user_jobs`` gives."""
        return re.sub(r"([*?\[\]\\])", r"\\\1", self.prefix) + "user:*:jobs"

    def dedupe(self, digest: str) -> str:
        """String: the job that this body made."""
        return f"{self.prefix}dedupe:{digest}"

    def idempotency(self, digest: str) -> str:
        """String: the job that an Idempotency-Key made, and the body's hash."""
        return f"{self.prefix}idempotency:{digest}"

    def last_claim(self, owner: str) -> str:
        """String: what a process claimed last, in case the answer was lost."""
        return f"{self.prefix}claim:{owner}"

    def last_webhooks(self, owner: str) -> str:
        """String: the deliveries that a process claimed last, in case the answer was lost."""
        return f"{self.prefix}claim:{owner}:webhooks"
