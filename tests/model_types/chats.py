"""Tokenizers and chat templates in the shape of real models': their special tokens, their turns, their image places.

The templates are short ones of our own; what they have of the real ones is all that decides how a row is encoded: which
content may be a list, what stands around an image, what is said before and after an answer, what is done with thoughts.
"""

from __future__ import annotations

from typing import Any

from tokenizers import processors

from tests.tiny_vlms import make_tokenizer

# Qwen3.5: contents are trimmed, answers after the last question get a think block, and the model is asked inside one.
QWEN_THINKS = """\
{%- macro said(content) -%}{%- if content is string -%}{{ content }}{%- else -%}{%- for part in content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}
{%- set last = namespace(question=-1) -%}
{%- for message in messages -%}{%- if message.role == 'user' -%}{%- set last.question = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- set content = said(message.content)|trim -%}
{%- set thought = '' -%}
{%- if message.role == 'assistant' and '</think>' in content -%}
{%- set thought = content.split('</think>')[0].split('<think>')[-1]|trim -%}
{%- set content = content.split('</think>')[-1]|trim -%}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.role == 'assistant' and loop.index0 > last.question -%}
{{- '<think>\n' + thought + '\n</think>\n\n' -}}
{%- endif -%}
{{- content + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\n\n</think>\n\n' -}}
{%- else -%}{{- '<think>\n' -}}{%- endif -%}{%- endif -%}
"""
QWEN = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.content is string -%}{{- message.content -}}{%- else -%}{%- for part in message.content -%}
{%- if part.type == 'image' or 'image' in part -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' or 'video' in part -%}<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in part -%}{{- part.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""
# GLM-4.1V: only what users say may be a list; there is no end of turn, the next one's mark is where the model stops.
GLM_4_1 = """\
[gMASK]<sop>
{%- for message in messages -%}
{%- if message.role == 'system' %}
<|system|>
{{ message.content }}
{%- elif message.role == 'user' -%}<|user|>{{ '\n' }}
{%- if message.content is string -%}{{ message.content }}{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'video' -%}<|begin_of_video|><|video|><|end_of_video|>
{%- elif part.type == 'image' -%}<|begin_of_image|><|image|><|end_of_image|>
{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}
{%- elif message.role == 'assistant' -%}<|assistant|>{{ '\n' }}{{ message.content }}
{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{{ '\n' }}{%- endif -%}
"""
# GLM-4.5V and later: an empty think block before answers without one, asked for with nothing after the role.
GLM_THINKS = """\
[gMASK]<sop>
{%- macro said(content) -%}{%- if content is string -%}{{ content }}{%- else -%}{%- for part in content -%}
{%- if part.type == 'image' -%}<|begin_of_image|><|image|><|end_of_image|>
{%- elif part.type == 'video' -%}<|begin_of_video|><|video|><|end_of_video|>
{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}
{%- set last = namespace(question=-1) -%}
{%- for message in messages -%}{%- if message.role == 'user' -%}{%- set last.question = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- set content = said(message.content) -%}
{%- if message.role == 'user' -%}{{ '<|user|>\n' + content }}
{{- '/nothink' if enable_thinking is defined and not enable_thinking and not content.endswith('/nothink') else '' -}}
{%- elif message.role == 'assistant' -%}
{%- set thought = '' -%}
{%- if '</think>' in content -%}
{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip() -%}
{%- set content = content.split('</think>')[-1] -%}
{%- endif -%}
{{- '<|assistant|>\n<think>' + (thought if loop.index0 > last.question else '') + '</think>\n' + content.strip() -}}
{%- elif message.role == 'system' -%}{{ '<|system|>\n' + content }}
{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>
{{- '\n<think></think>' if enable_thinking is defined and not enable_thinking else '' -}}{%- endif -%}
"""
GEMMA_3 = """\
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}
{%- if messages[0].content is string -%}{%- set first = messages[0].content + '\n\n' -%}
{%- else -%}{%- set first = messages[0].content[0].text + '\n\n' -%}{%- endif -%}
{%- set messages = messages[1:] -%}
{%- else -%}{%- set first = '' -%}{%- endif -%}
{%- for message in messages -%}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' -}}
{{- first if loop.first else '' -}}
{%- if message.content is string -%}{{- message.content|trim -}}{%- else -%}{%- for part in message.content -%}
{%- if part.type == 'image' -%}<start_of_image>{%- else -%}{{- part.text|trim -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}
"""
GEMMA_4 = """\
{{- bos_token -}}
{%- if enable_thinking or (messages and messages[0].role in ['system', 'developer']) -%}
{{- '<|turn>system\n' -}}
{%- if enable_thinking -%}{{- '<|think|>\n' -}}{%- endif -%}
{%- if messages[0].role in ['system', 'developer'] -%}
{%- if messages[0].content is string -%}{{- messages[0].content|trim -}}
{%- else -%}{%- for part in messages[0].content -%}{{- part.text|trim + ' ' -}}{%- endfor -%}{%- endif -%}
{%- set messages = messages[1:] -%}
{%- endif -%}
{{- '<turn|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' -}}
{%- if message.content is string -%}{{- message.content|trim -}}{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'text' -%}{{- part.text|trim -}}
{%- elif part.type == 'image' -%}<|image|>
{%- elif part.type == 'video' -%}<|video|>
{%- elif part.type == 'audio' -%}<|audio|>{%- endif -%}{%- endfor -%}{%- endif -%}
{{- '<turn|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|turn>model\n' -}}{%- endif -%}
"""
LLAMA_4 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|header_start|>' + message.role + '<|header_end|>\n\n' -}}
{%- if message.content is string -%}{{- message.content -}}{%- else -%}{%- for part in message.content -%}
{%- if part.type == 'image' -%}<|image|>{%- else -%}{{- part.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}
<|eot|>
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|header_start|>assistant<|header_end|>\n\n' -}}{%- endif -%}
"""
# MiniCPM-V: a line break between an image and what is said of it
MINICPM = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.content is string -%}{{- message.content -}}{%- else -%}{%- for part in message.content -%}
{%- if part.type == 'image' -%}<|image_pad|>{%- elif part.type == 'video' -%}<|video_pad|>
{%- else -%}{{- part.text -}}{%- endif -%}{%- if not loop.last -%}{{- '\n' -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}
{%- endif -%}
"""
# ERNIE-4.5-VL: images are numbered; roles are words; turns end with the end of a sentence.
ERNIE = """\
{%- set seen = namespace(images=0) -%}
{{- '<|begin_of_sentence|>' -}}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{{ 'User: ' }}{%- elif message.role == 'assistant' -%}{{ 'Assistant: ' }}{%- endif -%}
{%- if message.content is string -%}{{- message.content -}}{%- else -%}{%- for part in message.content -%}
{%- if part.type == 'image' -%}{%- set seen.images = seen.images + 1 -%}
{{- 'Picture ' ~ seen.images ~ ':<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>' -}}
{%- else -%}{{- part.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}
{{- '<|end_of_sentence|>' if message.role == 'assistant' else '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant: ' -}}{%- endif -%}
"""
PADDLE = """\
{{- '<|begin_of_sentence|>' -}}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{{- 'User: ' -}}
{%- for part in message.content -%}{%- if part.type == 'image' -%}<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>
{%- endif -%}{%- endfor -%}
{%- for part in message.content -%}{%- if part.type == 'text' -%}{{- part.text -}}{%- endif -%}{%- endfor -%}
{{- '\n' -}}
{%- elif message.role == 'assistant' -%}{{- 'Assistant: ' -}}
{%- for part in message.content -%}{%- if part.type == 'text' -%}{{- part.text -}}{%- endif -%}{%- endfor -%}</s>
{%- elif message.role == 'system' -%}
{%- for part in message.content -%}{%- if part.type == 'text' -%}{{- part.text + '\n' -}}{%- endif -%}{%- endfor -%}
{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant: ' -}}{%- endif -%}
"""
# HunYuan-VL: marks end the turns of users and of the model; nothing begins them.
HUNYUAN = """\
{{- '<｜hy_begin▁of▁sentence｜>' -}}
{%- for message in messages -%}
{%- if message.content is string -%}{{- message.content -}}{%- else -%}{%- for part in message.content -%}
{%- if part.type == 'image' -%}<｜hy_place▁holder▁no▁100｜><｜hy_place▁holder▁no▁102｜><｜hy_place▁holder▁no▁101｜>
{%- else -%}{{- part.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}
{%- if message.role == 'system' -%}<｜hy_place▁holder▁no▁3｜>
{%- elif message.role == 'user' -%}<｜hy_User｜>
{%- else -%}<｜hy_Assistant｜>{%- endif -%}
{%- endfor -%}
"""
DOTS = """\
{%- for message in messages -%}
{{- '<|' + message.role + '|>' -}}
{%- if message.content is string -%}{{- message.content -}}{%- else -%}{%- for part in message.content -%}
{%- if part.type == 'image' -%}<|img|><|imgpad|><|endofimg|>{%- else -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '<|endof' + message.role + '|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""
# MiniMax-M3: marks of punctuation, and a thought that is opened where the model is asked.
MINIMAX = """\
{{- ']~!b[' -}}
{%- for message in messages -%}
{{- ']~b]' + ('ai' if message.role == 'assistant' else message.role) + '\n' -}}
{%- if message.content is string -%}{{- message.content -}}{%- else -%}{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{- ']<]image[>[' -}}{%- else -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '[e~[\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ']~b]ai\n<think>\n' -}}{%- endif -%}
"""
# Muse: the model names whom it speaks to before it speaks, and is asked before that.
MUSE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start|>' + message.role + (' to=user' if message.role == 'assistant' else '') + '<|message|>' -}}
{%- if message.content is string -%}{{- message.content -}}{%- else -%}{%- for part in message.content -%}
{%- if part.type == 'image' -%}<|patch|>{%- elif part.type == 'video' -%}<|video|>
{%- else -%}{{- part.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}
{%- if message.role == 'system' -%}{{- '\n\nReasoning strength: ' + (reasoning_strength or 'high') + '.' -}}
{%- endif -%}
{{- '<|eot|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}
"""


def tokenizer_of(
    template: str,
    *,
    eos: str,
    pad: str,
    bos: str = "",
    named: dict[str, str] | None = None,
    unnamed: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
) -> Any:
    """A tokenizer with a model's own special tokens.

    Args:
        bos: written before every text, as by the tokenizers of Llama and Gemma; "" for none.
        named: attribute -> token, for those that processors ask the tokenizer for.
        unnamed: tokens that templates and processors write as text.
        words: tokens that are not special, such as the marks of a think block.
    """
    every = tuple(dict.fromkeys([*unnamed, *filter(None, (bos, eos, pad))]))
    tokenizer = make_tokenizer(named, template=template, unnamed=every, image_markup="IMAGE")  # no place to fill
    tokenizer.add_tokens(list(words))
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token = eos, pad, bos or None
    if bos:
        number = tokenizer.convert_tokens_to_ids(bos)
        tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, number)]
        )
    return tokenizer
