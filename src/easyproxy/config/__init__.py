"""Configuration: the schema, and the strict loaders of YAML, TOML, JSON and the old format.

The way of a file: a reader (``yaml12``, ``json_text``, ``toml_text``) makes a :class:`~.document.Document` that knows
where everything stands; ``schema`` and ``cross`` judge it; ``explain`` says what is wrong in an operator's words.
"""
