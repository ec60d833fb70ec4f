"""Texts and conversations in the columns of a data set; each unusable one gets its sentence."""

from __future__ import annotations

from rekindle.errors import InputError

Message = dict[str, str]
"""`role` and `content`."""


def read_prompt(where: str, value: object) -> tuple[str, list[Message]]:
    """(prompt, messages) of a text or a conversation that ends with the user's turn; InputError naming `where`."""
    if isinstance(value, str):
        return plain_text(where, value), []
    if not isinstance(value, list):
        raise InputError(f"{where}: must be a text or a list of messages, not {kind(value)}: change it")
    if not value:
        raise InputError(f"{where}: the list of messages is empty: add a message with role 'user'")
    messages = conversation(where, value)
    if messages[-1]["role"] != "user":
        raise InputError(f"{where}: the last message has role '{messages[-1]['role']}': end with role 'user'")
    return messages[-1]["content"], messages


def conversation(where: str, value: list[object]) -> list[Message]:
    """The messages of a conversation, `role` and `content` alone; InputError naming `where` and the message."""
    return [_message(f"{where}, message {n}", message) for n, message in enumerate(value, start=1)]


def read_response(where: str, value: object) -> str:
    """A response: a text, or the content of the one message of the assistant in a list; InputError naming `where`."""
    if isinstance(value, str):
        return plain_text(where, value)
    if not isinstance(value, list):
        raise InputError(f"{where}: must be a text or a list of one message, not {kind(value)}: change it")
    messages = conversation(where, value)
    if [message["role"] for message in messages] != ["assistant"]:
        roles = ", ".join(f"'{message['role']}'" for message in messages) or "none"
        raise InputError(
            f"{where}: a response is one message with role 'assistant', and these are {roles}: move the others into "
            "the prompt or drop the row"
        )
    return messages[0]["content"]


def _message(where: str, value: object) -> Message:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise InputError(f"{where}: must be an object with 'role' and 'content': change it")
    if not isinstance(value.get("content"), str):
        raise InputError(f"{where}: 'content' must be a text, not {kind(value.get('content'))}: change it")
    return {"role": value["role"], "content": plain_text(where, value["content"])}


def plain_text(where: str, text: str) -> str:
    """The text; InputError where it is empty or cannot be encoded."""
    if not text.strip():
        raise InputError(f"{where}: the text is empty: write one or drop the row")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{where}: holds half of a surrogate pair, which no tokenizer can encode: repair the text")
    return text


def kind(value: object) -> str:
    """What a value is, in words."""
    names = {"NoneType": "null", "dict": "an object", "list": "a list", "bool": "a boolean", "int": "an integer"}
    names |= {"str": "a text", "float": "a number"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")
