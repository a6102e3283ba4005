"""Photos and their records from a bucket into a folder in the bucket's own layout, ready for `bintally data import`.

```
OUT/
  bin-images/ID.jpg      under its name only when whole: .part -> size and ETag checked -> fsync -> rename
  metadata/ID.json       the same
  missing.jsonl          what the last run could not get, with the reason
  remarks.jsonl          records that contradict the list they were chosen from
  .download/             lock; seen.tsv: counts of photos that were looked up and not wanted
```
Invariants:
- A name without `.part` is a whole file, whenever and however the process ends. So a second run fetches what is missing
  by looking at names alone.
- Which photos are wanted is decided in the order of the ids, by one thread: the same answers give the same selection,
  however many connections there are.
- One object's failure never stops the others. Twenty in a row do, and so does a full disk.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from bundle import durable
from bundle.errors import BintallyError, InputError
from train.data.abid import parse_sidecar
from train.data.bucket import InterruptedTransferError, RefusedError
from train.data.disk import writing
from train.data.landing import Seen, locked, sweep, write_whole
from train.data.listed import Listed
from train.data.selection import Picker
from train.data.tally import Photo, Tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from train.data.bucket import Bucket
    from train.data.selection import Selection
    from train.data.tally import Downloaded

PHOTOS = "bin-images"
RECORDS = "metadata"
_STATE = ".download"
_OBJECTS_PER_PHOTO = 2
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class DownloadOptions:
    """How to download.

    Attributes:
        connections: Objects at a time.
        attempts: Tries for each object before it is given up.
        retry_s: Seconds before the second try; doubles each time, with jitter, up to `retry_max_s`.
        retry_max_s: Longest pause between two tries.
        on_progress: Called with (photos done, photos in all, bytes fetched), from one thread.
    """

    connections: int = 32
    attempts: int = 5
    retry_s: float = 0.5
    retry_max_s: float = 15.0
    on_progress: Callable[[int, int, int], None] | None = field(default=None, compare=False)


def download(bucket: Bucket, out: Path, selection: Selection, options: DownloadOptions | None = None) -> Downloaded:
    """Fetch what is wanted and not there yet.

    Args:
        bucket: Where from.
        out: Folder to fill; may hold an earlier download.
        selection: What is wanted.
        options: How.

    Returns:
        What was done. `missing` is not empty when single objects could not be fetched.

    Raises:
        ConfigError: Another download is writing into `out`, or `out` cannot be written.
        DeliveryError: The endpoint refuses or fails everything, or the disk is full. What is there is whole.
    """
    tally = Tally()
    # The bucket translates the errors of the network itself, so what is left of OSErrors comes from the folder.
    with writing(out):
        for folder in (out / PHOTOS, out / RECORDS, out / _STATE):
            folder.mkdir(parents=True, exist_ok=True)
        with locked(out / _STATE / "lock"):
            for folder in (out / PHOTOS, out / RECORDS):
                sweep(folder)
            try:
                return _Run(bucket, out, selection, options or DownloadOptions(), tally).work()
            finally:
                tally.write_lists(out)


@dataclass(frozen=True, slots=True)
class _Record:
    """What came of one record; `data` when it is not on disk yet."""

    name: str
    count: int = -1
    data: bytes | None = None
    problem: Listed | None = None


class _Run:
    """One call of `download`: a main thread that decides, and a pool that fetches."""

    def __init__(self, bucket: Bucket, out: Path, selection: Selection, options: DownloadOptions, tally: Tally) -> None:
        self._bucket, self._out, self._selection, self._options = bucket, out, selection, options
        self._tally = tally
        self._picker = Picker(selection)
        self._stop = threading.Event()
        self._jitter = random.Random()  # noqa: S311 - spreads retries, hides nothing
        self._total = 0

    def work(self) -> Downloaded:
        started = time.monotonic()
        pool = ThreadPoolExecutor(self._options.connections)
        seen = Seen(self._out / _STATE / "seen.tsv")
        try:
            names = self._selection.order(self._names())
            self._total = self._target(len(names))
            self._fetch(pool, names, seen)
        finally:
            # Whatever ended the work, no thread goes on: those that wait to retry wake up and give up.
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            seen.close()
            for folder in (PHOTOS, RECORDS):
                durable.fsync_dir(self._out / folder)
        return self._tally.summary(time.monotonic() - started)

    def _names(self) -> list[str]:
        if self._selection.ids is not None:
            return list(self._selection.ids)

        def listing() -> list[str]:
            names = self._bucket.names(f"{PHOTOS}/")
            return [name.removesuffix(".jpg") for name in names if name.endswith(".jpg")]

        return self._retry(listing)

    def _target(self, candidates: int) -> int:
        bounds = [candidates]
        if self._selection.limit is not None:
            bounds.append(self._selection.limit)
        if self._selection.quota is not None:
            bounds.append(sum(self._selection.quota.values()))
        return min(bounds)

    def _fetch(self, pool: ThreadPoolExecutor, names: list[str], seen: Seen) -> None:
        """Look up records in order, decide in order, fetch photos in any order."""
        window = 2 * self._options.connections
        records: deque[Future[_Record]] = deque()
        photos: deque[Future[Photo]] = deque()
        upcoming = (name for name in names if not self._known_unwanted(name, seen))
        while not self._picker.full:
            # No more look-ups under way than photos still wanted: a second run then asks for nothing that it has.
            ahead = window if self._picker.remaining is None else min(window, self._picker.remaining)
            names_ahead = islice(upcoming, max(ahead - len(records), 0))
            records.extend(pool.submit(self._record, name) for name in names_ahead)
            if not records:
                break
            record = records.popleft().result()
            if self._wanted(record, seen):
                photos.append(pool.submit(self._photo, record))
            while len(photos) > window or (photos and photos[0].done()):
                self._arrived(photos.popleft().result())
        for future in records:
            future.cancel()
        while photos:
            self._arrived(photos.popleft().result())

    def _known_unwanted(self, name: str, seen: Seen) -> bool:
        """Whether an earlier run looked this photo up, and its count is not wanted now either."""
        count = seen.counts.get(name)
        unwanted = count is not None and not self._selection.fits(count)
        self._tally.looked_up += unwanted
        return unwanted

    def _wanted(self, record: _Record, seen: Seen) -> bool:
        """Note what came of a record, and decide on its photo."""
        if record.problem is not None:
            self._tally.failed(record.problem)
            return False
        self._tally.worked()
        if not self._picker.take(record.count):
            self._tally.looked_up += 1
            if not self._selection.fits(record.count):
                seen.add(record.name, record.count)
            return False
        claimed = self._selection.claimed.get(record.name, record.count)
        if claimed != record.count:
            reason = f"the list says {claimed}, the record says {record.count}; the record wins"
            self._tally.remark(Listed(f"{RECORDS}/{record.name}.json", "count_differs", reason))
        return True

    def _arrived(self, photo: Photo) -> None:
        self._tally.arrived(photo)
        if photo.problem is None and self._options.on_progress is not None:
            self._options.on_progress(self._tally.photos, self._total, self._tally.bytes)

    def _record(self, name: str) -> _Record:
        """Have the record of a photo: from disk, or from the bucket. Runs in the pool."""
        key = f"{RECORDS}/{name}.json"
        with suppress(OSError, InputError):
            return _Record(name, parse_sidecar((self._out / key).read_bytes(), name=key).count)
        try:
            data = self._retry(lambda: self._bucket.get(key, stopped=self._stop.is_set))
            return _Record(name, parse_sidecar(data, name=key).count, data)
        except BintallyError as exc:
            return _Record(name, problem=_problem(key, exc))

    def _photo(self, record: _Record) -> Photo:
        """Have a wanted photo and its record on disk. Runs in the pool."""
        fetched = size = 0
        if record.data is not None:
            write_whole(self._out / RECORDS / f"{record.name}.json", record.data)
            fetched, size = 1, len(record.data)
        key = f"{PHOTOS}/{record.name}.jpg"
        problem = None
        if not (self._out / key).exists():
            try:
                data = self._retry(lambda: self._bucket.get(key, stopped=self._stop.is_set))
            except BintallyError as exc:
                problem = _problem(key, exc)
            else:
                write_whole(self._out / key, data)
                fetched, size = fetched + 1, size + len(data)
        present = 0 if problem else _OBJECTS_PER_PHOTO - fetched
        return Photo(record.count, fetched, present, size, problem)

    def _retry(self, call: Callable[[], _Result]) -> _Result:
        """Call until it works, is refused, or was tried often enough."""
        for attempt in range(self._options.attempts - 1):
            try:
                return call()
            except InterruptedTransferError:
                pause = min(self._options.retry_s * 2**attempt, self._options.retry_max_s)
                if self._stop.wait(pause * self._jitter.uniform(0.5, 1.0)):
                    raise
        return call()


def _problem(key: str, exc: BintallyError) -> Listed:
    if isinstance(exc, RefusedError):
        return Listed(key, "refused", str(exc))
    return Listed(key, "interrupted" if isinstance(exc, InterruptedTransferError) else "malformed", str(exc))
