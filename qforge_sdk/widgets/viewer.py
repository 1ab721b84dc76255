"""A molecule in 3D."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import anywidget
import traitlets

_STATIC: Final = Path(__file__).parent / "static"
_LIBRARY: Final = _STATIC / "3Dmol.es6-min.js"


class Viewer(anywidget.AnyWidget):  # type: ignore[misc]
    """Atoms as balls and sticks, coloured by element or charge, with forces as arrows.

    The browser asks for the JavaScript of 3Dmol once a page, in a message: what is saved with a notebook does not
    hold it, and no other machine is asked.
    """

    _esm = _STATIC / "viewer.js"
    label = traitlets.Unicode("molecule").tag(sync=True)
    #: Lists with one entry an atom: ``element``, ``position`` (angstrom), ``charge`` (e), ``force`` (hartree/bohr).
    atoms = traitlets.Dict().tag(sync=True)
    color_by = traitlets.Enum(("element", "charge"), "element").tag(sync=True)
    #: Charge of the strongest colours, e.
    charge_limit = traitlets.Float(0.0).tag(sync=True)
    #: Force of the longest arrow, hartree/bohr.
    force_limit = traitlets.Float(0.0).tag(sync=True)
    show_forces = traitlets.Bool(False).tag(sync=True)
    show_labels = traitlets.Bool(False).tag(sync=True)
    picked = traitlets.Int(None, allow_none=True).tag(sync=True)
    is_dark = traitlets.Bool(False).tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.on_msg(self._answer)

    def _answer(self, _widget: object, content: object, _buffers: object) -> None:
        if isinstance(content, dict) and content.get("library"):
            self.send({"library": _LIBRARY.name}, buffers=[_LIBRARY.read_bytes()])
