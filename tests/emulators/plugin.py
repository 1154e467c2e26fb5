"""A stand-in for a cloud's Pulumi plugin: it speaks the engine's gRPC, and has a world of its own behind it.

The real engine attaches to it through PULUMI_DEBUG_PROVIDERS, several at once, each with a configuration of its own. As a real
plugin does, it checks required properties, previews with what is not known yet left unknown, waits inside its create, and
gives errors as text. Left out: schemas, updates in place (every change replaces), `pulumi import`, cancellation of a call
that is under way.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from google.rpc import status_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

# How the engine writes what it does not know yet, and the signature of its own values.
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"
_OUTPUT = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
_THREADS = 32

Values = dict[str, Any]


class Refusal(Exception):
    """The cloud says no; the text is what its plugin would say."""


class HalfMade(Exception):
    """It is there, and is not as it should be: the engine keeps its id, and the operation fails."""

    def __init__(self, id: str, outputs: Values, reason: str) -> None:
        super().__init__(reason)
        self.id = id
        self.outputs = outputs


class Plugin(ABC):
    """One cloud's plugin.

    Lifecycle: `start` listens on loopback, `close` ends that; calls under way are given a second.

    Attributes:
        name: of the plugin, "aws".
        version: of the SDK that declares for it.
        calls: what the engine has asked for, as (operation, type), in order.
    """

    name: ClassVar[str]
    version: ClassVar[str]

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.port = 0
        self._configurations: dict[str, Values] = {}
        self._lock = threading.Lock()
        self._server: grpc.Server | None = None

    @abstractmethod
    def check(self, type: str, inputs: Values) -> Sequence[tuple[str, str]]:
        """What of a resource's inputs cannot be, as (property, reason); some may be UNKNOWN."""

    @abstractmethod
    def create(self, configuration: Values, type: str, inputs: Values) -> tuple[str, Values]:
        """Makes a resource.

        Returns:
            Its id and all of its outputs.

        Raises:
            Refusal: the cloud refuses; nothing was made.
            HalfMade: something was.
        """

    @abstractmethod
    def delete(self, configuration: Values, type: str, id: str, outputs: Values) -> None:
        """Deletes a resource, and waits until it is gone; gone already is success.

        Raises:
            Refusal: the cloud refuses.
        """

    def planned(self, type: str, inputs: Values) -> Values:
        """The outputs of a preview: the inputs, and UNKNOWN for what only a create tells."""
        return dict(inputs)

    def invoke(self, configuration: Values, token: str, arguments: Values) -> Values:
        """Answers a function of the SDK's.

        Raises:
            Refusal: the cloud refuses.
        """
        raise Refusal(f"{token} is not known here")

    @property
    def environment(self) -> str:
        """Its part of PULUMI_DEBUG_PROVIDERS, "aws:1234"."""
        return f"{self.name}:{self.port}"

    def start(self) -> None:
        """Listens."""
        server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix=f"plugin-{self.name}"))
        provider_pb2_grpc.add_ResourceProviderServicer_to_server(_Servicer(self), server)
        self.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self._server = server

    def close(self) -> None:
        """Ends it."""
        if self._server is not None:
            self._server.stop(1.0).wait()
            self._server = None

    def configure(self, peer: str, values: Values) -> None:
        """The engine that is connected so has this configuration."""
        with self._lock:
            self._configurations[peer] = values

    def configuration(self, peer: str) -> Values:
        """Of the engine that is connected so."""
        with self._lock:
            return self._configurations.get(peer, {})

    def note(self, operation: str, type: str) -> None:
        """Writes a call down."""
        with self._lock:
            self.calls.append((operation, type))


class _Servicer(provider_pb2_grpc.ResourceProviderServicer):
    """The engine's side."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    def Handshake(self, request: Any, context: Any) -> Any:
        return provider_pb2.ProviderHandshakeResponse(
            accept_secrets=False, accept_resources=False, accept_outputs=False
        )

    def Attach(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    def Cancel(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version=self._plugin.version)

    def GetSchema(self, request: Any, context: Any) -> Any:
        return provider_pb2.GetSchemaResponse(schema="{}")

    def CheckConfig(self, request: Any, context: Any) -> Any:
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: Any) -> Any:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, request: Any, context: Any) -> Any:
        self._plugin.configure(context.peer(), _values(request.args))
        return provider_pb2.ConfigureResponse(
            acceptSecrets=False, supportsPreview=True, acceptResources=False, acceptOutputs=False
        )

    def Check(self, request: Any, context: Any) -> Any:
        type = _type(request.urn)
        self._plugin.note("check", type)
        failures = [
            provider_pb2.CheckFailure(property=name, reason=reason)
            for name, reason in self._plugin.check(type, _values(request.news))
        ]
        return provider_pb2.CheckResponse(inputs=request.news, failures=failures)

    def Diff(self, request: Any, context: Any) -> Any:
        olds, news = _values(request.old_inputs), _values(request.news)
        changed = sorted(name for name in {*olds, *news} if olds.get(name) != news.get(name))
        some = (
            provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE
        )
        return provider_pb2.DiffResponse(changes=some, replaces=changed, diffs=changed)

    def Create(self, request: Any, context: Any) -> Any:
        type, inputs = _type(request.urn), _values(request.properties)
        if request.preview:
            self._plugin.note("preview", type)
            return provider_pb2.CreateResponse(
                properties=_struct(self._plugin.planned(type, inputs))
            )
        self._plugin.note("create", type)
        try:
            id, outputs = self._plugin.create(
                self._plugin.configuration(context.peer()), type, inputs
            )
        except HalfMade as half:
            _abort_half_made(context, half, inputs)
        except Refusal as refusal:
            context.abort(grpc.StatusCode.UNKNOWN, str(refusal))
        return provider_pb2.CreateResponse(id=id, properties=_struct(outputs))

    def Read(self, request: Any, context: Any) -> Any:
        return provider_pb2.ReadResponse(
            id=request.id, properties=request.properties, inputs=request.inputs
        )

    def Delete(self, request: Any, context: Any) -> Any:
        type = _type(request.urn)
        self._plugin.note("delete", type)
        try:
            self._plugin.delete(
                self._plugin.configuration(context.peer()),
                type,
                request.id,
                _values(request.properties),
            )
        except Refusal as refusal:
            context.abort(grpc.StatusCode.UNKNOWN, str(refusal))
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: Any) -> Any:
        self._plugin.note("invoke", request.tok)
        try:
            found = self._plugin.invoke(
                self._plugin.configuration(context.peer()), request.tok, _values(request.args)
            )
        except Refusal as refusal:
            context.abort(grpc.StatusCode.UNKNOWN, str(refusal))
        answer = provider_pb2.InvokeResponse()
        # Its name is a word of Python's.
        getattr(answer, "return").CopyFrom(_struct(found))
        return answer


def _abort_half_made(context: Any, half: HalfMade, inputs: Values) -> None:
    """As the engine wants it: the id and what is known go with the error."""
    detail = provider_pb2.ErrorResourceInitFailed(
        id=half.id, properties=_struct(half.outputs), reasons=[str(half)], inputs=_struct(inputs)
    )
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(half))
    status.details.add().Pack(detail)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.UNKNOWN, str(half))


def _type(urn: str) -> str:
    """The type of a resource, without those of its parents."""
    return urn.split("::")[2].rpartition("$")[2]


def _values(struct: struct_pb2.Struct) -> Values:
    found = _plain(json_format.MessageToDict(struct))
    assert isinstance(found, dict)
    return found


def _plain(value: Any) -> Any:
    """A value without the engine's own wrappings: secrets, and outputs that are known."""
    if isinstance(value, Mapping):
        signature = value.get(_SIGNATURE)
        if signature == _SECRET:
            return _plain(value.get("value"))
        if signature == _OUTPUT:
            return _plain(value["value"]) if "value" in value else UNKNOWN
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    # The engine has one kind of number.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _struct(values: Values) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    json_format.ParseDict(values, struct)
    return struct
