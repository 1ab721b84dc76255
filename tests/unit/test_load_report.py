"""The account of a bulk load and the report that it ends in."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qforge_sdk.db.bulk import spill
from qforge_sdk.db.bulk.account import Account
from qforge_sdk.db.bulk.source import open_source
from qforge_sdk.errors import InvalidInput, LoadWarning, QForgeError, RowsRejected
from qforge_sdk.schemas.reports import REJECTED_COLUMNS, LoadReport


def account_of(rows: int, **options: Any) -> Account:
    index = pd.Index([f"r{n}" for n in range(rows)])
    return Account("calculations", open_source(pd.DataFrame({"energy": [0.0] * rows}, index=index)), **options)


def refuse(account: Account, *rows: int, value: Any = "x", column: str = "energy") -> None:
    account.reject(np.array(rows, np.int64), column, [value] * len(rows), "wrong_type", "this is not a number")


def report(**changes: Any) -> LoadReport:
    values: dict[str, Any] = {
        "entity": "molecules", "n_rows": 4, "n_inserted": 2, "n_existing": 1, "n_rejected": 1,
        "ids": pd.Series([1, 2, 1, None], dtype="Int64"), "seconds": 0.5,
    }  # fmt: skip
    return LoadReport(**values | changes)


@pytest.mark.parametrize("change", ["n_rows", "n_inserted", "n_existing", "n_rejected"])
def test_rows_that_are_not_accounted_for_are_a_bug(change: str):
    with pytest.raises(AssertionError, match="not accounted for"):
        report(**{change: 7})


def test_rows_per_second_counts_the_input():
    assert report().rows_per_second == 8.0
    assert report(seconds=0.0).rows_per_second == 0.0


def test_a_report_that_refused_nothing_has_an_empty_table_and_raises_nothing():
    clean = report(n_inserted=3, n_rejected=0)
    clean.raise_for_rejected()
    assert list(clean.rejected.columns) == list(REJECTED_COLUMNS)
    assert clean.rejected.empty
    assert clean.rejected["row"].dtype == "int64"


def test_raise_for_rejected_carries_the_report():
    account = account_of(3)
    refuse(account, 1)
    account.n_inserted = 2
    with pytest.warns(LoadWarning):
        found = account.report(on_error="collect")
    with pytest.raises(RowsRejected, match="1 of 3 rows refused") as caught:
        found.raise_for_rejected()
    assert caught.value.report is found
    assert isinstance(caught.value, (QForgeError, InvalidInput))


def test_the_warning_names_the_first_refused_row_of_the_input():
    account = account_of(1_200)
    refuse(account, 7)
    refuse(account, 3, column="gap")
    account.n_inserted = 1_198
    with pytest.warns(LoadWarning) as caught:
        account.report(on_error="collect")
    assert str(caught[0].message) == (
        "calculations: 2 of 1,200 rows refused; row 3, gap: this is not a number (wrong_type); see report.rejected"
    )


def test_no_refused_row_no_warning():
    account = account_of(1)
    account.n_inserted = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        account.report(on_error="raise")


def test_refused_rows_are_sorted_and_shown_as_text():
    account = account_of(5)
    refuse(account, 4, value=None)
    refuse(account, 0, 2, value=1.5)
    refuse(account, 1, value="é" * 300)
    refuse(account, 3, value="\ud800")
    with pytest.warns(LoadWarning):
        rejected = account.report(on_error="collect").rejected
    assert rejected["row"].tolist() == [0, 1, 2, 3, 4]
    assert rejected["value"].iloc[[0, 2]].tolist() == ["1.5", "1.5"]
    assert rejected["value"][1] == "é" * 197 + "..."
    assert rejected["value"][3] == "?"
    assert rejected["value"].isna().tolist() == [False] * 4 + [True]
    assert [str(dtype) for dtype in rejected.dtypes] == ["int64", "str", "str", "str", "str"]


def test_ids_are_on_the_index_of_the_input():
    account = account_of(3)
    account.ids[:] = [5, 0, 7]
    account.n_inserted = 2
    refuse(account, 1)
    with pytest.warns(LoadWarning):
        ids = account.report(on_error="collect").ids
    assert ids.index.tolist() == ["r0", "r1", "r2"]
    assert ids["r0"] == 5
    assert ids.isna().tolist() == [False, True, False]
    assert (ids.name, str(ids.dtype)) == ("id", "Int64")


def test_ids_of_an_input_without_an_index_are_numbered():
    account = Account("calculations", open_source(pa.table({"energy": [1.0, 2.0]})))
    account.n_inserted = 2
    account.ids[:] = [5, 6]
    assert account.report(on_error="collect").ids.index.equals(pd.RangeIndex(2))


def test_a_table_without_a_key_reports_no_ids():
    account = account_of(1, keyed=False)
    account.n_inserted = 1
    ids = account.report(on_error="collect").ids
    assert (len(ids), str(ids.dtype)) == (0, "Int64")


def test_raising_reports_that_nothing_was_loaded():
    account = account_of(3)
    account.ids[:] = [5, 0, 6]
    account.n_inserted, account.n_existing, account.n_molecules_created = 1, 1, 4
    refuse(account, 1)
    with pytest.raises(RowsRejected, match="nothing was loaded: calculations: 1 of 3 rows refused") as caught:
        account.report(on_error="raise")
    found = caught.value.report
    assert found is not None
    assert (found.n_rows, found.n_inserted, found.n_existing, found.n_rejected) == (3, 0, 0, 3)
    assert found.n_molecules_created == 0
    assert found.ids.isna().all()
    assert found.rejected["row"].tolist() == [1]


def test_many_refused_rows_go_to_a_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spill, "MOST_IN_MEMORY", 3)
    account = account_of(9)
    for row in (8, 7, 6, 5, 0, 1):
        refuse(account, row, value=row)
    account.n_inserted = 3
    with pytest.warns(LoadWarning, match="6 of 9 rows refused; row 0, energy"):
        found = account.report(on_error="collect")
    assert isinstance(found.rejected_path, Path)
    assert found.rejected_path.exists()
    assert found.rejected["row"].tolist() == [0, 1, 5, 6, 7, 8]
    assert found.rejected["value"].tolist() == ["0", "1", "5", "6", "7", "8"]
    assert found.rejected.dtypes.equals(report(n_inserted=3, n_rejected=0).rejected.dtypes)
    found.rejected_path.unlink()


def test_no_file_is_written_for_few(monkeypatch: pytest.MonkeyPatch):
    account = account_of(3)
    refuse(account, 0)
    account.n_inserted = 2
    with pytest.warns(LoadWarning):
        assert account.report(on_error="collect").rejected_path is None


def test_repr_is_one_line_with_all_numbers():
    text = "LoadReport(molecules: 1,000 rows = 2 inserted + 997 existing + 1 rejected, 0.50 s)"
    assert repr(report(n_rows=1_000, n_existing=997)) == text


def test_html_escapes_what_the_input_held():
    account = account_of(2)
    refuse(account, 0, value="<script>alert(1)</script>")
    account.n_inserted = 1
    with pytest.warns(LoadWarning):
        html = account.report(on_error="collect")._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
