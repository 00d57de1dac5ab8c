"""Carries out `kafka-acls` commands, one a line of standard input, as that tool would: it takes seconds to start for each.

    acl.py BOOTSTRAP < COMMANDS
"""

import argparse
import re
import shlex
import sys

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

PARSER = argparse.ArgumentParser()
PARSER.add_argument("--bootstrap-server")
PARSER.add_argument("--add", action="store_true")
PARSER.add_argument("--remove", action="store_true")
PARSER.add_argument("--allow-principal", required=True)
PARSER.add_argument("--operation", action="append", required=True)
PARSER.add_argument("--resource-pattern-type", default="literal")
RESOURCES = {"topic": "TOPIC", "group": "GROUP", "transactional-id": "TRANSACTIONAL_ID"}
for option in RESOURCES:
    PARSER.add_argument(f"--{option}")


def main() -> None:
    client = AdminClient({"bootstrap.servers": sys.argv[1]})
    for line in filter(None, map(str.strip, sys.stdin)):
        program, *words = shlex.split(line, comments=True)
        assert program == "kafka-acls", line
        given = PARSER.parse_args(words)
        resource, name = next((kind, vars(given)[o.replace("-", "_")]) for o, kind in RESOURCES.items() if vars(given)[o.replace("-", "_")])
        rules = [
            (
                ResourceType[resource],
                name,
                ResourcePatternType[given.resource_pattern_type.upper()],
                given.allow_principal,
                "*",
                AclOperation[re.sub(r"(?<!^)(?=[A-Z])", "_", operation).upper()],
                AclPermissionType.ALLOW,
            )
            for operation in given.operation
        ]
        if given.remove:
            answers = client.delete_acls([AclBindingFilter(*rule) for rule in rules])
        else:
            answers = client.create_acls([AclBinding(*rule) for rule in rules])
        for future in answers.values():
            future.result(30)


if __name__ == "__main__":
    main()
