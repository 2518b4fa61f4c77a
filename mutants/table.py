"""The mutants: where each is planted, and which test files have to catch it.

Each is a mistake that a person would make and a review might pass: a bound that is off by one, a
check that is left out, a value of the wrong thing. None merely crashes. A snippet occurs once in
its module; when the code changes, so does its mutant.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """In `module` (below `src/blockyard`) `snippet` becomes `replacement`."""

    name: str
    module: str
    snippet: str
    replacement: str
    tests: tuple[str, ...]
    """Files below `tests`."""


_SIGNING = ("s3/test_signing.py",)
_RANGES = ("s3/test_fetching.py", "s3/test_reading.py")
_INTEGRITY = ("s3/test_integrity.py",)
_RETRY = ("s3/test_retry.py",)
_REQUESTS = ("s3/test_requests.py",)
_CALLS = ("s3/test_calls.py", "s3/test_unknown_attempts.py")
_DELETES = ("s3/test_deleting.py", "s3/test_responses.py")
_POOL = ("transport/test_pool.py",)
_HTTP = ("transport/test_http1.py", "transport/test_exchange.py")
_EXCHANGE = ("transport/test_exchange.py", "transport/test_transport_blocking.py")
_CONTENT = ("content/test_content.py",)
_CONTENT_FAULTS = ("content/test_content_faults.py",)
_MANIFEST = ("content/test_manifest.py",)
_REGISTER = ("content/test_interleavings.py", "content/test_content.py")
_OPTIONS = ("s3/test_object_headers.py",)
_OBSPEC = ("ecosystem/test_obspec.py",)
_PICKLES = ("test_pickling.py",)
_ZARR = ("ecosystem/test_zarr.py",)
_DISTRIBUTED = ("distributed/test_by_prefix.py", "distributed/test_key_ranges.py")
_CACHE = ("cache/test_coherence.py", "cache/test_cached_reads.py")
_DISK = ("cache/test_disk_tier.py", "cache/test_entry.py")
_BUDGET = ("cache/test_disk_budget.py",)
_FOLDER = ("stores/test_filesystem_store.py", "content/test_content_local_files.py")

MUTANTS = [
    Mutant(
        "signing: header names unsorted",
        "s3/signing.py",
        "names = sorted([name for name in headers if",
        "names = list([name for name in headers if",
        _SIGNING,
    ),
    Mutant(
        "signing: the key of yesterday",
        "s3/signing.py",
        "last.credentials is credentials and last.day == day:",
        "last.credentials is credentials:",
        _SIGNING,
    ),
    Mutant(
        "signing: the moment of other credentials",
        "s3/signing.py",
        "moment.second != second or moment.credentials is not credentials:",
        "moment.second != second:",
        _SIGNING,
    ),
    Mutant(
        "signing: a session token that stays",
        "s3/signing.py",
        '_ = headers.pop("x-amz-security-token", None)',
        "pass",
        _SIGNING,
    ),
    Mutant(
        "signing: runs of spaces in a header",
        "s3/signing.py",
        'return _SPACES.sub(" ", value) if "  " in value else value',
        "return value",
        _SIGNING,
    ),
    Mutant(
        "signing: long secrets not hashed",
        "s3/signing.py",
        "key if len(key) <= 64 else sha256(key).digest()",
        "key[:64]",
        _SIGNING,
    ),
    Mutant(
        "signing: a remembered signature of another host",
        "s3/signing.py",
        "wanted = (request.method, request.target, host, checksum_mode, payload_hash)",
        'wanted = (request.method, request.target, "", checksum_mode, payload_hash)',
        _SIGNING,
    ),
    Mutant(
        "ranges: Content-Range not compared with what was requested",
        "s3/responses.py",
        "if (begin, last + 1) != span.of(size) or last + 1 - begin != response.size:",
        "if last + 1 - begin != response.size:",
        _RANGES,
    ),
    Mutant(
        "ranges: the length of the body not compared",
        "s3/responses.py",
        "if (begin, last + 1) != span.of(size) or last + 1 - begin != response.size:",
        "if (begin, last + 1) != span.of(size):",
        _RANGES,
    ),
    Mutant(
        "ranges: a suffix longer than the object",
        "stores/base.py",
        "return max(0, size - suffix), size",
        "return size - suffix, size",
        ("s3/test_versioned_reads.py", "s3/test_fetching.py"),
    ),
    Mutant(
        "reading: not widened to the edge of a page",
        "s3/reading.py",
        "first = offset - offset % page",
        "first = offset",
        _RANGES,
    ),
    Mutant(
        "reading: the last page cut short",
        "s3/reading.py",
        "-(-(offset + length) // page) * page - first)",
        "(offset + length) // page * page - first)",
        _RANGES,
    ),
    Mutant(
        "reading: resumed without If-Match",
        "s3/reading.py",
        "if_match=wanted.if_match if broken is None else broken.etag,",
        "if_match=wanted.if_match,",
        _RANGES,
    ),
    Mutant(
        "reading: resumed with the bytes of another version",
        "s3/reading.py",
        "if not etag or (self.broken is not None and etag != self.broken.etag):",
        "if not etag:",
        _RANGES,
    ),
    Mutant(
        "reading: damaged bytes not read again",
        "s3/reading.py",
        "step = Step.GIVE_UP if read.fresh else Step.READ_AGAIN",
        "step = Step.GIVE_UP",
        _RANGES,
    ),
    Mutant(
        "reading: damaged bytes read again at each attempt",
        "s3/reading.py",
        "step = Step.GIVE_UP if read.fresh else Step.READ_AGAIN",
        "step = Step.READ_AGAIN",
        _INTEGRITY,
    ),
    Mutant(
        "reading: a version that was replaced is an error",
        "s3/reading.py",
        "step = Step.READ_REPLACED if replaced else Step.GIVE_UP",
        "step = Step.GIVE_UP",
        _RANGES,
    ),
    Mutant(
        "reading: conditions that the service ignored",
        "s3/reading.py",
        "if wanted.if_match is not None or wanted.if_none_match is not None:",
        "if wanted.if_none_match is not None:",
        ("s3/test_versioned_reads.py",),
    ),
    Mutant(
        "integrity: the last page not compared",
        "s3/integrity.py",
        "if end != size:\n            end -= end % page",
        "end -= end % page",
        _INTEGRITY,
    ),
    Mutant(
        "integrity: the size of the block not compared",
        "s3/integrity.py",
        "if size != self.size:",
        "if size < self.size:",
        (*_INTEGRITY, *_RANGES),
    ),
    Mutant(
        "integrity: multipart checksums taken for those of the bytes",
        "s3/integrity.py",
        'if stored is not None and "-" not in stored:',
        "if stored is not None:",
        (*_INTEGRITY, *_RANGES),
    ),
    Mutant(
        "integrity: the ETag of an encrypted object taken for its MD5",
        "s3/integrity.py",
        "if etag is None or encrypted:",
        "if etag is None:",
        ("test_verifying.py",),
    ),
    Mutant(
        "retry: one attempt too many",
        "s3/retry.py",
        "if failed >= limit or not is_transient(error):",
        "if failed > limit or not is_transient(error):",
        _RETRY,
    ),
    Mutant(
        "retry: TLS errors tried again",
        "s3/retry.py",
        "if isinstance(error, (TLSError, DeadlineExceededError)):",
        "if isinstance(error, DeadlineExceededError):",
        _RETRY,
    ),
    Mutant(
        "retry: Retry-After not honoured",
        "s3/retry.py",
        "return max(backoff, min(requested or 0.0, policy.cap))",
        "return backoff",
        _RETRY,
    ),
    Mutant(
        "retry: Retry-After without a cap",
        "s3/retry.py",
        "return max(backoff, min(requested or 0.0, policy.cap))",
        "return max(backoff, requested or 0.0)",
        _RETRY,
    ),
    Mutant(
        "retry: no jitter",
        "s3/retry.py",
        "backoff = jitter * min(",
        "backoff = min(",
        _RETRY,
    ),
    Mutant(
        "retry: a refused request counted as perhaps carried out",
        "s3/retry.py",
        "return not never_connected(error)",
        "return True",
        (*_RETRY, "s3/test_unknown_attempts.py"),
    ),
    Mutant(
        "proof: a write without ETag believed",
        "s3/responses.py",
        'raise _not_s3(reply, "the reply to a write has no ETag", " If so: write_proof: head")',
        "return",
        ("s3/test_proof.py",),
    ),
    Mutant(
        "proof: 202 taken for done",
        "s3/responses.py",
        "if reply.status == _ACCEPTED:",
        "if False:",
        ("s3/test_proof.py",),
    ),
    Mutant(
        "proof: a web page as the reply to a delete",
        "s3/responses.py",
        "if reply.status not in {200, 204} or is_page(reply):",
        "if reply.status not in {200, 204}:",
        ("s3/test_proof.py",),
    ),
    Mutant(
        "deletes: keys refused for a passing reason are gone",
        "s3/deleting.py",
        "again = [key for key, error in refused.items() if is_transient(error)]",
        "again = list[str]()",
        _DELETES,
    ),
    Mutant(
        "deletes: the rest of a batch forgotten",
        "s3/deleting.py",
        "keys = again + later",
        "keys = again or later",
        _DELETES,
    ),
    Mutant(
        "deletes: keys that XML can't carry in a batch",
        "s3/deleting.py",
        "return has_batches and requests.xml_safe(self._prefix + key)",
        "return has_batches",
        _DELETES,
    ),
    Mutant(
        "pool: the oldest connection first",
        "transport/pool.py",
        "idle = None if fresh else host.idle.pop()",
        "idle = None if fresh else host.idle.popleft()",
        _POOL,
    ),
    Mutant(
        "pool: a connection that was idle for too long",
        "transport/pool.py",
        "if idle is not None and idle[0] + self._keep_alive <= now:",
        "if False:",
        _POOL,
    ),
    Mutant(
        "pool: a slot not given back",
        "transport/pool.py",
        "host.idle.append((now, connection))\n        self._free(host)",
        "host.idle.append((now, connection))",
        _POOL,
    ),
    Mutant(
        "pool: the limit raised by each call that went over it",
        "transport/pool.py",
        "if not (host.over_limit and took_one(host.over_limit)):\n            host",
        "if True:\n            host",
        _POOL,
    ),
    Mutant(
        "pool: nobody woken",
        "transport/connections.py",
        "        if self._waiting:\n            self._wake_one(origin)\n        for each",
        "        for each",
        _EXCHANGE,
    ),
    Mutant(
        "exchange: a connection kept whose reply was not read",
        "transport/exchanging.py",
        "pool.release(request.origin, connection, reply.complete and reply.keep_alive)",
        "pool.release(request.origin, connection, reply.keep_alive)",
        _EXCHANGE,
    ),
    Mutant(
        "exchange: a broken request sent again though its reply had begun",
        "transport/exchanging.py",
        "stale = reused and not reply.begun",
        "stale = reused",
        _EXCHANGE,
    ),
    Mutant(
        "exchange: a new connection's failure taken for a stale one",
        "transport/exchanging.py",
        "stale = reused and not reply.begun",
        "stale = not reply.begun",
        _EXCHANGE,
    ),
    Mutant(
        "http: a connection kept whose request was cut short",
        "transport/connection.py",
        "if self._cut_short or (tls is not None and tls.surplus()):",
        "if tls is not None and tls.surplus():",
        _EXCHANGE,
    ),
    Mutant(
        "http: bytes behind the body",
        "transport/http1.py",
        "self.keep_alive = False  # bytes that nobody asked for: never reuse the connection",
        "pass",
        _HTTP,
    ),
    Mutant(
        "http: a body without its end",
        "transport/http1.py",
        "if self._to_stream_end is None:",
        "if self._to_stream_end is None and self.status == 0:",
        _HTTP,
    ),
    Mutant(
        "http: too large a body by one",
        "transport/http1.py",
        "if size > limit:",
        "if size > limit + 1:",
        _HTTP,
    ),
    Mutant(
        "contents: a hole below the last block",
        "content/layout.py",
        "if block is None:\n            raise IntegrityError(",
        "if block is None and index > last:\n            raise IntegrityError(",
        _CONTENT,
    ),
    Mutant(
        "contents: a short block in the middle",
        "content/layout.py",
        "or (block.size < block_size and index < last):",
        "or (block.size < block_size and index < 0):",
        _CONTENT,
    ),
    Mutant(
        "contents: a damaged manifest",
        "content/manifest.py",
        'if f"{crc32c(memoryview(data)[head.end() :]):08x}".encode() != head[1]:',
        "if False:",
        _MANIFEST,
    ),
    Mutant(
        "contents: a block that is not the one in the manifest",
        "content/reading.py",
        "if found != piece.crc32c:",
        "if False:",
        _CONTENT_FAULTS,
    ),
    Mutant(
        "contents: a manifest put without its condition",
        "content/register.py",
        "request.if_match = found.etag or None",
        "request.if_match = None",
        _REGISTER,
    ),
    Mutant(
        "contents: a manifest put a second time where nothing is",
        "content/register.py",
        'if seen is None and "" in unanswered and self._conditional_puts:',
        "if False:",
        _REGISTER,
    ),
    Mutant(
        "contents: blocks deleted that a manifest may name yet",
        "content/writing.py",
        "or isinstance(error, OutcomeUnknownError) or change.sent:",
        "or isinstance(error, OutcomeUnknownError):",
        _CONTENT_FAULTS,
    ),
    Mutant(
        "contents: a replaced one swept at once",
        "content/register.py",
        "if each.blocks and self.at - each.at >= SWEPT)",
        "if each.blocks)",
        _REGISTER,
    ),
    Mutant(
        "clean: blocks of a write under way",
        "content/cleaning.py",
        "generation.newest <= oldest",
        "True",
        _REGISTER,
    ),
    Mutant(
        "folders: a copy that is cut short",
        "stores/disk.py",
        "while copied < size:",
        "if copied < size:",
        _FOLDER,
    ),
    Mutant(
        "folders: a file that ends early read as zeros",
        "stores/disk.py",
        "if count == 0:\n            raise broken_off(offset + filled, offset + len(buffer))",
        "if count == 0:\n            return",
        _FOLDER,
    ),
    Mutant(
        "merging: a range of the merged read's begin",
        "merging.py",
        "begin = offset - read.offset",
        "begin = 0",
        ("test_merging.py",),
    ),
    Mutant(
        "keys: the longest key",
        "keys.py",
        "if size > MAX_KEY_BYTES:",
        "if size >= MAX_KEY_BYTES:",
        ("test_keys.py",),
    ),
    Mutant(
        "deletes: a prefix that goes past its folder",
        "keys.py",
        'return prefix if prefix.endswith("/") else prefix + "/"',
        "return prefix",
        ("test_operations.py", "test_keys.py"),
    ),
    Mutant(
        "requests: a key not escaped",
        "s3/requests.py",
        'return key if _PLAIN_KEY.fullmatch(key) else quote(key, safe="/")',
        "return key",
        _REQUESTS,
    ),
    Mutant(
        "calls: what may have taken effect not counted",
        "s3/calls.py",
        "if request is not None and may_have_taken_effect(failure):",
        "if False:",
        _CALLS,
    ),
    Mutant(
        "calls: throttling paid from the budget for failures",
        "s3/calls.py",
        "attempts.throttled += 1\n            failed = attempts.throttled",
        "attempts.failed += 1\n            failed = attempts.failed",
        ("s3/test_rate_limiter.py", "s3/test_calls.py"),
    ),
    Mutant(
        "operations: an empty prefix deletes all",
        "operations.py",
        'if prefix == "" and not literal:',
        "if False:",
        ("test_operations.py",),
    ),
    Mutant(
        "loops: a wait that never ends",
        "transport/loop_poller.py",
        "elif not ready.done():\n                ready.set_result((descriptor, 0))",
        "else:\n                pass",
        ("transport/test_loop_poller.py",),
    ),
    Mutant(
        "loops: a wait that close does not end",
        "transport/loop_poller.py",
        "return found or self._none_ready()\n\n    async def any_ready",
        "return found\n\n    async def any_ready",
        ("transport/test_loop_poller.py",),
    ),
    Mutant(
        "contents: a source that changed while it was copied",
        "content/writing.py",
        "if info.etag != piece.etag or info.size != piece.size:",
        "if False:",
        _CONTENT_FAULTS,
    ),
    Mutant(
        "disk cache: a page is not verified",
        "cache/kept.py",
        "or not entry.verified(data, first, head, marks.own_sums)",
        "",
        _DISK,
    ),
    Mutant(
        "disk cache: an entry that is not settled is read whatever its epoch",
        "cache/kept.py",
        "return self._marks.settled or epoch == self.head.epoch",
        "return True",
        _DISK,
    ),
    Mutant(
        "disk cache: an open entry is read after its key was changed",
        "cache/kept.py",
        "if epoch != self._epoch or known.st_nlink == 0:",
        "if known.st_nlink == 0:",
        _DISK,
    ),
    Mutant(
        "disk cache: times of another boot are believed",
        "cache/entry.py",
        "if its_boot != boot or",
        "if",
        _DISK,
    ),
    Mutant(
        "disk cache: nothing is left free on the disk",
        "cache/budget.py",
        "floor = min(disk.f_blocks * disk.f_frsize // _FREE_SHARE, _FREE_BYTES)",
        "floor = 0",
        _BUDGET,
    ),
    Mutant(
        "disk cache: hits do not keep an entry",
        "cache/budget.py",
        "flags = MAIN if entry.flags & MOST_HITS else None",
        "flags = None",
        _BUDGET,
    ),
    Mutant(
        "cache: a hit of an older epoch",
        "cache/store.py",
        "if fresh and entry.epoch == epoch and _answers(",
        "if fresh and _answers(",
        _CACHE,
    ),
    Mutant(
        "cache: what was read in the middle of a change is kept",
        "cache/store.py",
        "elif slot in slots:",
        "elif False:",
        _CACHE,
    ),
    Mutant(
        "cache: readers share a read from before a change",
        "cache/store.py",
        "same = (request.key, *what, begun.epoch, begun.disk_epoch)",
        "same = (request.key, *what)",
        _CACHE,
    ),
    Mutant(
        "cache: a change of unknown outcome is taken for known",
        "cache/store.py",
        "if known:\n                _ = self._changes.pop",
        "if True:\n                _ = self._changes.pop",
        _CACHE,
    ),
    Mutant(
        "cache: a condition on another version answered from the cache",
        "cache/store.py",
        "if etag not in {request.if_match, request.if_none_match}:\n        return False",
        "pass",
        _CACHE,
    ),
    Mutant(
        "cache: pages of versions with one ETag put together",
        "cache/memory.py",
        "mine.size == info.size and self.sums == sums",
        "mine.size == info.size",
        _CACHE,
    ),
    Mutant(
        "folders: a file given its name before it is on the disk",
        "stores/disk.py",
        "_mark(temporary.file)\n    os.fsync(temporary.file)",
        "_mark(temporary.file)",
        _FOLDER,
    ),
    Mutant(
        "pickles: a secret of the environment goes along",
        "config/portable.py",
        "if section.settings[name].secret and given[name]",
        "if False",
        _PICKLES,
    ),
    Mutant(
        "pickles: a memory store of another process taken for this one's",
        "pickling.py",
        "if self.process != os.getpid():",
        "if False:",
        _PICKLES,
    ),
    Mutant(
        "zarr: metadata of a cached hierarchy never asked for again",
        "zarr.py",
        '(key, *span, lifetime="mutable")',
        "(key, *span)",
        _ZARR,
    ),
    Mutant(
        "zarr: a missing value of many taken for an empty one",
        "zarr.py",
        "if None in results.values():",
        "if False:",
        _ZARR,
    ),
    Mutant(
        "contents: errors without the attempts that may come about",
        "content/register.py",
        "error.unknown_attempts = change.unknown_attempts",
        "pass",
        _CONTENT_FAULTS,
    ),
    Mutant(
        "options: a copy without the encryption",
        "s3/object_headers.py",
        '"storage_class", "encryption", "kms_key_id"',
        '"storage_class", "kms_key_id"',
        _OPTIONS,
    ),
    Mutant(
        "options: the key of the store's KMS beside another encryption",
        "s3/object_headers.py",
        'if "encryption" in given:',
        "if False:",
        _OPTIONS,
    ),
    Mutant(
        "options: more metadata than fits",
        "s3/writing.py",
        "if size > METADATA_LIMIT:",
        "if size > 2 * METADATA_LIMIT:",
        _OPTIONS,
    ),
    Mutant(
        "obspec: pieces of several versions of an object",
        "obspec/results.py",
        "piece, _ = self._store.read_block_with_info(\n                    self._path, offset, "
        "length, if_match=self._info.etag\n                )",
        "piece, _ = self._store.read_block_with_info(self._path, offset, length)",
        _OBSPEC,
    ),
    Mutant(
        "obspec: a head that takes any version",
        "obspec/results.py",
        "check_conditions(request, info.etag)",
        "pass",
        _OBSPEC,
    ),
    Mutant(
        "distributed: the first key of a part in none",
        "distributed/key_ranges.py",
        "_Part(keys._replace(after=gap.bound), gap.first)",
        "_Part(keys._replace(after=gap.first), gap.first)",
        _DISTRIBUTED,
    ),
    Mutant(
        "distributed: a surrogate as the end of a range",
        "distributed/key_ranges.py",
        "while code in _SURROGATES or",
        "while",
        _DISTRIBUTED,
    ),
    Mutant(
        "distributed: the rest of a range is left",
        "distributed/tasks.py",
        "return count, last",
        "return count, None",
        _DISTRIBUTED,
    ),
    Mutant(
        "distributed: blocks deleted before their manifests",
        "distributed/__init__.py",
        "[Delete(True, False), Delete(False, False)]",
        "[Delete(False, False), Delete(True, False)]",
        _DISTRIBUTED,
    ),
    Mutant(
        "distributed: blocks of contents copied one by one",
        "distributed/tasks.py",
        " and generation_of(block.key) is None",
        "",
        _DISTRIBUTED,
    ),
    Mutant(
        "distributed: tasks like those before",
        "distributed/job.py",
        'f"{self._id}-{self._made}"',
        'f"{self._made}"',
        _DISTRIBUTED,
    ),
    Mutant(
        "distributed: tasks without the deadline",
        "distributed/job.py",
        "return self._store.with_options(deadline=left)",
        "return self._store",
        _DISTRIBUTED,
    ),
]
