"""Every exception of downloadd, and what each says about trying again.

    DownloaddError
    ├── ConfigError              a setting is wrong; the process does not start
    ├── RequestError             the caller's request cannot be served as it is
    │   ├── ValidationError      a rule of the request body is broken
    │   ├── UnsupportedOption    a documented option that is not built
    │   ├── Unauthorized         no credential, or none that counts
    │   ├── Forbidden            the caller is known, and may not
    │   ├── TooManyRequests      (transient) a limit of the caller's is reached
    │   │   ├── QuotaExceeded    of jobs or bytes in a day
    │   │   └── TooManyStreams   of events, at once
    │   ├── JobNotFound          no such job, or somebody else's
    │   ├── JobConflict          the job's state does not allow it
    │   │   └── IllegalTransition
    │   ├── JobExpired           the archive was there and is gone
    │   ├── IdempotencyConflict  the key was used with another body
    │   ├── LinkInvalid          a signed link is forged or past its time
    │   ├── QueueFull            (transient)
    │   ├── StreamsFull          (transient) no more event streams fit
    │   ├── ServerStopping       (transient) this process takes no more jobs
    │   └── AnswerTimeout        (transient) the answer took too long
    ├── FileError                one file cannot be had; others may
    │   ├── SourceError
    │   │   ├── AddressBlocked       the address may not be dialled
    │   │   ├── SourceUnreachable    (transient) DNS, connect, reset
    │   │   ├── SourceStalled        (transient) no byte for too long
    │   │   ├── SourceTruncated      (transient) the body ended early
    │   │   ├── SourceUnavailable    (transient) 408, 425, 429, 5xx
    │   │   ├── SourceRefused        any other 4xx; a stored file that may not be read
    │   │   │   └── SourceMissing    no stored file for an id
    │   │   ├── SourceProtocolError  an answer that is not proper HTTP
    │   │   ├── SourceChanged        (transient) another file on resumption
    │   │   └── TooManyRedirects
    │   └── VerificationError
    │       ├── ChecksumMismatch     bytes differ from a checksum
    │       ├── SizeMismatch         bytes differ from a given size
    │       ├── FileTooLarge
    │       └── FormatMismatch
    ├── JobError                 the whole job cannot go on
    │   ├── FileFailed           a file failed for good under onError "fail"
    │   ├── AllFilesFailed       nothing is left to pack
    │   ├── JobTooLarge
    │   ├── JobTimeout
    │   ├── PoisonJob            its processes died, time and again
    │   ├── StateLost            Redis has forgotten it
    │   ├── LayoutChanged        a file fetched again is not what was packed
    │   ├── JobCancelled         its caller ended it
    │   └── LeaseLost            another process has taken the job over
    ├── StorageError             object storage
    │   ├── StorageUnavailable   (transient)
    │   │   └── ObjectChanged    another object has the key by now
    │   ├── StorageRefused       credentials, permissions, bad request
    │   ├── ObjectMissing
    │   ├── UploadMissing        the multipart upload is gone
    │   └── StorageCorrupt       stored bytes are not those sent
    ├── StateError               Redis
    │   ├── StateUnavailable     (transient)
    │   └── StateLocked          another process uses this data_dir
    ├── SpoolError               the temporary disk: full, unwritable, gone
    └── CommandError             what a command of the command line cannot do
        ├── ServerUnreachable    (transient) no answer, or none that is ours
        ├── ServerRefused        the server's own error, passed on
        └── DownloadFailed       the archive did not arrive whole

``code`` is part of the API: it is never renamed. Messages are sentences that
say what failed and what to do; they hold no credential and no signature.
HTTP statuses are the business of ``web/errors.py`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class DownloaddError(Exception):
    """Base of everything that downloadd raises on purpose."""

    #: Stable, machine-readable name.
    code: str = "internal_error"
    #: Whether the same call may succeed later without anybody changing anything.
    transient: bool = False

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        #: Seconds that the other side asked us to wait, where it said so.
        self.retry_after = retry_after


class ConfigError(DownloaddError):
    code = "config_error"


class RequestError(DownloaddError):
    code = "bad_request"


class ValidationError(RequestError):
    """One or more rules of a request are broken; ``details`` names each field."""

    code = "validation_error"

    def __init__(self, message: str, details: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(message)
        self.details = {key: list(value) for key, value in (details or {}).items()}


class UnsupportedOption(ValidationError):
    code = "unsupported_option"


class Unauthorized(RequestError):
    code = "unauthorized"


class Forbidden(RequestError):
    code = "forbidden"


class TooManyRequests(RequestError):
    code = "rate_limited"
    transient = True


class QuotaExceeded(TooManyRequests):
    code = "quota_exceeded"


class TooManyStreams(TooManyRequests):
    code = "too_many_streams"


class StreamsFull(RequestError):
    code = "streams_full"
    transient = True


class JobNotFound(RequestError):
    code = "job_not_found"


class JobConflict(RequestError):
    code = "job_state_conflict"


class IllegalTransition(JobConflict):
    code = "illegal_transition"


class JobExpired(RequestError):
    code = "job_expired"


class IdempotencyConflict(RequestError):
    code = "idempotency_conflict"


class LinkInvalid(RequestError):
    code = "link_invalid"


class QueueFull(RequestError):
    code = "queue_full"
    transient = True


class ServerStopping(RequestError):
    """The process is going away; another one, or the next, takes the job."""

    code = "server_stopping"
    transient = True


class AnswerTimeout(RequestError):
    code = "answer_timeout"
    transient = True


class FileError(DownloaddError):
    code = "file_error"


class SourceError(FileError):
    code = "source_error"


class AddressBlocked(SourceError):
    """The message tells callers nothing; ``reason`` is for logs alone."""

    code = "address_blocked"

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class SourceUnreachable(SourceError):
    code = "source_unreachable"
    transient = True


class SourceStalled(SourceError):
    code = "source_stalled"
    transient = True


class SourceTruncated(SourceError):
    code = "source_truncated"
    transient = True


class SourceUnavailable(SourceError):
    code = "source_unavailable"
    transient = True


class SourceRefused(SourceError):
    code = "source_refused"


class SourceMissing(SourceRefused):
    code = "source_missing"


class SourceProtocolError(SourceError):
    code = "source_protocol_error"


class SourceChanged(SourceError):
    code = "source_changed"
    transient = True


class TooManyRedirects(SourceError):
    code = "too_many_redirects"


class VerificationError(FileError):
    code = "verification_failed"


class ChecksumMismatch(VerificationError):
    code = "checksum_mismatch"


class SizeMismatch(VerificationError):
    code = "size_mismatch"


class FileTooLarge(VerificationError):
    code = "file_too_large"


class FormatMismatch(VerificationError):
    code = "format_mismatch"


class JobError(DownloaddError):
    code = "job_failed"


class FileFailed(JobError):
    """A file failed for good; ``code`` is that of its own error."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class AllFilesFailed(JobError):
    code = "all_files_failed"


class JobTooLarge(JobError):
    code = "job_too_large"


class JobTimeout(JobError):
    code = "job_timeout"


class PoisonJob(JobError):
    code = "poison_job"


class StateLost(JobError):
    code = "state_lost"


class LayoutChanged(JobError):
    code = "source_changed"


class JobCancelled(JobError):
    code = "job_cancelled"


class LeaseLost(JobError):
    code = "lease_lost"


class StorageError(DownloaddError):
    code = "storage_error"


class StorageUnavailable(StorageError):
    code = "storage_unavailable"
    transient = True


class ObjectChanged(StorageUnavailable):
    code = "object_changed"


class StorageRefused(StorageError):
    code = "storage_refused"


class ObjectMissing(StorageError):
    code = "object_missing"


class UploadMissing(StorageError):
    code = "upload_missing"


class StorageCorrupt(StorageError):
    code = "storage_corrupt"


class StateError(DownloaddError):
    code = "state_error"


class StateUnavailable(StateError):
    code = "state_unavailable"
    transient = True


class StateLocked(StateError):
    code = "state_locked"


class SpoolError(DownloaddError):
    code = "disk_error"


class CommandError(DownloaddError):
    code = "command_failed"


class ServerUnreachable(CommandError):
    code = "server_unreachable"
    transient = True


class ServerRefused(CommandError):
    """A server answered with an error of its own: the status, and what it broke (SPEC §3)."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        details: Mapping[str, Sequence[str]] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.status = status
        self.code = code
        self.transient = status in (408, 425, 429) or status >= 500
        self.details = {key: list(value) for key, value in (details or {}).items()}


class DownloadFailed(CommandError):
    code = "download_failed"
