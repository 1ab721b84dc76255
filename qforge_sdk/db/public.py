"""Who owns what everybody reads."""

import uuid
from typing import Final

PUBLIC_USER_ID: Final = uuid.UUID(int=0)
"""Owner of the rows that everybody reads and only the service writes."""
