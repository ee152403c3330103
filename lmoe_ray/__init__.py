"""A mixture of LoRA experts behind an OpenAI-style API, as a Ray Serve graph."""

__version__ = "0.1.0"
