"""Allows a principal one operation on one topic or group; whoever has no rule of its own there is refused from then on.

python3 acl.py BOOTSTRAP TOPIC|GROUP NAME PRINCIPAL OPERATION
"""

import sys

from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType


def main() -> None:
    bootstrap, resource, name, principal, operation = sys.argv[1:]
    rule = AclBinding(
        ResourceType[resource], name, ResourcePatternType.LITERAL, principal, "*", AclOperation[operation], AclPermissionType.ALLOW
    )
    client = AdminClient({"bootstrap.servers": bootstrap})
    for future in client.create_acls([rule]).values():
        future.result(30)


if __name__ == "__main__":
    main()
