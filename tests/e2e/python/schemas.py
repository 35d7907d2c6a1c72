# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Whether what agentctl exports is what its standards say, by packages that we did not write.

    schemas.py ocsf FILE
    schemas.py otlp FILE

Says how many of which kind there were, as a line of JSON.
"""

import base64
import collections
import importlib.util
import json
import re
import sys

from google.protobuf import json_format
from ocsf.events.application.api import APIActivity
from ocsf.events.application.application_lifecycle import ApplicationLifecycle
from ocsf.events.base import BaseEvent
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData



def authentication():
    """Its module lacks two annotations, without which pydantic takes no such class."""
    name = "ocsf.events.iam.authentication"
    source = importlib.util.find_spec(name).loader.get_source(name)
    source = re.sub(r"^    class_uid = ", "    class_uid: int = ", source, flags=re.MULTILINE)
    source = re.sub(r"^    class_name = ", "    class_name: str = ", source, flags=re.MULTILINE)
    space = {"__name__": name}
    exec(compile(source, name, "exec"), space)
    return space["Authentication"]


CLASSES = {0: BaseEvent, 6003: APIActivity, 6002: ApplicationLifecycle, 3002: authentication()}


def lost(given, kept, path=""):
    """What of an event its model does not know: it is no attribute there."""
    if isinstance(given, dict):
        for name, value in given.items():
            if not isinstance(kept, dict) or name not in kept:
                yield f"{path}/{name}"
            else:
                yield from lost(value, kept[name], f"{path}/{name}")
    elif isinstance(given, list):
        for number, value in enumerate(given):
            yield from lost(value, kept[number], f"{path}/{number}")


#: What its models do not check: one of these has to be there.
AT_LEAST_ONE = {
    "process": ["pid", "uid"],
    "parent_process": ["pid", "uid"],
    "user": ["account", "name", "uid"],
    "actor": ["process", "user", "invoked_by", "session", "app_name", "app_uid"],
    "src_endpoint": ["ip", "uid", "name", "hostname", "svc_name"],
    "dst_endpoint": ["ip", "uid", "name", "hostname", "svc_name"],
}


def empty(value, path=""):
    """Objects that say nothing of what they have to."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in AT_LEAST_ONE and not any(one in inner for one in AT_LEAST_ONE[name]):
                yield f"{path}/{name}"
            yield from empty(inner, f"{path}/{name}")


def ocsf(lines):
    seen = collections.Counter()
    for line in lines:
        event = json.loads(line)
        model = CLASSES[event["class_uid"]](**event)
        kept = model.model_dump(mode="json")
        unknown = list(lost(event, kept))
        if unknown:
            raise ValueError(f"not in the schema: {unknown} of {line}")
        if unsaid := list(empty(event)):
            raise ValueError(f"one attribute at least: {unsaid} of {line}")
        if event["type_uid"] != kept["type_uid"]:
            raise ValueError(f"type_uid of {line}")
        seen[f"{event['class_uid']}/{event['activity_id']}/{event['status_id']}"] += 1
    return seen


def otlp(lines):
    seen = collections.Counter()
    for line in lines:
        data = json.loads(line)
        # OTLP's JSON has them in hexadecimal digits, unlike all other bytes in protobuf's.
        for resource in data["resourceLogs"]:
            for scope in resource["scopeLogs"]:
                for record in scope["logRecords"]:
                    for name in ("traceId", "spanId"):
                        if name in record:
                            record[name] = base64.b64encode(bytes.fromhex(record[name])).decode()
        logs = json_format.ParseDict(data, LogsData())
        for resource in logs.resource_logs:
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    if not record.time_unix_nano or not record.body.WhichOneof("value"):
                        raise ValueError(f"no time or body: {record}")
                    seen[record.event_name] += 1
    return seen


if __name__ == "__main__":
    form, path = sys.argv[1:]
    with open(path, encoding="utf-8") as lines:
        print(json.dumps({"ocsf": ocsf, "otlp": otlp}[form](lines)), flush=True)
