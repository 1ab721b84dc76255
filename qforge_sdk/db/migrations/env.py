"""Alembic environment: run by :mod:`qforge_sdk.db.schema`, never by a configuration file."""

from typing import Any

from alembic import context
from sqlalchemy import Connection

from qforge_sdk.db.models import Base

# The revision table lives outside public, where Supabase's API would show it to everybody.
OPTIONS: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "version_table_schema": "qforge",
    "transaction_per_migration": False,
}


def run_offline() -> None:
    context.configure(dialect_name="postgresql", as_sql=True, **OPTIONS)
    with context.begin_transaction():
        context.execute("CREATE SCHEMA IF NOT EXISTS qforge")
        context.run_migrations()


def run_online(connection: Connection) -> None:
    context.configure(connection=connection, **OPTIONS)
    connection.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS qforge")
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online(context.config.attributes["connection"])
