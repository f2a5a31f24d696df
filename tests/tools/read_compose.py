"""Reads a Compose file as the Compose specification says (unknown keys and wrong types are errors), prints it as JSON.

    read_compose.py FILE
"""

import json
import re
import sys

import compose_spec
import yaml

with open(sys.argv[1], encoding="utf-8") as file:
    # As Compose does before it parses: a variable that is not set gives its default.
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", file.read())
document = yaml.safe_load(text)  # resolves anchors and merges
# Mounted into the services below, they are no part of the specification.
services = {name: part for name, part in document.items() if not name.startswith("x-")}
compose_spec.PyCompose.from_json(json.dumps(services)).validate()
json.dump(services, sys.stdout)
