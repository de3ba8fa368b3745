"""A peer: a Flask handler that parses a callback, stores nothing, and says 200; for gunicorn."""

from flask import Flask, request  # type: ignore[import-not-found] # the distribution's

app = Flask(__name__)


@app.post("/video-callback/<token>")  # type: ignore[untyped-decorator] # likewise
def receive(token: str) -> dict[str, str]:  # noqa: ARG001 - Flask names it
    """Answer as the samples of the provider's document do."""
    request.get_json()
    return {"status": "received"}
