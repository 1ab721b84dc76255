"""The error tree is the one that is drawn, and each error carries its facts."""

from __future__ import annotations

import builtins
import pickle
import re
import tomllib
from pathlib import Path

import pytest

from qforge_sdk import errors
from qforge_sdk.errors import (
    Conflict,
    DatabaseError,
    InvalidInput,
    InvalidSmiles,
    MissingExtra,
    NotFound,
    QForgeError,
    RowsRejected,
    SchemaOutdated,
)

LINE = re.compile(r"^(?P<indent>[ │├└─]*)(?P<name>[A-Z]\w+)(?: \((?P<builtin>\w+)\))?(?P<said> {2,}\S.*)?$")


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Parent and builtin of every class in the drawing of the module's docstring."""
    assert errors.__doc__ is not None
    drawing = errors.__doc__.split("::\n", 1)[1].rsplit("Facts are attributes", 1)[0]
    tree: dict[str, tuple[str | None, str | None]] = {}
    above: list[tuple[int, str]] = []
    for line in filter(str.strip, drawing.splitlines()):
        match = LINE.match(line)
        assert match, f"not understood: {line!r}"
        depth = len(match["indent"])
        above = [(d, name) for d, name in above if d < depth]
        tree[match["name"]] = (above[-1][1] if above else None, match["builtin"])
        above.append((depth, match["name"]))
    return tree


def real_tree() -> dict[str, tuple[str | None, str | None]]:
    """Parent and builtin of every class of the module."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, BaseException) and kind.__module__ == errors.__name__:
            ours = [base.__name__ for base in kind.__bases__ if base.__module__ == errors.__name__]
            others = [
                base.__name__ for base in kind.__bases__ if base.__module__ == "builtins" and base is not Exception
            ]
            tree[name] = (ours[0] if ours else None, others[0] if others else None)
    return tree


def test_the_drawn_tree_is_the_real_one() -> None:
    assert drawn_tree() == real_tree()


def test_each_error_is_caught_by_a_builtin_s_name() -> None:
    ours = [name for name in real_tree() if issubclass(getattr(errors, name), QForgeError) and name != "QForgeError"]

    for name in ours:
        caught_by = [
            base.__name__
            for base in getattr(errors, name).__mro__
            if base.__module__ == "builtins" and base not in (Exception, BaseException, object)
        ]
        assert caught_by, f"{name} derives from no builtin that a user would catch"
        assert all(hasattr(builtins, builtin) for builtin in caught_by)


FACTS = [
    (MissingExtra("tblite", "xtb"), {"package": "tblite", "extra": "xtb"}),
    (SchemaOutdated("old", found="1", expected="2"), {"found": "1", "expected": "2"}),
    (InvalidInput("bad", field="gap", value=-1, code="range"), {"field": "gap", "value": -1, "code": "range"}),
    (
        InvalidSmiles("bad", smiles="C(", code="syntax", position=1),
        {"smiles": "C(", "code": "syntax", "position": 1, "field": "smiles", "value": "C("},
    ),
    (RowsRejected("bad", report="the report"), {"report": "the report", "code": "rows_rejected"}),
    (NotFound("absent", entity="molecules", key=7), {"entity": "molecules", "key": 7}),
    (Conflict("there", existing_id=7, constraint="c"), {"existing_id": 7, "constraint": "c"}),
    (DatabaseError("odd", sqlstate="XX000", constraint="c"), {"sqlstate": "XX000", "constraint": "c"}),
]


@pytest.mark.parametrize(("error", "facts"), FACTS, ids=lambda value: type(value).__name__)
def test_an_error_carries_its_facts(error: QForgeError, facts: dict[str, object]) -> None:
    assert {name: getattr(error, name) for name in facts} == facts


def test_a_missing_extra_names_the_command_that_cures_it() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for extra, packages in project["optional-dependencies"].items():
        named = " ".join(f'"{package}"' for package in packages)
        assert str(MissingExtra("x", extra)) == f"x is not installed; run: pip install {named}"


@pytest.mark.parametrize(
    "error",
    [error for error, _ in FACTS] + [
        QForgeError("bad"),
        errors.ConnectionFailed("gone"),
        errors.StatementTimeout("late"),
        errors.ComputationFailed("bad", code="timeout", stderr="cycle 1"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_error_is_the_same_in_another_process(error: QForgeError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.args, vars(again)) == (type(error), str(error), error.args, vars(error))
