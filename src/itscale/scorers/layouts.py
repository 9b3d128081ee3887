"""How process reward models want a solution written down: which tokens each step adds.

Law: the tokens of a path are those of its parent and more, and the last of them is where the model
says what it thinks of the step. So a prefix is written, and judged, once, whatever grows from it.

Steps are told by their index, never by looking for marks in the text: a mark that a model wrote
itself is text like any other. A step of white space alone (an end of sequence after a boundary) adds
nothing and is judged like the one before it; published code judges an empty turn there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from itscale.errors import ModelError, PromptError, ScorerError
from itscale.models.base import check_plain
from itscale.types import Path, Prompt

__all__ = [
    "QWEN_MARK",
    "QWEN_SYSTEM",
    "Layout",
    "MathShepherdLayout",
    "QwenLayout",
    "RLHFlowLayout",
    "SkyworkLayout",
    "question_of",
    "skywork_parts",
]

Ids = tuple[int, ...]

QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
QWEN_MARK = "<extra_0>"


def question_of(prompt: Prompt) -> str:
    """The one question these models were made to judge answers to.

    A system message is for the model that answers, and is left out.

    Raises:
        PromptError: the prompt is a conversation, or holds what is no plain text.
    """
    check_plain(prompt.judged, "a process reward model")
    if sum(message.role != "system" for message in prompt.messages) > 1:
        raise PromptError(
            "this process reward model judges answers to one question, not to a conversation; "
            "use a judge (judge:MODEL) or put the question in one message"
        )
    return prompt.question.strip()


class Layout(ABC):
    """The tokens of paths for one checkpoint's tokenizer, each node's worked out once.

    Raises:
        ModelError: the tokenizer is not one of this kind of model.
    """

    labels: tuple[int, int] = (0, 0)
    """The tokens that say wrong and right, where the language model's own head judges."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: WeakKeyDictionary[Path, Ids] = WeakKeyDictionary()

    def tokens(self, path: Path) -> Ids:
        """The tokens this node adds to its parent's; empty for a step of white space.

        Raises:
            PromptError: the prompt is none that this kind of model can judge.
            ScorerError: the tokenizer spells the prefix otherwise once the step follows.
        """
        known = self._known.get(path)
        if known is None:
            blank = path.depth > 1 and path.step is not None and not path.step.text.strip()
            known = self._known[path] = () if blank else self._added(path)
        return known

    @abstractmethod
    def _added(self, path: Path) -> Ids:
        """The tokens of a node whose step says something, or of the root."""

    def _ids(self, text: str) -> Ids:
        return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _single(self, token: str) -> int:
        """The id of what must be one token."""
        ids = self._ids(token)
        if len(ids) != 1:
            raise ModelError(
                f"the tokenizer has no token {token!r}, so this is no model of this kind; name the right one "
                "with #kind=KIND, see: itscale list scorers"
            )
        return ids[0]

    def _chat(self, messages: Sequence[tuple[str, str]], *, answering: bool) -> str:
        """The folder's chat template, with the head of an assistant's turn if `answering`."""
        turns = [{"role": role, "content": content} for role, content in messages]
        try:
            text = self._tokenizer.apply_chat_template(turns, add_generation_prompt=answering, tokenize=False)
        except Exception as error:
            raise ModelError(
                f"the checkpoint has no chat template, or one that fails ({type(error).__name__}); copy "
                "tokenizer_config.json and chat_template.jinja beside the weights again, or name another "
                "#kind=KIND"
            ) from error
        return str(text)

    def _beyond(self, path: Path, ids: Ids) -> Ids:
        """What `ids`, spelled as one text, add to the tokens of the parent."""
        before = tuple(t for node in _line(path.parent) for t in self.tokens(node))
        if ids[: len(before)] != before or len(ids) <= len(before):
            raise ScorerError(
                "the tokenizer spells a prefix otherwise once a step follows, so it cannot be judged step by "
                "step; report the text and the tokenizer"
            )
        return ids[len(before) :]


class QwenLayout(Layout):
    """Chat template, the steps stripped, a mark after each."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._mark = self._single(QWEN_MARK)

    def _added(self, path: Path) -> Ids:
        if path.step is None:
            turns = [("system", QWEN_SYSTEM), ("user", question_of(path.prompt))]
            return self._ids(self._chat(turns, answering=True))
        return (*self._ids(path.step.text.strip()), self._mark)


class SkyworkLayout(Layout):
    """Begin-of-sequence token, question, newline; then lines spelled one by one, a newline after each."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._newline = self._single("\n")
        if not tokenizer.bos_token:
            raise ModelError(
                "the tokenizer names no bos_token, which this kind of model begins with; copy "
                "tokenizer_config.json beside the weights again"
            )

    def _added(self, path: Path) -> Ids:
        if path.step is None:
            return self._ids(f"{self._tokenizer.bos_token}{question_of(path.prompt)}\n")
        return tuple(
            t
            for part in skywork_parts(path.step.text)
            for t in ((self._newline,) if part == "\n" else self._ids(part))
        )


def skywork_parts(text: str) -> list[str]:
    r"""The lines of a step with a newline after each, to be spelled one by one; empty lines are left out.

    >>> skywork_parts("one\n\ntwo\n")
    ['one', '\n', 'two', '\n']
    """
    lines = [line for line in text.split("\n") if line.strip()] or [""]
    return [part for line in lines for part in (line, "\n") if part]


class RLHFlowLayout(Layout):
    """A conversation: each step a user's turn, "+" its answer; judged where the answer is about to come."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.labels = (self._single("-"), self._single("+"))
        self._chat([("user", "?")], answering=True)

    def _added(self, path: Path) -> Ids:
        question = question_of(path.prompt)
        if path.step is None:
            text = self._chat([("user", question)], answering=False)
            head, found, _ = text.rpartition(question)
            if not found:
                raise ModelError(
                    "the chat template rewrites the question, so this is no model of this kind; name the "
                    "right one with #kind=KIND, see: itscale list scorers"
                )
            return self._ids(head + question)
        said = [node.step.text.strip() for node in _line(path) if node.step and self._counts(node)]
        said[0] = f"{question} {said[0]}"
        turns = [turn for text in said for turn in (("user", text), ("assistant", "+"))]
        return self._beyond(path, self._ids(self._chat(turns[:-1], answering=True)))

    def _counts(self, node: Path) -> bool:
        return node.depth == 1 or bool(node.step and node.step.text.strip())


class MathShepherdLayout(Layout):
    """Question and steps as one text, `ки` after each step, a newline between; judged at the mark."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._mark = self._single("ки")
        labels = self._ids("+ -")
        if len(labels) != 2:
            raise ModelError(
                "the tokenizer does not spell '+ -' as two tokens, so this is no Math-Shepherd; name the "
                "right kind with #kind=KIND, see: itscale list scorers"
            )
        self.labels = (labels[1], labels[0])

    def _added(self, path: Path) -> Ids:
        question = question_of(path.prompt)
        if path.step is None:
            return tuple(self._tokenizer(question).input_ids)
        said = [node.step.text.strip() for node in _line(path) if node.step]
        said = said[:1] + [text for text in said[1:] if text]
        ids = tuple(self._tokenizer(f"{question} " + "\n".join(f"{text} ки" for text in said)).input_ids)
        if ids[-1] != self._mark:
            raise ScorerError(
                "the tokenizer hides the step mark in a longer token; report the text of the step"
            )
        return self._beyond(path, ids)


def _line(path: Path | None) -> list[Path]:
    """From the root to a path."""
    return list(path.nodes())[::-1] if path else []
