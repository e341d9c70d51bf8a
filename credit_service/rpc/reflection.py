"""Server reflection, v1 and v1alpha, with the comments of the contract.

The descriptors of generated Python code have no comments, and grpcio-reflection supports v1alpha
only. So this module serves the files as protoc wrote them, with source info, from the descriptor
set beside the generated code; files of other packages (health, reflection itself) come from the
descriptor pool. The two versions of the protocol differ only in their package: the messages of
v1alpha serve both, and the file of v1 is derived from that of v1alpha.
"""

from collections.abc import Iterable, Iterator
from importlib.resources import files
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
REFLECTION_METHODS = (f"/{V1}/ServerReflectionInfo", f"/{V1ALPHA}/ServerReflectionInfo")

_File = descriptor_pb2.FileDescriptorProto


class Reflection:
    """Describes a fixed set of services. Thread-safe."""

    def __init__(self, services: Iterable[str]) -> None:
        """`services` are full names; both versions of reflection are added."""
        self._services = sorted({*services, V1, V1ALPHA})
        self._files: dict[str, _File] = {}
        self._file_of_symbol: dict[str, str] = {}
        self._file_of_extension: dict[tuple[str, int], str] = {}
        for file in _contract_files():
            self._add(file)
        self._add(_reflection_v1())
        pool = descriptor_pool.Default()
        for service in self._services:
            if service not in self._file_of_symbol:
                self._add_from_pool(pool.FindFileContainingSymbol(service))
        # No service names them, but error details use them: callers need them to read the details.
        for file in (error_details_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR):
            self._add_from_pool(file)

    def add_to(self, server: grpc.Server) -> None:
        """Register both versions with the server."""
        handler = grpc.stream_stream_rpc_method_handler(
            self.answer,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        for service in (V1, V1ALPHA):
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": handler}),)
            )

    def answer(self, requests: Iterator[Any], _context: grpc.ServicerContext) -> Iterator[Any]:
        """Yield one response for each request."""
        for request in requests:
            response = self._response(request)
            response.valid_host = request.host
            response.original_request.CopyFrom(request)
            yield response

    def _response(self, request: Any) -> Any:
        response = reflection_pb2.ServerReflectionResponse()
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in self._services:
                    response.list_services_response.service.add(name=name)
                return response
            case "file_by_filename":
                return self._with_files(response, request.file_by_filename)
            case "file_containing_symbol":
                symbol = request.file_containing_symbol
                return self._with_files(response, self._file_of_symbol.get(symbol))
            case "file_containing_extension":
                wanted = request.file_containing_extension
                key = (wanted.containing_type, wanted.extension_number)
                return self._with_files(response, self._file_of_extension.get(key))
            case "all_extension_numbers_of_type":
                return self._with_extension_numbers(response, request.all_extension_numbers_of_type)
        return _with_error(
            response,
            grpc.StatusCode.INVALID_ARGUMENT,
            "the request has no message_request; set one",
        )

    def _with_files(self, response: Any, name: str | None) -> Any:
        """Add the file of that name and all its imports, the file first."""
        if name is None or name not in self._files:
            return _with_error(response, grpc.StatusCode.NOT_FOUND, "not found")
        wanted = [name]
        for each in wanted:  # grows during the loop
            wanted += [
                imported
                for imported in self._files[each].dependency
                if imported not in wanted and imported in self._files
            ]
        response.file_descriptor_response.file_descriptor_proto.extend(
            self._files[each].SerializeToString() for each in wanted
        )
        return response

    def _with_extension_numbers(self, response: Any, type_name: str) -> Any:
        if type_name not in self._file_of_symbol:
            return _with_error(response, grpc.StatusCode.NOT_FOUND, "not found")
        numbers = response.all_extension_numbers_response
        numbers.base_type_name = type_name
        numbers.extension_number.extend(
            sorted(number for base, number in self._file_of_extension if base == type_name)
        )
        return response

    def _add_from_pool(self, descriptor: Any) -> None:
        if descriptor.name in self._files:
            return
        file = _File()
        descriptor.CopyToProto(file)
        self._add(file)
        for imported in descriptor.dependencies:
            self._add_from_pool(imported)

    def _add(self, file: _File) -> None:
        self._files[file.name] = file
        for symbol in _symbols(file):
            self._file_of_symbol[symbol] = file.name
        for extension in _extensions(file.extension, file.message_type):
            self._file_of_extension[extension.extendee.removeprefix("."), extension.number] = (
                file.name
            )


def _contract_files() -> Iterable[_File]:
    """The files of the contract and of all its imports, with comments."""
    data = files("credit_service.v1").joinpath("descriptors.binpb").read_bytes()
    return descriptor_pb2.FileDescriptorSet.FromString(data).file


def _reflection_v1() -> _File:
    """The file of reflection v1: that of v1alpha under another package."""
    file = _File()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = "grpc.reflection.v1"
    file.ClearField("options")
    old, new = ".grpc.reflection.v1alpha.", ".grpc.reflection.v1."
    for message in file.message_type:
        for field in message.field:
            field.type_name = field.type_name.replace(old, new)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(old, new)
            method.output_type = method.output_type.replace(old, new)
    return file


def _symbols(file: _File) -> Iterator[str]:
    """The full names of everything named in a file."""
    prefix = f"{file.package}." if file.package else ""
    for service in file.service:
        yield prefix + service.name
        yield from (f"{prefix}{service.name}.{method.name}" for method in service.method)
    for extension in file.extension:
        yield prefix + extension.name
    yield from _enum_symbols(prefix, file.enum_type)
    for message in file.message_type:
        yield from _message_symbols(prefix, message)


def _message_symbols(prefix: str, message: Any) -> Iterator[str]:
    name = prefix + message.name
    yield name
    inner = name + "."
    for member in (*message.field, *message.oneof_decl, *message.extension):
        yield inner + member.name
    yield from _enum_symbols(inner, message.enum_type)
    for nested in message.nested_type:
        yield from _message_symbols(inner, nested)


def _enum_symbols(prefix: str, enums: Iterable[Any]) -> Iterator[str]:
    for enum in enums:
        yield prefix + enum.name
        # The full name of a value has the scope of its enum, not the enum's name.
        yield from (prefix + value.name for value in enum.value)


def _extensions(top: Iterable[Any], messages: Iterable[Any]) -> Iterator[Any]:
    yield from top
    for message in messages:
        yield from _extensions(message.extension, message.nested_type)


def _with_error(response: Any, code: grpc.StatusCode, message: str) -> Any:
    response.error_response.error_code = code.value[0]
    response.error_response.error_message = message
    return response
