"""The messages of VSS as values: protobuf in, protobuf out (package `vss` of the protocol's `vss.proto`).

The wire is protobuf's own library's. Its classes are made here, from the table below, and not by `protoc`: there is no
generated file to keep in step with the library, and a reviewer compares the table with `vss.proto` field by field.
Unknown fields are ignored, as protobuf has it; text that is not UTF-8 is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from perdure.errors import Misuse

_STRING: Final = FieldDescriptorProto.TYPE_STRING
_BYTES: Final = FieldDescriptorProto.TYPE_BYTES
_INT32: Final = FieldDescriptorProto.TYPE_INT32
_INT64: Final = FieldDescriptorProto.TYPE_INT64
_OPTIONAL, _REPEATED = "optional", "repeated"
_FieldType = Any  # what protobuf's stubs call FieldDescriptorProto.Type
_KEY_VALUE: Final = ".vss.KeyValue"
_Field = tuple[str, int, _FieldType, str]
_TABLE: Final[dict[str, tuple[_Field, ...]]] = {
    "KeyValue": (("key", 1, _STRING, ""), ("version", 2, _INT64, ""), ("value", 3, _BYTES, "")),
    "GetObjectRequest": (("store_id", 1, _STRING, ""), ("key", 2, _STRING, "")),
    "GetObjectResponse": (("value", 2, _KEY_VALUE, ""),),
    "PutObjectRequest": (
        ("store_id", 1, _STRING, ""),
        ("global_version", 2, _INT64, _OPTIONAL),
        ("transaction_items", 3, _KEY_VALUE, _REPEATED),
        ("delete_items", 4, _KEY_VALUE, _REPEATED),
    ),
    "PutObjectResponse": (),
    "DeleteObjectRequest": (("store_id", 1, _STRING, ""), ("key_value", 2, _KEY_VALUE, "")),
    "DeleteObjectResponse": (),
    "ListKeyVersionsRequest": (
        ("store_id", 1, _STRING, ""),
        ("key_prefix", 2, _STRING, _OPTIONAL),
        ("page_size", 3, _INT32, _OPTIONAL),
        ("page_token", 4, _STRING, _OPTIONAL),
    ),
    "ListKeyVersionsResponse": (
        ("key_versions", 1, _KEY_VALUE, _REPEATED),
        ("next_page_token", 2, _STRING, _OPTIONAL),
        ("global_version", 3, _INT64, _OPTIONAL),
    ),
    "ErrorResponse": (("error_code", 1, _INT32, ""), ("message", 2, _STRING, "")),  # an enum is an int32 on the wire
}


class ErrorCode(IntEnum):
    """Of an ErrorResponse."""

    CONFLICT = 1
    INVALID_REQUEST = 2
    INTERNAL_SERVER = 3
    NO_SUCH_KEY = 4
    AUTH = 5


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key. In a request, a `version` of -1 asks for no check."""

    key: str
    version: int = 0
    value: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Get:
    """GetObjectRequest."""

    store: str
    key: str


@dataclass(frozen=True, slots=True)
class Put:
    """PutObjectRequest; without `global_version` that is neither checked nor raised."""

    store: str
    items: tuple[KeyValue, ...] = ()
    deletes: tuple[KeyValue, ...] = ()
    global_version: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """DeleteObjectRequest."""

    store: str
    item: KeyValue


@dataclass(frozen=True, slots=True)
class List:
    """ListKeyVersionsRequest."""

    store: str
    prefix: str = ""
    page_size: int | None = None
    page_token: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """ListKeyVersionsResponse: an empty `next_token` says that this was the last page."""

    items: tuple[KeyValue, ...]
    next_token: str
    global_version: int | None


# Decoding: each raises Misuse for bytes that are not such a message. ---------------------------------------


def parse_get(data: bytes) -> Get:
    """A GetObjectRequest."""
    message = _parse("GetObjectRequest", data)
    return Get(message.store_id, message.key)


def parse_put(data: bytes) -> Put:
    """A PutObjectRequest."""
    message = _parse("PutObjectRequest", data)
    items, deletes = (tuple(map(_item, found)) for found in (message.transaction_items, message.delete_items))
    return Put(message.store_id, items, deletes, _optional(message, "global_version"))


def parse_delete(data: bytes) -> Delete:
    """A DeleteObjectRequest; one without `key_value` is refused."""
    message = _parse("DeleteObjectRequest", data)
    if not message.HasField("key_value"):
        raise Misuse("The request to delete names no key; nothing was changed.")
    return Delete(message.store_id, _item(message.key_value))


def parse_list(data: bytes) -> List:
    """A ListKeyVersionsRequest."""
    message = _parse("ListKeyVersionsRequest", data)
    return List(message.store_id, message.key_prefix, _optional(message, "page_size"), _optional(message, "page_token"))


# Encoding -------------------------------------------------------------------------------------------------


def got(item: KeyValue) -> bytes:
    """A GetObjectResponse."""
    return _message("GetObjectResponse", value=_key_value(item)).SerializeToString()


def page(found: Page) -> bytes:
    """A ListKeyVersionsResponse."""
    message = _message(
        "ListKeyVersionsResponse",
        key_versions=[_key_value(item) for item in found.items],
        next_page_token=found.next_token,
        global_version=found.global_version,
    )
    return message.SerializeToString()


def error(code: ErrorCode, sentence: str) -> bytes:
    """An ErrorResponse."""
    return _message("ErrorResponse", error_code=int(code), message=sentence).SerializeToString()


# Protobuf -------------------------------------------------------------------------------------------------


def _classes() -> dict[str, type[Message]]:
    file = FileDescriptorProto(name="perdure/vss.proto", package="vss", syntax="proto3")
    for name, fields in _TABLE.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, label in fields:
            added = message.field.add(name=field_name, number=number)
            is_repeated = label == _REPEATED
            added.label = FieldDescriptorProto.LABEL_REPEATED if is_repeated else FieldDescriptorProto.LABEL_OPTIONAL
            if kind == _KEY_VALUE:
                added.type, added.type_name = FieldDescriptorProto.TYPE_MESSAGE, _KEY_VALUE
            else:
                added.type = kind
            if label == _OPTIONAL:  # proto3 keeps "not there" apart from zero by a oneof of one field
                added.proto3_optional = True
                added.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field_name}")
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"vss.{name}")) for name in _TABLE}


CLASSES: Final = _classes()
"""The protobuf class of each message, by its name in `vss.proto`."""


def _message(name: str, **fields: object) -> Message:
    return CLASSES[name](**fields)


def _parse(name: str, data: bytes) -> Any:  # noqa: ANN401  (protobuf's classes have no types)
    message = CLASSES[name]()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise Misuse(f"The body is not a {name} of VSS; nothing was changed.") from None
    return message


def _item(message: Any) -> KeyValue:  # noqa: ANN401
    return KeyValue(message.key, message.version, message.value)


def _key_value(item: KeyValue) -> Message:
    return _message("KeyValue", key=item.key, version=item.version, value=item.value)


def _optional(message: Any, name: str) -> Any:  # noqa: ANN401
    return getattr(message, name) if message.HasField(name) else None
