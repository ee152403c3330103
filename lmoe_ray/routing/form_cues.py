"""The form of a text: how long, laid out and phrased, and which marks of a task it carries; counted, not understood.

An embedding sees what a text is about, its form tells what is wanted: a story *with a question mark at the
end* is to be understood, a story *in the imperative* is to be written. Cues are regular expressions and
short lists of words, looked up in the whole text and again in its first and last sentence, where the
instruction usually stands.
"""

from __future__ import annotations

import re
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

#: Longer texts are read at both ends only: the rest is rarely the task, and reading it costs time.
HEAD_CHARS, TAIL_CHARS = 1500, 500
_ZONE_CHARS = 300
_MAX_COUNT = 50

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_PARAGRAPH_END = re.compile(r"\n\s*\n")

#: Marks of layout and spelling; the text is in lower case.
_SIGNS = {
    name: re.compile(pattern, re.MULTILINE)
    for name, pattern in {
        "bullet": r"^[ \t]*(?:[-*•]|\d+[.)])\s",
        "newline": r"\n",
        "paragraph": r"\n[ \t]*\n",
        "heading": r"^#+ |^\[?\w[\w ]{2,25}\]?:[ \t]*$",
        "labelled_line": r"^\w[\w' ]{0,25}: *\S",
        "pipe": r"\|",
        "quote": r"[\"“”]",
        "question_mark": r"\?",
        "url": r"https?://|www\.",
        "question_label": r"^[ \t]*(?:q|question|query) ?\d*[:.]",
        "answer_label": r"\b(?:a|answer|response|output|solution):\s*$",
        "option_letter": r"(?:^|[ \t(])[a-e1-5][).:]\s?\S",
        "option_in_brackets": r"\([a-e]\)",
        "gap": r"_{2,}|<mask>|\.{4,}|[\[<]blank[\]>]",
        "code_fence": r"```|~~~",
        "code_line": r"[;{]\s*$|^\s*\}|^\s*(?:def|class|import|from|return|for|while|if|else|elif|try|public|private"
        r"|static|void|int|var|let|const|function|#include|using|select|insert|update|create)\b.*[;:{(]",
        "code_sign": r"[=!<>]=|&&|\|\||[=-]>|::|\+\+|\(\)|\[\]|\{\}|</?\w+>|\w\.\w+\(",
        "identifier": r"[a-z]_[a-z]",
        "example_data": r"^[ \t]*(?:input|output|example \d)",
        "digit": r"\d",
        "number": r"\d+(?:[.,]\d+)*",
        "mathematical_sign": r"[=+*/^<>≤≥√∫∑π∞×÷±]",
        "latex": r"\\[a-z]+|\$[^$\n]+\$",
        "logical_sign": r"[∧∨¬→↔⊃≡∀∃]|->|(?:and|or|not) ?\(",
        "quantity": r"\d ?(?:%|kg|g|k?m|[cm]m|mph|h|miles?|hours?|minutes?|days?|years?|dollars?|cents?|lit(?:er|re)s?"
        r"|pounds?|f(?:ee)?t|inches|degrees?|mol\w*|°)\b|[$€£] ?\d",
        "year": r"\b(?:1[5-9]|20)\d\d\b",
        "tool_name": r"\b(?:name|api|tool|function|id)[\"']?: ?[\"']?[\w.-]+[\"']?[,\n ]",
        "tool_parameter": r"\b(?:parameters?|params|args|arguments|required|properties|input_schema"
        r"|desc(?:ription)?)[\"']?:",
        "agent_step": r"^[ \t]*(?:thought|action(?: input)?|observation|final answer):",
        "json": r"\{\s*\"|\[\s*\{",
    }.items()
}

#: Words of a task; two words joined by ``_`` are a pair.
_WORDS = {
    "text_kind": "passage paragraph article context document excerpt dialogue conversation transcript snippet review "
    "email text plot table story passages paragraphs articles documents excerpts dialogues texts stories "
    "reviews",
    "text_reference": "according_to based_on the_passage the_paragraph the_article the_context the_document the_text "
    "the_story the_dialogue the_conversation the_table the_excerpt the_plot the_following the_above "
    "the_information given_the",
    "entailment": "hypothesis premise entail entails entailment contradict contradicts contradiction supports "
    "supported inconclusive notmentioned unanswerable cannot_be can't_answer not_mentioned",
    "choice": "choose select pick option options choice choices which_of which_one which_option multiple_choice",
    "extraction": "extract identify classify label categorize categorise summarize summarise list_all find_all",
    "exam": "exam quiz except best_describes most_likely is_called known_as defined_as refers_to characterized_by "
    "marks",
    "language": "python java javascript typescript rust golang ruby php perl kotlin swift scala matlab sql mysql "
    "postgres postgresql html css bash shell powershell react node nodejs django flask pandas numpy excel "
    "vba linux docker git regex json xml yaml arduino tensorflow pytorch cpp haskell kubernetes fastapi spring",
    "programming": "app bot function functions method array arrays string strings integer integers loop loops variable "
    "variables class classes algorithm program script code coding compile compiler debug exception pointer "
    "recursion recursive database query server api endpoint framework library module syntax stack queue "
    "linked_list binary_search hash sort sorted parse parser runtime complexity data_structure command "
    "bug error codebase",
    "how_many": "how_many how_much how_long how_far how_fast how_old how_tall",
    "mathematics": "calculate compute solve evaluate simplify prove equation equations integer integers probability "
    "percent percentage average ratio area perimeter radius volume triangle circle angle sum product "
    "remainder divisible polynomial integral derivative matrix vector prime root find_the show_that",
    "counting": "total altogether left remain remains remaining each per twice half times_as more_than less_than "
    "at_least at_most in_all",
    "logic": "if then therefore all some none no every either neither must cannot unless implies conclude clue "
    "clues puzzle riddle statement statements true false follows",
    "steps": "step_by by_step your_reasoning your_work think",
    "belief": "believe believes thinks know knows known see sees notice notices unaware hides look_for looks_for",
    "tool": "tool tools api apis function functions plugin plugins action actions endpoint endpoints parameter "
    "parameters argument arguments task_list task_steps invoke call calls calling",
    "tool_offer": "available_functions available_tools available_apis following_tools following_functions "
    "following_apis access_to these_tools these_functions these_apis list_of suitable_function",
    "writing": "write compose create craft draft generate make pen design invent develop continue rewrite build "
    "come_up",
    "piece": "story stories poem poems haiku sonnet limerick song lyrics verse verses rap essay novel chapter "
    "scene screenplay script dialogue monologue speech letter email blog post posts tweet caption slogan "
    "slogans tagline ad advert advertisement copy description biography bio headline newsletter joke "
    "jokes tale fable fiction narrative plot character characters",
    "role": "act_as you_are pretend roleplay role_play imagine the_style the_voice the_perspective persona as_if "
    "my_first want_you",
    "style": "tone style audience words engaging humorous funny vivid rhyme rhyming dramatic emotional compelling "
    "catchy persuasive",
    "advice": "should_i how_do how_can how_to how_should tips tip advice advise recommend recommendations "
    "recommendation suggest suggestions best ideas ways_to help_me plan strategy strategies pros_and cons "
    "difference_between benefits",
    "explanation": "explain what_is what_are what's why how_does how_did how_is how_are define definition meaning "
    "cause causes caused impact history",
    "word_game": "unscramble anagram synonym synonyms antonym spell spelled spelling emoji emojis rhymes_with",
    "fact": "capital actor actress film movie song album band president country city player team author wrote "
    "invented born located",
    "first_person": "i i'm im my me we our us",
    "second_person": "you your you're",
    "third_person": "he she his her they their him them",
    "past": "was were had did said went told asked",
    "question_word": "who what when where which why how whose whom",
    "auxiliary": "is are was were do does did can could should would will has have",
    "imperative": "explain describe list give suggest recommend compare discuss name tell provide outline summarize "
    "summarise analyze analyse find determine identify write create",
}
_CUES_OF: dict[str, list[int]] = {}
for _number, _words in enumerate(_WORDS.values()):
    for _word in _words.split():
        _CUES_OF.setdefault(_word, []).append(_number)

_WORD = re.compile(r"[^\W_]+(?:'[a-z]+)?")

#: Layout numbers that stand before the cues.
NUM_SHAPES = 22
NUM_CUES = len(_SIGNS) + len(_WORDS)
NUM_FORM_FEATURES = NUM_SHAPES + 4 * NUM_CUES


def form_features(text: str) -> NDArray[np.float32]:
    """``[NUM_FORM_FEATURES]``: shape, then of each cue the logarithm of its count and whether it is there, and whether
    it stands in the first and in the last sentence."""
    sentences = [s for s in _SENTENCE_END.split(text[: 4 * HEAD_CHARS].strip()) if s] or [""]
    parts = [part.lower() for part in (both_ends(text), sentences[0][:_ZONE_CHARS], sentences[-1][-_ZONE_CHARS:])]
    counted = {part: _counts(part) for part in set(parts)}  # a short text is one sentence, so all three are the same
    counts, first, last = (counted[part] for part in parts)
    counts = np.minimum(counts, _MAX_COUNT)
    cues = (np.log1p(counts), counts > 0, first > 0, last > 0)
    return np.concatenate([np.array(_shape(text, sentences)), *cues], dtype=np.float32)


def _counts(text: str) -> NDArray[np.int64]:
    """How often each cue stands in a text of lower case, ``[NUM_CUES]``."""
    counts = [0] * NUM_CUES
    for number, sign in enumerate(_SIGNS.values()):
        counts[number] = len(sign.findall(text))
    words = _WORD.findall(text)
    for word in chain(words, map("_".join, pairwise(words))):
        for number in _CUES_OF.get(word, ()):
            counts[len(_SIGNS) + number] += 1
    return np.array(counts)


def both_ends(text: str) -> str:
    """A long text's beginning and end."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"


def _shape(text: str, sentences: list[str]) -> list[float]:
    text = text[: 4 * HEAD_CHARS]
    lengths = [len(sentence.split()) for sentence in sentences]
    paragraphs = [len(p.split()) for p in _PARAGRAPH_END.split(text)]
    num_chars, num_words = max(len(text), 1), max(sum(lengths), 1)
    num_questions = sum(sentence.rstrip().endswith("?") for sentence in sentences)
    stripped = text.rstrip()
    return [
        *np.log1p([num_chars, num_words, len(sentences), max(lengths), lengths[0], lengths[-1]]).tolist(),
        *np.log1p([max(paragraphs), len(paragraphs)]).tolist(),
        num_chars / num_words,
        *_shares(text, num_chars),
        float(text[:1].isupper()),
        float(text.islower()),
        float(stripped.endswith("?")),
        float(stripped.endswith(":")),
        float(sentences[0].rstrip().endswith("?")),
        num_questions / len(sentences),
        float(num_words <= 8),
        float(num_words <= 20),
        float(num_words > 150),
    ]


def _shares(text: str, num_chars: int) -> list[float]:
    """Of digits, signs, capitals and characters beyond ASCII."""
    num_digits = sum(map(str.isdigit, text))
    num_signs = num_chars - sum(map(str.isalnum, text)) - sum(map(str.isspace, text))
    return [
        num_digits / num_chars,
        num_signs / num_chars,
        sum(map(str.isupper, text)) / num_chars,
        1 - len(text.encode("ascii", "ignore")) / num_chars,
    ]
