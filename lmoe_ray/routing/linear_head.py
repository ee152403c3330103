"""A linear classifier over what a text means, which words it uses, and what form it has.

An embedding tells topics apart, and less so tasks: a riddle about ducks lies near a story about ducks.
Words, pieces of words and the text's form (digits, lists, code, questions) tell the task. So all
three go into one logistic regression, fitted on the routing samples in a few seconds when the index
is loaded; nothing is stored.

Fitted alone it follows the habits of whoever wrote the samples; ``scoring.FusedScorer`` averages it with
the neighbours, which do not generalise but do not invent either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lmoe_ray.routing.expert_index import Vectors

Floats = NDArray[np.float64]

#: Longer texts count by their beginning: the rest is rarely the task, and vectorising it costs time.
MAX_CHARS = 1500

_INVERSE_REGULARISATION = 10.0
_MAX_ITERATIONS = 200
#: Weight of the form features beside unit vectors of meaning and words; they are few and each is strong.
_FORM_WEIGHT = 0.1

#: Counted, not interpreted: marks of multiple choice, code, mathematics, lists, pasted text, persona prompts.
_FORMS = tuple(
    re.compile(pattern, re.MULTILINE | re.IGNORECASE)
    for pattern in (
        r"\b[a-e][).:]\s",
        r"\?",
        r"```|\b(def|class|import|return|select)\b|;\n|[{}]",
        r"\d",
        r"[=+*/^<>∧∨¬→]",
        r"\n",
        r'"\w+"\s*:',
        r"_{2,}",
        r"\b(tool|function|api)s?\b",
        r"\b(passage|paragraph|context|text|article|answer|option|choice)s?\b",
        r"\b(how many|how much)\b",
        r"\b(write|compose|create)\b",
        r"\byou are\b",
        r"\bif\b",
        r"^(who|what|when|where|which|why|how)\b",
    )
)


class LinearHead:
    """Fitted on construction, 3 s for 2,000 samples on one CPU thread; deterministic.

    Args:
        texts: routing samples.
        vectors: their embeddings, ``[num_texts, dim]``, unit length.
        labels: expert of each, ``[num_texts]``; at least two different ones.
    """

    def __init__(self, texts: Sequence[str], vectors: Vectors, labels: NDArray[np.int64]) -> None:
        cut = [text[:MAX_CHARS] for text in texts]
        self._words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b|[^\w\s]")
        self._pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
        self._words.fit(cut)
        self._pieces.fit(cut)
        self._forms = StandardScaler().fit(_form_features(cut))
        # Balanced, because an expert with more samples is not for that reason asked for more often.
        self._model = LogisticRegression(
            C=_INVERSE_REGULARISATION, class_weight="balanced", max_iter=_MAX_ITERATIONS, tol=1e-3
        )
        self._model.fit(self._features(cut, vectors), labels)

    def log_probabilities(self, text: str, vector: Vectors, num_experts: int) -> Floats:
        """``[num_experts]``; ``-inf`` for an expert without samples. About 2 ms."""
        features = self._features([text[:MAX_CHARS]], vector[np.newaxis])
        scores = np.full(num_experts, -np.inf)
        scores[self._model.classes_] = self._model.predict_log_proba(features)[0]
        return scores

    def _features(self, texts: Sequence[str], vectors: Vectors) -> csr_matrix:
        forms = _FORM_WEIGHT * self._forms.transform(_form_features(texts))
        return hstack(
            [self._words.transform(texts), self._pieces.transform(texts), csr_matrix(vectors), csr_matrix(forms)]
        ).tocsr()


def _form_features(texts: Sequence[str]) -> Floats:
    """Lengths, shares of digits and signs, and counts of ``_FORMS``, ``[num_texts, num_features]``."""
    return np.array([_form(text) for text in texts])


def _form(text: str) -> list[float]:
    num_chars, num_words = max(len(text), 1), max(len(text.split()), 1)
    num_digits = sum(char.isdigit() for char in text)
    num_signs = sum(not char.isalnum() and not char.isspace() for char in text)
    return [
        float(np.log1p(num_chars)),
        float(np.log1p(num_words)),
        num_chars / num_words,
        num_digits / num_chars,
        num_signs / num_chars,
        float(text[:1].isupper()),
        float(text.rstrip().endswith("?")),
        *(float(np.log1p(sum(1 for _ in form.finditer(text)))) for form in _FORMS),
    ]
