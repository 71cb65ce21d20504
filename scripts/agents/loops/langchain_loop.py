"""A minimal agent on LangChain's ChatOpenAI: call tools until the model answers. It knows nothing of packlight."""

from argparse import Namespace
from functools import reduce
from operator import add
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from shell import DESCRIPTION, INSTRUCTIONS, main, run


@tool(description=DESCRIPTION)
def bash(command: str) -> str:
    """Run *command* and return what it printed."""
    return run(command)


def work(given: Namespace) -> str:
    """Work on the prompt, and return the answer."""
    options: dict[str, Any] = {"timeout": given.patience} if given.patience else {}
    if given.api == "responses":
        options |= {"use_responses_api": True, "store": False, "include": ["reasoning.encrypted_content"]}
    model = ChatOpenAI(model=given.model, **options).bind_tools([bash])
    history: list[BaseMessage] = [SystemMessage(INSTRUCTIONS), HumanMessage(given.prompt)]
    while True:
        answer = reduce(add, model.stream(history)) if given.stream else model.invoke(history)
        history.append(answer)
        if not answer.tool_calls:
            return str(answer.text)
        history += [bash.invoke(call) for call in answer.tool_calls]


if __name__ == "__main__":
    main(__doc__, work)
