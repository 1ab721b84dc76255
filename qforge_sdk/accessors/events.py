"""``client.events``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pandas as pd
from sqlalchemy import BigInteger, and_, case, cast, func, select

from qforge_sdk.accessors.base import Accessor
from qforge_sdk.db.models import EventLog
from qforge_sdk.errors import InvalidInput
from qforge_sdk.fields import ALL_TABLES, EVENTS
from qforge_sdk.frames import sql_frame
from qforge_sdk.quantities import did_you_mean
from qforge_sdk.schemas import EventLogResponse

_HEAD = ("id", "created_at", "event_type", "status", "actor", "application", "transaction_id", "context")

BUCKETS: Final = ("minute", "hour", "day", "week", "month", "year")
_GROUPS: Final = (
    "event_type", "entity_type", "status", "service", "recorded_by", "actor", "application", "user_id"
)  # fmt: skip


class Events(Accessor):
    """The audit trail: what triggers recorded and what programs added. It is only ever appended to."""

    _table = EVENTS
    _record = EventLogResponse

    def delete(self, id: int) -> None:  # noqa: A002
        """Refuse: events are never deleted through the SDK.

        Raises
        ------
        InvalidInput
            Always.
        """
        raise InvalidInput("events are append-only and cannot be deleted", field="id", value=id)

    def history(self, entity_type: str, entity_id: int) -> pd.DataFrame:
        """What happened to one row, oldest first, one line for each column that changed.

        Parameters
        ----------
        entity_type
            Table name, such as ``"molecules"``.
        entity_id
            Key of the row; it may be gone by now.

        Returns
        -------
        pandas.DataFrame
            event_id, created_at, event_type, status, actor, application, transaction_id, column, before, after;
            events without a before and after have one line with a null column.

        Raises
        ------
        InvalidInput
            No table of that name.
        """
        if entity_type not in ALL_TABLES:
            raise InvalidInput(
                f"no table {entity_type!r}{did_you_mean(entity_type, list(ALL_TABLES))}",
                field="entity_type",
                value=entity_type,
            )
        events = self.where(entity_type=entity_type, entity_id=entity_id).order_by("id").select(_HEAD).df()
        lines = [
            {"event_id": event.id, **{name: getattr(event, name) for name in _HEAD[1:-1]}, **change}
            for event in events.itertuples()
            for change in _changes(event.context)
        ]
        columns = ["event_id", *_HEAD[1:-1], "column", "before", "after"]
        frame = pd.DataFrame(lines, columns=columns)
        kinds = {"event_id": "int64", "created_at": "datetime64[us, UTC]", "transaction_id": "int64"}
        words = dict.fromkeys(("event_type", "status", "actor", "application", "column"), "str")
        return frame.astype(kinds | words | {"before": "object", "after": "object"})

    def timeline(
        self, bucket: str = "day", *, by: str | Sequence[str] = "event_type", **filters: Any
    ) -> pd.DataFrame:
        """How much happened when, counted by the server: for plots, however many events there are.

        Parameters
        ----------
        bucket
            ``minute``, ``hour``, ``day``, ``week`` (from Monday), ``month`` or ``year``, in UTC.
        by
            Columns to tell apart: event_type, entity_type, status, service, recorded_by, actor, application,
            user_id; an empty list for none.
        **filters
            As in :meth:`query`, such as ``created_at=("2026-05-01", None)``.

        Returns
        -------
        pandas.DataFrame
            ``time`` (start of the bucket, UTC), the columns of ``by``, ``events`` and ``rows``: one large load is
            one event of many rows. Sorted by time; buckets without events are left out.
            ``frame.pivot(index="time", columns="event_type", values="events").plot()`` draws it.

        Raises
        ------
        InvalidInput
            No such bucket or column.
        """
        names = [by] if isinstance(by, str) else list(by)
        for name, known, field in ((bucket, BUCKETS, "bucket"), *((one, _GROUPS, "by") for one in names)):
            if name not in known:
                raise InvalidInput(
                    f"timeline: no {field} {name!r}{did_you_mean(name, list(known))}", field=field, value=name
                )
        counted = EventLog.context["rows"]
        summary = and_(EventLog.recorded_by == "trigger", func.jsonb_typeof(counted) == "number")
        rows = func.sum(case((summary, cast(counted.astext, BigInteger)), else_=1))
        time = func.date_trunc(bucket, EventLog.created_at, "UTC").label("time")
        groups = [EVENTS[name].selected() for name in names]
        statement = (
            select(time, *groups, func.count().label("events"), cast(rows, BigInteger).label("rows"))
            .where(*self.where(**filters).conditions)
            .group_by(time, *groups)
            .order_by(time, *groups)
        )
        frame = sql_frame(self._context.reader.read(statement))
        kinds = {"time": "datetime64[us, UTC]", "events": "int64", "rows": "int64"} | dict.fromkeys(names, "str")
        return frame.astype(kinds)


def _changes(context: Any) -> list[dict[str, object]]:
    before, after = context.get("before") or {}, context.get("after") or {}
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [{"column": None, "before": before, "after": after or None}]
    names = [name for name in after or before if before.get(name) != after.get(name) and name != "updated_at"]
    changes = [{"column": name, "before": before.get(name), "after": after.get(name)} for name in names]
    return changes or [{"column": None, "before": None, "after": None}]
