"""Whether a database can be used, who a connection is to it, and what holds the connection to its rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qforge_sdk import display
from qforge_sdk.schemas.records import Record, Summary

Verb = Literal["select", "insert", "update", "delete"]


class TableAccess(Record):
    """Row level security of one table."""

    table: str
    owner: str
    row_security: bool
    applies: bool = Field(description="Whether it applies to the role that acts here")
    rights: tuple[str, ...] = Field(description="Verbs that the tenants' role may use on the whole table or columns")
    policies: dict[Verb, tuple[str, ...]] = Field(description="Names of the policies that let rows through, by verb")


class FunctionAccess(Record):
    """One helper function of schema ``qforge``."""

    function: str
    owner: str
    security_definer: bool
    search_path: str | None


class AccessReport(Record):
    """What the server says of this connection's rights, read from its catalog."""

    strength: Literal["boundary", "scope", "service", "none"] = Field(
        description="boundary: a tenant's own login, held by PostgreSQL against anything that it sends; scope: the "
        "service's login acting as a tenant, held by this package; service: no tenant, every row is seen; none: a "
        "login that is nobody's and sees the public rows"
    )
    login: str
    role: str = Field(description="Role that acts after the scope was opened")
    user_id: str | None = Field(description="The tenant, None for the service")
    attributes: dict[str, bool] = Field(description="Role attributes of the login", repr=False)
    memberships: tuple[str, ...] = Field(description="Roles that the login can act as")
    tables: tuple[TableAccess, ...] = Field(description="What holds each table's rows", repr=False)
    functions: tuple[FunctionAccess, ...] = Field(
        description="Helper functions that the policies rest on", repr=False
    )
    problems: tuple[str, ...] = Field(description="Why a tenant would not hold, each with its cure")


class HealthCheckResponse(Summary):
    """Whether the database can be used."""

    status: Literal["healthy", "unhealthy"]
    database: Annotated[str, Field(description="The server's name and version")]
    message: str
    tables_exist: bool
    pool_size: Annotated[str | None, Field(description="Connections that the pool keeps")] = None
    access: Annotated[AccessReport | None, Field(description="Whose rows this connection reaches")] = None

    def _repr_html_(self) -> str:
        facts = {name: getattr(self, name) for name in ("status", "database", "message", "tables_exist", "pool_size")}
        if self.access is None:
            return display.record("health", facts)
        who = {name: getattr(self.access, name) for name in ("strength", "login", "role", "user_id")}
        problems = (display.paragraph(problem) for problem in self.access.problems)
        return display.together(display.record("health", facts | who), *problems)
