"""``client.admin``: what only the service may do."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
from sqlalchemy import Connection

from qforge_sdk.accessors.base import Context, key_of
from qforge_sdk.db import ownership, tenants
from qforge_sdk.db.models import PUBLIC_USER_ID, TABLES
from qforge_sdk.db.scope import parse_user_id
from qforge_sdk.db.tenants import Password
from qforge_sdk.errors import AccessDenied, InvalidInput

TenantId = str | uuid.UUID
Keys = Iterable[int]


class Admin:
    """Tenants, their logins, and rows that change their owner; each act leaves an event.

    Parameters
    ----------
    context
        Of a client whose login is the service's and which acts as no tenant.

    Raises
    ------
    AccessDenied
        The client acts as a tenant.
    """

    def __init__(self, context: Context) -> None:
        if context.tenant is not None:
            raise AccessDenied("client.admin is the service's: connect with its login and without user_id")
        self._context = context

    def __repr__(self) -> str:
        return f"<admin: {', '.join(name for name in dir(self) if not name.startswith('_'))}>"

    def create_login(self, user_id: TenantId, name: str) -> Password:
        """Make a login that is this tenant whatever it sets, for plain psql as for :func:`qforge_sdk.connect`.

        Parameters
        ----------
        user_id
            The tenant; it may have several logins.
        name
            The login, a role of the whole server: lower-case letters, digits and ``_ . @ -``.

        Returns
        -------
        Password
            ``reveal()`` shows it once. The server stores and its log sees only the SCRAM verifier.

        Raises
        ------
        InvalidInput
            ``user_id`` is no uuid, or the name cannot be a login.
        Conflict
            The server has a role of that name.
        AccessDenied
            This login may not create roles; the message says what an administrator runs.
        """
        with self._transaction() as connection:
            return tenants.create_login(connection, _tenant(user_id), name)

    def reset_password(self, name: str) -> Password:
        """Give a tenant's login a new password; open sessions stay open.

        Raises
        ------
        NotFound
            No tenant has that login.
        AccessDenied
            This login may not manage roles.
        """
        with self._transaction() as connection:
            return tenants.reset_password(connection, name)

    def drop_login(self, name: str) -> None:
        """End a tenant's login and its sessions; the tenant's rows stay.

        Raises
        ------
        NotFound
            No tenant has that login.
        Conflict
            The role owns objects in another database.
        AccessDenied
            This login may not manage roles.
        """
        with self._transaction() as connection:
            tenants.drop_login(connection, name)

    def tenants(self) -> pd.DataFrame:
        """Every tenant that has rows or logins.

        Returns
        -------
        pandas.DataFrame
            user_id, logins (comma-separated), number of rows by table, last_event_at.
        """
        with self._transaction() as connection:
            rows = [tuple(row) for row in tenants.tenants(connection)]
        frame = pd.DataFrame(rows, columns=["user_id", "logins", *TABLES, "last_event_at"])
        kinds = {"user_id": "str", "logins": "str", "last_event_at": "datetime64[us, UTC]"}
        return frame.astype({"user_id": "object"}).astype(kinds | dict.fromkeys(TABLES, "int64"))

    def delete_tenant(self, user_id: TenantId, *, dry_run: bool = True) -> pd.DataFrame:
        """Delete all of a tenant's rows, its events and its logins, as a request under the GDPR asks.

        Parameters
        ----------
        user_id
            The tenant.
        dry_run
            Only count; give False to delete.

        Returns
        -------
        pandas.DataFrame
            ``table`` and ``rows``: what is, or was, deleted. One event stays: who deleted how many rows of whom.

        Raises
        ------
        InvalidInput
            ``user_id`` is no uuid.
        Conflict
            Rows of other owners would go with the tenant's; nothing is deleted.
        AccessDenied
            This login may not drop the tenant's logins.
        """
        with self._transaction() as connection:
            counts = tenants.delete_tenant(connection, _tenant(user_id), dry_run=dry_run)
        return pd.DataFrame({"table": list(counts), "rows": list(counts.values())})

    def publish(self, *, molecules: Keys = (), calculations: Keys = (), batches: Keys = ()) -> pd.DataFrame:
        """Make rows public: everybody reads them, only the service changes them.

        A calculation takes its atoms along, a batch its items. A calculation whose molecule is not named is hung on
        the public row of that molecule; where there is none, one is made of its structure and name.

        Parameters
        ----------
        molecules, calculations, batches
            Keys, of any owner's rows: a list, an array or a column of a DataFrame.

        Returns
        -------
        pandas.DataFrame
            One line a table: requested = moved + unchanged (public already) + kept (molecules whose structure is
            public as another row); copied counts the molecules made.

        Raises
        ------
        NotFound
            A key is absent; nothing is moved.
        Conflict
            It would leave a public row hanging on a private one, or repeat a source_id; nothing is moved.
        """
        selection = _selected(molecules, calculations, batches)
        return self._move("rows_published", selection, ownership.Source(anyone=True), PUBLIC_USER_ID)

    def unpublish(
        self, user_id: TenantId, *, molecules: Keys = (), calculations: Keys = (), batches: Keys = ()
    ) -> pd.DataFrame:
        """Give public rows to one tenant; the others do not see them any more.

        Parameters
        ----------
        user_id
            Whose they become.
        molecules, calculations, batches
            Keys of public rows.

        Returns
        -------
        pandas.DataFrame
            As :meth:`publish`.

        Raises
        ------
        NotFound
            A key is absent or not public; nothing is moved.
        Conflict
            Rows of other owners hang on one of them; nothing is moved.
        """
        selection = _selected(molecules, calculations, batches)
        return self._move("rows_unpublished", selection, ownership.Source(owner=PUBLIC_USER_ID), _tenant(user_id))

    def transfer(
        self,
        source: TenantId | None,
        target: TenantId | None,
        *,
        molecules: Keys | None = None,
        calculations: Keys | None = None,
        batches: Keys | None = None,
    ) -> pd.DataFrame:
        """Hand rows from one owner to another: everything, unless keys are named.

        Parameters
        ----------
        source, target
            Tenants; None for the service's rows, which have no owner.
        molecules, calculations, batches
            Keys of the source's rows; all three None for everything.

        Returns
        -------
        pandas.DataFrame
            As :meth:`publish`. A molecule that the target has already stays with the source (``kept``), what hung
            on it hangs on the target's row. Events stay with whom they concerned; the move itself leaves one with
            both.

        Raises
        ------
        NotFound
            A key is absent or not the source's; nothing is moved.
        Conflict
            Rows of other owners hang on one of them, or the target has the same source_id; nothing is moved.
        """
        owners = [None if one is None else _tenant(one) for one in (source, target)]
        if owners[0] == owners[1]:
            raise InvalidInput("source and target are the same owner", field="target", value=target)
        chosen = (molecules, calculations, batches)
        everything = all(keys is None for keys in chosen)
        selection = _selected(*(keys if everything or keys is not None else () for keys in chosen))
        return self._move("rows_transferred", selection, ownership.Source(owner=owners[0]), owners[1])

    def prune_events(self, *, before: dt.datetime | str) -> int:
        """Delete the events of everybody that are older, and leave an event about it.

        Parameters
        ----------
        before
            A time, or its ISO form; without a time zone it is UTC.

        Returns
        -------
        int
            Number of events deleted.

        Raises
        ------
        InvalidInput
            ``before`` is no time.
        AccessDenied
            This login does not own the table.
        """
        with self._transaction() as connection:
            return tenants.prune_events(connection, _time(before))

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._context.connection() as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            yield connection

    def _move(
        self, event_type: str, selection: ownership.Selection, source: ownership.Source, target: uuid.UUID | None
    ) -> pd.DataFrame:
        with self._transaction() as connection:
            lines = ownership.move(connection, selection, source=source, target=target)
            context: dict[str, Any] = {
                "target": None if target is None else str(target),
                "moved": {line["table"]: line["moved"] for line in lines},
            }
            if not source.anyone:
                context["source"] = None if source.owner is None else str(source.owner)
            tenants.record(connection, event_type, context)
        return pd.DataFrame(lines)


def _selected(molecules: Keys | None, calculations: Keys | None, batches: Keys | None) -> ownership.Selection:
    """Whole numbers of a list, an array or a column; None for everything."""
    named = {"molecules": molecules, "calculations": calculations, "batch_jobs": batches}
    return ownership.Selection(
        **{table: None if keys is None else [key_of(key, table) for key in keys] for table, keys in named.items()}
    )


def _tenant(value: TenantId) -> uuid.UUID:
    parsed = parse_user_id(value)
    if parsed is None:
        raise InvalidInput("user_id is missing", field="user_id", value=value)
    return parsed


def _time(value: dt.datetime | str) -> dt.datetime:
    try:
        parsed = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
        return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=dt.UTC)
    except (ValueError, AttributeError, TypeError) as exc:
        raise InvalidInput(
            f"before={value!r} is no time such as 2026-05-01T00:00Z", field="before", value=value
        ) from exc
