"""Literal marks of media in text: where they mean an image that is not there, the row is refused.

Only the foreign formats know ``<image>`` as a place, and each turns it into an image part. What is left of it in a text
is a place without an image, or a word about markup: the model would read it as plain letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mmpref.data.quarantine import RowError

_MARKS = re.compile(
    r"<img>[^<>\n]+</img>|"  # Qwen-VL's path in the text
    r"<(?:video|vid|audio)>[^<>\n]*\.\w{2,5}</(?:video|vid|audio)>|"  # ms-swift's
    r"</image>|"  # the end of a place that was read, or of none
    r"<(?:[Ii]mage|IMAGE|[Vv]ideo|VIDEO|[Aa]udio|AUDIO|image ?/|img|sound|speech|bbox|ref-object)>"
    r"|<\|(?:image|video|audio|vision)(?:_(?:pad|start|end|\d+))?\|>"
    r"|<image(?:_soft_token|_placeholder|[ _-]?\d+)>|<video(?:_placeholder|[ _-]?\d+)>"
    r"|<start_of_image>|<IMG_CONTEXT>|<ImageHere>|<im_patch>"
    r"|\[IMG\]"
)
_ABOUT_MARKUP = re.compile(r"</(?!img>|image>)|`|\b(?:HTML|XML|SVG|tags?|elements?|markup)\b", re.I | re.A)
_EMPTY = re.compile(r"<(image|video|audio)>(?:\./)?</\1>", re.IGNORECASE)
"""A place that is written as two tags, as MiniCPM does: no text about markup."""
_TAG = re.compile(r"</?[A-Za-z]+ ?/?>")
_REASONS = {
    "audio": "audio",
    "sound": "audio",
    "speech": "audio",
    "bbox": "boxes",
    "ref-object": "boxes",
}

# every piece stops where the next one of its kind may begin, so that no part of a long text is read twice
_PICTURE = re.compile(
    r"(?P<tag><img\b[^<>]*+>)"
    r"|!\[[^\]\n!]*+(?:!(?!\[)[^\]\n!]*+)*+\]\(\s*+<?(?P<link>[^\s()<>]++)[^()\n]*+\)",
    re.IGNORECASE,
)
_SOURCE = re.compile(r"\bsrc\s*+=\s*+[\"']?(?P<path>[^\s\"'<>]++)", re.IGNORECASE)
_ENDING = re.compile(r"\.(?:jpe?g|jfif|png|webp|gif|bmp|tiff?|heic|avif|svg)(?=[?#]|\Z)", re.IGNORECASE)
# ASCII: a Chinese character beside a word is its border. What goes on as a path does (html/x.jpg) or as an attribute
# (html=) is no such word; a full stop behind it is
_ABOUT_CODE = re.compile(
    r"</(?!img>)|`|=>|\{\{|\b(?:X?HTML5?|XML|SVG|CSS|JSX|JavaScript|TypeScript|PHP|Markdown|README(?:\.md)?|markup"
    r"|(?:img|image)[ -](?:tags?|elements?))\b(?!=|/\w*[./]|\.\w)",
    re.IGNORECASE | re.ASCII,
)
_LISTED = re.compile(r"[-*+]\s|\d+[.)]\s")


OURS = (
    "an image's place is a part {type: image}, a video's is {type: video}, and text that is meant letter by letter is "
    "a part {type: text}"
)
"""What to do in our own rows."""
LITERAL = "if it is meant letter by letter, give the row in mmpref's own format, with the text as a part {type: text}"
"""The way out for rows of other formats."""


def refuse_marks(text: str, where: str, *, has_images: bool, advice: str = "") -> None:
    """Refuse a text of the prompt that holds a mark of media which is no place for an image or a video.

    Where the row has neither, a text that plainly speaks about markup (a closing tag, a backtick, the word HTML or
    tag) keeps its ``<image>``, ``<video>`` or ``<audio>``.

    Raises:
        RowError: ``literal_placeholder``, ``audio`` or ``boxes``.
    """
    if "<" not in text and "[IMG]" not in text:
        return
    closed = text.rfind("[/IMG]")  # before it comes a forum's [IMG]address[/IMG]
    marks = (found[0] for found in _MARKS.finditer(text) if found[0] != "[IMG]" or found.start() > closed)
    mark = next(marks, None)
    if mark == "</image>" and not has_images:  # alone it ends no place
        mark = mark if any(other != mark for other in marks) else None
    if mark is None:
        return
    if not has_images and _TAG.fullmatch(mark) and _ABOUT_MARKUP.search(_EMPTY.sub("", text)):
        return
    tag = mark.partition(">")[0].lower()  # a path behind it may have any name
    kind = next((name for name in _REASONS if name in tag), "")
    if not kind:
        is_video = "vid" in tag or ("vision" in tag and "<|video_pad|>" in text)
        medium = "video" if is_video else "image"
        advice = advice or (
            f"a place that no {medium} fills; give the {medium} under '{medium}s', with <{medium}> where it stands, or "
            f"take the mark out; {LITERAL}"
        )
    elif _REASONS[kind] == "audio":
        advice = "audio is not supported, only images, videos and text are; drop these rows"
    else:
        advice = "boxes are not supported; write them into the text as the model spells them"
    raise RowError(f"{where} holds {mark[:80]}: {advice}", reason=_REASONS.get(kind, "literal_placeholder"))


def refuse_images(text: str, where: str, *, advice: str = "") -> None:
    """Refuse what a user says in a prompt without images where it shows an image file by HTML or Markdown.

    A text about code keeps it, and so does a block of code. Links to other sites, as questions copied from forums have
    them, are kept and counted (:func:`links_to_images`).

    Raises:
        RowError: ``literal_placeholder``.
    """
    shown = next((mark for mark, path in _images(_without_code(text)) if "://" not in path), None)
    if shown is None or _ABOUT_CODE.search(_PICTURE.sub(" ", text)):
        return
    advice = advice or (
        f"give the image under 'images' and write <image> in its place, or take the mark out; {LITERAL}"
    )
    raise RowError(
        f"{where} shows the image {shown[:80]}, which no model would see: {advice}", reason="literal_placeholder"
    )


def _without_code(text: str) -> str:
    """The text without Markdown's blocks of code.

    They are indented by four blanks or a tab, below an empty line and text that is not; in a list such lines are more
    of the list.
    """
    if "\n    " not in text and "\n\t" not in text:
        return text
    kept: list[str] = []
    above: str | None = None  # the last line with words that is not indented; a text that is indented all over has none
    is_code = after_empty = False
    for line in text.split("\n"):
        is_empty = not line.strip()
        if not is_empty:
            is_indented = line.startswith(("    ", "\t"))
            may_begin = after_empty and above is not None and not _LISTED.match(above)
            is_code = is_indented and (is_code or may_begin)
            above = above if is_indented else line.lstrip()
        if not is_code:
            kept.append(line)
        after_empty = is_empty
    return "\n".join(kept)


def links_to_images(text: str) -> int:
    """How many images of other sites a text shows."""
    return sum("://" in path for _, path in _images(text))


def _images(text: str) -> Iterator[tuple[str, str]]:
    """What means an image in the text, and the image's path."""
    if "](" not in text and "<img" not in text and "<IMG" not in text:
        return
    for found in _PICTURE.finditer(text):
        paths = [found["link"]] if found["link"] else [source["path"] for source in _SOURCE.finditer(found["tag"])]
        path = next(filter(_is_image, paths), None)
        if path is not None:
            yield found[0], path


def _is_image(path: str) -> bool:
    if path[:11].lower() == "data:image/":
        return True
    return _ENDING.search(path.rstrip("/"), 1) is not None  # <img src=a.png/> ends with the tag's own slash
