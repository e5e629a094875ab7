"""A model's chat template: what it reads, how it is rendered, and the marks that keep users' text from becoming tokens.

A template is a program of the model's author. It may raise anything, take all memory or never end, read switches
(``enable_thinking``), and write today's date; here its errors become one line, what it may take is limited (it runs in
:mod:`mmpref.processing.chat.renderer`), its switches are checked by name, and its clock stands still.
"""

from __future__ import annotations

import datetime
import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from transformers.utils import chat_template_utils

from mmpref.errors import ConfigError, one_line
from mmpref.processing.chat import renderer
from mmpref.processing.chat.recent import Recent
from mmpref.processing.chat.renderer import LimitError, TemplateError

PINNED_DATE = "2026-01-01"
"""The date that a template which asks for today's is given: prompts must be the same tomorrow."""
_CLOCK = "strftime_now"
_OTHER = "put another chat_template.jinja into the model's folder"
_KEPT_TEXTS = 256
"""Texts of which the ids are kept."""
_OURS = frozenset({"messages", "add_generation_prompt", "raise_exception"})


class ChatTemplate:
    """Renders conversations, and turns rendered text into ids.

    Strings of a conversation go through :meth:`mark` first: control tokens in them are wrapped in private marks, and
    :meth:`ids` encodes what is wrapped as plain text. Releases of transformers without this have ``can_mark`` False.

    Raises:
        ConfigError: no template, one that is no Jinja or takes more time or memory than it may, or ``kwargs`` that it
            does not read.
    """

    def __init__(self, processor: Any, tokenizer: Any, kwargs: Mapping[str, Any] | None = None) -> None:
        self.tokenizer = tokenizer
        self.name = _name_of(tokenizer)
        self.source = _source_of(processor, tokenizer, with_tools="tools" in (kwargs or {}))
        self._has_tools_template = "tool_use" in _named_templates(processor, tokenizer)
        if self.source.startswith("\ufeff"):
            raise ConfigError(
                f"the chat template of {self._where} begins with a byte order mark (U+FEFF), which would stand in "
                "every prompt; save it as UTF-8 without one"
            )
        try:
            found = renderer.describe(self.source)
        except TemplateError as err:
            raise ConfigError(f"the chat template of {self._where} cannot be read: {err}; {_OTHER}") from err
        except LimitError as err:
            raise ConfigError(f"the chat template of {self._where} {err}; {_OTHER}") from err
        self.variables = frozenset(found["read"]) | ({_CLOCK} & set(found["names"]))  # every template may call it
        self._set_inside = frozenset(found["set"])
        self._called = frozenset(found["called"]) - {_CLOCK}
        self._own_texts = "\0".join(found["texts"])
        parameters = inspect.signature(tokenizer.apply_chat_template).parameters
        self.can_mark = "sanitize_control_tokens" in parameters
        self.kwargs = dict(kwargs or {})
        self._read = Recent[tuple[int, ...]](_KEPT_TEXTS)
        self.check(self.kwargs, "processing.template_kwargs")

    def check(self, kwargs: Mapping[str, Any], where: str) -> None:
        """Refuse what this template does not read.

        Raises:
            ConfigError: the name is not among its variables, or not a user's to set.
        """
        own = _OURS | set(self.tokenizer.special_tokens_map)
        for name, value in kwargs.items():
            if name in own:
                raise ConfigError(f"{where}: '{name}' is given to chat templates by mmpref itself; take it out")
            if name in self._called:
                raise ConfigError(
                    f"{where}: the chat template of {self.name} calls '{name}' as a function, and no value can be one; "
                    "take it out"
                )
            if name not in self.variables:
                near = difflib.get_close_matches(name, self.settable, n=1, cutoff=0.6)
                known = f"it reads {', '.join(self.settable)}" if self.settable else "it reads none"
                if name == "tools" and self._has_tools_template:
                    known = (
                        "it has another template, 'tool_use', which is taken where processing.template_kwargs has tools"
                    )
                hint = f"did you mean '{near[0]}'?" if near else f"{known}; take it out"
                raise ConfigError(f"{where}: the chat template of {self.name} does not read '{name}'; {hint}")
            if name == _CLOCK:
                _date(value, where)

    @cached_property
    def settable(self) -> tuple[str, ...]:
        """Variables that a user may give, by name; those that the template only sets for itself are left out."""
        own = _OURS | set(self.tokenizer.special_tokens_map)
        return tuple(sorted(self.variables - own - self._set_inside - self._called))

    @cached_property
    def switches(self) -> tuple[dict[str, bool], ...]:
        """Settings of the template about thinking that were not given: each on, then off."""
        names = [name for name in self.settable if re.search("think|reasoning(?!_effort|_content)", name)]
        return tuple({name: value} for name in names if name not in self.kwargs for value in (True, False))

    def render(
        self, conversation: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any], *, ask: bool, without: str = ""
    ) -> str:
        """The conversation as text; with ``ask``, up to where the model starts to write.

        Args:
            conversation: messages, marked.
            kwargs: what the template reads beside them, over the recipe's; marked here.
            without: the name of one that is not given, whoever set it.

        Raises:
            TemplateError: the template refuses it.
            ConfigError: the template takes more time or memory than it may: it is not to be tried in other ways.
        """
        source, given = self._given(kwargs, without)
        try:
            return renderer.render(source, conversation, given, ask=ask)
        except LimitError as err:
            raise ConfigError(f"the chat template of {self._where} {err}; {_OTHER}") from err

    def render_all(
        self, conversations: Sequence[tuple[Sequence[Mapping[str, Any]], bool]], kwargs: Mapping[str, Any]
    ) -> list[str | TemplateError]:
        """:meth:`render` of several conversations at once, each with its ``ask``: texts, or why one is refused.

        Empty where one of them takes more time or memory than it may, which :meth:`render` then says.
        """
        source, given = self._given(kwargs, "")
        return renderer.render_all(source, conversations, given)

    def _given(self, kwargs: Mapping[str, Any], without: str) -> tuple[str, dict[str, Any]]:
        """The template as it is run, and what it reads beside the conversation."""
        given = self.mark({name: value for name, value in {**self.kwargs, **kwargs}.items() if name != without})
        day = given.pop(_CLOCK, PINNED_DATE)
        source = _clock(day) + self.source if _CLOCK in self.variables else self.source
        return source, {**self.tokenizer.special_tokens_map, **given}

    def mark(self, value: Any) -> Any:
        """The same value with the control tokens in its strings wrapped in marks."""
        if not self.can_mark:
            return value
        return chat_template_utils.mark_control_tokens(value, self._control_tokens)

    def unmark(self, text: str) -> str:
        """The text as a person reads it."""
        start, end = self._marks
        return text.replace(start, "").replace(end, "")

    def marked_in(self, text: str) -> tuple[str, ...]:
        """The control tokens that a rendered text holds as text."""
        if not self.can_mark:
            return ()
        start, end = self._marks
        return tuple(piece.partition(end)[0] for piece in text.split(start)[1:])

    def unmark_first(self, text: str, token: str) -> str:
        """The text with the first occurrence of one token taken for the token that it names."""
        start, end = self._marks
        marked = f"{start}{token}{end}"
        return text.replace(marked, token, 1) if token and marked in text else text

    def ids(self, text: str) -> list[int]:
        """Ids of rendered text, with nothing added.

        Raises:
            TemplateError: a control token that the tokenizer cannot keep as text, or a text that it fails on.
        """
        start, end = self._marks
        marked = self.can_mark and (start in text or end in text)
        extra = {"sanitize_control_tokens": True} if marked else {}
        try:
            return list(self.tokenizer(text, add_special_tokens=False, **extra)["input_ids"])
        except (ValueError, NotImplementedError) as err:
            raise TemplateError(
                f"has a control token that the tokenizer of {self.name} cannot keep as text: {one_line(err)}"
            ) from err
        except BaseException as err:
            if not _is_refusal(err):
                raise
            raise TemplateError(f"cannot be read by the tokenizer of {self.name}: {one_line(err)}") from err

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        """:meth:`ids` of several texts, by one call of the tokenizer where none of them holds a control token as text.

        Texts that were read a short time ago are not read again: a prompt, or an answer, in several pairs.

        Raises:
            TemplateError: as :meth:`ids`, for the first text that cannot be read.
        """
        start, end = self._marks
        if self.can_mark and any(start in text or end in text for text in texts):
            return [self.ids(text) for text in texts]
        known = {text: self._read.find(text) for text in texts}
        new = [text for text, ids in known.items() if ids is None]
        try:
            found = self.tokenizer(new, add_special_tokens=False)["input_ids"] if new else []
        except BaseException as err:  # which text it is, and why, its own turn says
            if not _is_refusal(err):
                raise
            return [self.ids(text) for text in texts]
        if len(found) != len(new):
            return [self.ids(text) for text in texts]
        for text, ids in zip(new, found, strict=True):
            known[text] = tuple(ids)
            self._read.keep(text, tuple(ids))
        return [list(known[text] or ()) for text in texts]

    @cached_property
    def writes_the_date(self) -> bool:
        """Whether what it writes would change from day to day."""
        if _CLOCK not in self.variables or _CLOCK in self.kwargs:
            return False
        for content in ("hello", [{"type": "text", "text": "hello"}]):
            turn = [{"role": "user", "content": content}]
            try:
                one, other = (self.render(turn, {_CLOCK: day}, ask=True) for day in ("2001-02-03", "2012-11-10"))
            except TemplateError:
                continue
            return one != other
        return True

    @cached_property
    def _control_tokens(self) -> re.Pattern[str]:
        """What transformers takes for control tokens: its own look at the template would run it here."""
        tokenizer, own = self.tokenizer, getattr(self.tokenizer, "chat_control_tokens", None)
        named = None if own is None else set(own)
        tokens = tuple(
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special or (token.content in named if named is not None else self._writes_by_itself(token.content))
        )
        pattern: re.Pattern[str] = chat_template_utils._get_control_token_patterns(tokens)[0]
        return pattern

    def _writes_by_itself(self, token: str) -> bool:
        return token in self._own_texts and not token.isspace()

    @property
    def _where(self) -> str:
        """The model, and which of its files has the template."""
        for file in ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json"):
            if (path := Path(self.name, file)).is_file() and (file.endswith("jinja") or _speaks_of_one(path)):
                return f"{self.name} ({file})"
        return self.name

    @cached_property
    def _marks(self) -> tuple[str, str]:
        if not self.can_mark:
            return "\0", "\0"  # in no text
        start, _, end = chat_template_utils.mark_control_tokens("x", re.compile("x")).partition("x")
        return start, end


def _is_refusal(err: BaseException) -> bool:
    """Whether a tokenizer raises it for a text that it cannot read; a panic of one in Rust is no ``Exception``."""
    return isinstance(err, ValueError | NotImplementedError) or type(err).__name__ in (
        "PanicException",
        "TypeError",
        "Exception",
    )


def _speaks_of_one(path: Path) -> bool:
    with path.open("rb") as stream:
        return b'"chat_template"' in stream.read(1 << 24)


def _name_of(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or "this model")


def _named_templates(processor: Any, tokenizer: Any) -> Mapping[str, Any]:
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    return template if isinstance(template, dict) else {}


def _source_of(processor: Any, tokenizer: Any, *, with_tools: bool) -> str:
    """The template; of several, ``tool_use`` where tools are given and ``default`` else, as transformers takes them."""
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    if isinstance(template, dict) and template:
        name = "tool_use" if with_tools and "tool_use" in template else "default"
        if name not in template:
            raise ConfigError(
                f"{_name_of(tokenizer)} has the chat templates {', '.join(map(repr, template))} and none named "
                "'default'; put the one that these rows need into its folder as chat_template.jinja"
            )
        template = template[name]
    if not template:
        raise ConfigError(
            f"{_name_of(tokenizer)} has no chat template, so there is no one way to write a conversation for it; use "
            "an instruction-tuned model, or put a chat_template.jinja into its folder"
        )
    return str(template)


def _date(value: Any, where: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(str(value))
    except ValueError:
        raise ConfigError(
            f"{where}: '{_CLOCK}' is the day that a template takes for today, as in {PINNED_DATE!r}; got {value!r}"
        ) from None


@lru_cache
def _clock(day: str) -> str:
    """A macro that stands before a template in place of the function for today's date.

    transformers hands plain data to templates and no functions, so the macro fills a format in, part by part.
    """
    moment = _date(day, "template_kwargs")
    parts = {f"%-{letter}": str(int(moment.strftime(f"%{letter}"))) for letter in "dmHIMSj"}
    parts |= {f"%{letter}": moment.strftime(f"%{letter}") for letter in "YymdbBaAHIMSpjFDTxXcUWwuGVZz%"}
    filled = "".join(f"|replace({part!r}, {text!r})" for part, text in parts.items())
    return f"{{%- macro {_CLOCK}(format) -%}}{{{{ format{filled} }}}}{{%- endmacro %}}{{{{ '' }}}}"
