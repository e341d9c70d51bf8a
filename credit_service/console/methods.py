"""The methods of the contract and its comments, for the pages that call any of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import MethodDescriptor

from credit_service.console.calls import SERVICES
from credit_service.v1 import options_pb2

_File = descriptor_pb2.FileDescriptorProto
_NO_SIDE_EFFECTS = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
# Field numbers of descriptor.proto, of which the paths to comments consist.
_MESSAGES, _SERVICES, _MEMBERS = 4, 6, 2


@dataclass(frozen=True, slots=True)
class Method:
    """A method, and what the contract says about it."""

    descriptor: MethodDescriptor

    @property
    def name(self) -> str:
        """The name without its service."""
        return self.descriptor.name

    @property
    def service(self) -> str:
        """The service's name without its package."""
        return self.descriptor.containing_service.name

    @property
    def path(self) -> str:
        """The path of its calls: /package.Service/Method."""
        return f"/{self.descriptor.containing_service.full_name}/{self.name}"

    @property
    def href(self) -> str:
        """The page with its form."""
        return f"/qa/methods/{self.service}/{self.name}"

    @property
    def scope(self) -> str:
        """The scope that its callers need."""
        scope: str = self.descriptor.GetOptions().Extensions[options_pb2.scope]
        return scope

    @property
    def is_write(self) -> bool:
        """Whether a call can change data."""
        return self.descriptor.GetOptions().idempotency_level != _NO_SIDE_EFFECTS

    @property
    def has_request_id(self) -> bool:
        """Whether a request identifies itself, so that a repeat has no second effect."""
        return "request_id" in self.descriptor.input_type.fields_by_name

    @property
    def about(self) -> list[str]:
        """The paragraphs of its comment in the contract."""
        return comment(self.descriptor.full_name).split("\n\n")

    @property
    def kind(self) -> str:
        """What it receives or returns besides one message, or ''."""
        if self.descriptor.client_streaming:
            return "stream of requests"
        return "stream of responses" if self.descriptor.server_streaming else ""


METHODS: Mapping[tuple[str, str], Method] = {
    (service.name, each.name): Method(each) for service in SERVICES for each in service.methods
}
"""All methods of the contract by the names of service and method, in the contract's order."""


def comment(name: str) -> str:
    """Return the comment of a method or a field in the contract by its full name, or ''.

    Lines of a paragraph are joined; paragraphs are separated by an empty line.
    """
    return _comments().get(name, "")


@cache
def _comments() -> Mapping[str, str]:
    """Comments by full name. Generated code has none, so they come from protoc's output."""
    data = files("credit_service.v1").joinpath("descriptors.binpb").read_bytes()
    found: dict[str, str] = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        if not file.package.startswith("credit_service."):
            continue
        names = dict(_names(file))
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name is not None:
                paragraphs = location.leading_comments.strip().split("\n\n")
                found[name] = "\n\n".join(" ".join(each.split()) for each in paragraphs)
    return found


def _names(file: _File) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield the path and the full name of each method and of each field of a message."""
    for i, service in enumerate(file.service):
        for j, method in enumerate(service.method):
            yield (_SERVICES, i, _MEMBERS, j), f"{file.package}.{service.name}.{method.name}"
    for i, message in enumerate(file.message_type):
        for j, field in enumerate(message.field):
            yield (_MESSAGES, i, _MEMBERS, j), f"{file.package}.{message.name}.{field.name}"
