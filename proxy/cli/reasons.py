"""Reasons: why a turn was not sent as a delta, in a sentence for the person who sees the figures."""

EXPLANATIONS: dict[str, str] = {
    "first_turn": "A conversation that upstream has not seen yet, or one compacted to what its user said: it has "
    "to be sent once.",
    "history_changed": "The agent edited, rewound or compacted its history, or changed its prompt, so upstream's "
    "copy no longer fits.",
    "settings_changed": "A setting changed that decides what upstream stores, or that was told once per chain; "
    "or there are no instructions any more.",
    "model_changed": "Another model was asked; what upstream holds belongs to the one before.",
    "call_unanswered": "The model had called a tool whose result is missing from the agent's history.",
    "connection_lost": "The connection to upstream broke, and what it held went with it.",
    "retired": "The connection had been idle for long, was close to an age limit, or made room for "
    "another conversation (`max_connections`; or one of its kind, where such were over with their answer), "
    "or for a request where an outbound proxy grants few tunnels.",
    "upstream_forgot": "Upstream no longer knew the earlier response, or refused to continue it; if that goes on, "
    "all is sent for a while.",
    "chain_collapsed": "Upstream confirmed a chain that it had lost, so everything is sent for a while.",
    "after_error": "The turn before failed, was cut short, or was given up by the agent, after which nothing is "
    "taken for granted.",
    "after_restart": "The conversation began elsewhere: packlight was restarted, or it went over plain HTTP until "
    "now, or what its user said first changed (some agents compact so), or a header that tells credentials apart.",
    "busy": "Another turn was under way on the conversation's connection; or all that there may be "
    "(`max_connections`) were at work, or kept for conversations in use.",
    "aside": "Agents come back to where they were before a request of this kind (such as a suggestion for what to "
    "type), so it went elsewhere, and the conversation keeps its connection.",
    "too_large": "The request is larger than upstream takes over a WebSocket, or than `max_body_bytes`; or an "
    "event of the answer was larger than `max_event_bytes`.",
    "unsupported_field": "The request has a field, a null or a header that a WebSocket or the Responses API has "
    "no equal for; `detail` names a field.",
    "translation_refused": "Upstream takes this Chat request as it is, but refused it as a Responses request.",
    "websocket_refused": "Upstream refused this conversation over a WebSocket, or failed at it; HTTP was asked "
    "too, and is for a while where that fared better.",
    "not_diffable": "The request could not be read as a history, so it was passed on as it came.",
    "no_websocket": "Upstream has no WebSocket endpoint, refused it for now, or could not be reached; or turn "
    "after turn was lost over WebSockets.",
    "disabled": "WebSockets, or deltas for this kind of request, are switched off in the settings.",
    "defect": "packlight itself failed on this turn and sent it on as it came; please report what the log says.",
}


def explain(reason: str) -> str:
    """Return the sentence for *reason*; a newer proxy may give one that this version does not know."""
    return EXPLANATIONS.get(reason, "A reason that this version of packlight does not know.")
