"""The index of the LoRA files in the host's folders, and the most recently used networks in memory.

Names are known at once; the headers are read by a thread in the background, those that are asked for at once.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lib_blocktrain.hosts.host import Host
from lib_blocktrain.networks.contents import Descriptions
from lib_blocktrain.networks.files import Network, read_network
from lib_blocktrain.networks.header import read_header
from lib_blocktrain.networks.peft_config import CONFIG
from lib_blocktrain.workspace import lora_store
from lib_blocktrain.workspace.lora_files import (
    Found,
    LoraFile,
    Stamp,
    facts_of,
    files_in,
    sidecar_of,
    stamp_of,
    with_keys,
)
from lib_blocktrain.workspace.lora_store import Known

log = logging.getLogger(__name__)

KEPT_NETWORKS = 8
READ_AFTER = 0.3  # seconds, so that the names, which a page waits for, are sent before the processor is busy
NAMED = 2.0  # seconds to wait for headers, where no file has a name that is looked for
SAVE_EVERY = 10.0  # seconds, while many headers are read for the first time


class LoraIndex:
    """The LoRA files in some folders. A header is read again only when its file has changed.

    What was read is kept in the file that ``store`` returns, so that the next start reads no header; without it in
    memory alone. Its methods may be called by several threads. ``revision`` grows with every change.
    """

    def __init__(self, folders: Callable[[], Sequence[Path]], store: Callable[[], Path] | None = None) -> None:
        self._folders, self._store = folders, store
        self._known: Known | None = None  # until the first refresh
        self._files: dict[str, LoraFile] = {}
        self._changed: dict[str, int] = {}  # the revision at which each file was changed last
        self._listed = 0  # the revision of the latest list
        self.revision = 0
        self._descriptions = Descriptions()
        self._network = functools.lru_cache(maxsize=KEPT_NETWORKS)(_network)
        self._network_lock = threading.Lock()  # so that two threads do not read the same network twice
        self._lock = threading.Condition()  # of everything above; notified when the last header has been read
        self._reading = threading.Lock()  # of `_descriptions`
        self._refreshing = threading.Lock()
        self._reader: threading.Thread | None = None
        self._closed = self._waited_for = False

    @classmethod
    def of_host(cls, host: Host) -> LoraIndex:
        """The index of a host's LoRAs, kept below its output folder."""
        return cls(lambda: host.lora_dirs, lambda: host.output_dir / "cache" / "loras.json")

    # --- the list -------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """List the folders again; new and changed files are read in the background."""
        with self._refreshing:
            if self._known is None:
                self._known = lora_store.load(self._store()) if self._store else Known()
            files = {key: self._file(key, found) for key, found in self._found()}
            with self._lock:
                if {key: file.found for key, file in files.items()} == {k: f.found for k, f in self._files.items()}:
                    files = {}  # nothing has changed, and more may be known by now
                else:
                    self._files = files
                    self.revision += 1
                    self._listed = self.revision
                    self._changed = dict.fromkeys(files, self.revision)
                if self._reader is None and not self._closed and not self._all_known():
                    self._reader = threading.Thread(target=self._read_all, name="blocktrain-loras", daemon=True)
                    self._reader.start()

    def files(self, sought: str = "") -> list[LoraFile]:
        """The files that have all of these words in their key or in what is known of them by now."""
        words = sought.casefold().split()
        return [file for file in list(self._files.values()) if file.matches(words)]

    def usable(self) -> list[str]:
        """The keys of the files in which no fault is known."""
        return [file.key for file in self.files() if not file.problem]

    def changes(self, since: int = 0) -> tuple[int, bool, list[LoraFile]]:
        """What has changed since a revision: the present revision, whether these are all files, and the files."""
        with self._lock:
            if since < self._listed:
                return self.revision, True, list(self._files.values())
            return self.revision, False, [self._files[key] for key, at in self._changed.items() if at > since]

    @property
    def complete(self) -> bool:
        """Whether every header has been read."""
        with self._lock:
            return self._all_known()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until every header has been read; return whether that is so."""
        with self._lock:
            self._waited_for = self._waited_for or seconds != 0
            self._lock.notify_all()
            return self._lock.wait_for(lambda: self._closed or self._all_known(), seconds)

    def close(self) -> None:
        """End the reading in the background; what has been read is saved."""
        with self._lock:
            self._closed, reader = True, self._reader
            self._lock.notify_all()
        if reader is not None:
            reader.join()

    # --- one file -------------------------------------------------------------------------------------------------

    def file(self, key: str) -> LoraFile:
        """The file with this key, with all that its header and sidecar say.

        Raises ValueError for any other text, so that no text from outside becomes a path.
        """
        file = self._listed_file(key)
        return file if file.known else self._read(file)

    def called(self, name: str) -> list[str]:
        """The keys of the files of this name, in whichever folder."""
        return [file.key for file in self.files() if file.path.stem == name]

    def named(self, name: str) -> LoraFile | None:
        """The file that a WebUI finds by a name in a prompt: a file's own, or else the one in its metadata.

        None where there is none, and where several have the name in their metadata. Waits for headers if it must.
        """
        for _ in range(2):
            by_file = self.called(name)
            if not by_file:
                self.wait(NAMED)
                by_file = [file.key for file in self.files() if file.output_name == name]
                by_file = by_file if len(by_file) == 1 else []
            if by_file:
                return self.file(by_file[-1])  # of several files the WebUI has the last
            self.refresh()  # it may be new
        return None

    def _listed_file(self, key: str) -> LoraFile:
        if key not in self._files:
            self.refresh()  # the page may have been open since before a restart of the server
        file = self._files.get(key)
        if file is None:
            raise ValueError(f"there is no LoRA {key!r} in the folders: press Refresh")
        return file

    def metadata(self, key: str) -> dict[str, str]:
        """The metadata in the file's header; raises NetworkFileError."""
        return dict(read_header(self.file(key).path).metadata)

    def preview(self, key: str) -> Path | None:
        """The picture beside the file, None if there is none; raises ValueError as `file` does."""
        file = self._listed_file(key)
        return file.path.with_name(file.found.preview) if file.found.preview else None

    def stamp(self, key: str) -> Stamp:
        """The present stamp of the file."""
        return stamp_of(self.file(key).path)

    def network(self, key: str) -> Network:
        """The network, from memory unless its file has changed."""
        stamp = self.stamp(key)
        with self._network_lock:
            return self._network(stamp, _config_time(stamp[0]))

    # --- reading --------------------------------------------------------------------------------------------------

    def _found(self) -> Iterator[tuple[str, Found]]:
        taken: set[str] = set()
        for folder in self._folders():
            yield from with_keys(folder, files_in(folder), taken)

    def _file(self, key: str, found: Found) -> LoraFile:
        """A file with what is known of it."""
        known = self._known or Known()
        return LoraFile(key, found, known.facts_at(found.stamp), known.sidecar_at(found.sidecar))

    def _read(self, file: LoraFile) -> LoraFile:
        """Read what is not known of a file, and put it into the list."""
        found = file.found
        if file.facts is None:
            with self._reading:
                file = replace(file, facts=facts_of(file.path, self._descriptions.describe))
        if file.sidecar is None and found.sidecar is not None:
            file = replace(file, sidecar=sidecar_of(Path(found.sidecar[0])))
        with self._lock:
            known = self._known or Known()
            if file.facts is not None:
                known.facts[found.stamp[0]] = found.stamp, file.facts
            if file.sidecar is not None and found.sidecar is not None:
                known.sidecars[found.sidecar[0]] = found.sidecar, file.sidecar
            present = self._files.get(file.key)
            if present is not None and present.found == found:
                self._files[file.key] = file
                self.revision += 1
                self._changed[file.key] = self.revision
        return file

    def _read_all(self) -> None:
        """Read every file in the list that is not known, until there is none; save what was read."""
        with self._lock:
            self._lock.wait_for(lambda: self._closed or self._waited_for, READ_AFTER)
        saved = time.monotonic()
        while waiting := self._next():
            for file in waiting:
                if self._closed:
                    break
                if self._files.get(file.key) is file:  # neither listed anew nor read meanwhile
                    self._read(file)
                if time.monotonic() - saved > SAVE_EVERY:
                    self._save()
                    saved = time.monotonic()
            self._save()

    def _next(self) -> list[LoraFile]:
        """The files that are to be read; without any the reader ends, and those who wait for it go on."""
        with self._lock:
            waiting = [] if self._closed else [file for file in self._files.values() if not file.known]
            if not waiting:
                self._reader, self._waited_for = None, False
                self._lock.notify_all()
            return waiting

    def _save(self) -> None:
        if self._store is None or self._known is None:
            return
        with self._lock:
            known = Known(dict(self._known.facts), dict(self._known.sidecars))
        try:
            lora_store.save(self._store(), known)
        except OSError as error:
            log.warning("what is known of the LoRA files cannot be kept: %s", error)

    def _all_known(self) -> bool:
        return all(file.known for file in self._files.values())


def _network(stamp: Stamp, config: int) -> Network:
    """The network of a file; ``config`` is when PEFT's configuration beside it was changed, 0 if there is none."""
    return read_network(Path(stamp[0]))


def _config_time(path: str) -> int:
    try:
        return Path(path).with_name(CONFIG).stat().st_mtime_ns
    except OSError:
        return 0
