"""The ORM models and the migrations describe the same six tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import Session

from qforge_sdk.db.models import TABLES, Base
from tests.fixtures.catalog import SHAPE, catalog
from tests.fixtures.databases import Databases

KEPT_COLUMNS = {
    "molecules": "id user_id name smiles formula metadata created_at updated_at",
    "calculations": """
        id user_id molecule_id energy homo lumo gap dipole total_charge execution_time_seconds xtb_version solvation
        method convergence_status xyz_file_hash output_json_path metadata created_at updated_at unpaired_electrons
        solvent optimized
    """,
    "atomic_properties": """
        user_id calculation_id atom_index element atomic_number partial_charge position_x position_y position_z
        force_x force_y force_z orbital_energy metadata created_at
    """,
    "batch_jobs": """
        id user_id batch_name description status total_molecules successful_count failed_count parameters metadata
        created_at started_at completed_at updated_at
    """,
    "batch_items": """
        id user_id batch_id molecule_id status calculation_id error_message retry_count metadata created_at started_at
        completed_at updated_at
    """,
    "event_logs": """
        id user_id event_type entity_type entity_id status error_message error_code context service created_at
    """,
}


@pytest.fixture
def from_models(any_version: Databases) -> Iterator[str]:
    """URL of a database that ``Base.metadata`` built."""
    with any_version.clone(migrated=False) as name:
        engine = create_engine(any_version.url(name), poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA qforge"))
            connection.execute(
                text("CREATE FUNCTION qforge.current_user_id() RETURNS uuid LANGUAGE sql RETURN NULL::uuid")
            )
            Base.metadata.create_all(connection)
        yield any_version.url(name)


@pytest.mark.parametrize("kind", SHAPE)
def test_models_and_migrations_do_not_differ(from_models: str, any_version_url: str, kind: str) -> None:
    query = {kind: SHAPE[kind]}

    by_models, by_migrations = catalog(from_models, query)[kind], catalog(any_version_url, query)[kind]

    assert by_models - by_migrations == set(), "only in the models"
    assert by_migrations - by_models == set(), "only in the migrations"


@pytest.mark.parametrize("table", KEPT_COLUMNS)
def test_a_table_has_the_columns_that_users_know(session: Session, table: str) -> None:
    found = session.execute(text(f"SELECT * FROM public.{table} LIMIT 0")).keys()

    assert set(KEPT_COLUMNS[table].split()) - set(found) == set()


def test_every_table_has_a_model() -> None:
    assert TABLES.keys() == KEPT_COLUMNS.keys()
