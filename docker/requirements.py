"""Prints what pyproject.toml asks for, of the base and of the extras that are named.

The Dockerfile installs these before it copies the source, so that new code installs nothing anew.
"""

import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
wanted = [*project["dependencies"]]
for extra in sys.argv[1:]:
    wanted += project["optional-dependencies"][extra]
sys.stdout.write("\n".join(wanted) + "\n")
