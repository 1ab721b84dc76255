"""Install what the tests need and pip cannot bring: PostgreSQL 15, PgBouncer, xtb, Chromium, from Debian's packages.

PostgreSQL 16 and 18 come with the embedded server's wheel.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = {
    Path("/usr/lib/postgresql/15/bin/initdb"): "postgresql-15",
    Path("/usr/sbin/pgbouncer"): "pgbouncer",
    Path("/usr/bin/xtb"): "xtb",
    Path("/usr/bin/chromium"): "chromium",
}


def main() -> int:
    """Install the missing packages; return the exit code."""
    missing = [package for program, package in PROGRAMS.items() if not program.exists()]
    if not missing:
        return 0
    if shutil.which("apt-get") is None:
        print(f"please install {', '.join(missing)}: the tests expect {', '.join(map(str, PROGRAMS))}")
        return 1
    root = [] if os.geteuid() == 0 else ["sudo"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-qq", "--no-install-recommends", *missing]):
        subprocess.run([*root, *command], check=True, env=environment, stdout=subprocess.DEVNULL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
