"""Prompts as token ids: plain texts, or lists of messages through a chat template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError

from rekindle.errors import InputError
from rekindle.tokens.reading import text_of
from rekindle.tokens.rollouts import Example


@dataclass(frozen=True)
class Encode:
    """Token ids of an example's prompt: by the chat template where `chat` is set or the prompt is a list of messages.

    system_prompt: put before the messages unless they hold one; used with chat templates only. thinking: what the
    template is told of `enable_thinking`, None for nothing. The template opens the answer (with `<think>` where that is
    its way), or leaves the last message open where that is the assistant's own.
    """

    tokenizer: Any
    chat: bool
    system_prompt: str | None = None
    thinking: bool | None = None

    def __call__(self, example: Example) -> list[int]:
        """The ids that the model is given before it samples; InputError naming the example where there are none."""
        messages = self.told(example)
        ids = self._plain(example.prompt) if messages is None else self._template(example, messages)
        if not ids:
            raise InputError(f"prompt '{example.id}': the tokenizer makes no tokens of it: change or drop the row")
        return ids

    def told(self, example: Example) -> list[dict[str, str]] | None:
        """The messages that the template is given, the system prompt among them; None where the prompt is a text."""
        messages = example.meta.get("messages")
        if messages is None and not self.chat:
            return None
        messages = messages or [{"role": "user", "content": example.prompt}]
        if self.system_prompt is None or any(message["role"] == "system" for message in messages):
            return messages
        return [{"role": "system", "content": self.system_prompt}, *messages]

    def _plain(self, text: str) -> list[int]:
        """The ids of a text by itself, open at its end: an end token that the tokenizer appends is left out."""
        ids, end = list(self.tokenizer(text).input_ids), self.tokenizer.eos_token_id
        if not ids or ids[-1] != end:
            return ids
        bare = list(self.tokenizer(text, add_special_tokens=False).input_ids)
        return ids[:-1] if bare and ids[-len(bare) - 1 :] == [*bare, end] else ids

    def _template(self, example: Example, messages: list[dict[str, str]]) -> list[int]:
        if self.tokenizer.chat_template is None:
            raise InputError(
                f"prompt '{example.id}' is a list of messages, but the tokenizer has no chat template: "
                "write the prompt as a text, choose a chat model, or give chat_template=FILE"
            )
        told = {} if self.thinking is None else {"enable_thinking": self.thinking}
        begun = messages[-1]["role"] == "assistant"
        try:
            ids = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=not begun, continue_final_message=begun, return_dict=False, **told
            )
        except Exception as error:  # a template is a program of the model's author and may raise anything
            raise InputError(f"prompt '{example.id}': the chat template refuses it ({first_line(error)})") from None
        return list(ids)


def set_template(tokenizer: Any, file: str) -> None:
    """Give `tokenizer` the chat template in `file`; InputError where it cannot be read or is no template."""
    text = text_of(Path(file).expanduser(), "name a Jinja file", f"chat_template '{file}'")
    if not text.strip():
        raise InputError(f"chat_template '{file}' is empty: name a file that holds a Jinja template")
    tokenizer.chat_template = text
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], add_generation_prompt=True)
    except TemplateSyntaxError as error:
        raise InputError(f"chat_template '{file}', line {error.lineno}: {error.message}: mend the template") from None
    except Exception:  # a sound template may refuse this one message; each prompt of the data is tried later
        return


def check_thinking(spec: str, tokenizer: Any, thinking: bool | None, chat: bool) -> None:
    """InputError where the user sets `thinking` and the template, or the lack of one, would ignore it."""
    if thinking is None:
        return
    if not chat:
        raise InputError(f"model '{spec}': thinking={thinking} goes to a chat template, and none is used: leave it out")
    if "enable_thinking" not in tokenizer.get_chat_template():
        raise InputError(
            f"model '{spec}': its chat template does not know enable_thinking, so thinking={thinking} would do "
            "nothing: leave it out, or give a template that does (chat_template=FILE)"
        )


def check_system(spec: str, system_prompt: str | None, chat: bool) -> None:
    """InputError where the user's own `system_prompt` would be left out, since no chat template is used."""
    if system_prompt and not chat:
        raise InputError(
            f"model '{spec}': the system_prompt goes to a chat template, and none is used: write it into the prompts, "
            "give chat_template=FILE, or leave it out"
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to 200 characters."""
    lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
