"""What Amazon Route 53 makes of a change batch.

Standard input: {"zone": "example.test", "sets": [...], "batch": ChangeBatch}, `sets` being ResourceRecordSets that stand in the hosted
zone before. The batch is held against the published service model (botocore's copy: members, types, enumerations, lengths) and against
the documented form of values; then a Route 53 double (moto) that keeps record sets executes it. Standard output: the resulting sets, TXT values decoded to
lists of strings, each as hex: {"_dmarc.example.test. TXT": {"ttl": 3600, "values": [["76..."]]}}. Exit status 1 and the reasons on
standard error if it would be refused.
"""

import json
import re
import sys

import boto3
import botocore.session
from botocore.exceptions import ClientError
from moto import mock_aws

# "Supported DNS record types" of the developer guide: quoted strings of at most 255 characters, separated by a blank; quote and
# backslash behind a backslash, other octets outside printable ASCII as \ooo, octal.
STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\]|\\[0-3][0-7]{2})*)"')
ESCAPE = re.compile(r'\\(["\\]|[0-3][0-7]{2})')


def faults_of_shape(shape, value, path):
    """Holds a value against a shape of the service model, limits included."""
    metadata = shape.metadata
    if shape.type_name == "structure":
        if not isinstance(value, dict):
            return [f"{path}: not an object"]
        faults = [f"{path}: unknown member {name}" for name in value if name not in shape.members]
        faults += [f"{path}: {name} is missing" for name in shape.required_members if name not in value]
        for name, member in shape.members.items():
            if name in value:
                faults += faults_of_shape(member, value[name], f"{path}.{name}")
        return faults
    if shape.type_name == "list":
        if not isinstance(value, list):
            return [f"{path}: not a list"]
        faults = [f"{path}: too short"] if len(value) < metadata.get("min", 0) else []
        for index, entry in enumerate(value):
            faults += faults_of_shape(shape.member, entry, f"{path}[{index}]")
        return faults
    if shape.type_name == "string":
        if not isinstance(value, str):
            return [f"{path}: not a string"]
        faults = []
        if len(value) > metadata.get("max", len(value)):
            faults.append(f"{path}: {len(value)} characters, at most {metadata['max']}")
        if metadata.get("enum") and value not in metadata["enum"]:
            faults.append(f"{path}: {value!r} is none of {metadata['enum']}")
        return faults
    if shape.type_name in ("long", "integer"):
        inside = isinstance(value, int) and metadata.get("min", value) <= value <= metadata.get("max", value)
        return [] if inside else [f"{path}: {value!r} is not in range"]
    return [f"{path}: no rule for {shape.type_name}"]


def strings(value):
    """The octets of the strings of a TXT value."""
    out, at = [], 0
    while True:
        match = STRING.match(value, at)
        if not match:
            raise ValueError(f"not a TXT value from character {at} on: {value!r}")
        text = ESCAPE.sub(lambda m: m[1] if m[1] in '"\\' else chr(int(m[1], 8)), match[1])
        octets = text.encode("latin-1")
        if len(octets) > 255:
            raise ValueError(f"a string of {len(octets)} octets")
        out.append(octets)
        at = match.end()
        if at == len(value):
            return out
        if value[at] != " ":
            raise ValueError(f"no blank between strings: {value!r}")
        at += 1


def faults_of_sets(batch, zone):
    """What the model does not say: names, values, and one change per record set."""
    faults, seen = [], set()
    for change in batch["Changes"]:
        records = change["ResourceRecordSet"]
        name, kind = records["Name"], records["Type"]
        if not name.endswith("."):
            faults.append(f"{name}: no final dot")
        if name != f"{zone}." and not name.endswith(f".{zone}."):
            faults.append(f"{name} is not in the hosted zone {zone}")
        if (change["Action"], name, kind) in seen:
            faults.append(f"two changes of {name} {kind}")
        seen.add((change["Action"], name, kind))
        values = [record["Value"] for record in records["ResourceRecords"]]
        if len(set(values)) != len(values):
            faults.append(f"{name} {kind}: a value stands twice")
        for value in values:
            try:
                if kind == "TXT":
                    strings(value)
                elif kind == "CNAME" and not re.fullmatch(r"[a-z0-9_.-]+\.", value):
                    raise ValueError(f"not an absolute name: {value!r}")
                elif kind == "MX" and not re.fullmatch(r"\d{1,5} [a-z0-9.-]+\.", value):
                    raise ValueError(f"not an MX value: {value!r}")
            except ValueError as error:
                faults.append(f"{name} {kind}: {error}")
    total = sum(len(r["Value"]) for c in batch["Changes"] for r in c["ResourceRecordSet"]["ResourceRecords"])
    if total > 32_000:
        faults.append(f"{total} characters of values, at most 32000 in a batch")
    return faults


def faults_of_state(sets, batch):
    """What the double forgives and Route 53 does not: a CREATE of what exists, and a CNAME beside anything."""
    standing = {(records["Name"], records["Type"]) for records in sets}
    faults = []
    for change in batch["Changes"]:
        key = (change["ResourceRecordSet"]["Name"], change["ResourceRecordSet"]["Type"])
        if change["Action"] == "CREATE" and key in standing:
            faults.append(f"CREATE of {key}, which exists")
        if change["Action"] == "DELETE" and key not in standing:
            faults.append(f"DELETE of {key}, which does not exist")
        (standing.discard if change["Action"] == "DELETE" else standing.add)(key)
    for name, kind in standing:
        if kind == "CNAME" and sum(1 for other, _ in standing if other == name) > 1:
            faults.append(f"{name}: a CNAME beside other records")
    return faults


@mock_aws
def apply(zone, sets, batch):
    client = boto3.client("route53", "us-east-1", aws_access_key_id="none", aws_secret_access_key="none")
    hosted = client.create_hosted_zone(Name=zone, CallerReference="tests")["HostedZone"]["Id"]
    before = [{"Action": "CREATE", "ResourceRecordSet": records} for records in sets]
    if before:
        client.change_resource_record_sets(HostedZoneId=hosted, ChangeBatch={"Changes": before})
    client.change_resource_record_sets(HostedZoneId=hosted, ChangeBatch=batch)
    result = {}
    for page in client.get_paginator("list_resource_record_sets").paginate(HostedZoneId=hosted):
        for records in page["ResourceRecordSets"]:
            if records["Type"] in ("SOA", "NS"):
                continue
            values = [record["Value"] for record in records["ResourceRecords"]]
            if records["Type"] == "TXT":
                values = [[string.hex() for string in strings(value)] for value in values]
            result[f"{records['Name']} {records['Type']}"] = {"ttl": records["TTL"], "values": values}
    return result


def main():
    given = json.load(sys.stdin)
    model = botocore.session.get_session().get_service_model("route53")
    faults = faults_of_shape(model.shape_for("ChangeBatch"), given["batch"], "ChangeBatch")
    if not faults:
        faults = faults_of_sets(given["batch"], given["zone"]) + faults_of_state(given["sets"], given["batch"])
    if not faults:
        try:
            print(json.dumps(apply(given["zone"], given["sets"], given["batch"])))
        except ClientError as error:
            faults = [str(error)]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
