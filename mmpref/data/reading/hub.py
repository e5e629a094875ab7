"""Rows of a data set of the model hub. The only module that imports datasets."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mmpref.data.quarantine import RowError, where_is
from mmpref.data.reading.rows import OnFault, RowSource, SourceRow
from mmpref.data.reading.tables import BATCH, batch_rows
from mmpref.errors import ConfigError, DataError, MMPrefError, one_line

HUB_ID = re.compile(r"^(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?$")


def hub_rows(spec: str, parts: re.Match[str], split: str | None, streaming: bool) -> RowSource:
    """The rows of a data set of the hub, read when they are asked for.

    Args:
        spec: as it was given.
        parts: its match with ``HUB_ID``.
        split: needed where there are several.
        streaming: read the hub while it is read; without it, or offline, the cache on disk is used.
    """
    name = parts["name"]

    def open_hub(on_fault: OnFault | None) -> Iterator[SourceRow]:
        import datasets

        live = streaming and not datasets.config.HF_HUB_OFFLINE  # offline, only what is in the cache can be read
        number = 0
        try:
            found = datasets.load_dataset(
                name, parts["config"], split=split, revision=parts["revision"], streaming=live
            )
            if isinstance(found, dict):
                if len(found) != 1:
                    raise ConfigError(f"{spec} has the splits {', '.join(map(str, found))}; choose one")
                (found,) = found.values()
            for table in found.with_format("arrow").iter(batch_size=BATCH):  # arrow: images stay encoded
                for row in batch_rows(table):
                    number += 1
                    if isinstance(row, dict):
                        yield SourceRow(spec, number, row)
                        continue
                    fault = RowError(f"{where_is(spec, number)}: {row}", reason="encoding", detail=str(row))
                    if on_fault is None:
                        raise fault
                    on_fault(spec, number, fault)
        except MMPrefError:
            raise
        except Exception as error:  # datasets and its hub client raise many kinds; each means: these rows cannot be had
            where = f"after row {number}" if number else "before the first row"
            offline = "" if live or not streaming else " (offline: only what is in the cache can be read)"
            raise DataError(
                f"{spec} is no file or folder here, and reading it from the hub failed {where}{offline}: "
                f"{type(error).__name__}: {one_line(error)}"
            ) from error

    return RowSource(spec=spec, name=name.split("/")[-1], split=split, files=(), folder=None, _open=open_hub)
