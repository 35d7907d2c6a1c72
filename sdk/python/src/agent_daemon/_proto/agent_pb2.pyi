import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Provenance(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROVENANCE_UNSPECIFIED: _ClassVar[Provenance]
    PROVENANCE_KERNEL: _ClassVar[Provenance]
    PROVENANCE_MEASURED: _ClassVar[Provenance]
    PROVENANCE_ORCHESTRATOR: _ClassVar[Provenance]
    PROVENANCE_CLAIMED: _ClassVar[Provenance]
PROVENANCE_UNSPECIFIED: Provenance
PROVENANCE_KERNEL: Provenance
PROVENANCE_MEASURED: Provenance
PROVENANCE_ORCHESTRATOR: Provenance
PROVENANCE_CLAIMED: Provenance

class AttestRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AttestResponse(_message.Message):
    __slots__ = ("caller",)
    CALLER_FIELD_NUMBER: _ClassVar[int]
    caller: ExecInstance
    def __init__(self, caller: _Optional[_Union[ExecInstance, _Mapping]] = ...) -> None: ...

class Selector(_message.Message):
    __slots__ = ("value", "provenance")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    value: str
    provenance: Provenance
    def __init__(self, value: _Optional[str] = ..., provenance: _Optional[_Union[Provenance, str]] = ...) -> None: ...

class ExecInstance(_message.Message):
    __slots__ = ("exec_id", "tgid", "start_boottime_ns", "spiffe_ids", "selectors", "lineage", "lineage_truncated", "seeded", "comm")
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    TGID_FIELD_NUMBER: _ClassVar[int]
    START_BOOTTIME_NS_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_IDS_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    SEEDED_FIELD_NUMBER: _ClassVar[int]
    COMM_FIELD_NUMBER: _ClassVar[int]
    exec_id: int
    tgid: int
    start_boottime_ns: int
    spiffe_ids: _containers.RepeatedScalarFieldContainer[str]
    selectors: _containers.RepeatedCompositeFieldContainer[Selector]
    lineage: _containers.RepeatedCompositeFieldContainer[Ancestor]
    lineage_truncated: bool
    seeded: bool
    comm: str
    def __init__(self, exec_id: _Optional[int] = ..., tgid: _Optional[int] = ..., start_boottime_ns: _Optional[int] = ..., spiffe_ids: _Optional[_Iterable[str]] = ..., selectors: _Optional[_Iterable[_Union[Selector, _Mapping]]] = ..., lineage: _Optional[_Iterable[_Union[Ancestor, _Mapping]]] = ..., lineage_truncated: _Optional[bool] = ..., seeded: _Optional[bool] = ..., comm: _Optional[str] = ...) -> None: ...

class Ancestor(_message.Message):
    __slots__ = ("exec_id", "tgid", "alive", "path", "spiffe_id", "comm")
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    TGID_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    COMM_FIELD_NUMBER: _ClassVar[int]
    exec_id: int
    tgid: int
    alive: bool
    path: str
    spiffe_id: str
    comm: str
    def __init__(self, exec_id: _Optional[int] = ..., tgid: _Optional[int] = ..., alive: _Optional[bool] = ..., path: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., comm: _Optional[str] = ...) -> None: ...

class ConnectionRef(_message.Message):
    __slots__ = ("cookie", "tuple")
    COOKIE_FIELD_NUMBER: _ClassVar[int]
    TUPLE_FIELD_NUMBER: _ClassVar[int]
    cookie: int
    tuple: Tuple
    def __init__(self, cookie: _Optional[int] = ..., tuple: _Optional[_Union[Tuple, _Mapping]] = ...) -> None: ...

class Tuple(_message.Message):
    __slots__ = ("local_address", "local_port", "remote_address", "remote_port")
    LOCAL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_PORT_FIELD_NUMBER: _ClassVar[int]
    REMOTE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REMOTE_PORT_FIELD_NUMBER: _ClassVar[int]
    local_address: str
    local_port: int
    remote_address: str
    remote_port: int
    def __init__(self, local_address: _Optional[str] = ..., local_port: _Optional[int] = ..., remote_address: _Optional[str] = ..., remote_port: _Optional[int] = ...) -> None: ...

class AttestConnectionRequest(_message.Message):
    __slots__ = ("connection",)
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    connection: ConnectionRef
    def __init__(self, connection: _Optional[_Union[ConnectionRef, _Mapping]] = ...) -> None: ...

class AttestConnectionResponse(_message.Message):
    __slots__ = ("opener", "connection", "opener_alive")
    OPENER_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    OPENER_ALIVE_FIELD_NUMBER: _ClassVar[int]
    opener: ExecInstance
    connection: Connection
    opener_alive: bool
    def __init__(self, opener: _Optional[_Union[ExecInstance, _Mapping]] = ..., connection: _Optional[_Union[Connection, _Mapping]] = ..., opener_alive: _Optional[bool] = ...) -> None: ...

class Connection(_message.Message):
    __slots__ = ("cookie", "exec_id", "tgid", "protocol", "remote_address", "remote_port", "local_address", "local_port", "ktime_ns", "uid", "gid", "hook")
    COOKIE_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    TGID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    REMOTE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REMOTE_PORT_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_PORT_FIELD_NUMBER: _ClassVar[int]
    KTIME_NS_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    HOOK_FIELD_NUMBER: _ClassVar[int]
    cookie: int
    exec_id: int
    tgid: int
    protocol: str
    remote_address: str
    remote_port: int
    local_address: str
    local_port: int
    ktime_ns: int
    uid: int
    gid: int
    hook: str
    def __init__(self, cookie: _Optional[int] = ..., exec_id: _Optional[int] = ..., tgid: _Optional[int] = ..., protocol: _Optional[str] = ..., remote_address: _Optional[str] = ..., remote_port: _Optional[int] = ..., local_address: _Optional[str] = ..., local_port: _Optional[int] = ..., ktime_ns: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., hook: _Optional[str] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("destination", "connection", "binding", "spiffe_id", "traceparent", "session_handle")
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    destination: str
    connection: ConnectionRef
    binding: str
    spiffe_id: str
    traceparent: str
    session_handle: str
    def __init__(self, destination: _Optional[str] = ..., connection: _Optional[_Union[ConnectionRef, _Mapping]] = ..., binding: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., traceparent: _Optional[str] = ..., session_handle: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("credential", "lease", "decision_id")
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    credential: Credential
    lease: Lease
    decision_id: str
    def __init__(self, credential: _Optional[_Union[Credential, _Mapping]] = ..., lease: _Optional[_Union[Lease, _Mapping]] = ..., decision_id: _Optional[str] = ...) -> None: ...

class Credential(_message.Message):
    __slots__ = ("type", "secret", "spiffe_id", "audience")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    type: str
    secret: bytes
    spiffe_id: str
    audience: str
    def __init__(self, type: _Optional[str] = ..., secret: _Optional[bytes] = ..., spiffe_id: _Optional[str] = ..., audience: _Optional[str] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("lease_id", "exec_id", "destination", "binding", "issued_at", "expires_at")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    exec_id: int
    destination: str
    binding: str
    issued_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, lease_id: _Optional[str] = ..., exec_id: _Optional[int] = ..., destination: _Optional[str] = ..., binding: _Optional[str] = ..., issued_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("lease_id", "connection", "traceparent", "session_handle")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    connection: ConnectionRef
    traceparent: str
    session_handle: str
    def __init__(self, lease_id: _Optional[str] = ..., connection: _Optional[_Union[ConnectionRef, _Mapping]] = ..., traceparent: _Optional[str] = ..., session_handle: _Optional[str] = ...) -> None: ...

class GiveBackRequest(_message.Message):
    __slots__ = ("lease_id",)
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    def __init__(self, lease_id: _Optional[str] = ...) -> None: ...

class GiveBackResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("local", "token", "agent", "purpose", "scopes", "lifetime_seconds", "binding", "parent_handle", "spiffe_id")
    class Binding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        BINDING_PROCESS: _ClassVar[OpenSessionRequest.Binding]
        BINDING_HANDLE: _ClassVar[OpenSessionRequest.Binding]
    BINDING_PROCESS: OpenSessionRequest.Binding
    BINDING_HANDLE: OpenSessionRequest.Binding
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    PARENT_HANDLE_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    local: LocalUser
    token: UserToken
    agent: str
    purpose: str
    scopes: Scopes
    lifetime_seconds: int
    binding: OpenSessionRequest.Binding
    parent_handle: str
    spiffe_id: str
    def __init__(self, local: _Optional[_Union[LocalUser, _Mapping]] = ..., token: _Optional[_Union[UserToken, _Mapping]] = ..., agent: _Optional[str] = ..., purpose: _Optional[str] = ..., scopes: _Optional[_Union[Scopes, _Mapping]] = ..., lifetime_seconds: _Optional[int] = ..., binding: _Optional[_Union[OpenSessionRequest.Binding, str]] = ..., parent_handle: _Optional[str] = ..., spiffe_id: _Optional[str] = ...) -> None: ...

class LocalUser(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UserToken(_message.Message):
    __slots__ = ("token", "nonce")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    token: str
    nonce: str
    def __init__(self, token: _Optional[str] = ..., nonce: _Optional[str] = ...) -> None: ...

class Scopes(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class OpenSessionResponse(_message.Message):
    __slots__ = ("session_id", "session_handle", "user", "expires_at")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    session_handle: str
    user: str
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, session_id: _Optional[str] = ..., session_handle: _Optional[str] = ..., user: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class EnterSessionRequest(_message.Message):
    __slots__ = ("session_handle",)
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    session_handle: str
    def __init__(self, session_handle: _Optional[str] = ...) -> None: ...

class EnterSessionResponse(_message.Message):
    __slots__ = ("session_id", "user", "expires_at")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    user: str
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, session_id: _Optional[str] = ..., user: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session_handle",)
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    session_handle: str
    def __init__(self, session_handle: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BeginStepRequest(_message.Message):
    __slots__ = ("session_handle", "kind", "traceparent", "parent_span_id", "name", "reference", "thread_id", "content")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[BeginStepRequest.Kind]
        KIND_INSTRUCTION: _ClassVar[BeginStepRequest.Kind]
        KIND_REASONING: _ClassVar[BeginStepRequest.Kind]
        KIND_TOOL_CALL: _ClassVar[BeginStepRequest.Kind]
        KIND_APPROVAL: _ClassVar[BeginStepRequest.Kind]
    KIND_UNSPECIFIED: BeginStepRequest.Kind
    KIND_INSTRUCTION: BeginStepRequest.Kind
    KIND_REASONING: BeginStepRequest.Kind
    KIND_TOOL_CALL: BeginStepRequest.Kind
    KIND_APPROVAL: BeginStepRequest.Kind
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    PARENT_SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    THREAD_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    session_handle: str
    kind: BeginStepRequest.Kind
    traceparent: str
    parent_span_id: str
    name: str
    reference: str
    thread_id: int
    content: str
    def __init__(self, session_handle: _Optional[str] = ..., kind: _Optional[_Union[BeginStepRequest.Kind, str]] = ..., traceparent: _Optional[str] = ..., parent_span_id: _Optional[str] = ..., name: _Optional[str] = ..., reference: _Optional[str] = ..., thread_id: _Optional[int] = ..., content: _Optional[str] = ...) -> None: ...

class BeginStepResponse(_message.Message):
    __slots__ = ("content_bytes",)
    CONTENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    content_bytes: int
    def __init__(self, content_bytes: _Optional[int] = ...) -> None: ...

class EndStepRequest(_message.Message):
    __slots__ = ("session_handle", "traceparent", "failed")
    SESSION_HANDLE_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    session_handle: str
    traceparent: str
    failed: bool
    def __init__(self, session_handle: _Optional[str] = ..., traceparent: _Optional[str] = ..., failed: _Optional[bool] = ...) -> None: ...

class EndStepResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
