"""Somebody who calls, and which jobs are theirs to see."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from downloadd.model import Job, Record

#: Sees the jobs of all.
ADMIN = "admin"
#: The user and the role of everybody, where ``auth.mode`` is "none".
NOBODY = "anonymous"

#: Longest name of a user, characters.
MAX_USER_CHARS = 255
_CONTROL = r"\x00-\x1f\x7f-\x9f\ud800-\udfff"
_USER = re.compile(rf"(?! )[^{_CONTROL}]{{1,{MAX_USER_CHARS}}}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller(Record):
    """Who a request is from."""

    user: str = NOBODY
    role: str = NOBODY
    #: Of one who holds an event token, and is nobody else: the job that it is for.
    job_id: str | None = None

    @property
    def admin(self) -> bool:
        return self.role == ADMIN

    def may_see(self, job: Job) -> bool:
        """Whether the job is theirs; to others it is not there at all."""
        if self.job_id is not None:
            return job.id == self.job_id
        return self.admin or job.user == self.user


ANONYMOUS = Caller()


class Authenticator(Protocol):
    """Tells who holds a credential."""

    def identify(self, credential: str) -> Awaitable[Caller]:
        """Return whose credential it is. ``Unauthorized``, ``Forbidden``."""
        ...


def is_user_name(text: object) -> bool:
    """Whether a text can be a user's name: it is a part of keys, and of lines of logs."""
    return isinstance(text, str) and _USER.fullmatch(text) is not None
