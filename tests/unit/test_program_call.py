"""A command line of xtb, as finished runs print it, and the settings in it."""

from __future__ import annotations

import pytest

from qforge_sdk.compute import Parameters
from qforge_sdk.compute.program_call import ProgramCall, read_program_call
from qforge_sdk.compute.xtb import xtb_arguments
from qforge_sdk.errors import InvalidInput


@pytest.mark.parametrize(
    ("call", "settings"),
    [
        ("xtb water.xyz", ProgramCall()),
        ("/usr/bin/xtb /app/jobs/w_1/w.xyz --opt normal --json", ProgramCall(optimize=True)),
        ("xtb CH3Cl.xyz --chrg 0 --opt --gbsa Water", ProgramCall(optimize=True)),
        ("xtb a.xyz -o vtight -P 4", ProgramCall(optimize=True, level="vtight")),
        ("xtb a.xyz --opt thorough", None),
        ("xtb a.xyz --ohess tight --gfn 1 --alpb water", ProgramCall(optimize=True, hessian=True, level="tight")),
        ("xtb --gfnff a.xyz --hess -u 1 -c -1", ProgramCall(hessian=True)),
        ("xtb a.xyz --acc 0.2 --etemp 1000 --iterations 500", ProgramCall(False, False, 0.2, 1000.0, 500)),
        ("xtb a.xyz --opt loose --cycles 20", ProgramCall(optimize=True, level="loose", max_steps=20)),
        ('xtb "my water.xyz" --opt', ProgramCall(optimize=True)),
        ('xtb my "water.xyz --opt', ProgramCall(optimize=True)),
        ("xtb a.xyz --namespace run1 --parallel 2 --verbose --sp", ProgramCall()),
        ("xtb a.xyz --alpb water bar1M", None),
        ("xtb a.xyz --opt --input xcontrol", None),
        ("xtb a.xyz --md", None),
        ("xtb a.xyz --acc", None),
        ("xtb a.xyz --acc much", None),
    ],
)
def test_settings_of_a_command_line(call: str, settings: ProgramCall | None):
    if settings is not None:
        assert read_program_call(call) == settings
        return
    with pytest.raises(InvalidInput) as caught:
        read_program_call(call)
    assert (caught.value.code, caught.value.value) == ("not_reproducible", call)
    assert call in str(caught.value)


def test_the_engine_s_own_command_line_reads_back():
    asked = Parameters("GFN1-xTB", "GBSA", "dmso", optimize=True, hessian=True, accuracy=0.5, max_iterations=99)
    words = xtb_arguments(asked, charge=-2, unpaired_electrons=1, level="crude", max_steps=7)
    found = read_program_call(" ".join(["xtb", *words]))
    assert found == ProgramCall(True, True, 0.5, 300.0, 99, "crude", 7)
