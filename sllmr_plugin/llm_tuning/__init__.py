"""Tunes a language model of your own on recommendation data: RecLM's and CURec's fine-tuning (extra ``llm``).

Nothing else of the package but ``sllmr llm-tune`` imports it; transformers and peft are imported when a model is
loaded.
"""
