"""The grid of molecules without a browser: what is searched for, found, shown and picked."""

from __future__ import annotations

import pandas as pd
import pytest
from sqlalchemy import text

from qforge_sdk import Client, InvalidInput, InvalidSmiles
from qforge_sdk.widgets.molecules import MoleculeGrid
from qforge_sdk.widgets.molecules_state import EMPTY, Scale, View, find, picked_frame, readings, scales, turn
from tests.fixtures.clients import TenantClient
from tests.fixtures.tenants import ALICE, BOB

MOLECULES = {
    "ethanol": "CCO",
    "dimethyl ether": "COC",
    "benzene": "c1ccccc1",
    "ammonium": "[NH4+]",
    "ammonia": "N",
    "water": "O",
    "methanol": "CO",
    "carbon monoxide": "[C-]#[O+]",
}
NUMBERS = {
    "CCO": {"gap": 9.1, "energy": -11.39, "dipole": 1.9},
    "COC": {"gap": 8.8, "energy": -11.37, "dipole": 1.3},
    "c1ccccc1": {"gap": 4.6, "energy": -15.88, "dipole": 0.0},
    "[NH4+]": {"gap": 15.5, "energy": -4.65, "dipole": 0.0, "total_charge": 1},
}


@pytest.fixture
def filled(client: Client) -> Client:
    for name, smiles in MOLECULES.items():
        client.molecules.create(smiles, name=name)
    for smiles, numbers in NUMBERS.items():
        client.calculations.create(smiles=smiles, **numbers)
    return client


@pytest.fixture
def grid(filled: Client) -> MoleculeGrid:
    return filled.widgets.molecules(page_size=12)


def titles(grid: MoleculeGrid) -> list[str]:
    return [card["title"] for card in grid.cards.cards]


def names(client: Client, **view: object) -> list[str]:
    return sorted(find(client.molecules, View(**view)).page.frame["name"])  # type: ignore[arg-type]


def test_a_smiles_in_any_spelling_is_found(filled: Client):
    assert names(filled, text="OCC") == ["ethanol"]
    assert names(filled, text=" C1=CC=CC=C1 ") == ["benzene"]


def test_a_formula_in_any_order_is_found(filled: Client):
    assert names(filled, text="OC2H6") == ["dimethyl ether", "ethanol"]
    assert names(filled, text="H3N", kind="formula") == ["ammonia"]


def test_a_formula_with_a_charge_finds_ions_alone(filled: Client):
    assert names(filled, text="NH4+") == ["ammonium"]
    assert names(filled, text="NH4") == ["ammonium"]
    assert names(filled, text="NH4-", kind="formula") == []


def test_a_part_of_a_name_is_found_in_upper_and_lower_case(filled: Client):
    assert names(filled, text="AMMON") == ["ammonia", "ammonium"]


def test_the_narrowest_meaning_that_finds_something_is_taken(filled: Client):
    assert names(filled, text="CO") == ["methanol"]
    assert names(filled, text="CO", kind="formula") == ["carbon monoxide"]
    assert names(filled, text="CO", kind="name") == []
    filled.molecules.delete(filled.molecules.get_by_smiles("CO").id)
    assert names(filled, text="CO") == ["carbon monoxide"]


def test_it_says_what_was_searched_for(filled: Client):
    assert find(filled.molecules, View("OCC")).words == "Searched for the SMILES OCC (stored as CCO)."
    words = find(filled.molecules, View("CC(")).words
    assert words.startswith("Nothing found for the name with “CC(”.\nIt is no SMILES: ")


@pytest.mark.parametrize(("kind", "error"), [("SMILES", InvalidSmiles), ("formula", InvalidInput)])
def test_a_text_that_is_not_what_it_is_said_to_be_is_refused(kind: str, error: type[Exception]):
    with pytest.raises(error):
        readings("c1ccc", kind)


def test_molecules_without_numbers_are_shown_until_a_range_is_narrowed(filled: Client):
    assert len(names(filled)) == 8
    assert names(filled, ranges={"gap": (8.0, None)}) == ["ammonium", "dimethyl ether", "ethanol"]
    assert names(filled, text="C2H6O", ranges={"gap": (9.0, None)}) == ["ethanol"]


def test_pages_go_on_with_the_meaning_that_was_found(filled: Client):
    view = View("C2H6O", size=1)
    found = find(filled.molecules, view)
    second = turn(filled.molecules, view, found.reading, {"after": found.page.next})
    assert [*found.page.frame["name"], *second.frame["name"]] == ["dimethyl ether", "ethanol"]
    assert second.next is None


def test_scales_hold_the_data_and_have_round_ends(filled: Client):
    found = scales(filled.calculations)
    assert found["gap"] == Scale(4.6, 15.5, 0.05, 2)
    assert found["total_charge"] == Scale(0.0, 1.0, 1.0, 0)


@pytest.mark.parametrize(("low", "high"), [(9.1, 9.1), (0.0, 0.0), (-1e300, 1e300), (1e-12, 19.67), (-65536, -5)])
def test_a_scale_has_two_ends_and_steps_between_them_whatever_the_data(low: float, high: float):
    scale = Scale.around(low, high)
    assert scale.low <= low or scale.low == pytest.approx(low)
    assert scale.high >= high or scale.high == pytest.approx(high)
    assert scale.low < scale.low + scale.step <= scale.high
    assert scale.narrowed(scale.low, scale.high) is None


def test_one_molecule_that_was_computed_once_is_shown(client: Client):
    client.calculations.create(smiles="CCO", energy=-11.39, gap=9.1)
    grid = client.widgets.molecules()
    (card,) = grid.cards.cards
    assert (card["title"], card["lines"]) == (
        "CCO",
        ["C2H6O", "gap 9.100 eV", "energy \N{MINUS SIGN}11.3900 hartree", "dipole \N{EN DASH}"],
    )
    assert grid.sliders["dipole"].layout.display == "none"
    low, high = grid.sliders["gap"].value
    assert (low, high) == (grid.sliders["gap"].min, grid.sliders["gap"].max)
    assert low <= 9.1 <= high


def test_an_empty_database_says_how_to_fill_it(client: Client):
    grid = client.widgets.molecules()
    assert (grid.cards.cards, grid.cards.nothing, grid.notice.text) == ([], EMPTY, "")
    assert grid.pager.where.value == "no molecules"
    assert grid.selected.empty
    assert grid.selected.dtypes.equals(client.molecules.page().frame.dtypes)


def test_cards_carry_structure_charge_and_missing_numbers(grid: MoleculeGrid):
    cards = {card["title"]: card for card in grid.cards.cards}
    assert cards["ammonium"]["lines"][0] == "H4N, charge +1"
    assert cards["water"]["lines"] == ["H2O", "not computed"]
    assert all(card["image"].startswith("data:image/svg+xml;base64,") for card in cards.values())
    assert cards["ethanol"]["alt"] == "structure of CCO"


def test_a_structure_without_smiles_is_shown_by_its_formula(client: Client):
    with client.session() as session:
        session.execute(text("INSERT INTO public.molecules (formula, graph_hash) VALUES ('C10H10Fe', 'x')"))
    (card,) = client.widgets.molecules().cards.cards
    assert (card["title"], card["image"][:26]) == ("C10H10Fe", "data:image/svg+xml;base64,")


def test_typing_searches_and_reset_shows_all_again(grid: MoleculeGrid):
    grid.search.value = "C2H6O"
    grid.order.value = "-gap"
    assert titles(grid) == ["ethanol", "dimethyl ether"]
    grid.sliders["gap"].value = (9.0, grid.sliders["gap"].max)
    assert titles(grid) == ["ethanol"]
    grid.reset.click()
    assert (grid.search.value, grid.order.value) == ("", "-id")
    assert grid.pager.where.value == "1 to 8 of 8 molecules"


def test_an_invalid_smiles_is_explained_and_shows_nothing_until_it_is_mended(grid: MoleculeGrid):
    grid.kind.value = "SMILES"
    grid.search.value = "c1ccc"
    assert grid.notice.is_error
    assert grid.notice.text.startswith("'c1ccc': ")
    assert (grid.cards.cards, grid.cards.nothing, grid.pager.where.value) == ([], "", "")
    grid.search.value = "C1=CC=CC=C1"
    assert (titles(grid), grid.notice.is_error) == (["benzene"], False)


def test_picks_survive_pages_and_searches(filled: Client):
    grid = filled.widgets.molecules()
    grid.cards.picked = [grid.cards.cards[0]["key"]]
    grid.search.value = "water"
    grid.cards.picked = [*grid.cards.picked, grid.cards.cards[0]["key"]]
    grid.reset.click()
    assert grid.picked.value == "2 picked"
    assert grid.selected["name"].tolist() == ["carbon monoxide", "water"]
    grid.clear.click()
    assert (grid.picked.value, grid.clear.disabled, len(grid.selected)) == ("none picked", True, 0)


def test_what_is_selected_is_read_anew(grid: MoleculeGrid, filled: Client):
    ethanol, water = (filled.molecules.get_by_smiles(smiles).id for smiles in ("CCO", "O"))
    grid.cards.picked = [water, ethanol]
    filled.molecules.update(ethanol, name="spirit")
    assert grid.selected["name"].tolist() == ["water", "spirit"]
    filled.molecules.delete(water)
    assert grid.selected[["name", "gap"]].to_dict("records") == [{"name": "spirit", "gap": 9.1}]
    assert grid.selected.attrs["units"]["gap"] == "eV"


def test_more_picks_than_a_page_holds_come_back_in_their_order(client: Client):
    with client.session() as session:
        session.execute(
            text(
                "INSERT INTO public.molecules (user_id, smiles, formula, name) "
                "SELECT NULL, 'C' || n, 'C', n::text FROM generate_series(1, 1100) AS n"
            )
        )
    keys = client.molecules.query(order_by="-id", columns=["id"])["id"].tolist()
    assert picked_frame(client.molecules, keys)["id"].tolist() == keys


def test_new_limits_move_only_handles_that_stood_at_an_end(grid: MoleculeGrid, filled: Client):
    gap = grid.sliders["gap"]
    gap.value = (9.0, gap.max)
    filled.calculations.create(smiles="C", gap=17.0, energy=-4.1)
    grid.update()
    assert gap.value == (9.0, gap.max)
    assert gap.max >= 17.0
    assert titles(grid) == ["C", "ammonium", "ethanol"]


def test_a_tenant_sees_own_and_public_molecules(client: Client, tenant_client: TenantClient):
    client.molecules.create("O", name="public water", shared=True)
    client.molecules.create("N", name="of the service")
    tenant_client(BOB).molecules.create("C", name="bobs")
    alice = tenant_client(ALICE)
    alice.molecules.create("CC", name="mine")
    assert sorted(titles(alice.widgets.molecules())) == ["mine", "public water"]


def test_another_size_of_page_is_refused(client: Client):
    with pytest.raises(InvalidInput, match="page_size is one of 12, 24, 48, 96, not 10"):
        client.widgets.molecules(page_size=10)


def test_an_error_of_the_server_is_shown_inside_the_widget(grid: MoleculeGrid, client: Client):
    with client.engine.begin() as connection:
        connection.execute(text("ALTER TABLE public.molecules RENAME TO elsewhere"))
    grid.update()
    assert grid.notice.is_error
    assert "molecules" in grid.notice.text


def test_the_frame_that_is_selected_has_the_columns_of_a_page(grid: MoleculeGrid, client: Client):
    grid.cards.picked = [grid.cards.cards[0]["key"]]
    pd.testing.assert_index_equal(grid.selected.columns, client.molecules.page().frame.columns)
