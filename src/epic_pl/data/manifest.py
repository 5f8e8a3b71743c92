"""A checked table, kept for the next start: Arrow rows that loaders and ranks share.

The file is an uncompressed Arrow IPC file rather than Parquet, by measurement: 500,000 rows of
SNLI-VE's shape open in 9 ms instead of 507 ms (Parquet, zstd), take 40 MB of private memory instead
of 220 MB, and the pages of a memory map are shared by all ranks and workers of a machine. It costs
66 MB on disk.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from epic_pl.assets.cache import cache_dir
from epic_pl.errors import DataError

_VERSION = 1
_KEY = b"epic_pl"


def manifest_path(name: str, files: Sequence[Path], options: Mapping[str, Any]) -> Path:
    """Where the manifest of these files under these options lies, if it was written.

    The name holds a digest of the files' paths, sizes and times of change and of the options, so a
    manifest that no longer fits is never found. Pictures are not looked at again.

    Args:
        name: readable beginning of the file's name.
        files: what the table is read from.
        options: all that decides on the rows, as plain types.
    """
    stats = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = json.dumps([_VERSION, stats, dict(options)], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return cache_dir() / "manifests" / f"{name}-{digest}.arrow"


def write_manifest(path: Path, table: pa.Table, facts: Mapping[str, Any]) -> None:
    """Write rows and facts; the file appears whole, by a rename.

    Args:
        path: as from :func:`manifest_path`.
        table: any columns.
        facts: plain types, such as class names.

    Raises:
        DataError: the folder cannot be written.
    """
    table = table.replace_schema_metadata({_KEY: json.dumps(dict(facts))}).combine_chunks()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".manifest-")
        os.close(handle)
        try:
            # one batch: a split is then a slice, and a row is found without a search
            with pa.OSFile(partial, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=max(table.num_rows, 1))
            os.replace(partial, path)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"The manifest {path} cannot be written ({error}). Free some space, or set "
            "EPIC_PL_CACHE to a folder that can be written."
        ) from error


def read_manifest(path: Path) -> tuple[pa.Table, dict[str, Any]] | None:
    """Rows (memory-mapped) and facts, or None where there is no sound manifest."""
    # a broken one is as good as none: the table itself is still there
    with contextlib.suppress(OSError, pa.ArrowException, KeyError, ValueError, TypeError):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        return table, json.loads(table.schema.metadata[_KEY])
    return None
