"""The simulated upstream: a server that speaks the Responses API over HTTP and WebSocket, and can misbehave.

    async with Simulator(script=scripted(["hello"])) as simulator:
        ...  # point a client at simulator.base_url
        assert simulator.turns[0].context == [...]

A codemap, from the edge inwards: ``simulator`` (the port) · ``wire``, ``shaper`` (bytes) · ``web``,
``httplink``, ``chat``, ``resources``, ``passthrough``, ``bodies`` (HTTP) · ``handshake``, ``websocket`` (the
WebSocket) · ``delivery``, ``faults`` (events on their way) · ``service``, ``chain``, ``validation``,
``parameters``, ``chatparameters``, ``messages``, ``effective``, ``rendering`` (what is asked) · ``scripts``,
``agent``, ``model``, ``items``, ``logprobs``, ``events``, ``response`` (what is answered) · ``settings``,
``citizens``, ``records``, ``apierror`` (words).
"""

from proxy.simulator.agent import agent_script
from proxy.simulator.apierror import ApiError
from proxy.simulator.faults import Fault
from proxy.simulator.model import (
    Compaction,
    Completed,
    CustomToolCall,
    Declined,
    Failed,
    FunctionCall,
    Incomplete,
    ModelCall,
    Output,
    Reasoning,
    Script,
    Text,
    Verbatim,
    WebSearch,
    says,
)
from proxy.simulator.records import ConnectionRecord, RequestRecord, SimulatedTurn
from proxy.simulator.rendering import digest, rendered
from proxy.simulator.scripts import ScriptEnded, echo_script, scripted
from proxy.simulator.settings import SimulatorSettings
from proxy.simulator.simulator import Simulator

__all__ = [
    "ApiError",
    "Compaction",
    "Completed",
    "ConnectionRecord",
    "CustomToolCall",
    "Declined",
    "Failed",
    "Fault",
    "FunctionCall",
    "Incomplete",
    "ModelCall",
    "Output",
    "Reasoning",
    "RequestRecord",
    "Script",
    "ScriptEnded",
    "SimulatedTurn",
    "Simulator",
    "SimulatorSettings",
    "Text",
    "Verbatim",
    "WebSearch",
    "agent_script",
    "digest",
    "echo_script",
    "rendered",
    "says",
    "scripted",
]
